"""Rank-1 Bayesian networks against the formulas they stand for."""

import pytest
import torch
from torch import nn
from torch.distributions import Normal, kl_divergence
from torch.nn import functional as F

from study.conformance import Subject, inputs
from study.methods.rank1_bnn import BayesianLayer

SIGNS = {"members": 3, "negative_share": 0.5}


def layer(std=0.1):
    torch.manual_seed(0)
    return BayesianLayer(nn.Linear(6, 4), 3, lambda m, n: 1 + torch.randn(m, n), std)


def test_divergence_is_torchs():
    own = layer()
    expected = 0
    for name in "rs":
        q = Normal(own.fast[name], F.softplus(own.fast[f"{name}_std"]))
        expected = expected + kl_divergence(q, Normal(1.0, 0.3)).sum(1).mean()
    torch.testing.assert_close(own.divergence(0.3), expected)


def test_draws_are_new_in_training_and_fixed_in_prediction():
    own = layer()
    x = torch.randn(9, 6)
    assert not torch.equal(own.train()(x), own(x))
    assert torch.equal(own.eval()(x), own(x))


def test_draws_have_the_posteriors_moments():
    own = layer(std=0.25).train()
    many = torch.stack([own.applied("r") for _ in range(4000)])
    torch.testing.assert_close(many.mean(0), own.fast["r"], atol=0.03, rtol=0)
    assert many.std(0).mean().item() == pytest.approx(0.25, rel=0.02)


def test_without_noise_it_is_batch_ensemble():
    method = Subject("rank1_bnn", SIGNS | {"posterior_std": 1e-6}, "mlp").make().eval()
    x = inputs()
    for m in range(3):
        plain = method.member_network(m)
        torch.testing.assert_close(plain(x), method(x)[m], rtol=1e-4, atol=1e-5)
    signs = next(method.member_layers()).fast["r"].detach()
    assert set(signs.unique().tolist()) == {-1.0, 1.0}


def test_the_divergence_joins_the_loss():
    free, bound = (
        Subject("rank1_bnn", SIGNS | {"kl_weight": w}, "mlp").make().eval() for w in (0.0, 0.01)
    )
    y = torch.zeros(3, 8, dtype=torch.long)
    difference = bound.loss(bound(inputs()), y, 0.0) - free.loss(free(inputs()), y, 0.0)
    expected = 0.01 * sum(own.divergence(0.1) for own in bound.member_layers())
    torch.testing.assert_close(difference, expected, rtol=1e-4, atol=1e-5)
