"""Joint errors against scikit-learn, numpy, hand computation and degenerate pairs."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import confusion_matrix, matthews_corrcoef

from analysis import metrics
from tests.analysis.metrics.draw import seeds, some


def errors(seed: int, members: int) -> np.ndarray:
    """Return who errs where, with a difficulty that members share."""
    rng = np.random.default_rng(seed)
    return rng.random((members, 80)) < rng.random(80) * 0.8


@given(seeds, st.integers(2, 6))
@some
def test_correlation_is_numpys_and_sklearns(seed: int, members: int) -> None:
    wrong = errors(seed, members)
    i, j = np.triu_indices(members, 1)
    found = metrics.error_correlation(wrong)
    assert found == pytest.approx(np.corrcoef(wrong)[i, j].mean())
    pairs = zip(i, j, strict=True)
    assert found == pytest.approx(
        np.mean([matthews_corrcoef(wrong[a], wrong[b]) for a, b in pairs])
    )


@given(seeds, st.integers(2, 6))
@some
def test_q_and_double_fault_are_those_of_sklearns_tables(seed: int, members: int) -> None:
    wrong = errors(seed, members)
    tables = [confusion_matrix(wrong[a], wrong[b]) for a in range(members) for b in range(a)]
    q = [
        (t[1, 1] * t[0, 0] - t[0, 1] * t[1, 0]) / (t[1, 1] * t[0, 0] + t[0, 1] * t[1, 0])
        for t in tables
    ]
    assert metrics.q_statistic(wrong) == pytest.approx(np.mean(q))
    assert metrics.double_fault(wrong) == pytest.approx(np.mean([t[1, 1] for t in tables]) / 80)


def test_by_hand() -> None:
    """N11, N10, N01, N00 = 2, 1, 1, 4."""
    wrong = np.array([[1, 1, 1, 0, 0, 0, 0, 0], [1, 1, 0, 1, 0, 0, 0, 0]], bool)
    assert metrics.double_fault(wrong) == 2 / 8
    assert metrics.q_statistic(wrong) == pytest.approx((8 - 1) / (8 + 1))
    assert metrics.error_correlation(wrong) == pytest.approx((8 - 1) / (3 * 5))


def test_the_same_errors_and_opposite_errors() -> None:
    one = np.array([True, True, False, False, False])
    for metric in (metrics.error_correlation, metrics.q_statistic):
        assert metric(np.array([one, one])) == pytest.approx(1)
        assert metric(np.array([one, ~one])) == pytest.approx(-1)
    assert metrics.double_fault(np.array([one, ~one])) == 0


@pytest.mark.parametrize("constant", [True, False])
def test_a_member_that_is_always_or_never_wrong_leaves_its_pairs_out(constant: bool) -> None:
    wrong = errors(1, 2)
    with_constant = np.concatenate([wrong, np.full((1, 80), constant)])
    for metric in (metrics.error_correlation, metrics.q_statistic):
        assert metric(with_constant) == pytest.approx(metric(wrong))
        assert math.isnan(metric(with_constant[1:]))
    assert 0 <= metrics.double_fault(with_constant) < 1
