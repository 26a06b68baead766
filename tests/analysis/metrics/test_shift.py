"""Mean corruption error by hand."""

import math

import numpy as np
import pytest

from analysis import metrics


def test_mean_corruption_error_by_hand() -> None:
    """Sums over severities first, ratios then: 3/10 over 2/10 and 4/10 over 8/10."""
    error = np.array([[0.1, 0.2], [0.1, 0.3]])
    reference = np.array([[0.1, 0.1], [0.2, 0.6]])
    assert metrics.mean_corruption_error(error, reference) == pytest.approx((3 / 2 + 1 / 2) / 2)
    assert metrics.mean_corruption_error(reference, reference) == 1
    assert metrics.mean_corruption_error(error.astype(np.float32), reference) == pytest.approx(
        1, rel=1e-6
    )


def test_mean_corruption_error_needs_errors_of_the_reference() -> None:
    assert math.isnan(
        metrics.mean_corruption_error(np.full((2, 3), 0.1), np.array([[0.1] * 3, [0.0] * 3]))
    )
