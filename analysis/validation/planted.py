"""Planted truths made of predictions, and searches in which there is nothing to find."""

from collections.abc import Iterator, Sequence
from typing import Final

from analysis.stats.power import Spread
from analysis.validation.gaussian import gaussian_study
from analysis.validation.populations import ENDPOINTS, Planted
from analysis.validation.questions import Cell, Kind, Question
from analysis.validation.simulate import MEMBERS, Design, Pipeline, Population, Units
from study.thresholds import DELTA

SEARCH_SD: Final = 0.40
"""Of one run's validation score, in gaps: what the pilot's winner's curse presupposes."""
PILOT_CURSE: Final = dict(
    zip(
        ((20, 1), (20, 3), (100, 1), (100, 3), (500, 1), (500, 3)),
        (0.75, 0.43, 1.0, 0.58, 1.22, 0.70),
        strict=True,
    )
)
"""Best recovery that a search of so many configurations and seeds sees without any effect."""


def from_predictions(planted: Planted, recoveries: Sequence[float]) -> Iterator[Cell]:
    """Yield planted nulls, and effects of these least recoveries, of per-example predictions."""
    single = planted.singles
    mixtures = [_mixture(planted, recovery) for recovery in recoveries]
    escape, track = Question("first_escapes", "size"), Question("first_tracks", "size")
    tracks, judged = Question("first_tracks", "shown"), Question("assessed", "shown")
    some, every = Question("some_escape", "size"), Question("all_track", "shown")
    for seeds in (5, 10, 20):
        yield _cell(planted, "single models, fresh seeds", [single], seeds, escape, tracks, judged)
        copies = [planted.copies]
        yield _cell(planted, "four copies of a single model", copies, seeds, escape, tracks)
        yield _cell(planted, "eight of single models", [single] * 8, seeds, some, every)
        for recovery, setting, units in mixtures:
            kind: Kind = "size" if recovery <= DELTA else "shown"
            also = (track,) if recovery == DELTA else (tracks,) if recovery < DELTA else ()
            escapes = Question("first_escapes", kind)
            yield _cell(planted, setting, [units], seeds, escapes, *also)
        for size in (2, 3, 4):
            yield from _blends(planted, size, seeds)


def _mixture(planted: Planted, recovery: float) -> tuple[float, str, Units]:
    share = planted.share_for(recovery)
    units = planted.mixed(share) if share < 1 else planted.deep[MEMBERS]
    least = float(planted.recovery(units).min())
    return recovery, f"(1-w) single + w DE(4), w = {share:.2g}, least R = {least:.2f}", units


def _blends(planted: Planted, size: int, seeds: int) -> Iterator[Cell]:
    for recovery in (DELTA, 0.5):
        blend = planted.blend(size, recovery)
        if blend is None:
            continue
        kind: Kind = "size" if recovery == DELTA else "shown"
        setting = f"{blend.share:.2f} of the runs are DE({size}), least R = {recovery:g}"
        asked = Question("first_escapes", kind), Question("first_tracks", kind)
        yield _cell(planted, setting, [blend], seeds, *asked)


def _cell(
    planted: Planted, setting: str, arms: Sequence[Population], seeds: int, *questions: Question
) -> Cell:
    several = len(arms) > 1
    controls = planted.copies if several else None
    anchors = planted.singles, planted.deep[MEMBERS]
    design = Design(ENDPOINTS, *anchors, tuple(arms), seeds, controls)
    share, quick = (0.25, False) if several else (0.5, seeds == 10)
    return Cell("planted in predictions", setting, design, questions, share, quick)


def search(planted: Planted) -> Iterator[Cell]:
    """Yield searches among configurations that are all single models, best 8 confirmed.

    One endpoint of normal replicates is the hardest case: no other endpoint helps to refuse.
    """
    spread = Spread(SEARCH_SD, SEARCH_SD, 0.18)
    normal = gaussian_study([spread], [[0.0]], 10, ["cll"])
    single, deep = planted.singles, planted.deep[MEMBERS]
    real = Design(ENDPOINTS, single, deep, (single,), 10)
    anchors = float(single.mean[0]), float(deep.mean[0])
    for (configurations, seeds), curse in PILOT_CURSE.items():
        setting = f"best 8 of {configurations}, {seeds} seed{'s' if seeds > 1 else ''} each"
        asked = [Question("any_escapes", "size")]
        asked += [Question("escape_on_search", "shown")] if seeds > 1 else []
        for name, design, ends, last in (
            ("normal", normal, (0.0, -1.0), Question("apparent", "power", curse)),
            ("predictions", real, anchors, Question("apparent", "shown")),
        ):
            pipeline = Pipeline(design, configurations, seeds, design.arms[0], ends)
            questions = (*asked, last)
            quick = name == "normal" and configurations == 20
            yield Cell(
                "search without an effect", f"{name}, {setting}", pipeline, questions, 0.25, quick
            )
