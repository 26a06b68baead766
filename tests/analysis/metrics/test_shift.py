"""Mean corruption error by hand."""

import math

import numpy as np
import pytest

from analysis import metrics


def test_mean_corruption_error_by_hand() -> None:
    """Sums over severities first, ratios then: 3/10 over 2/10, 4/10 over 8/10, 4/10 over 1/10."""
    error = np.array([[0.1, 0.2], [0.1, 0.3], [0.2, 0.2]])
    reference = np.array([[0.1, 0.1], [0.2, 0.6], [0.05, 0.05]])
    expected = (3 / 2 + 1 / 2 + 4) / 3
    assert metrics.mean_corruption_error(error, reference) == pytest.approx(expected)
    assert metrics.mean_corruption_error(reference, reference) == 1
    found = metrics.mean_corruption_error(error.astype(np.float32), reference)
    assert found == pytest.approx(expected, rel=1e-6)


def test_mean_corruption_error_needs_errors_of_the_reference() -> None:
    assert math.isnan(
        metrics.mean_corruption_error(np.full((2, 3), 0.1), np.array([[0.1] * 3, [0.0] * 3]))
    )
