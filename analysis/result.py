"""A run with all that is said of it: measured once, for the page, the comparison and the export."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from analysis.data.run import Run, load, vanished
from analysis.figures import all_figures, context
from analysis.figures.context import Figure, Scene
from analysis.measures.fairness import fairness
from analysis.measures.measure import measure
from analysis.measures.summary import secondary
from analysis.verdict.judge import judge
from analysis.verdict.schema import Verdict
from study.errors import StudyError
from study.run_folder.paths import Place

NOTHING_YET: Final = "Inconclusive: nothing has been confirmed yet."
TIMES: Final = 3
"""How often a run is read again when the study takes trials away meanwhile."""


@dataclass(frozen=True)
class Judged:
    """A run, its verdict, and its figures."""

    run: Run
    verdict: Verdict
    scene: Scene
    drawn: Sequence[Figure]


def judged(run: Run) -> Judged:
    """Measure, judge and draw a run.

    Raises:
        StudyError: When a file breaks the format.
    """
    measures = measure(run, workers=os.cpu_count() or 1)
    beside = {"fairness": fairness(run, measures), "measures": secondary(measures)}
    said = {} if "confirm" in run.trials["stage"] else {"sentence": NOTHING_YET}
    verdict = judge(measures, run.plan).model_copy(update=beside | said)
    scene = context.scene(run, measures, verdict)
    return Judged(run, verdict, scene, all_figures.draw(scene))


def judged_folder(folder: Place) -> Judged:
    """Judge a run, at which the study may be at work.

    Raises:
        StudyError: When the folder is no run, or a file breaks the format.
    """
    for _ in range(TIMES - 1):
        run = load(folder)
        try:
            return judged(run)
        except (StudyError, FileNotFoundError):
            if not vanished(run):
                raise
    return judged(load(folder))
