"""Is a verdict an artefact of its test? The same question, asked in three other ways.

* ``permutation``: labels of the arm and of the anchors' mixture at the margin are exchanged; no
  normality is assumed.
* ``bca``: the bias-corrected, accelerated bootstrap over seeds; no symmetry is assumed.
* ``crossed``: seeds and test examples are drawn anew; the claim is about other test sets too.

Each gives a verdict on an arm by itself, before any correction for the others, and is compared
with the primary test's at the same stage. Every draw comes from a generator that depends on what
is drawn for alone, so a study gives the same numbers whatever else it holds.
"""

from collections.abc import Callable, Mapping
from functools import cache
from math import comb
from typing import Any

import numpy as np
import numpy.typing as npt

from analysis.data.protocol import Endpoint, Protocol
from analysis.measures.per_example import ExampleValues
from analysis.stats.contrasts import UNBOUNDED, Interval
from analysis.stats.resampling import (
    RESAMPLES,
    bca_interval,
    generator,
    permutation_test,
    recounts,
    resampled,
)
from analysis.verdict.arms import Case
from analysis.verdict.decisions import NOTHING_SHOWN, joint_of, verdict_of
from analysis.verdict.schema import ByInterval, ByPermutation, Kind, Robustness, Tests
from analysis.verdict.schema import Interval as Bounds

Floats = npt.NDArray[np.floating[Any]]


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

    def interval(self, case: Case, endpoint: Endpoint, level: float) -> Interval | None:
        """Return the percentile interval of R, None where an arm's examples are not known.

        Unbounded where more than (1 - level)/2 of the draws put the anchors in the wrong order: a
        ratio is then without meaning.
        """
        names = ("single", case.arm.arm, case.arm.reference)
        single, arm, deep = (self.means(name, endpoint) for name in names)
        if single is None or arm is None or deep is None:
            return None
        gap = single - deep
        if (gap <= 0).mean() > (1 - level) / 2:
            return UNBOUNDED
        low, high = np.quantile((single - arm) / gap, [(1 - level) / 2, (1 + level) / 2])
        return float(low), float(high)


def tests_from(interval: Interval, endpoint: Endpoint, delta: float) -> Tests:
    """Return an interval's answers as tests: 0 where it decides, 1 where it does not."""
    low, high = interval
    if low is None or high is None:
        return NOTHING_SHOWN
    floor = -delta if endpoint.kind == "performance" else -np.inf
    tracks = floor < low and high < delta
    return Tests(
        p_escape=float(not low > delta), p_track=float(not tracks), p_worse=float(not high < -delta)
    )


def check(case: Case, protocol: Protocol, primary: Kind, crossed: Crossed) -> Robustness | None:
    """Return what the three methods say of one arm, None where it cannot be assessed.

    Args:
        case: The arm.
        protocol: Margin, level, endpoints.
        primary: The primary test's verdict on it, before the correction for other arms.
        crossed: The crossed bootstrap of this study.
    """
    if case.reasons:
        return None
    level = protocol.level
    over_seeds = {e: _bca(case, e, level) for e in protocol.endpoints}
    drawn = {e: crossed.interval(case, e, level) for e in protocol.endpoints}
    both = {e: interval for e, interval in drawn.items() if interval is not None}
    return Robustness(
        permutation=_by_permutation(case, protocol, primary),
        bca=_by_interval(over_seeds, protocol, primary),
        crossed=_by_interval(both, protocol, primary) if len(both) == len(drawn) else None,
    )


def _by_permutation(case: Case, protocol: Protocol, primary: Kind) -> ByPermutation | None:
    """Return the permutation tests, None with so few seeds that none can reach the level."""
    single, arm, deep = case.values[protocol.endpoints[0].key]
    if 1 / comb(min(len(single), len(deep)) + len(arm), len(arm)) > protocol.alpha:
        return None
    tests = {e.key: _permuted(case, e, protocol.delta) for e in protocol.endpoints}
    verdict = verdict_of(joint_of(tests, protocol), protocol.alpha)
    return ByPermutation(verdict=verdict, endpoints=tests, agrees=verdict == primary)


def _permuted(case: Case, endpoint: Endpoint, delta: float) -> Tests:
    """Return the tests of ``rules.tests_of``, by permutation."""
    values, name = case.values[endpoint.key], case.arm.arm

    def at(theta: float) -> tuple[float, float]:
        rng = generator("permutation", name, endpoint.key, f"{theta:g}")
        return permutation_test(*values, theta, rng)

    (escape, track), (above, worse) = at(delta), at(-delta)
    both = max(track, above) if endpoint.kind == "performance" else track
    return Tests(p_escape=escape, p_track=both, p_worse=worse)


def _bca(case: Case, endpoint: Endpoint, level: float) -> Interval:
    rng = generator("bca", case.arm.arm, endpoint.key)
    return bca_interval(*case.values[endpoint.key], level, rng)


def _by_interval(
    intervals: Mapping[Endpoint, Interval], protocol: Protocol, primary: Kind
) -> ByInterval:
    tests = {e.key: tests_from(found, e, protocol.delta) for e, found in intervals.items()}
    verdict = verdict_of(joint_of(tests, protocol), protocol.alpha)
    bounds = {e.key: Bounds(low=low, high=high) for e, (low, high) in intervals.items()}
    return ByInterval(verdict=verdict, endpoints=bounds, agrees=verdict == primary)
