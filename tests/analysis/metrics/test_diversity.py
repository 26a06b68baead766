"""Differences between members against scipy, torch-uncertainty, loops and hand computation."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.spatial.distance import jensenshannon

from analysis import metrics
from tests.analysis.metrics.draw import draw, seeds, some
from tests.peers import metrics_of_torch_uncertainty


@given(seeds, st.integers(2, 6))
@some
def test_disagreement_from_counts_is_the_mean_over_pairs(seed: int, members: int) -> None:
    choice = np.random.default_rng(seed).integers(0, 4, (members, 50))
    matrix = metrics.pairwise_disagreement(choice)
    over_pairs = matrix[np.triu_indices(members, 1)].mean()
    assert metrics.disagreement(choice, 4) == pytest.approx(over_pairs)


@given(seeds)
@some
def test_disagreement_is_torch_uncertaintys(seed: int) -> None:
    logp, _, _ = draw(seed)
    theirs = metrics_of_torch_uncertainty().Disagreement()
    theirs.update(torch.tensor(np.exp(logp)).transpose(0, 1))
    found = metrics.disagreement(logp.argmax(-1), 5)
    assert found == pytest.approx(float(theirs.compute()), abs=1e-6)


@given(seeds)
@some
def test_pairwise_divergence_is_the_loop(seed: int) -> None:
    logp, _, _ = draw(seed, members=3)
    pairs = [(i, j) for i in range(3) for j in range(3) if i != j]
    loop = [(np.exp(logp[i]) * (logp[i] - logp[j])).sum(-1).mean() for i, j in pairs]
    assert metrics.pairwise_kl(logp) == pytest.approx(np.mean(loop))


@given(seeds, st.integers(2, 5))
@some
def test_jensen_shannon_is_scipys(seed: int, members: int) -> None:
    """Theirs is the square root."""
    logp, _, _ = draw(seed, members=members)
    pairs = np.transpose(np.triu_indices(members, 1))
    theirs = [np.mean(jensenshannon(*np.exp(logp[pair]), axis=-1) ** 2) for pair in pairs]
    assert metrics.pairwise_js(logp) == pytest.approx(np.mean(theirs))


def test_jensen_shannon_of_two_members_is_their_mutual_information() -> None:
    logp, _, _ = draw(1, members=2)
    assert metrics.pairwise_js(logp) == pytest.approx(metrics.mutual_information(logp).mean())


@pytest.mark.parametrize("members", [1, 3, 4])
def test_equal_members_have_no_diversity_at_all(members: int) -> None:
    logp, _, y = draw(0, members=1)
    same = np.repeat(logp, members, 0)
    assert metrics.gain(same, y) == pytest.approx(0, abs=1e-15)
    if members == 1:
        assert metrics.gain(same, y) == 0
    else:
        assert metrics.disagreement(same.argmax(-1), 5) == 0
        assert metrics.pairwise_kl(same) == pytest.approx(0, abs=1e-15)
        assert metrics.pairwise_js(same) == pytest.approx(0, abs=1e-15)


def test_normalised_disagreement_by_hand() -> None:
    """Of four examples the members differ on two; one errs on one, the other on two."""
    choice = np.array([[0, 1, 2, 0], [0, 2, 2, 1]])
    y = np.array([0, 1, 0, 0])
    errors = (1 / 4 + 3 / 4) / 2
    assert metrics.normalised_disagreement(choice, y, 3) == pytest.approx(1 / 2 / errors)
    right = np.array([y, y])
    assert math.isnan(metrics.normalised_disagreement(right, y, 3))


def test_normalised_disagreement_of_independent_members_is_twice_the_agreeing_share() -> None:
    """Two members that err alone with probability e: d = 2 e (1 - e), so d / e = 2 (1 - e)."""
    rng = np.random.default_rng(0)
    choice = (rng.random((2, 40_000)) < 0.1).astype(int)
    found = metrics.normalised_disagreement(choice, np.zeros(40_000, int), 2)
    assert found == pytest.approx(1.8, abs=0.03)
