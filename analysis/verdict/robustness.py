"""Is a verdict an artefact of its test? The same question, asked in two other ways.

* ``permutation``: labels of the arm and of the anchors' mixture at the margin are exchanged; no
  normality is assumed.
* ``bca``: the bias-corrected, accelerated bootstrap over seeds; no symmetry is assumed.

Each gives a verdict on an arm by itself, between the tuned anchors, on these test examples, before
any correction for the others, and is compared with the primary test's at the same stage. Every draw
comes from a generator that depends on what is drawn for alone, so a study gives the same numbers
whatever else it holds.
"""

from collections.abc import Mapping
from math import comb

import numpy as np

from analysis.data.protocol import Endpoint, Protocol
from analysis.stats.contrasts import Interval
from analysis.stats.resampling import bca_interval, generator, permutation_test
from analysis.verdict.decisions import NOTHING_SHOWN, joint_of, tests_between, verdict_of
from analysis.verdict.placements import Case
from analysis.verdict.schema import ByInterval, ByPermutation, Kind, Robustness, Tests
from analysis.verdict.schema import Interval as Bounds


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


def check(case: Case, protocol: Protocol) -> Robustness | None:
    """Return what both methods say of one arm, None where it cannot be assessed."""
    if case.tuned.reasons:
        return None
    tests = joint_of(tests_between(case.tuned.over_seeds, protocol), protocol)
    primary, arm = verdict_of(tests, protocol.alpha), case.arm.arm
    intervals = {
        e: bca_interval(*case.tuned.values[e.key], protocol.level, generator("bca", arm, e.key))
        for e in protocol.endpoints
    }
    return Robustness(
        primary=primary,
        permutation=_by_permutation(case, protocol, primary),
        bca=_by_interval(intervals, protocol, primary),
    )


def _by_permutation(case: Case, protocol: Protocol, primary: Kind) -> ByPermutation | None:
    """Return the permutation tests, None with so few seeds that none can reach the level."""
    single, arm, deep = case.tuned.values[protocol.endpoints[0].key]
    if 1 / comb(min(len(single), len(deep)) + len(arm), len(arm)) > protocol.alpha:
        return None
    tests = {e.key: _permuted(case, e, protocol.delta) for e in protocol.endpoints}
    verdict = verdict_of(joint_of(tests, protocol), protocol.alpha)
    return ByPermutation(verdict=verdict, endpoints=tests, agrees=verdict == primary)


def _permuted(case: Case, endpoint: Endpoint, delta: float) -> Tests:
    """Return the tests of ``decisions.tests_of``, by permutation."""
    values, name = case.tuned.values[endpoint.key], case.arm.arm

    def at(theta: float) -> tuple[float, float]:
        rng = generator("permutation", name, endpoint.key, f"{theta:g}")
        return permutation_test(*values, theta, rng)

    (escape, track), (above, worse) = at(delta), at(-delta)
    both = max(track, above) if endpoint.kind == "performance" else track
    return Tests(p_escape=escape, p_track=both, p_worse=worse)


def _by_interval(
    intervals: Mapping[Endpoint, Interval], protocol: Protocol, primary: Kind
) -> ByInterval:
    tests = {e.key: tests_from(found, e, protocol.delta) for e, found in intervals.items()}
    verdict = verdict_of(joint_of(tests, protocol), protocol.alpha)
    bounds = {e.key: Bounds(low=low, high=high) for e, (low, high) in intervals.items()}
    return ByInterval(verdict=verdict, endpoints=bounds, agrees=verdict == primary)
