"""Accuracy and the Brier score against torchmetrics, scikit-learn, and identities."""

import numpy as np
import pytest
import torch
from hypothesis import given
from sklearn.metrics import brier_score_loss

from analysis import metrics
from tests.analysis.metrics.draw import calibrated_sample, draw, draw_coarse, seeds, some
from tests.peers import metrics_of_torchmetrics


@given(seeds)
@some
def test_accuracy_is_torchmetrics_and_brier_is_sklearns(seed: int) -> None:
    _, logq, y = draw(seed)
    accuracy = metrics_of_torchmetrics().multiclass_accuracy(
        torch.tensor(np.exp(logq)), torch.tensor(y), 5, average="micro"
    )
    assert metrics.accuracy(logq, y) == pytest.approx(float(accuracy))
    brier = brier_score_loss(y, np.exp(logq), labels=range(5), scale_by_half=False)
    assert metrics.brier(logq, y) == pytest.approx(brier)


@given(seeds)
@some
def test_brier_ambiguity(seed: int) -> None:
    logp, logq, y = draw(seed)
    members = np.mean([metrics.brier(member, y) for member in logp])
    spread = np.mean(((np.exp(logp) - np.exp(logq)) ** 2).sum(-1))
    assert members - metrics.brier(logq, y) == pytest.approx(spread)


@pytest.mark.parametrize("bins", [1, 4, 15])
@pytest.mark.parametrize("rows", [1, 30, 400])
def test_the_parts_of_brier_add_up(rows: int, bins: int) -> None:
    for logq, y in (draw(rows, rows=rows)[1:], draw_coarse(rows, rows, 3)):
        parts = metrics.brier_decomposition(logq, y, bins)
        total = parts.reliability - parts.resolution + parts.uncertainty + parts.within
        assert total == pytest.approx(metrics.brier(logq, y), abs=1e-12)
        assert parts.reliability >= 0
        assert 0 <= parts.resolution <= parts.uncertainty + 1e-12


def test_the_parts_of_brier_by_hand() -> None:
    """Two classes at 0.8 / 0.2, one of two right; at 0.4 / 0.6 and 0.3 / 0.7, both class 1."""
    q = np.array([[0.8, 0.2], [0.8, 0.2], [0.4, 0.6], [0.3, 0.7]])
    parts = metrics.brier_decomposition(np.log(q), np.array([0, 1, 1, 1]), bins=2)
    # class 0: bin (0, .5] has mean .35 and frequency 0, bin (.5, 1] has .8 and 1/2; class 1 mirrors
    assert parts.reliability == pytest.approx(2 * (0.35**2 + 0.3**2) / 2)
    assert parts.resolution == pytest.approx(2 * (0.25**2 + 0.25**2) / 2)
    assert parts.uncertainty == pytest.approx(2 * 3 / 16)
    assert parts.within == pytest.approx(2 * 2 * 0.05**2 / 4)


def test_the_parts_of_brier_of_calibrated_predictions() -> None:
    logq, y = calibrated_sample(20_000)
    sharp = metrics.brier_decomposition(metrics.log_softmax(3 * logq), y)
    right = metrics.brier_decomposition(logq, y)
    assert right.reliability < 0.005 < 0.05 < sharp.reliability
    assert right.uncertainty == sharp.uncertainty == pytest.approx(3 / 4, abs=0.01)
