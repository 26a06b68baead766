"""Metrics against libraries, against hand computation, and against identities."""

import numpy as np
import pytest
import torch
import torchmetrics.functional.classification as tm
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import log_softmax as scipy_log_softmax
from sklearn.metrics import brier_score_loss, log_loss, roc_auc_score

from analysis import metrics

LN2 = np.log(2)


def draw(seed: int, members: int = 4, rows: int = 200, classes: int = 5) -> tuple:
    """Return members' log-probabilities, the ensemble's, and labels."""
    rng = np.random.default_rng(seed)
    y = rng.integers(0, classes, rows)
    logits = rng.normal(size=(members, rows, classes)) * 2
    logits[:, np.arange(rows), y] += 2
    logp = metrics.log_softmax(logits)
    return logp, metrics.ensemble(logp), y


seeds = st.integers(0, 10_000)
some = settings(max_examples=15, deadline=None)


@given(seeds)
@some
def test_log_softmax_is_scipys(seed: int) -> None:
    logits = np.random.default_rng(seed).normal(size=(3, 7, 4)) * 50
    np.testing.assert_allclose(
        metrics.log_softmax(logits), scipy_log_softmax(logits, -1), atol=1e-12
    )


@given(seeds)
@some
def test_likelihood_and_accuracy_are_the_libraries(seed: int) -> None:
    _, logq, y = draw(seed)
    q, labels = torch.tensor(np.exp(logq)), torch.tensor(y)
    assert metrics.nll(logq, y) == pytest.approx(log_loss(y, np.exp(logq), labels=range(5)))
    accuracy = tm.multiclass_accuracy(q, labels, 5, average="micro")
    assert metrics.accuracy(logq, y) == pytest.approx(float(accuracy))
    brier = brier_score_loss(y, np.exp(logq), labels=range(5), scale_by_half=False)
    assert metrics.brier(logq, y) == pytest.approx(brier)


@given(seeds)
@some
def test_calibration_error_is_torchmetrics(seed: int) -> None:
    _, logq, y = draw(seed)
    theirs = tm.multiclass_calibration_error(
        torch.tensor(np.exp(logq)), torch.tensor(y), 5, n_bins=15, norm="l1"
    )
    assert metrics.ece(logq, y) == pytest.approx(float(theirs), abs=1e-6)


@given(seeds)
@some
def test_auroc_is_sklearns_with_ties(seed: int) -> None:
    rng = np.random.default_rng(seed)
    scores, positive = rng.integers(0, 6, 60).astype(float), np.arange(60) < 25
    theirs = roc_auc_score(positive, scores)
    assert metrics.auroc(scores[~positive], scores[positive]) == pytest.approx(theirs)


@given(seeds)
@some
def test_brier_ambiguity(seed: int) -> None:
    logp, logq, y = draw(seed)
    members = np.mean([metrics.brier(member, y) for member in logp])
    spread = np.mean(((np.exp(logp) - np.exp(logq)) ** 2).sum(-1))
    assert members - metrics.brier(logq, y) == pytest.approx(spread)


@given(seeds)
@some
def test_mutual_information_is_the_mean_divergence_from_the_mean(seed: int) -> None:
    logp, logq, _ = draw(seed)
    divergence = (np.exp(logp) * (logp - logq)).sum(-1).mean(0)
    np.testing.assert_allclose(metrics.mutual_information(logp), divergence, atol=1e-12)


@given(seeds)
@some
def test_gain_is_member_minus_ensemble(seed: int) -> None:
    logp, logq, y = draw(seed)
    assert metrics.gain(logp, y) > 0
    difference = metrics.member_nll(logp, y) - metrics.nll(logq, y)
    assert metrics.gain(logp, y) == pytest.approx(difference)


@given(seeds, st.integers(2, 6))
@some
def test_disagreement_from_counts_is_the_mean_over_pairs(seed: int, members: int) -> None:
    choice = np.random.default_rng(seed).integers(0, 4, (members, 50))
    matrix = metrics.pairwise_disagreement(choice)
    over_pairs = matrix[np.triu_indices(members, 1)].mean()
    assert metrics.disagreement(choice, 4) == pytest.approx(over_pairs)


@given(seeds)
@some
def test_pairwise_divergence_is_the_loop(seed: int) -> None:
    logp, _, _ = draw(seed, members=3)
    pairs = [(i, j) for i in range(3) for j in range(3) if i != j]
    loop = [(np.exp(logp[i]) * (logp[i] - logp[j])).sum(-1).mean() for i, j in pairs]
    assert metrics.pairwise_kl(logp) == pytest.approx(np.mean(loop))


@pytest.mark.parametrize("members", [1, 3, 4])
def test_equal_members_have_no_diversity_at_all(members: int) -> None:
    logp, _, y = draw(0, members=1)
    same = np.repeat(logp, members, 0)
    assert metrics.gain(same, y) == pytest.approx(0, abs=1e-15)
    assert metrics.mutual_information(same).max() == 0
    if members == 1:
        assert metrics.gain(same, y) == 0
    else:
        assert metrics.disagreement(same.argmax(-1), 5) == 0
        assert metrics.pairwise_kl(same) == pytest.approx(0, abs=1e-15)


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


def test_bins_are_closed_on_the_right() -> None:
    edges = np.linspace(0, 1, 16)
    assert metrics.confidence_bins(edges[1:]).tolist() == list(range(15))
    assert metrics.confidence_bins(np.nextafter(edges[1:-1], 1)).tolist() == list(range(1, 15))


def test_reliability_counts_every_example() -> None:
    _, logq, y = draw(3)
    count, confidence, right = metrics.reliability(logq, y)
    assert count.sum() == len(y)
    assert np.nansum(count * right) / len(y) == pytest.approx(metrics.accuracy(logq, y))
    assert np.array_equal(np.isnan(confidence), count == 0)


def calibrated_sample(rows: int = 4000) -> tuple[np.ndarray, np.ndarray]:
    """Return log-probabilities and labels drawn from them: temperature 1 is right."""
    rng = np.random.default_rng(5)
    logq = metrics.log_softmax(rng.normal(size=(rows, 4)) * 1.5)
    return logq, (np.exp(logq).cumsum(-1) < rng.random((rows, 1))).sum(-1)


@pytest.mark.parametrize("scale", [0.5, 1.0, 3.0])
def test_temperature_undoes_a_scale(scale: float) -> None:
    logq, y = calibrated_sample()
    assert metrics.temperature(metrics.log_softmax(scale * logq), y) == pytest.approx(
        scale * metrics.temperature(logq, y), rel=1e-3
    )
    assert metrics.temperature(logq, y) == pytest.approx(1, abs=0.08)


def test_temperature_is_bounded_without_an_error() -> None:
    logq, _ = calibrated_sample(50)
    low, high = metrics.TEMPERATURES
    assert metrics.temperature(logq, logq.argmax(-1)) == pytest.approx(low, rel=1e-3)
    assert metrics.temperature(logq, logq.argmin(-1)) == pytest.approx(high, rel=1e-3)


def test_calibrated_nll_forgives_a_scale_and_depends_on_the_generator_alone() -> None:
    logq, y = calibrated_sample(1000)

    def score(scale: float, seed: int) -> float:
        return metrics.cll(metrics.log_softmax(scale * logq), y, np.random.default_rng(seed))

    assert score(1, 0) == pytest.approx(metrics.nll(logq, y), abs=0.005)
    assert score(3, 0) == pytest.approx(score(1, 0), abs=1e-6)
    assert metrics.nll(metrics.log_softmax(3 * logq), y) > metrics.nll(logq, y) + 0.2
    assert score(1, 0) == score(1, 0)
    assert score(1, 0) != score(1, 1)


def test_calibrated_nll_by_hand() -> None:
    """Four examples of one confidence: each half has one error or the like; one half fits T."""
    logq = np.log(np.full((4, 2), 0.5))
    y = np.array([0, 1, 0, 1])
    assert metrics.cll(logq, y, np.random.default_rng(0)) == pytest.approx(LN2)


def test_extreme_logits_stay_finite() -> None:
    logp = metrics.log_softmax(np.array([[[1e4, 0.0], [0.0, 1e4]], [[0.0, 1e4], [0.0, 1e4]]]))
    y = np.array([0, 0])
    assert metrics.nll(metrics.ensemble(logp), y) == pytest.approx((LN2 + 1e4) / 2)
    assert np.isfinite(metrics.mutual_information(logp)).all()
    assert np.isfinite(metrics.pairwise_kl(logp))
