"""What the assumptions of the tests do not cover: tails, variances, diverged runs, bad anchors."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Final

import numpy as np

from analysis.stats.power import Spread
from analysis.validation.gaussian import ALL_SPREADS, SPREADS, gaussian_study, replicates
from analysis.validation.populations import ENDPOINTS
from analysis.validation.questions import Cell, Kind, Question
from analysis.validation.simulate import Design, Errors
from study.thresholds import DELTA

UNEQUAL: Final = {
    "noisy single": (0.5, 0.05, 0.05),
    "noisy arm": (0.05, 0.5, 0.05),
    "noisy Deep Ensemble": (0.05, 0.05, 0.5),
}
TAILS: Final[tuple[Errors, Errors]] = ("t3", "lognormal")


def stress() -> Iterator[Cell]:
    """Yield heavy and skewed tails, unequal variances and diverged runs, on one endpoint.

    Log-normal errors are skewed far beyond what runs of networks show; there the label "worse",
    on which no verdict of a study rests, is shown and not asked to keep its level.
    """
    escapes, tracks, worse = (
        Question(f"first_{kind}", "size") for kind in ("escapes", "tracks", "worse")
    )
    sizes = escapes, tracks, worse
    beyond = escapes, tracks, Question("first_worse", "shown")
    for errors, questions in ((TAILS[0], sizes), (TAILS[1], beyond)):
        for seeds in (5, 10, 20):
            for edge in (DELTA, -DELTA):
                design = gaussian_study([SPREADS["test"]], [[edge]], seeds, ["cll"], errors)
                yield Cell("tails", f"{errors}, R = {edge:g}", design, questions)
    for name, (single, arm, deep) in UNEQUAL.items():
        for edge in (DELTA, -DELTA):
            design = gaussian_study([Spread(single, arm, deep)], [[edge]], 5, ["cll"])
            yield Cell("unequal variances", f"{name}, R = {edge:g}", design, sizes)
    for seeds in (10, 20):
        for worst, name in ((None, "left as failed"), (2.0, "given a loss of 2 gaps")):
            for recovery in (0.25, 0.75):
                plain = gaussian_study([SPREADS["test"]], [[recovery]], seeds, ["cll"])
                design = replace(plain, diverged=0.05, worst=worst)
                kind: Kind = "size" if recovery == DELTA else "shown"
                setting = f"{name}, R = {recovery:g} without them"
                question = Question("first_escapes", kind)
                quick = seeds == 10
                yield Cell("one run in 20 diverges", setting, design, (question,), quick=quick)


def gate() -> Iterator[Cell]:
    """Yield anchors that do not differ, that differ the wrong way, and that hardly differ."""
    sizes = Question("assessed", "size"), Question("any_escapes", "size")
    for seeds in (5, 10, 20):
        for setting, deep, arm in (
            ("anchors alike, arm like them", 0.0, 0.0),
            ("anchors alike, arm better than both", 0.0, 1.0),
            ("Deep Ensemble worse than single, arm better", -0.5, 1.0),
        ):
            yield _anchors((deep,), arm, seeds, setting, sizes)
        yield _anchors((0.0, 1.0, 1.0), 1.0, seeds, "alike on test alone, arm better", sizes)
    yield from _narrow()


def _narrow() -> Iterator[Cell]:
    """Yield gaps that are small beside the deviations over seeds, which many seeds show yet."""
    for seeds in (5, 10, 20, 60):
        for deviations, wider in ((0.4, 3.0), (0.8, 1.5), (1.2, 1.0)):
            narrow = SPREADS["narrow"]
            single, arm, deep = np.sqrt(narrow.variances) * wider
            spread = Spread(single, arm, deep)
            for recovery in (DELTA, 0.0, -DELTA, 1.0):
                design = gaussian_study([spread], [[recovery]], seeds, ["cll"])
                kind: Kind = "shown" if recovery in (0.0, 1.0) else "size"
                escapes = Question("first_escapes", "shown" if recovery == 1 else "size")
                questions = escapes, Question("first_tracks", kind)
                shown = Question("assessed", "shown"), Question("escapes_if_assessed", "shown")
                setting = f"gap of {deviations:g} SDs, R = {recovery:g}"
                yield Cell("anchors", setting, design, (*questions, *shown), 0.5)


def _anchors(
    deep: tuple[float, ...], arm: float, seeds: int, setting: str, questions: tuple[Question, ...]
) -> Cell:
    several = len(deep)
    spreads = ALL_SPREADS[:several]
    single = replicates((0.0,) * several, "single", spreads)
    better = replicates((arm,) * several, "arm", spreads)
    other = replicates(deep, "deep_ensemble", spreads)
    design = Design(ENDPOINTS[:several], single, other, (better,), seeds)
    return Cell("anchors", setting, design, questions, quick=seeds == 10)
