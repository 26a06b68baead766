"""Carrying M members through a plain network: in its batch axis, and by replacing its layers.

Inside a wrapped network the members stand in the batch axis, member by member: (M*B, ...). Layers
that all members share then need no change.
"""

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn


def fold(x: Tensor, members: int) -> Tensor:
    """Give every member the same batch: (B, ...) -> (M*B, ...)."""
    return x.expand(members, *x.shape).flatten(0, 1)


def unfold(x: Tensor, members: int) -> Tensor:
    """Give the members their own axis: (M*B, ...) -> (M, B, ...)."""
    return x.unflatten(0, (members, -1))


def weighted_layers(network: nn.Module) -> list[nn.Linear | nn.Conv2d]:
    """Return the linear and convolutional layers in the order in which they act."""
    return [m for m in network.modules() if isinstance(m, nn.Linear | nn.Conv2d)]


def replace_modules(
    network: nn.Module,
    kind: type[nn.Module] | tuple[type[nn.Module], ...],
    make: Callable[[Any], nn.Module | None],
) -> None:
    """Replace, in order and in place, each submodule of ``kind`` by ``make(it)`` (None: keep)."""
    for name, child in network.named_children():
        if isinstance(child, kind):
            new = make(child)
            if new is not None:
                setattr(network, name, new)
        else:
            replace_modules(child, kind, make)
