"""Methods of one shape, trained as one: each on its own batches, with its own rates and dropout.

Every weight has a leading axis of the N networks, so that a step is one batched product per layer
in place of N small ones. What each network sees and draws is what it would alone, so each step is
that of separate training up to rounding (which a long training at a high rate may amplify).

Only networks are stacked whose class says ``stackable = True``: that its forward pass is made of
the layers below and treats the batch's leading axis as examples, and nothing else.
"""

import copy
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Final, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from study.layers.dropout import Dropout, MemberDropout, drop
from study.layers.fixed_heads import EquiangularHead
from study.layers.members import split_members
from study.layers.norms import GroupedBatchNorm, MemberBatchNorm
from study.layers.perturbed import (
    IndependentLayer,
    LowRankLayer,
    LowRankScaledLayer,
    MemberLayer,
    RankOneLayer,
)
from study.methods import Method, Phase
from study.methods._one_network import OneNetwork
from study.plugins import load_plugin
from study.spec import Configuration, Training, canonical, derive_seed


class Room(NamedTuple):
    """What a stack may hold on a device.

    Attributes:
        networks: At most.
        parameters: Of all its networks, at most.
    """

    networks: int
    parameters: int


ROOM: Final = {"cpu": Room(10, 2**20), "cuda": Room(32, 2**26)}
"""By type of device; any other is taken for a CPU. On a CPU the parameters must stay in its cache
with their gradients and momentum; found by timing. On a GPU small networks wait for kernels to be
launched, which cost a stack as much as one network: only memory is a limit, here 1 GiB with
gradients and two moments. No GPU has run it yet."""


class StackedLinear(nn.Module):
    """N linear layers: (N*B, ..., in) -> (N*B, ..., out), network by network.

    Attributes:
        weight: (N, in, out), the order in which a product's gradient comes out.
        bias: (N, 1, out), or None.
    """

    def __init__(self, layer: nn.Linear, count: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(layer.weight.detach().mT.repeat(count, 1, 1))
        self.bias: nn.Parameter | None = None
        if layer.bias is not None:
            self.bias = nn.Parameter(layer.bias.detach().repeat(count, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        """Apply each layer to its own part of the batch."""
        rows = split_members(x, len(self.weight)).flatten(1, -2)
        if self.bias is None:
            y = torch.bmm(rows, self.weight)
        else:
            y = torch.baddbmm(self.bias, rows, self.weight)
        return y.view(*x.shape[:-1], -1)


class StackedDropout(nn.Module):
    """Dropout whose masks are drawn for each network by its own generator, at its own rate."""

    def __init__(self, rates: Sequence[float], generators: Sequence[torch.Generator]) -> None:
        super().__init__()
        self.rates, self.generators = rates, generators

    def forward(self, x: Tensor) -> Tensor:
        """Drop units of (N*B, ...)."""
        return drop(x, self.rates, self.generators)


class Stack(Method):
    """N methods as one, each trained on a stream of batches of its own. Only for training.

    Args:
        methods: Of one shape, and each ``stackable``; they get the weights back after every epoch.
        seeds: Of their batches and dropout.
        trainings: Of each, where they differ; in learning rate, weight decay and momentum alone.

    Attributes:
        methods: Those that it is made of.
        method: The first, its layers replaced by those of all.
        origins: Each of its parameters and buffers that is made of theirs, in their shape, and
            theirs.
    """

    def __init__(
        self,
        methods: Sequence[OneNetwork],
        seeds: Sequence[int],
        trainings: Sequence[Training] | None = None,
    ) -> None:
        super().__init__()
        self.methods = tuple(methods)  # No modules of this one: it has weights of its own.
        self.trainings = trainings
        self.seeds, self.members = list(seeds), sum(method.members for method in methods)
        device = next(methods[0].parameters()).device
        generators = [torch.Generator(device).manual_seed(derive_seed(s, "dropout")) for s in seeds]
        self.origins: list[tuple[Tensor, Sequence[Tensor]]] = []
        stacked: dict[int, Any] = {}
        for layers in zip(*(_layers(method.network) for method in methods), strict=True):
            new = stacked[id(layers[0])] = STACKED[type(layers[0])](layers, generators)
            states = [_state(layer) for layer in layers]
            for name, tensor in _state(new).items():
                own = [state[name] for state in states]
                tensor.requires_grad_(own[0].requires_grad)
                transposed = name == "weight" and not isinstance(new, GroupedBatchNorm)
                as_theirs = tensor.detach().mT if transposed else tensor.detach()
                view = as_theirs.view(-1, *own[0].shape)
                view.copy_(torch.stack(own).detach())
                self.origins.append((view, own))
        # The copy has the stacked layers where the first method has its own.
        self.method: OneNetwork = copy.deepcopy(methods[0], stacked)

    def batch_seeds(self, seed: int) -> list[int]:
        """Return the methods' own seeds."""
        return self.seeds

    def phases(self) -> list[Phase]:
        """Return one phase, after each epoch of which the methods have their weights."""
        return [Phase(after_epoch=self.give_back)]

    @torch.no_grad()
    def give_back(self) -> None:
        """Copy the weights to the methods."""
        for view, origins in self.origins:
            for own, origin in zip(view, origins, strict=True):
                origin.copy_(own)

    def training_forward(self, x: Tensor, y_B: Tensor) -> tuple[Tensor, Tensor]:
        """Return logits (N*M, B', C) and labels (N*M, B') for N batches, one after the other."""
        x, y_MB = self.method.enter(x, y_B, len(self.seeds))
        return split_members(self.method.network(x), len(y_MB)), y_MB

    def loss(self, logits_MBC: Tensor, y_MB: Tensor, label_smoothing: float) -> Tensor:
        """Return the methods' losses (N,): each has its own gradient."""
        losses = F.cross_entropy(
            logits_MBC.flatten(0, 1),
            y_MB.flatten(),
            label_smoothing=label_smoothing,
            reduction="none",
        )
        return losses.view(len(self.seeds), -1).mean(1)

    def param_groups(self, training: Training) -> list[dict[str, Any]]:
        """Return the groups of the one method, each parameter that of all.

        Where the methods differ, their rates are vectors, as ``PerNetwork`` takes them.
        """
        groups = self.method.param_groups(training)
        if self.trainings is None:
            return groups
        own = [m.param_groups(t) for m, t in zip(self.methods, self.trainings, strict=True)]
        momentum = self._rates(t.momentum for t in self.trainings)
        return [
            {
                "params": group["params"],
                "momentum": momentum,
                **{key: self._rates(one[key] for one in of_all) for key in ("lr", "weight_decay")},
            }
            for group, *of_all in zip(groups, *own, strict=True)
        ]

    def _rates(self, values: Iterable[float]) -> Tensor:
        device = next(self.method.parameters()).device
        return torch.tensor(list(values), dtype=torch.float32, device=device).unsqueeze(1)

    def perturbations(self) -> Tensor | None:
        """Return those of every method, (N*M, P)."""
        return self.method.perturbations()


Make = Callable[[Sequence[Any], Sequence[torch.Generator]], nn.Module]
_MEMBERS: Make = lambda layers, _: layers[0].stacked(len(layers))  # noqa: E731
_NORMS: Make = lambda norms, _: GroupedBatchNorm(norms[0], len(norms))  # noqa: E731
STACKED: Final[dict[type[nn.Module], Make]] = {
    nn.Linear: lambda layers, _: StackedLinear(layers[0], len(layers)),
    RankOneLayer: _MEMBERS,
    LowRankScaledLayer: _MEMBERS,
    LowRankLayer: _MEMBERS,
    IndependentLayer: _MEMBERS,
    nn.BatchNorm1d: _NORMS,
    nn.BatchNorm2d: _NORMS,
    MemberBatchNorm: lambda n, _: MemberBatchNorm(n[0].plain(0), len(n) * n[0].members),
    Dropout: lambda layers, generators: StackedDropout([d.p for d in layers], generators),
    MemberDropout: lambda layers, generators: StackedDropout([d.rate for d in layers], generators),
}
"""How a layer for as many like one is made, with any weights, by the exact type: a subclass may do
more."""

STATELESS: Final = (
    *(nn.Identity, nn.Flatten, nn.Sequential, nn.ModuleList),
    *(nn.ReLU, nn.LeakyReLU, nn.ELU, nn.GELU, nn.SiLU, nn.Softplus, nn.Tanh, nn.Sigmoid),
)


def _layers(module: nn.Module) -> Iterator[nn.Module]:
    """Yield the layers to be stacked, in order, without what they are made of."""
    if type(module) in STACKED:
        yield module
    else:
        for child in module.children():
            yield from _layers(child)


def _state(layer: nn.Module) -> dict[str, Tensor]:
    """Return the parameters and running statistics of a layer, or of the norm that it wraps."""
    layer = layer.norm if isinstance(layer, GroupedBatchNorm) else layer
    named = [*layer.named_parameters(), *layer.named_buffers()]
    return {name: tensor for name, tensor in named if tensor.dim()}


def joined(
    parts: Sequence[tuple[Method, int]],
    most: int | None = None,
    trainings: Sequence[Training] | None = None,
) -> list[tuple[Method, int]]:
    """Return the parts, with the seeds of their batches, in stacks of the size that repays.

    Args:
        parts: Alike but for their seeds, and what :func:`alike` leaves out.
        most: Parts of a stack, at most; None for no other limit.
        trainings: Of each part, where they differ.
    """
    size = best_size(parts[0][0], most)
    if size < 2 or not all(stackable(method) for method, _ in parts):
        return list(parts)
    found: list[tuple[Method, int]] = []
    for i in range(0, len(parts), size):
        own = parts[i : i + size]
        if len(own) > 1:
            methods, seeds = zip(*own, strict=True)
            found.append((Stack(methods, seeds, trainings and trainings[i : i + size]), 0))
        else:
            found += own
    return found


def alike(spec: Configuration) -> str:
    """Return what the networks of one stack have in common.

    That is all but their seeds, learning rates, weight decay, momentum and dropout, and what
    their method needs for neither shape nor loss (``OneNetwork.in_common``).
    """
    content = spec.alone().model_dump()
    kind = load_plugin("study.methods", spec.method).Ensemble
    if issubclass(kind, OneNetwork):
        content["params"] = kind.in_common(spec.params)
    for rate in ("lr", "weight_decay", "momentum"):
        del content["training"][rate]
    if "dropout" in content["backbone"]:
        content["backbone"]["dropout"] = content["backbone"]["dropout"] > 0
    return canonical(content)


def best_size(method: Method, most: int | None = None, device: str | None = None) -> int:
    """Return how many methods like this one are best trained as one, at most ``most``.

    Args:
        method: One of them.
        most: None for no other limit than the device's.
        device: Type of the device to train on; by default that of the method.
    """
    if not stackable(method):
        return 1
    room = ROOM.get(device or next(method.parameters()).device.type, ROOM["cpu"])
    parameters = sum(p.numel() for p in method.parameters())
    return max(1, min(room.networks, most or room.networks, room.parameters // parameters))


def stackable(method: Method) -> bool:
    """Tell whether the method may be trained with others as one."""
    if not isinstance(method, OneNetwork) or not vars(type(method)).get("stackable", False):
        return False
    network = method.network
    return (
        method.phases() == [Phase()]
        and type(method).loss is Method.loss
        and bool(vars(type(network)).get("stackable", False))
        and not [*network.parameters(recurse=False), *network.buffers(recurse=False)]
        and all(map(_is_known, network.children()))
        and len(list(network.parameters()))
        == len(list(network.named_parameters(remove_duplicate=False)))
    )


def _is_known(module: nn.Module) -> bool:
    """Tell whether the module can be stacked, or is the same for all."""
    kind: Any = type(module)
    if isinstance(module, MemberLayer):
        return kind in STACKED and module.convolution is None
    if kind in (nn.BatchNorm1d, nn.BatchNorm2d):
        return bool(module.affine and module.track_running_stats)
    if kind is EquiangularHead:
        return not module.rotated  # The frame is the same for all.
    return kind in STACKED or (kind in STATELESS and all(map(_is_known, module.children())))
