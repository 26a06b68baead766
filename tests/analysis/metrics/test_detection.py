"""Detection against scikit-learn and torch-uncertainty, with ties and unequal samples."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score, roc_auc_score

from analysis import metrics
from tests.analysis.metrics.draw import seeds, some
from tests.peers import metrics_of_torch_uncertainty

sizes = st.sampled_from([(35, 25), (7, 90), (60, 1), (1, 5)])


def scores(seed: int, size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Return scores in and out of distribution; many are equal for even seeds."""
    rng = np.random.default_rng(seed)
    both = rng.normal(size=size[0]), rng.normal(size=size[1]) + 1
    return both if seed % 2 else tuple(np.round(sample) for sample in both)


def joined(negative: np.ndarray, positive: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return np.repeat([0, 1], [len(negative), len(positive)]), np.concatenate([negative, positive])


@given(seeds, sizes)
@some
def test_auroc_is_sklearns_with_ties(seed: int, size: tuple[int, int]) -> None:
    negative, positive = scores(seed, size)
    theirs = roc_auc_score(*joined(negative, positive))
    assert metrics.auroc(negative, positive) == pytest.approx(theirs)


@given(seeds, sizes)
@some
def test_the_area_below_roc_is_auroc(seed: int, size: tuple[int, int]) -> None:
    negative, positive = scores(seed, size)
    at = np.linspace(0, 1, 100_001)
    found = metrics.roc(negative, positive, at)
    area = np.trapezoid(found, at)
    assert area == pytest.approx(metrics.auroc(negative, positive), abs=2e-5)
    assert found[0] == pytest.approx(np.mean(positive > negative.max()))


@given(seeds, sizes)
@some
def test_aupr_is_sklearns_with_weights_that_make_the_samples_equal(
    seed: int, size: tuple[int, int]
) -> None:
    negative, positive = scores(seed, size)
    outside, score = joined(negative, positive)
    weight = np.where(outside, 1 / len(positive), 1 / len(negative))
    theirs = average_precision_score(outside, score, sample_weight=weight)
    assert metrics.aupr(negative, positive) == pytest.approx(theirs)


def test_aupr_does_not_depend_on_prevalence() -> None:
    negative, positive = scores(1, (40, 30))
    found = metrics.aupr(negative, positive)
    assert metrics.aupr(np.repeat(negative, 7), positive) == pytest.approx(found)
    assert metrics.aupr(negative, np.repeat(positive, 3)) == pytest.approx(found)
    assert metrics.aupr(positive, negative) < 0.5 < found


@pytest.mark.filterwarnings("ignore:Metric `FPR95` will save all:UserWarning")
@given(seeds, sizes)
@some
def test_fpr95_is_torch_uncertaintys_with_in_distribution_positive(
    seed: int, size: tuple[int, int]
) -> None:
    """Their score must rise with the positive class, hence the sign; their ties are ours.

    Their routine asks for pos_label=1, out of distribution: that is ours with the sides swapped.
    """
    negative, positive = scores(seed, size)
    outside, score = (torch.tensor(a) for a in joined(negative, positive))
    inside_positive, outside_positive = (
        metrics_of_torch_uncertainty().FPR95(pos_label=0),
        metrics_of_torch_uncertainty().FPR95(pos_label=1),
    )
    inside_positive.update(-score, outside)
    outside_positive.update(score, outside)
    assert metrics.fpr95(negative, positive) == pytest.approx(float(inside_positive.compute()))
    swapped = metrics.fpr95(-positive, -negative)
    assert swapped == pytest.approx(float(outside_positive.compute()))


def test_fpr95_by_hand() -> None:
    """Of 20 scores 0..19, 95 % are the lowest 19: what is at most 18 is accepted."""
    negative = np.arange(20.0)
    assert metrics.fpr95(negative, np.array([17.5, 18.0, 18.5, 40.0])) == 1 / 2
    assert metrics.fpr95(negative, negative + 30) == 0
    assert metrics.fpr95(negative, negative) == 0.95


def test_detection_by_hand() -> None:
    """In 1, 2, 3, 4; out 3, 5: the top threshold finds half alone, the tie at 3 brings two."""
    negative, positive = np.array([1.0, 2.0, 3.0, 4.0]), np.array([3.0, 5.0])
    assert metrics.auroc(negative, positive) == (4 + 2.5) / 8
    assert metrics.aupr(negative, positive) == pytest.approx(1 / 2 + 1 / 2 * 1 / (1 + 1 / 2))
    assert metrics.fpr95(negative, positive) == 1 / 2
