"""Entropies against torch-uncertainty, scipy and identities."""

import numpy as np
import pytest
import torch
from hypothesis import given
from scipy.stats import entropy

from analysis import metrics
from tests.analysis.metrics.draw import draw, seeds, some
from tests.peers import metrics_of_torch_uncertainty


@given(seeds)
@some
def test_mutual_information_is_the_mean_divergence_from_the_mean(seed: int) -> None:
    logp, logq, _ = draw(seed)
    divergence = (np.exp(logp) * (logp - logq)).sum(-1).mean(0)
    np.testing.assert_allclose(metrics.mutual_information(logp), divergence, atol=1e-12)


@given(seeds)
@some
def test_mutual_information_is_torch_uncertaintys(seed: int) -> None:
    logp, _, _ = draw(seed)
    theirs = metrics_of_torch_uncertainty().MutualInformation(reduction="none")
    theirs.update(torch.tensor(np.exp(logp)).transpose(0, 1))
    np.testing.assert_allclose(metrics.mutual_information(logp), theirs.compute(), atol=1e-6)


@given(seeds)
@some
def test_total_is_aleatoric_and_disagreement(seed: int) -> None:
    logp, logq, _ = draw(seed)
    aleatoric = metrics.aleatoric_entropy(logp)
    np.testing.assert_allclose(aleatoric, entropy(np.exp(logp), axis=-1).mean(0), atol=1e-12)
    total = aleatoric + metrics.mutual_information(logp)
    np.testing.assert_allclose(metrics.predictive_entropy(logq), total, atol=1e-12)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("members", [1, 3, 4])
def test_equal_members_have_no_mutual_information(members: int, dtype: type) -> None:
    same = np.repeat(draw(0, members=1)[0].astype(dtype), members, 0)
    assert metrics.mutual_information(same).max() == 0
