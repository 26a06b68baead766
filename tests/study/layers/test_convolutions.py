"""A convolution whose members' weights are multiplied out is the one with scaled activations."""

import math

import pytest
import torch
from torch import nn

from study.layers import perturbed
from study.methods import build

M, B = 3, 4


def outcome(cost, monkeypatch, **params):
    monkeypatch.setattr(perturbed, "SCALING", cost)
    calls = []
    plain = perturbed.MemberLayer._multiplied_out

    def counted(layer, x, weight):
        calls.append(layer)
        return plain(layer, x, weight)

    monkeypatch.setattr(perturbed.MemberLayer, "_multiplied_out", counted)

    def network():
        layers = [nn.Conv2d(3, 4, 3, stride=2, padding=1), nn.ReLU(), nn.Conv2d(4, 5, (1, 3))]
        return nn.Sequential(*layers).to(memory_format=torch.channels_last)

    method = build("batch_ensemble", {"members": M, **params}, network, 0).double()
    x = torch.randn(B, 3, 8, 8, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    y = method(x.requires_grad_())
    y.square().sum().backward()
    return len(calls), [y.detach(), x.grad, *(p.grad for p in method.parameters())]


@pytest.mark.parametrize("adapt", ["rs", "r", "s"])
@pytest.mark.parametrize("bias", ["shared", "random"])
def test_values_and_gradients_are_the_same(adapt, bias, monkeypatch):
    params = {"init": "normal", "init_std": 0.5, "adapt": adapt, "bias": bias}
    never, scaled = outcome(math.inf, monkeypatch, **params)
    both, multiplied = outcome(0, monkeypatch, **params)
    assert (never, both) == (0, 2)
    for own, other in zip(scaled, multiplied, strict=True):
        torch.testing.assert_close(own, other)


def test_large_images_and_few_channels_are_multiplied_out(monkeypatch):
    params = {"init": "normal", "init_std": 0.5}
    count, _ = outcome(perturbed.SCALING, monkeypatch, **params)
    assert count == 2
