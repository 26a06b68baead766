"""Fake quantisation: rounding to b bits with a gradient, its bytes, and the choice of the bits."""

import copy
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final, Literal

import torch
from torch import Tensor, nn
from torch.func import functional_call

from study.layers.members import replace_modules, weighted_layers

Granularity = Literal["channel", "tensor"]
LEVELS: Final = (2, 3, 4, 6, 8)
"""Bits that a weight may have."""
JOIN: Final = 0.05
"""Share of the budget that is left where the log barrier turns into a quadratic."""
SMALLEST: Final = 1e-12
"""Of Δ and of probabilities, so that none is zero."""


def scales_of(weight: Tensor, bits: int, granularity: Granularity) -> Tensor:
    """Return Δ = max|w| / q, in a shape that broadcasts over the weight."""
    flat = weight.detach().abs()
    if granularity == "channel":
        highest = flat.flatten(1).amax(1).view(-1, *[1] * (weight.ndim - 1))
    else:
        highest = flat.amax().view([1] * weight.ndim)
    return (highest / largest(bits)).clamp_min(SMALLEST)


def codes_of(weight: Tensor, bits: int, scales: Tensor) -> Tensor:
    """Return the integers from -q to q that stand for the weight, as floats of its shape."""
    return (weight / scales).round().clamp(-largest(bits), largest(bits))


class StraightThrough(torch.autograd.Function):
    """Q forwards, the identity backwards."""

    @staticmethod
    def forward(ctx: Any, weight: Tensor, bits: int, scales: Tensor) -> Tensor:
        """Return Q(w)."""
        return scales * codes_of(weight, bits, scales)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        """Return the gradient as it is."""
        return gradient, None, None


def fake_quantise(weight: Tensor, bits: int, granularity: Granularity) -> Tensor:
    """Return Q(w) with the gradient of w."""
    scales = scales_of(weight, bits, granularity)
    quantised: Tensor = StraightThrough.apply(weight, bits, scales)
    return quantised


class Quantiser(nn.Module):
    """A layer's weights at given bits."""

    def __init__(self, bits: int, granularity: Granularity) -> None:
        super().__init__()
        self.bits, self.granularity = bits, granularity

    def forward(self, weight: Tensor) -> Tensor:
        """Return Q(w)."""
        return fake_quantise(weight, self.bits, self.granularity)


class Mixture(nn.Module):
    """A layer's weights as the mean over the levels of bits, of probabilities softmax(α).

    Attributes:
        bytes: Of a weight at each level.
    """

    bytes: Tensor

    def __init__(self, granularity: Granularity, like: Tensor) -> None:
        super().__init__()
        self.granularity = granularity
        self.alpha = nn.Parameter(like.detach().new_zeros(len(LEVELS)))
        self.register_buffer("bytes", like.new_tensor(LEVELS) / 8, persistent=False)

    def forward(self, weight: Tensor) -> Tensor:
        """Return Σ_b p_b Q_b(w)."""
        levels = [fake_quantise(weight, bits, self.granularity) for bits in LEVELS]
        mean: Tensor = torch.tensordot(self.alpha.softmax(0), torch.stack(levels), 1)
        return mean


class QuantisedLayer(nn.Module):
    """A linear or convolutional layer that applies ``quantiser(weight)``.

    The wrapped layer keeps the fp32 weight, which is what the optimiser moves.
    """

    def __init__(self, layer: nn.Linear | nn.Conv2d, quantiser: Quantiser | Mixture) -> None:
        super().__init__()
        self.layer, self.quantiser = layer, quantiser

    @property
    def applied(self) -> Tensor:
        """The weight that is really applied."""
        weight: Tensor = self.quantiser(self.layer.weight)
        return weight

    def forward(self, x: Tensor) -> Tensor:
        """Apply the layer."""
        y: Tensor = functional_call(self.layer, {"weight": self.applied}, (x,))
        return y

    def plain(self) -> nn.Module:
        """Return a copy of the layer with the weight that is really applied."""
        layer = copy.deepcopy(self.layer)
        layer.weight.data = self.applied.detach().clone()
        return layer


def quantised_layers(network: nn.Module) -> list[QuantisedLayer]:
    """Return the wrapped layers in the order in which they act."""
    return [module for module in network.modules() if isinstance(module, QuantisedLayer)]


def set_quantisers(network: nn.Module, quantisers: Iterator[Quantiser | Mixture]) -> None:
    """Give every weighted layer, wrapped or not yet, its quantiser, in order and in place."""
    wrapped = quantised_layers(network)
    for layer in wrapped:
        layer.quantiser = next(quantisers)
    if not wrapped:
        kinds = (nn.Linear, nn.Conv2d)
        replace_modules(network, kinds, lambda layer: QuantisedLayer(layer, next(quantisers)))


@dataclass(frozen=True)
class Sizes:
    """What one member stores: ``kept`` fp32 values, and layers of (weights, scales)."""

    kept: int
    layers: tuple[tuple[int, int], ...]

    @staticmethod
    def of(network: nn.Module, granularity: Granularity) -> "Sizes":
        """Measure a network that is not quantised yet."""
        weights = [layer.weight for layer in weighted_layers(network)]
        total = sum(t.numel() for t in network.state_dict().values() if t.is_floating_point())
        layers = ((w.numel(), len(w) if granularity == "channel" else 1) for w in weights)
        return Sizes(total - sum(w.numel() for w in weights), tuple(layers))

    @property
    def fixed(self) -> int:
        """Bytes that do not depend on the bits: fp32 values, scales, and a byte for the bits."""
        return 4 * self.kept + sum(4 * scales + 1 for _, scales in self.layers)

    def stored(self, bits: list[int]) -> int:
        """Return all bytes at these bits of the layers."""
        packed = (packed_bytes(n, b) for (n, _), b in zip(self.layers, bits, strict=True))
        return self.fixed + sum(packed)

    def expected(self, probabilities: list[Tensor], level_bytes: Tensor) -> Tensor:
        """Return the expected bytes under each layer's probabilities of the levels."""
        weights = [n for n, _ in self.layers]
        means = (n * p @ level_bytes for n, p in zip(weights, probabilities, strict=True))
        return torch.stack(list(means)).sum() + self.fixed


def barrier(ratio: Tensor) -> Tensor:
    """Return -log(1 - ratio), from ``1 - JOIN`` on its quadratic continuation (C²)."""
    left = 1 - ratio
    quadratic = 0.5 * (((left - 2 * JOIN) / JOIN) ** 2 - 1) - math.log(JOIN)
    return torch.where(left > JOIN, -left.clamp_min(JOIN).log(), quadratic)


def fitted(probabilities: list[list[float]], sizes: Sizes, share: float) -> list[int]:
    """Return the most probable bits, lowered layer by layer until they fit into ``share`` bytes.

    Args:
        probabilities: Of the levels, for each layer.
        sizes: Of the member.
        share: At least what the member takes at the lowest level everywhere.
    """
    logs = [[math.log(max(p, SMALLEST)) for p in layer] for layer in probabilities]
    places = [max(range(len(LEVELS)), key=layer.__getitem__) for layer in logs]

    def price(layer: int) -> tuple[float, int]:
        weights, place = sizes.layers[layer][0], places[layer]
        saved = packed_bytes(weights, LEVELS[place]) - packed_bytes(weights, LEVELS[place - 1])
        return (logs[layer][place] - logs[layer][place - 1]) / max(saved, 1), -saved

    while sizes.stored([LEVELS[place] for place in places]) > share:
        places[min((i for i, place in enumerate(places) if place), key=price)] -= 1
    return [LEVELS[place] for place in places]


def largest(bits: int) -> int:
    """Return q = 2^(bits-1) - 1, the largest of the symmetric values -q, ..., q."""
    return 2 ** (bits - 1) - 1


def packed_bytes(count: int, bits: int) -> int:
    """Return how many bytes ``count`` values take."""
    return -(-count * bits // 8)
