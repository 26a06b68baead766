"""Fake quantisation against its formula, and the choice of bits against a search by hand."""

import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from study.layers.quantised import (
    JOIN,
    LEVELS,
    Mixture,
    QuantisedLayer,
    Quantiser,
    Sizes,
    barrier,
    codes_of,
    fake_quantise,
    fitted,
    largest,
    scales_of,
)


def layer(kind):
    torch.manual_seed(0)
    return nn.Linear(6, 4) if kind == "linear" else nn.Conv2d(2, 4, 3, stride=2, padding=1)


@pytest.mark.parametrize("bits", LEVELS)
@pytest.mark.parametrize("granularity", ["channel", "tensor"])
@pytest.mark.parametrize("kind", ["linear", "conv"])
def test_a_weight_is_its_scale_times_one_of_the_integers_of_its_bits(kind, granularity, bits):
    plain = layer(kind)
    wrapped = QuantisedLayer(plain, Quantiser(bits, granularity))
    scales = scales_of(plain.weight, bits, granularity)
    assert scales.numel() == (4 if granularity == "channel" else 1)
    q = largest(bits)
    every = scales.unsqueeze(-1) * torch.arange(-q, q + 1)
    assert bool((wrapped.applied.unsqueeze(-1) == every).any(-1).all())
    error = (wrapped.applied - plain.weight).abs()
    assert bool((error <= scales * (0.5 + 1e-5)).all())  # the largest weight clips nothing


def test_rounding_by_hand():
    weight = torch.tensor([[0.7, -0.34, 0.26], [0.0, 0.0, 0.0]])
    two = torch.tensor([[0.7, 0.0, 0.0], [0.0, 0.0, 0.0]])  # 0.34 / 0.7 rounds to 0
    assert torch.equal(fake_quantise(weight, 2, "channel"), two)
    three = torch.tensor([[3, -1, 1], [0, 0, 0]]) * torch.tensor(0.7) / 3
    torch.testing.assert_close(fake_quantise(weight, 3, "channel"), three)


def test_what_lies_beyond_given_scales_is_clipped_on_both_sides_alike():
    weight, scales = torch.tensor([[-9.0, -3.4, 3.6, 9.0]]), torch.ones(1, 1)
    assert codes_of(weight, 3, scales).tolist() == [[-3, -3, 3, 3]]


def test_the_gradient_goes_straight_through():
    weight = torch.randn(4, 6, requires_grad=True)
    (fake_quantise(weight, 2, "tensor") * 3).sum().backward()
    assert torch.equal(weight.grad, torch.full_like(weight, 3.0))


@pytest.mark.parametrize("kind", ["linear", "conv"])
def test_a_quantised_layer_is_the_layer_with_other_weights(kind):
    plain = layer(kind)
    x = torch.randn(5, 6) if kind == "linear" else torch.randn(5, 2, 8, 8)
    wrapped = QuantisedLayer(plain, Quantiser(4, "channel"))
    weight = fake_quantise(plain.weight, 4, "channel")
    expected = (
        F.linear(x, weight, plain.bias)
        if kind == "linear"
        else F.conv2d(x, weight, plain.bias, stride=2, padding=1)
    )
    assert torch.equal(wrapped(x), expected)
    assert torch.equal(wrapped.plain()(x), expected)


def test_a_mixture_is_the_mean_of_the_levels():
    weight = torch.randn(4, 6)
    mixture = Mixture("channel", weight)
    with torch.no_grad():
        mixture.alpha.copy_(torch.tensor([0.1, 0.2, 0.05, 0.25, 0.4]).log())
    expected = sum(
        p * fake_quantise(weight, b, "channel")
        for p, b in zip([0.1, 0.2, 0.05, 0.25, 0.4], LEVELS, strict=True)
    )
    torch.testing.assert_close(mixture(weight), expected)
    mixture.alpha.data = torch.tensor([0.0, 0.0, 99.0, 0.0, 0.0])
    torch.testing.assert_close(mixture(weight), fake_quantise(weight, 4, "channel"))


def test_the_barrier_is_smooth_and_grows():
    assert barrier(torch.tensor(0.0)).item() == 0
    assert barrier(torch.tensor(0.5)).item() == pytest.approx(math.log(2))
    at = torch.tensor([1 - JOIN - 1e-4, 1 - JOIN + 1e-4], dtype=torch.double, requires_grad=True)
    value = barrier(at)
    (slope,) = torch.autograd.grad(value.sum(), at, create_graph=True)
    (curve,) = torch.autograd.grad(slope.sum(), at)
    for both in (value, slope, curve):
        assert both[0].item() == pytest.approx(both[1].item(), rel=0.01)
    outside = barrier(torch.tensor([1.0, 1.2, 1.4]))
    assert bool(outside.isfinite().all())
    assert outside[2] - outside[1] > outside[1] - outside[0] > 1


SIZES = Sizes(kept=10, layers=((80, 4), (800, 8)))


def test_bytes_by_hand():
    fixed = 4 * 10 + (4 * 4 + 1) + (4 * 8 + 1)
    assert SIZES.stored([3, 4]) == fixed + 30 + 400
    half = torch.tensor([0.0, 0.0, 0.5, 0.0, 0.5])
    assert SIZES.expected([half, half], torch.tensor(LEVELS) / 8).item() == fixed + 880 * 6 / 8
    assert Sizes(0, ((3, 1),)).stored([3]) == 5 + 2  # nine bits are two bytes


def test_bits_are_lowered_where_least_is_lost_for_a_byte():
    sure, unsure = [0.01, 0.01, 0.01, 0.01, 0.96], [0.18, 0.19, 0.2, 0.21, 0.22]
    most = SIZES.stored([8, 8])
    assert fitted([sure, unsure], SIZES, most) == [8, 8]
    assert fitted([sure, unsure], SIZES, most - 1) == [8, 6]
    assert fitted([unsure, sure], SIZES, most - 60) == [2, 8]
    assert fitted([unsure, sure], SIZES, most - 61) == [2, 6]
    assert fitted([sure, sure], SIZES, SIZES.stored([2, 2])) == [2, 2]
    for share in range(SIZES.stored([2, 2]), most):
        assert SIZES.stored(fitted([unsure, sure], SIZES, share)) <= share


def test_scales_of_zeros_divide():
    assert bool((scales_of(torch.zeros(2, 3), 2, "channel") > 0).all())
    assert torch.equal(fake_quantise(torch.zeros(2, 3), 2, "channel"), torch.zeros(2, 3))
    assert largest(8) == 127
