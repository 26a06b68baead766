"""The Deep Ensemble equivalent by hand."""

import math

import numpy as np
import pytest

from analysis import metrics

CURVE = np.array([0.5, 0.4, 0.42, 0.3, 0.35])  # .5 .4 .4 .3 .3 once it only falls


@pytest.mark.parametrize(
    ("cll", "size"),
    [
        (0.6, 1),  # worse than one member
        (0.5, 1),
        (0.45, 1.5),
        (0.4, 2),  # the least of the sizes at which the curve stands still
        (0.375, 3.25),
        (0.3, 4),
        (0.29, math.inf),
        (math.nan, math.nan),
    ],
)
def test_by_hand(cll: float, size: float) -> None:
    found = metrics.deep_ensemble_equivalent(cll, CURVE)
    assert found == pytest.approx(size, nan_ok=True)
    assert isinstance(found, float)


def test_every_point_of_a_falling_curve_is_its_own_equivalent() -> None:
    curve = 0.3 + 1 / np.arange(1, 9)
    sizes = [metrics.deep_ensemble_equivalent(value, curve.tolist()) for value in curve]
    assert sizes == pytest.approx(range(1, 9))


def test_a_curve_of_one_member() -> None:
    assert metrics.deep_ensemble_equivalent(0.5, [0.5]) == 1
    assert metrics.deep_ensemble_equivalent(0.4, [0.5]) == math.inf
    assert math.isnan(metrics.deep_ensemble_equivalent(0.4, [0.5, math.nan]))
