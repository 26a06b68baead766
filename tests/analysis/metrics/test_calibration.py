"""Calibration errors against torchmetrics and torch-uncertainty, with ties and few examples."""

import numpy as np
import pytest
import torch
from hypothesis import given

from analysis import metrics
from tests.analysis.metrics.draw import calibrated_sample, draw, draw_coarse, seeds, some
from tests.peers import metrics_of_torch_uncertainty, metrics_of_torchmetrics

SHAPES = [(15, 2), (200, 5), (1003, 10)]


@given(seeds)
@some
def test_calibration_error_is_torchmetrics(seed: int) -> None:
    _, logq, y = draw(seed)
    theirs = metrics_of_torchmetrics().multiclass_calibration_error(
        torch.tensor(np.exp(logq)), torch.tensor(y), 5, n_bins=15, norm="l1"
    )
    assert metrics.ece(logq, y) == pytest.approx(float(theirs), abs=1e-6)


@pytest.mark.parametrize("bins", [4, 15])
@pytest.mark.parametrize(("rows", "classes"), SHAPES)
def test_adaptive_error_is_torch_uncertaintys(rows: int, classes: int, bins: int) -> None:
    _, logq, y = draw(rows, rows=rows, classes=classes)
    theirs = metrics_of_torch_uncertainty().AdaptiveCalibrationError(
        "multiclass", num_bins=bins, num_classes=classes
    )
    theirs.update(torch.tensor(np.exp(logq)), torch.tensor(y))
    assert metrics.adaptive_ece(logq, y, bins) == pytest.approx(float(theirs.compute()), abs=1e-6)


def test_adaptive_error_does_not_depend_on_the_order_of_equal_confidences() -> None:
    logq, y = draw_coarse(0, 101, 3)
    found = metrics.adaptive_ece(logq, y)
    assert metrics.adaptive_ece(logq[::-1], y[::-1]) == pytest.approx(found, abs=1e-15)
    # one confidence for all: every run has the mean accuracy
    alike = np.log(np.full((6, 3), [0.5, 0.3, 0.2]))
    assert metrics.adaptive_ece(alike, np.array([0, 0, 0, 0, 0, 1]), 4) == pytest.approx(
        5 / 6 - 0.5
    )


def test_adaptive_error_by_hand() -> None:
    """Four examples in two runs, .6 (wrong) and .7 (right), .8 and .9 (right)."""
    q = np.array([[0.9, 0.1], [0.6, 0.4], [0.2, 0.8], [0.3, 0.7]])
    y = np.array([0, 1, 1, 1])
    assert metrics.adaptive_ece(np.log(q), y, 2) == pytest.approx((0.3 + 0.3) / 4)
    assert metrics.adaptive_ece(np.log(q), y, 15) == pytest.approx((0.6 + 0.3 + 0.2 + 0.1) / 4)


@pytest.mark.parametrize(("rows", "classes"), SHAPES)
def test_classwise_error_is_torch_uncertaintys(rows: int, classes: int) -> None:
    """Theirs bins the binary problem of each class by q_c too."""
    for logq, y in (draw(rows, rows=rows, classes=classes)[1:], draw_coarse(rows, rows, classes)):
        theirs = metrics_of_torch_uncertainty().ClasswiseCalibrationError(
            num_classes=classes, num_bins=15
        )
        theirs.update(torch.tensor(np.exp(logq)), torch.tensor(y))
        assert metrics.classwise_ece(logq, y) == pytest.approx(float(theirs.compute()), abs=1e-6)


@pytest.mark.parametrize("metric", [metrics.ece, metrics.adaptive_ece, metrics.classwise_ece])
def test_calibrated_predictions_have_less_error_than_sharpened(metric) -> None:
    logq, y = calibrated_sample(20_000)
    assert metric(logq, y) < 0.02 < 0.05 < metric(metrics.log_softmax(3 * logq), y)


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
