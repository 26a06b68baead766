"""Carrying M members through a plain network: in its batch axis, and by replacing its layers.

Inside a wrapped network the members stand in the batch axis, member by member: (M*B, ...). Layers
that all members share then need no change.
"""

from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Final

import torch
from torch import Tensor, nn

CHUNK: Final = 512
"""Images that pass through a network at once."""


class MemberModule(nn.Module):
    """A layer, norm or head that knows the members and has something of each one's own.

    Attributes:
        members: M.
    """

    members: int

    def own_parameters(self) -> Iterator[Tensor]:
        """Yield the parameters that have a leading member axis: by default all."""
        yield from self.parameters()

    def plain(self, member: int) -> nn.Module:
        """Return the ordinary module that one member applies."""
        raise NotImplementedError

    def average_members(self) -> None:
        """Become the module of one member, whose own parameters are the members' means."""
        for parameter in self.own_parameters():
            parameter.data = parameter.data.mean(0, keepdim=True)
        self.members = 1


def repeat_for_members(x: Tensor, members: int, streams: int = 1) -> Tensor:
    """Give every member of a stream its batch: (S*B, ...) -> (S*M*B, ...), keeping its format."""
    if members == 1:
        return x
    return torch.cat([batch for batch in x.chunk(streams) for _ in range(members)])


class Folded(nn.Sequential):
    """A module that gets every member's batch, under its own name: a head is found as one."""

    def __init__(self, name: str, module: nn.Module, members: int) -> None:
        super().__init__(OrderedDict({name: module}))
        self.members = members

    def forward(self, x: Tensor) -> Tensor:
        """Give every member the same batch: (B, ...) -> (M*B, ...)."""
        y: Tensor = self[0](repeat_for_members(x, self.members))
        return y


def split_members(x: Tensor, members: int) -> Tensor:
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


@contextmanager
def recording_head_inputs(network: nn.Module) -> Iterator[list[Tensor]]:
    """Collect what enters the layers called ``head``, in order: features (M*B, F) if folded."""
    seen: list[Tensor] = []
    hooks = [
        module.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
        for name, module in network.named_modules()
        if name.rpartition(".")[2] == "head"
    ]
    try:
        yield seen
    finally:
        for hook in hooks:
            hook.remove()


@torch.no_grad()
def update_batch_norm(network: nn.Module, train: Tensor) -> None:
    """Set batch-norm statistics to their mean over equal chunks of ``train``."""
    kinds = (nn.BatchNorm1d, nn.BatchNorm2d)
    norms = [module for module in network.modules() if isinstance(module, kinds)]
    network.eval()
    if not norms:
        return
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None
        norm.train()
    for chunk in train.tensor_split(-(-len(train) // CHUNK)):
        network(chunk)
    network.eval()


def stages_of(network: nn.Module, prefix: str = "") -> list[str]:
    """Return the names of the parts that have weights or statistics, in the order they act.

    Parts are the network's children and, in their place, those of a sequence.
    """
    names: list[str] = []
    for name, child in network.named_children():
        if isinstance(child, nn.Sequential):
            names += stages_of(child, f"{prefix}{name}.")
        elif child.state_dict():
            names.append(prefix + name)
    return names
