"""Linear CKA against its definition by centring matrices, and its invariances."""

import math

import numpy as np
import pytest
from scipy.stats import ortho_group

from analysis import metrics

SHAPES = [(50, 4, 7), (12, 30, 5), (20, 10, 10)]


def features(rows: int, *widths: int) -> list[np.ndarray]:
    rng = np.random.default_rng(rows)
    return [rng.normal(size=(rows, width)) + rng.normal() for width in widths]


@pytest.mark.parametrize(("rows", "width", "other"), SHAPES)
def test_it_is_the_ratio_of_hilbert_schmidt_criteria(rows: int, width: int, other: int) -> None:
    x, y = features(rows, width, other)
    centre = np.eye(rows) - 1 / rows

    def hsic(a: np.ndarray, b: np.ndarray) -> float:
        return np.trace(a @ a.T @ centre @ b @ b.T @ centre)

    expected = hsic(x, y) / math.sqrt(hsic(x, x) * hsic(y, y))
    assert metrics.linear_cka(x, y) == pytest.approx(expected)
    assert 0 < expected < 1


@pytest.mark.parametrize(("rows", "width", "other"), SHAPES)
def test_rotation_scale_and_shift_change_nothing(rows: int, width: int, other: int) -> None:
    x, y = features(rows, width, other)
    turned = 3 * x @ ortho_group.rvs(width, random_state=0) + 5
    assert metrics.linear_cka(turned, y) == pytest.approx(metrics.linear_cka(x, y))
    assert metrics.linear_cka(x, turned) == pytest.approx(1)
    assert metrics.linear_cka(y, x) == pytest.approx(metrics.linear_cka(x, y))


def test_it_is_the_squared_correlation_of_one_feature() -> None:
    x, y = features(30, 1, 1)
    correlation = np.corrcoef(x[:, 0], y[:, 0])[0, 1]
    assert metrics.linear_cka(x, y) == pytest.approx(correlation**2)
    assert metrics.linear_cka(x.astype(np.float32), y) == pytest.approx(correlation**2, rel=1e-5)


def test_constant_features_have_none() -> None:
    assert math.isnan(metrics.linear_cka(np.ones((5, 2)), np.arange(5.0)[:, None]))
