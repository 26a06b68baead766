"""Would it hold for other seeds and other test examples? Both are drawn anew, crossed.

Every draw comes from a generator that depends on what is drawn for alone, so a study gives the same
numbers whatever else it holds.
"""

from collections.abc import Callable
from functools import cache
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from analysis.data.protocol import Endpoint
from analysis.measures.per_example import ExampleValues
from analysis.stats.contrasts import UNBOUNDED, Interval
from analysis.stats.resampling import RESAMPLES, generator, recounts, resampled
from analysis.verdict.arms import Anchors

Floats = npt.NDArray[np.floating[Any]]


class CrossedIntervals(Protocol):
    """Intervals of recovery over seeds and test examples."""

    def interval(
        self, arm: str, anchors: Anchors, endpoint: Endpoint, level: float
    ) -> Interval | None:
        """Return the interval of an arm between two anchors; None where it cannot be known."""


class Crossed:
    """The crossed bootstrap: what was drawn is kept, as all arms share examples and anchors.

    Args:
        examples: Arm -> its values by replicate and example, or None where they are not known.
    """

    def __init__(self, examples: Callable[[str], ExampleValues | None]) -> None:
        self.examples = cache(examples)
        self.counts = cache(lambda n: recounts(n, generator("examples", str(n))))
        self.means = cache(self._means)

    def _means(self, arm: str, endpoint: Endpoint) -> Floats | None:
        """Return the arm's mean loss in each resample.

        Of n seeds n - 1 are drawn, so that the variance over seeds is not (n - 1)/n too small (Rao
        & Wu 1988).
        """
        known = self.examples(arm)
        if known is None or endpoint.key not in known.values:
            return None
        values_RN, weights_N = known.values[endpoint.key], known.weights[endpoint.key]
        n = len(values_RN)
        rng = generator("seeds", arm, endpoint.key)
        seeds_BR = rng.multinomial(n - 1, [1 / n] * n, RESAMPLES) / (n - 1)
        found = resampled(values_RN, weights_N, self.counts(len(weights_N)), seeds_BR)
        return endpoint.sign * found

    def interval(
        self, arm: str, anchors: Anchors, endpoint: Endpoint, level: float
    ) -> Interval | None:
        """Return the percentile interval of R, None where an arm's examples are not known.

        Unbounded where more than (1 - level)/2 of the draws put the anchors in the wrong order: a
        ratio is then without meaning.
        """
        names = (anchors.single, arm, anchors.deep_ensemble)
        single, own, deep = (self.means(name, endpoint) for name in names)
        if single is None or own is None or deep is None:
            return None
        gap = single - deep
        if (gap <= 0).mean() > (1 - level) / 2:
            return UNBOUNDED
        low, high = np.quantile((single - own) / gap, [(1 - level) / 2, (1 + level) / 2])
        return float(low), float(high)
