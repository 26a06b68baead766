"""Methods of one shape, trained as one: each on its own batches, with its own dropout.

Every weight has a leading axis of the N networks, so that a step is one batched product per layer
in place of N small ones. What each network sees and draws is what it would alone, so the results
are those of separate training up to rounding.
"""

import copy
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from study.dropout import drop
from study.fast_weights import MemberBatchNorm, MemberLayer
from study.heads import EquiangularHead
from study.members import unfold
from study.methods import Method, Phase
from study.methods._one_network import OneNetwork
from study.methods.mc_dropout import MemberDropout
from study.spec import Training, derive_seed

NORMS = (nn.BatchNorm1d, nn.BatchNorm2d)
DROPOUTS = (nn.Dropout, MemberDropout)
MOST = 10
WEIGHTS, WEIGHTS_ON_GPU = 2**20, 2**24
"""Parameters up to which a stack repays. On a CPU they must stay in cache, with gradients and
momentum: found by timing. Not so the number for a GPU, where many small kernels are the cost."""


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
        rows = unfold(x, len(self.weight)).flatten(1, -2)
        if self.bias is None:
            y = torch.bmm(rows, self.weight)
        else:
            y = torch.baddbmm(self.bias, rows, self.weight)
        return y.view(*x.shape[:-1], -1)


class StackedDropout(nn.Module):
    """Dropout whose masks are drawn for each network by its own generator."""

    def __init__(self, rate: float, generators: Sequence[torch.Generator]) -> None:
        super().__init__()
        self.rate, self.generators = rate, generators

    def forward(self, x: Tensor) -> Tensor:
        """Drop units of (N*B, ...)."""
        return drop(x, self.rate, self.generators)


class Stack(Method):
    """N methods as one, each trained on a stream of batches of its own. Only for training.

    Args:
        methods: Of one shape, and each ``stackable``; they get the weights back after every epoch.
        seeds: Of their batches and dropout.

    Attributes:
        method: The first, its layers replaced by those of all.
        joined: Each of its parameters and buffers that is made of theirs, and those.
    """

    def __init__(self, methods: Sequence[OneNetwork], seeds: Sequence[int]) -> None:
        super().__init__()
        self.seeds, self.members = list(seeds), sum(method.members for method in methods)
        device = next(methods[0].parameters()).device
        generators = [torch.Generator(device).manual_seed(derive_seed(s, "dropout")) for s in seeds]
        self.joined: list[tuple[Tensor, Sequence[Tensor]]] = []
        stacked: dict[int, nn.Module] = {}
        for layers in zip(*(_handled(method.network) for method in methods), strict=True):
            new = stacked[id(layers[0])] = _stacked(layers[0], len(layers), generators)
            states = [_state(layer) for layer in layers]
            for name, tensor in _state(new).items():
                self.joined.append((tensor, [state[name] for state in states]))
        for tensor, origins in self.joined:
            tensor.copy_(torch.stack(list(origins)).view_as(tensor))
        self.method: OneNetwork = copy.deepcopy(methods[0], stacked)  # type: ignore[arg-type]

    def streams(self, seed: int) -> list[int]:
        """Return the methods' own seeds."""
        return self.seeds

    def phases(self) -> list[Phase]:
        """Return one phase, after each epoch of which the methods have their weights."""
        return [Phase(after_epoch=self.give_back)]

    @torch.no_grad()
    def give_back(self) -> None:
        """Copy the weights to the methods."""
        for tensor, origins in self.joined:
            for own, origin in zip(tensor.view(-1, *origins[0].shape), origins, strict=True):
                origin.copy_(own)

    def training_forward(self, x: Tensor, y_B: Tensor) -> tuple[Tensor, Tensor]:
        """Return logits (N*M, B', C) and labels (N*M, B') for N batches, one after the other."""
        x, y_MB = self.method.enter(x, y_B, len(self.seeds))
        return unfold(self.method.network(x), len(y_MB)), y_MB

    def loss(self, logits_MBC: Tensor, y_MB: Tensor, label_smoothing: float) -> Tensor:
        """Return the sum of the methods' losses: each has its own gradient."""
        return len(self.seeds) * self.method.loss(logits_MBC, y_MB, label_smoothing)

    def param_groups(self, training: Training) -> list[dict[str, Any]]:
        """Return the groups of the one method, each parameter that of all."""
        return self.method.param_groups(training)

    def perturbations(self) -> Tensor | None:
        """Return those of every method, (N*M, P)."""
        return self.method.perturbations()


def _handled(module: nn.Module) -> Iterator[nn.Module]:
    """Yield the layers that can be stacked, in order, without what they are made of."""
    if _can_be_stacked(module):
        yield module
    else:
        for child in module.children():
            yield from _handled(child)


def _can_be_stacked(layer: nn.Module) -> bool:
    if isinstance(layer, MemberLayer):
        return layer.convolution is None
    return isinstance(layer, (nn.Linear, MemberBatchNorm, *NORMS, *DROPOUTS))


def _stacked(layer: Any, count: int, generators: Sequence[torch.Generator]) -> nn.Module:
    """Return a layer for as many like this one, values aside."""
    if isinstance(layer, nn.Linear):
        return StackedLinear(layer, count)
    if isinstance(layer, MemberLayer):
        return layer.stacked(count)
    if isinstance(layer, MemberBatchNorm):
        return MemberBatchNorm(layer.plain(0), count * layer.members)
    if isinstance(layer, NORMS):
        return MemberBatchNorm(layer, count)
    return StackedDropout(layer.p if isinstance(layer, nn.Dropout) else layer.rate, generators)


def _state(layer: nn.Module) -> dict[str, Tensor]:
    """Return the parameters and running statistics of a layer, or of the norm that it wraps."""
    layer = layer.norm if isinstance(layer, MemberBatchNorm) else layer
    named = [*layer.named_parameters(), *layer.named_buffers()]
    state = {name: tensor.detach() for name, tensor in named if tensor.dim()}
    if "weight" in state and state["weight"].dim() == 3:
        state["weight"] = state["weight"].mT  # (N, out, in), as the layers have it.
    return state


def joined(parts: Sequence[tuple[Method, int]]) -> list[tuple[Method, int]]:
    """Return the parts, with the seeds of their batches, as few stacks as repay, in order."""
    size = best_size(parts[0][0])
    if size < 2 or not all(stackable(method) for method, _ in parts):
        return list(parts)
    groups = [parts[start : start + size] for start in range(0, len(parts), size)]
    return [_stack(group) if len(group) > 1 else group[0] for group in groups]


def _stack(parts: Sequence[tuple[Method, int]]) -> tuple[Method, int]:
    methods, seeds = zip(*parts, strict=True)
    return Stack(methods, seeds), 0


def best_size(method: Method) -> int:
    """Return how many methods like this one are best trained as one."""
    if not stackable(method):
        return 1
    parameters = list(method.parameters())
    weights = WEIGHTS if parameters[0].device.type == "cpu" else WEIGHTS_ON_GPU
    return max(1, min(MOST, weights // sum(p.numel() for p in parameters)))


def stackable(method: Method) -> bool:
    """Tell whether the method may be trained with others as one."""
    if not isinstance(method, OneNetwork) or not vars(type(method)).get("stackable", False):
        return False
    return method.phases() == [Phase()] and _is_known(method.network)


def _is_known(module: nn.Module) -> bool:
    """Tell whether every layer that has weights, or draws random numbers, can be stacked."""
    if _can_be_stacked(module):
        return True
    if isinstance(module, EquiangularHead):
        return not module.rotated  # The frame is the same for all.
    own = [*module.parameters(recurse=False), *module.buffers(recurse=False)]
    if own or isinstance(module, nn.modules.dropout._DropoutNd):
        return False
    return all(map(_is_known, module.children()))
