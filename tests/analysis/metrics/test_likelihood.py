"""Likelihood and its gain against scikit-learn, scipy, hand computation and identities."""

import numpy as np
import pytest
from hypothesis import given
from scipy.special import log_softmax as scipy_log_softmax
from sklearn.metrics import log_loss

from analysis import metrics
from tests.analysis.metrics.draw import draw, seeds, some

LN2 = np.log(2)


@given(seeds)
@some
def test_log_softmax_is_scipys(seed: int) -> None:
    logits = np.random.default_rng(seed).normal(size=(3, 7, 4)) * 50
    np.testing.assert_allclose(
        metrics.log_softmax(logits), scipy_log_softmax(logits, -1), atol=1e-12
    )


@given(seeds)
@some
def test_likelihood_is_sklearns(seed: int) -> None:
    _, logq, y = draw(seed)
    assert metrics.nll(logq, y) == pytest.approx(log_loss(y, np.exp(logq), labels=range(5)))


@given(seeds)
@some
def test_gain_is_member_minus_ensemble(seed: int) -> None:
    logp, logq, y = draw(seed)
    assert metrics.gain(logp, y) > 0
    difference = metrics.member_nll(logp, y) - metrics.nll(logq, y)
    assert metrics.gain(logp, y) == pytest.approx(difference)


def test_by_hand() -> None:
    """Two members, two examples, two classes; p_0 = (1/2, 1/2), (3/4, 1/4); p_1 = (1/4, ...)."""
    p = np.array([[[1 / 2, 1 / 2], [3 / 4, 1 / 4]], [[1 / 4, 3 / 4], [1 / 4, 3 / 4]]])
    logp, y = np.log(p), np.array([1, 0])
    logq = metrics.ensemble(logp)  # (3/8, 5/8), (1/2, 1/2)
    np.testing.assert_allclose(np.exp(logq), [[3 / 8, 5 / 8], [1 / 2, 1 / 2]])
    assert metrics.nll(logq, y) == pytest.approx((np.log(8 / 5) + LN2) / 2)
    members = (LN2 + np.log(4 / 3) + np.log(4 / 3) + np.log(4)) / 4
    assert metrics.member_nll(logp, y) == pytest.approx(members)
    assert metrics.brier(logq, y) == pytest.approx((2 * (3 / 8) ** 2 + 2 * (1 / 2) ** 2) / 2)
    assert metrics.accuracy(logq, y) == 1  # a tie goes to the first class
    assert metrics.predictive_entropy(logq)[1] == pytest.approx(LN2)
    # member 0 chooses 0, 0 (a tie at first), member 1 chooses 1, 1
    assert metrics.disagreement(logp.argmax(-1), 2) == 1
    # confidences 5/8 and 1/2 lie in other bins: |1 - 5/8| / 2 + |1 - 1/2| / 2
    assert metrics.ece(logq, y) == pytest.approx((3 / 8 + 1 / 2) / 2)


def test_extreme_logits_stay_finite() -> None:
    logp = metrics.log_softmax(np.array([[[1e4, 0.0], [0.0, 1e4]], [[0.0, 1e4], [0.0, 1e4]]]))
    y = np.array([0, 0])
    logq = metrics.ensemble(logp)
    assert metrics.nll(logq, y) == pytest.approx((LN2 + 1e4) / 2)
    assert np.isfinite(metrics.mutual_information(logp)).all()
    assert np.isfinite(metrics.pairwise_kl(logp))
    assert metrics.pairwise_js(logp) == pytest.approx(LN2 / 2)
    assert np.isfinite(metrics.temperature(logq, y))


@pytest.mark.parametrize(
    "metric",
    [
        *(metrics.nll, metrics.accuracy, metrics.brier, metrics.ece, metrics.adaptive_ece),
        *(metrics.classwise_ece, metrics.brier_decomposition, metrics.temperature, metrics.cll),
        lambda logq, _: metrics.predictive_entropy(logq),
    ],
)
def test_single_precision_of_an_ensemble_loses_nothing(metric) -> None:
    _, logq, y = draw(0, rows=2000)
    single, exact = metric(logq.astype(np.float32), y), metric(logq, y)
    assert single == pytest.approx(exact, rel=2e-6)


@pytest.mark.parametrize(
    "metric",
    [
        metrics.member_nll,
        metrics.gain,
        lambda logp, _: metrics.mutual_information(logp).mean(),
        lambda logp, _: metrics.aleatoric_entropy(logp).mean(),
        lambda logp, _: metrics.pairwise_kl(logp),
        lambda logp, _: metrics.pairwise_js(logp),
    ],
)
def test_single_precision_of_near_members_loses_nothing(metric) -> None:
    logp, _, y = draw(0, members=1, rows=2000)
    noise = np.random.default_rng(1).normal(size=(4, *logp.shape[1:])) * 0.02
    near = metrics.log_softmax(logp + noise).astype(np.float32)
    exact = metric(near.astype(np.float64), y)
    assert metric(near, y) == pytest.approx(exact, rel=1e-9)
    assert exact > 0


def test_guessing_gets_the_entropy_of_the_labels() -> None:
    assert metrics.chance_nll(np.array([0, 0, 1, 3])) == pytest.approx(1.5 * np.log(2))
    assert metrics.chance_nll(np.zeros(4, int)) == 0
