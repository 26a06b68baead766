"""What other test examples would change: the covariance of arms' means over the examples drawn.

Seeds and examples are crossed: every replicate is tested on all examples. So an arm's mean varies
with its seeds, with the examples, and with what each seed makes of each example. The last is part
of the variance over seeds already and is taken out here, as in a two-way analysis of variance with
random effects (Searle, Casella & McCulloch 1992, ch. 4).
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Protocol

import numpy as np

from analysis.measures.per_example import ExampleValues
from analysis.stats.contrasts import FloatArray, OverExamples

Trio = tuple[str, str, str]
"""Keys of a single model's arm, of an arm, and of a Deep Ensemble's."""


class ExampleCovariances(Protocol):
    """How arms' means vary with the test examples."""

    def of(self, arms: Trio, endpoint: str) -> OverExamples | None:
        """Return the covariance of three arms on an endpoint; None where it is not known."""


@dataclass(frozen=True)
class Influence:
    """What each example does to an arm's mean.

    Attributes:
        examples: (N,), of mean 0: the mean would move by so much if an N-th of the weight were
            moved from all examples to this one, on average over seeds.
        by_seed: The part of the variance of the arm's mean over examples that is its seeds'.
    """

    examples: FloatArray
    by_seed: float


def influence(values_RN: FloatArray, weights_N: FloatArray) -> Influence:
    """Return what each example does to the mean over R replicates of sum(values) / sum(weights).

    Args:
        values_RN: Each example's contribution to each replicate's measure.
        weights_N: See above.
    """
    replicates, n = values_RN.shape
    values = values_RN.astype(np.float64)
    share = weights_N.astype(np.float64)
    share *= n / share.sum()
    moved_RN = values * (n / weights_N.sum(dtype=np.float64))
    moved_RN -= moved_RN.mean(1, keepdims=True) * share
    mean_N = moved_RN.mean(0)
    if min(replicates, n) == 1:
        return Influence(mean_N, 0.0)
    moved_RN -= mean_N
    squares = float((moved_RN * moved_RN).sum()) / ((replicates - 1) * (n - 1))
    return Influence(mean_N, squares / replicates / n)


class MeasuredCovariances:
    """Covariances from per-example values; each arm's are read once and then let go.

    Args:
        values: Arm -> its values by replicate and example, or None where they are not known.
    """

    def __init__(self, values: Callable[[str], ExampleValues | None]) -> None:
        self.values = values
        self.influences = cache(self._influences)

    def _influences(self, arm: str) -> dict[str, Influence]:
        """Return what each example does to an arm's mean, by endpoint; nothing if not known."""
        known = self.values(arm)
        if known is None:
            return {}
        return {key: influence(own, known.weights[key]) for key, own in known.values.items()}

    def of(self, arms: Trio, endpoint: str) -> OverExamples | None:
        """Return the covariance of three arms on an endpoint; None where it is not known."""
        found = [self.influences(arm).get(endpoint) for arm in arms]
        known = [one for one in found if one is not None]
        sizes = {len(one.examples) for one in known}
        if len(known) < len(found) or len(sizes) > 1 or min(sizes) < 2:
            return None
        (n,) = sizes
        moved = np.stack([one.examples for one in known])
        covariance = moved @ moved.T / (n - 1) / n
        for i, one in enumerate(known):
            covariance[i, i] -= one.by_seed
        return OverExamples(tuple(map(tuple, covariance.tolist())))
