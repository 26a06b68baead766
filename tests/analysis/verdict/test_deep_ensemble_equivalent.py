"""The Deep Ensemble equivalent: hand-computed points, intervals over seeds, what lies beyond."""

from collections.abc import Sequence

import numpy as np
import polars as pl
import pytest

from analysis.measures.measure import Measures
from analysis.verdict.deep_ensemble_equivalent import Equivalents


def measured(
    arm: Sequence[float | None], noise: float = 0.0, pools: int = 5, largest: int = 4
) -> Measures:
    """Return measures of an arm beside pools whose calibrated NLL is 1/l at l members."""
    rng = np.random.default_rng(0)
    rows = [
        {"arm": "deep_ensemble", "replicate": r, "members": size, "cll": 1 / size + shift}
        for r in range(pools)
        for shift in [noise * rng.normal()]
        for size in range(1, largest + 1)
    ]
    own = [{"arm": "x", "replicate": r, "cll": cll} for r, cll in enumerate(arm)]
    empty = pl.DataFrame()
    return Measures(
        pl.DataFrame(own, schema_overrides={"cll": pl.Float64}),
        *(empty,) * 4,
        curve=pl.DataFrame(rows, schema_overrides={"cll": pl.Float64}),
    )


@pytest.mark.parametrize(
    ("cll", "members"),
    [(2.0, 1.0), (1.0, 1.0), (0.75, 1.5), (0.5, 2.0), (0.4, 2.6), (0.25, 4.0), (0.2, None)],
)
def test_between_two_sizes_it_is_linear_and_beyond_the_largest_open(
    cll: float, members: float | None
) -> None:
    found = Equivalents(measured([cll, cll, cll])).of("x", 0.9)

    assert found is not None
    expected = members if members is None else pytest.approx(members)
    assert [found.members, found.low, found.high] == [expected] * 3
    assert found.largest == 4


def test_the_interval_covers_seeds_of_arm_and_curve() -> None:
    found = Equivalents(measured([0.45, 0.5, 0.55, 0.5], noise=0.05)).of("x", 0.9)

    assert found is not None
    assert 1.2 < found.low < found.members < found.high < 3.5


def test_its_bounds_are_the_levels_quantiles() -> None:
    """Of 8 seeds 7 are drawn: at least 4 times a good one in 7 % of the draws, 5 times in 1 %."""
    found = Equivalents(measured([0.25] * 2 + [0.5] * 6)).of("x", 0.9)

    assert found is not None
    four_of_seven = (4 * 0.25 + 3 * 0.5) / 7
    assert found.high == pytest.approx(2 + (1 / 2 - four_of_seven) / (1 / 2 - 1 / 3))
    assert found.low == pytest.approx(2)  # None of the good ones, in 13 % of the draws.


def test_an_interval_may_reach_beyond_the_largest() -> None:
    found = Equivalents(measured([0.2, 0.3, 0.24, 0.3])).of("x", 0.9)

    assert found is not None
    assert found.members is not None
    assert found.high is None


def test_a_pool_that_is_smaller_than_the_others_does_not_count() -> None:
    measures = measured([0.5, 0.5])
    short = measures.curve.filter((pl.col("replicate") > 0) | (pl.col("members") < 3))

    known = Equivalents(Measures(measures.replicates, *(pl.DataFrame(),) * 4, curve=short))

    assert known.curve_RL.shape == (4, 4)


def test_one_seed_or_no_curve_is_no_equivalent() -> None:
    assert Equivalents(measured([0.5])).of("x", 0.9) is None
    assert Equivalents(measured([0.5, 0.5], pools=1)).of("x", 0.9) is None
    assert Equivalents(measured([0.5, 0.5])).of("unknown", 0.9) is None
    assert Equivalents(measured([None, None])).of("x", 0.9) is None
    bare = Measures(measured([0.5, 0.5]).replicates, *(pl.DataFrame(),) * 4)
    assert Equivalents(bare).of("x", 0.9) is None
