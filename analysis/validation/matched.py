"""The whole rule: pairs of anchors, unequal seeds, price, and test examples that are drawn.

All losses are in gaps between the tuned anchors; a pair of a candidate's own lies where the
candidate's recovery between them is as wanted.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Final

from analysis.stats.power import Replicates, power_all
from analysis.validation.gaussian import ALL, ALL_SPREADS, SEEDS, gaussian_study, replicates
from analysis.validation.populations import ENDPOINTS
from analysis.validation.questions import Cell, Question
from analysis.validation.simulate import Design, Examples, Pair
from study.thresholds import ALPHA, DELTA

SCENARIO: Final = "whole study: matched anchors"
EXAMPLES: Final = Examples(200, 3.0)
"""An arm's mean over them varies by 0.2 gaps, as much as over seeds."""


@dataclass(frozen=True)
class Truth:
    """A candidate's recovery on test, shift and gain, between either pair of anchors.

    A single network has no gain whatever it is trained with, so of the gain both are above 0, or
    both are 0. ``own_gap`` is the gap between its own anchors in performance.
    """

    tuned: tuple[float, float, float]
    own: tuple[float, float, float]
    own_gap: float = 1.0

    @property
    def gaps(self) -> tuple[float, float, float]:
        """Between its own anchors, by endpoint."""
        gain = self.tuned[2] / self.own[2] if self.own[2] else 1.0
        return self.own_gap, self.own_gap, gain

    @property
    def pair(self) -> Pair:
        """Its own anchors."""
        parts = list(zip(self.tuned, self.own, self.gaps, strict=True))
        single = tuple(tuned - own * gap for tuned, own, gap in parts)
        deep = tuple(tuned + (1 - own) * gap for tuned, own, gap in parts)
        return Pair(replicates(single, "single"), replicates(deep, "deep_ensemble"))


def both(recovery: float) -> Truth:
    """Return the same recovery on every endpoint between either pair."""
    return Truth((recovery,) * 3, (recovery,) * 3)


NULL: Final = both(0.0)
BETTER_TRAINED: Final = Truth((2.5, 2.5, 0.0), (0.0, 0.0, 0.0))
DIVERSE_TOO: Final = Truth((2.5, 2.5, 1.0), (0.0, 0.0, 1.0))


def at(tuned: float, own: float, endpoint: int) -> Truth:
    """Return these recoveries on one endpoint of performance; on others, 2.5 and 1, and 1 of gain.

    Where all else is far above the margin, nothing else helps to refuse.
    """
    rest = tuned if tuned > 1 else 1.0, own if own > 1 else 1.0
    performance = [(tuned, own) if i == endpoint else rest for i in range(2)]
    (a, c), (b, d) = performance
    return Truth((a, b, 1.0), (c, d, 1.0))


def matched_study(truths: Sequence[Truth], seeds: int) -> Design:
    """Return a study with both controls whose every candidate has anchors of its own."""
    tuned = [truth.tuned for truth in truths]
    plain = gaussian_study(ALL_SPREADS, tuned, seeds, ENDPOINTS, controls=True)
    return replace(plain, own=tuple(truth.pair for truth in truths))


def matched() -> Iterator[Cell]:
    """Yield nulls at the margin, better-trained candidates, many candidates, and effects."""
    for seeds in SEEDS:
        yield from _one(seeds)
        yield from _several(seeds)
        yield from _effects(seeds)
        yield from _contended(seeds)
    yield from _priced(10)
    for seeds in SEEDS:
        yield from _on_examples(seeds)


def _cell(
    setting: str,
    design: Design,
    *questions: Question,
    share: float = 1.0,
    quick: bool = False,
    scenario: str = SCENARIO,
) -> Cell:
    return Cell(scenario, setting, design, questions, share, quick and design.seeds == 10)


def _one(seeds: int) -> Iterator[Cell]:
    """Yield one candidate that is at the margin between one pair of anchors at least."""
    escapes, tracks = Question("first_escapes", "size"), Question("first_tracks", "size")
    for endpoint, name in enumerate(ALL[:2]):
        for tuned, own in ((2.5, DELTA), (DELTA, 2.5), (DELTA, DELTA)):
            setting = f"R = {tuned:g} tuned, {own:g} own on {name}, far above elsewhere"
            yield _cell(setting, matched_study([at(tuned, own, endpoint)], seeds), escapes)
    narrow = Truth((2.5, 2.5, 1.0), (DELTA, 1.0, 1.0), own_gap=0.5)
    setting = "R = 0.25 own on test, own gap half as wide, far above elsewhere"
    yield _cell(setting, matched_study([narrow], seeds), escapes)
    gain = Truth((1.0, 1.0, DELTA), (1.0, 1.0, DELTA))
    yield _cell("R = 0.25 on gain, far above elsewhere", matched_study([gain], seeds), escapes)
    for one, own in ((DELTA, 0.0), (0.0, DELTA), (-DELTA, 0.0), (0.0, -DELTA)):
        truth = Truth((one, 0.0, 0.0), (own, 0.0, 0.0))
        setting = f"R = {one:g} tuned, {own:g} own on test, 0 elsewhere"
        yield _cell(setting, matched_study([truth], seeds), tracks)
    yield _cell("R = 0", matched_study([NULL], seeds), escapes, Question("first_tracks", "power"))
    shut = Truth((2.5, 2.5, 1.0), (1.0, 1.0, 1.0), own_gap=0.0)
    setting = "no gap between its own anchors, far above the tuned"
    yield _cell(setting, matched_study([shut], seeds), escapes, quick=True)


def _several(seeds: int) -> Iterator[Cell]:
    """Yield several candidates none of which escapes."""
    some, every = Question("some_escape", "size"), Question("all_track", "size")
    right = Question("all_track", "power")
    for many in (8, 30):
        share = 0.25 if many > 8 else 0.5
        for name, tuned, own in (("own", 2.5, DELTA), ("tuned", DELTA, 2.5)):
            design = matched_study([at(tuned, own, 0)] * many, seeds)
            setting = f"all R = 0.25 {name} on test, far above elsewhere"
            yield _cell(setting, design, some, every, share=share)
        design = matched_study([NULL] * many, seeds)
        yield _cell("all R = 0", design, some, right, share=share, quick=many == 30)
        for setting, truth in (
            ("better trained: R = 2.5 tuned, 0 own, no gain", BETTER_TRAINED),
            ("better trained: R = 2.5 tuned, 0 own, gain 1", DIVERSE_TOO),
        ):
            design = matched_study([truth] * many, seeds)
            yield _cell(setting, design, some, every, share=share, quick=many == 8)
    edge = Truth((0.0, 0.0, 0.0), (DELTA, 0.0, 0.0))
    design = matched_study([edge] + [NULL] * 7, seeds)
    yield _cell("one R = 0.25 own on test, all else 0", design, every, share=0.5)


def _effects(seeds: int) -> Iterator[Cell]:
    """Yield candidates one of which escapes, and the bound of power for it."""
    some = Question("some_escape", "power")
    for many in (1, 8):
        for recovery in (0.5, 0.75):
            design = matched_study([both(recovery)] + [NULL] * (many - 1), seeds)
            numbers = (
                Replicates(seeds, design.single_seeds, seeds),
                Replicates(seeds, 2 * seeds, design.pool_seeds),
            )
            level = ALPHA / many
            bound = 1.0
            for own in numbers:
                bound *= power_all(ALL_SPREADS, "escape", recovery, own, DELTA, level)
            first = Question("first_escapes", "power", formula=bound, bound=True)
            rest = ", seven 0" if many > 1 else ""
            setting = f"one R = {recovery:g} between either pair{rest}"
            yield _cell(setting, design, first, some, share=0.5, quick=True)


def _priced(seeds: int) -> Iterator[Cell]:
    dear = replace(matched_study([both(1.0)] * 8, seeds), price=1.5)
    some, found = Question("some_escape", "size"), Question("first_escapes", "shown")
    yield _cell("all R = 1, dearer than a Deep Ensemble", dear, some, found, share=0.1, quick=True)


def _contended(seeds: int) -> Iterator[Cell]:
    """Yield candidates that escape from all but a single network that is as likely the best."""
    some = Question("some_escape", "size")
    better = 0.3  # By so many gaps.
    edge = DELTA + better * (1 - DELTA)
    close = replicates((better, 0.0, 0.0), "single")
    for many in (1, 8):
        truths = [Truth((edge, 2.5, 1.0), (1.0, 1.0, 1.0))] * many
        design = replace(matched_study(truths, seeds), contenders=(close,))
        setting = "R = 0.25 on test against a contender, far above elsewhere"
        yield _cell(setting, design, some, share=0.5, quick=many == 8)
    near = replicates((0.0, 0.0, 0.0), "single")
    design = replace(matched_study([both(1.0)], seeds), contenders=(near, near, near))
    shown = Question("first_escapes", "shown")
    yield _cell("R = 1 against all, three contenders", design, shown, share=0.5)


def _on_examples(seeds: int) -> Iterator[Cell]:
    """Yield truths about all examples, of which a study has some."""
    scenario = f"whole study: {EXAMPLES.count} test examples drawn, too"
    some, tracks = Question("some_escape", "size"), Question("first_tracks", "size")
    for many in (1, 8, 30):
        share = 0.25 if many < 30 else 0.1
        for name, tuned, own in (("own", 2.5, DELTA), ("tuned", DELTA, 2.5)):
            design = replace(matched_study([at(tuned, own, 0)] * many, seeds), examples=EXAMPLES)
            setting = f"all R = 0.25 {name} on test, far above elsewhere"
            yield _cell(setting, design, some, share=share, scenario=scenario)
    edge = Truth((DELTA, 0.0, 0.0), (0.0, 0.0, 0.0))
    few = replace(EXAMPLES, sd=1.0)
    design = replace(matched_study([edge], seeds), examples=few)
    yield _cell(
        "R = 0.25 tuned on test, 0 elsewhere", design, tracks, share=0.25, scenario=scenario
    )
    design = replace(matched_study([both(1.0)], seeds), examples=EXAMPLES)
    shown = Question("first_escapes", "shown")
    yield _cell("R = 1 between either pair", design, shown, share=0.25, scenario=scenario)
