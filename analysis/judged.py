"""A run with all that is said of it: measured once, for the page, the comparison and the export."""

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from analysis import figures, summarise
from analysis.fairness import fairness
from analysis.hypotheses import judge
from analysis.load import Run, load, vanished
from analysis.measure import measure
from analysis.scene import Figure, Scene
from analysis.secondary import secondary
from study.place import Place
from study.schema import StudyError

NOTHING_YET: Final = "Inconclusive: nothing has been confirmed yet."
TIMES: Final = 3
"""How often a run is read again when the study takes trials away meanwhile."""


@dataclass(frozen=True)
class Judged:
    """A run, its verdict in the format of ``analysis.verdict``, and its figures."""

    run: Run
    verdict: dict[str, Any]
    scene: Scene
    drawn: Sequence[Figure]


def judged(run: Run) -> Judged:
    """Measure, judge and draw a run.

    Raises:
        StudyError: When a file breaks the format.
    """
    measures = measure(run, workers=os.cpu_count() or 1)
    verdict: dict[str, Any] = finite(judge(measures, run.plan))
    if run.given and run.plan:
        verdict["reasons"] += run.plan["limits"]
        verdict["plan"] = verdict["plan"] if run.plan["source"] else None
    if "confirm" not in run.trials["stage"]:
        verdict["sentence"] = NOTHING_YET
    verdict["fairness"] = finite(fairness(run, measures))
    verdict["measures"] = finite(secondary(measures))
    scene = summarise.scene(run, measures, verdict)
    return Judged(run, verdict, scene, figures.draw(scene))


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


def finite(value: Any) -> Any:
    """Return the value with every NaN and infinity as null."""
    if isinstance(value, Mapping):
        return {key: finite(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [finite(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
