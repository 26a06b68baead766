"""Cheap masks have the law of dropout."""

import pytest
import torch
from torch import nn

from study import backbones
from study.layers.dropout import LEVELS, Dropout, drop


@pytest.mark.parametrize("rate", [0.02, 0.3, 0.5, 0.9])
def test_the_share_and_the_mean_are_those_of_dropout(rate):
    torch.manual_seed(0)
    n = 10**6 + 3
    y = drop(torch.ones(n), rate)
    share = (y == 0).double().mean().item()
    assert share == pytest.approx(rate, abs=4 * (rate * (1 - rate) / n) ** 0.5 + 1 / LEVELS)
    assert y.double().mean().item() == pytest.approx(1, abs=4 * (rate / (1 - rate) / n) ** 0.5)
    assert len(y.unique()) == 2


def test_units_are_independent():
    """Of neighbours, which share a random number, as many pairs are dropped as by chance."""
    torch.manual_seed(0)
    rate, n = 0.3, 4 * 10**5
    dropped = (drop(torch.ones(n), rate) == 0).double().view(-1, 4)
    deviations = dropped - dropped.mean()
    correlation = (deviations.mT @ deviations) / n * 4 / (rate * (1 - rate))
    assert (correlation - torch.eye(4)).abs().max() < 4 / (n / 4) ** 0.5 + 0.02


def test_the_gradient_passes_where_a_unit_is_kept():
    x = torch.randn(5, 7, requires_grad=True)
    y = drop(x, 0.5)
    y.sum().backward()
    torch.testing.assert_close(x.grad * x.detach(), y.detach())


def test_each_part_has_its_own_generator():
    def generators(*seeds):
        return [torch.Generator().manual_seed(seed) for seed in seeds]

    x = torch.ones(6, 11)
    both = drop(x, 0.5, generators(1, 2))
    for part, seed in zip(both.chunk(2), (1, 2), strict=True):
        assert torch.equal(part, drop(x[:3], 0.5, generators(seed)))
    torch.manual_seed(2)
    assert torch.equal(drop(x[:3], 0.5), both[3:])


def test_evaluation_and_rate_0_change_nothing():
    x = torch.randn(3, 4)
    assert Dropout(0.5).eval()(x) is x
    assert drop(x, 0.0) is x


def test_every_network_has_it():
    for name, options in (("mlp", {}), ("cnn", {}), ("vit", {"width": 8, "heads": 2})):
        network = backbones.build(
            backbones.parameters({"name": name, "dropout": 0.1} | options), (3, 16, 16), 5
        )
        found = [m for m in network.modules() if isinstance(m, nn.Dropout)]
        assert found
        assert {type(m) for m in found} == {Dropout}
