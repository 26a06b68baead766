"""Single networks of one shape, trained as one: each on its own batches, with its own dropout.

Every weight has a leading axis of the N networks, so that a step is one batched product per layer
in place of N small ones. What each network sees and draws is what it would alone, so the results
are those of separate training up to rounding.
"""

import copy
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from study.fast_weights import MemberBatchNorm
from study.members import unfold
from study.methods import Method, Phase
from study.spec import derive_seed

NORMS = (nn.BatchNorm1d, nn.BatchNorm2d)
STATE = ("weight", "bias", "running_mean", "running_var")


class StackedLinear(nn.Module):
    """N linear layers: (N*B, ..., in) -> (N*B, ..., out), network by network.

    Attributes:
        weight: (N, in, out), the order in which a batched product is fastest.
        bias: (N, 1, out), or None.
    """

    def __init__(self, layers: Sequence[nn.Linear]) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.stack([layer.weight.detach().mT for layer in layers]))
        self.bias: nn.Parameter | None = None
        if layers[0].bias is not None:
            self.bias = nn.Parameter(
                torch.stack([layer.bias.detach() for layer in layers])[:, None]
            )

    def forward(self, x: Tensor) -> Tensor:
        """Apply each layer to its own part of the batch."""
        rows = unfold(x, len(self.weight)).flatten(1, -2)
        if self.bias is None:
            y = torch.bmm(rows, self.weight)
        else:
            y = torch.baddbmm(self.bias, rows, self.weight)
        return y.view(*x.shape[:-1], -1)

    def give_back(self, layers: Sequence[nn.Linear]) -> None:
        """Copy the weights to the layers that they came from."""
        for number, layer in enumerate(layers):
            layer.weight.copy_(self.weight[number].mT)
            if self.bias is not None:
                layer.bias.copy_(self.bias[number, 0])


class StackedNorm(MemberBatchNorm):
    """N batch norms, each over its own network's examples."""

    def __init__(self, norms: Sequence[nn.BatchNorm1d | nn.BatchNorm2d]) -> None:
        super().__init__(norms[0], len(norms))
        for name in STATE:
            joined = torch.cat([getattr(norm, name).detach() for norm in norms])
            getattr(self.norm, name).data.copy_(joined)

    def give_back(self, norms: Sequence[nn.BatchNorm1d | nn.BatchNorm2d]) -> None:
        """Copy scales, shifts and statistics to the norms that they came from."""
        for number, norm in enumerate(norms):
            for name in STATE:
                own = getattr(self.norm, name).view(len(norms), -1)[number]
                getattr(norm, name).copy_(own)


class StackedDropout(nn.Module):
    """Dropout whose masks are drawn for each network by its own generator."""

    def __init__(self, rate: float, generators: Sequence[torch.Generator]) -> None:
        super().__init__()
        self.rate, self.generators = rate, generators

    def forward(self, x: Tensor) -> Tensor:
        """Drop units of (N*B, ...) in training."""
        if not self.training:
            return x
        keep = torch.empty_like(x)
        for part, generator in zip(keep.chunk(len(self.generators)), self.generators, strict=True):
            part.bernoulli_(1 - self.rate, generator=generator)
        return x * keep.div_(1 - self.rate)


class Stack(Method):
    """N single networks as one method of N members, each trained on a stream of batches of its own.

    Args:
        networks: Of one shape, and ``stackable``; they get the weights back after every epoch.
        seeds: Of their batches and dropout.
    """

    def __init__(self, networks: Sequence[nn.Module], seeds: Sequence[int]) -> None:
        super().__init__()
        self.members, self.seeds = len(networks), list(seeds)
        device = next(networks[0].parameters()).device
        generators = [torch.Generator(device).manual_seed(derive_seed(s, "dropout")) for s in seeds]
        stacked: dict[int, nn.Module] = {}
        self.origins: list[tuple[Any, Sequence[Any]]] = []
        for layers in zip(*(network.modules() for network in networks), strict=True):
            new = _stacked(layers, generators)
            if new is not None:
                stacked[id(layers[0])] = new
                self.origins.append((new, layers))
        self.network = copy.deepcopy(networks[0], stacked)  # type: ignore[arg-type]

    def streams(self, seed: int) -> list[int]:
        """Return the networks' own seeds."""
        return self.seeds

    def phases(self) -> list[Phase]:
        """Return one phase, after each epoch of which the networks have their weights."""
        return [Phase(after_epoch=self.give_back)]

    @torch.no_grad()
    def give_back(self) -> None:
        """Copy the weights to the networks."""
        for new, layers in self.origins:
            if not isinstance(new, StackedDropout):
                new.give_back(layers)

    def training_forward(self, x: Tensor, y_B: Tensor) -> tuple[Tensor, Tensor]:
        """Return logits (N, B, C) and labels (N, B) for N batches, one after the other."""
        return unfold(self.network(x), self.members), unfold(y_B, self.members)

    def loss(self, logits_MBC: Tensor, y_MB: Tensor, label_smoothing: float) -> Tensor:
        """Return the sum of the networks' cross-entropies: each has its own gradient."""
        return self.members * super().loss(logits_MBC, y_MB, label_smoothing)


def _stacked(
    layers: Sequence[nn.Module], generators: Sequence[torch.Generator]
) -> nn.Module | None:
    """Return one layer for all; None for one without a state, or whose parts are layers."""
    first = layers[0]
    if isinstance(first, nn.Linear):
        return StackedLinear(layers)  # type: ignore[arg-type]
    if isinstance(first, NORMS):
        return StackedNorm(layers)  # type: ignore[arg-type]
    if isinstance(first, nn.Dropout):
        return StackedDropout(first.p, generators)
    return None


def stackable(network: nn.Module) -> bool:
    """Tell whether every layer that has weights or draws random numbers can be stacked."""
    return all(
        isinstance(layer, (nn.Linear, nn.Dropout, *NORMS)) or not _has_state(layer)
        for layer in network.modules()
    )


def _has_state(layer: nn.Module) -> bool:
    own = [*layer.parameters(recurse=False), *layer.buffers(recurse=False)]
    return bool(own) or isinstance(layer, nn.modules.dropout._DropoutNd)
