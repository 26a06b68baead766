"""Selective prediction against torch-uncertainty, brute force over ties, and hand computation."""

from itertools import permutations

import numpy as np
import pytest
import torch

from analysis import metrics
from tests.analysis.metrics.draw import draw
from tests.peers import metrics_of_torch_uncertainty


@pytest.mark.parametrize("rows", [2, 50, 1001])
def test_areas_are_torch_uncertaintys(rows: int) -> None:
    """Theirs are trapezoids from 1/N to 1, stretched to length 1; ours are not, hence the ends."""
    _, logq, y = draw(rows, rows=rows)
    uncertainty, wrong = -logq.max(-1), logq.argmax(-1) != y
    first, last = wrong[uncertainty.argmin()], wrong.mean()
    theirs = []
    for metric in (metrics_of_torch_uncertainty().AURC(), metrics_of_torch_uncertainty().AUGRC()):
        metric.update(torch.tensor(np.exp(logq)), torch.tensor(y))
        theirs.append(float(metric.compute()) * (rows - 1))
    area = metrics.aurc(uncertainty, wrong) * rows - (first + last) / 2
    assert area == pytest.approx(theirs[0], abs=1e-4)
    # the generalised curve starts at (0, 0): a first trapezoid of height first/N that theirs lacks
    area = metrics.augrc(uncertainty, wrong) * rows - first / rows / 2
    assert area == pytest.approx(theirs[1], abs=1e-4)


def test_ties_count_as_the_mean_over_all_orders() -> None:
    uncertainty = np.array([0.1, 0.5, 0.5, 0.5, 0.2, 0.2])
    wrong = np.array([0, 1, 0, 0, 1, 0], bool)
    apart = np.array([0, 3, 4, 5, 1, 2.0])
    orders = [
        np.concatenate([apart[:1], apart[1:4][list(a)], apart[4:][list(b)]])
        for a in permutations(range(3))
        for b in permutations(range(2))
    ]
    for area in (metrics.aurc, metrics.augrc):
        each = [area(order, wrong) for order in orders]
        assert max(each) > min(each)
        assert area(uncertainty, wrong) == pytest.approx(np.mean(each))


def test_areas_by_hand() -> None:
    """Right, wrong, right, wrong, from the most certain: error rates 0, 1/2, 1/3, 1/2."""
    uncertainty, wrong = np.arange(4.0), np.array([0, 1, 0, 1], bool)
    assert metrics.aurc(uncertainty, wrong) == pytest.approx((1 / 2 + 1 / 3 + 1 / 2) / 4)
    # joint shares 0, 0, 1/4, 1/4, 2/4 at coverages 0, 1/4, ..., 1, by trapezoids
    assert metrics.augrc(uncertainty, wrong) == pytest.approx((1 / 8 + 1 / 4 + 3 / 8) / 4)


@pytest.mark.parametrize("rate", [0, 1])
def test_areas_at_their_ends(rate: int) -> None:
    uncertainty = np.arange(7.0)
    assert metrics.aurc(uncertainty, np.full(7, rate == 1)) == rate
    assert metrics.augrc(uncertainty, np.full(7, rate == 1)) == pytest.approx(rate / 2)


def test_a_blind_uncertainty_gives_the_error_rate_and_its_half() -> None:
    wrong = np.arange(9) < 3
    assert metrics.aurc(np.ones(9), wrong) == pytest.approx(1 / 3)
    assert metrics.augrc(np.ones(9), wrong) == pytest.approx(1 / 6)
