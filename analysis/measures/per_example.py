"""What each test example adds to an arm's measures, read one arm at a time."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from analysis.data.protocol import ENDPOINTS
from analysis.data.run import Run
from analysis.measures.cache import Kept
from analysis.measures.trial import Examples, Task, measure_trial


@dataclass(frozen=True)
class ExampleValues:
    """What each example adds to an arm's measures, by endpoint (column of ``replicates``).

    A replicate's measure is ``values[key][r].sum() / weights[key].sum()``, up to float32.

    Attributes:
        replicates: Their numbers, R of them, ascending.
        values: (R, N). Losses on test; under shift, where an example stands under many conditions,
            what it adds to the mean over conditions and severities.
        weights: (N,). Ones on test; under shift they sum to 1.
    """

    replicates: list[int]
    values: dict[str, npt.NDArray[np.float32]]
    weights: dict[str, npt.NDArray[np.float32]]


@dataclass(frozen=True)
class Source:
    """Where per-example values can be had: a run, its kept features, and each arm's trials.

    Attributes:
        run: The run.
        kept: Its features.
        arms: Arm -> (replicate, task, ensemble size), ascending.
        owner: What must outlive this (see ``analysis.measures.cache.kept_of``).
    """

    run: Run
    kept: Kept
    arms: Mapping[str, list[tuple[int, Task, int]]]
    owner: object = None

    def examples(self, arm: str) -> ExampleValues | None:
        """Return the values of one arm, None if there is no such arm."""
        trials = self.arms.get(arm, [])
        found = [self._of(task, size) for _, task, size in trials]
        if not found:
            return None
        keys = [key for key in ENDPOINTS if all(key in own.values for own in found)]
        first = found[0]
        return ExampleValues(
            [replicate for replicate, _, _ in trials],
            {key: np.stack([own.values[key] for own in found]) for key in keys},
            {key: _weights(first, key) for key in keys},
        )

    def _of(self, task: Task, size: int) -> Examples:
        """Return one ensemble's values; they are measured again where they are not kept."""
        kept = self.kept.examples(self.run, task, size)
        return kept or measure_trial(self.run, task).examples[size]


def _weights(examples: Examples, key: str) -> npt.NDArray[np.float32]:
    if key.startswith("shift_"):
        return examples.values["shift_weight"]
    return np.ones(len(examples.test), np.float32)
