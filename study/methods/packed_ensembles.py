"""Packed-Ensembles (Laurent et al. 2023): M narrow networks side by side in one grouped network.

A layer of n units becomes one of αn, divided among the members by groups: each is a network of its
own, α/M times as wide as the backbone. The first layer is dense over the shared image, the layers
between have Mγ groups, and the last one has M, each with all classes. Nothing is shared but the
image and the batch, so it is a Deep Ensemble of narrow members at the price of one network: about
α²/(Mγ) of the backbone's hidden weights.

A member's width is rounded up to a multiple of γ, αn having been cut to an integer, as earlier
releases of torch-uncertainty did; the present one refuses what is not divisible. Layer norms become
group norms with a group per member. An attention's heads and embeddings cannot be divided this way,
and such backbones are refused.

Deviations: initial weights are torch's own for grouped layers on every backbone, so that a member's
follow from its own fan-in; torch-uncertainty lowers γ until a group has 64 channels, which here are
narrower from the start, so γ is taken at its word.
"""

import copy
import math
from collections.abc import Iterator
from typing import Any, Final

import torch
from pydantic import Field
from torch import Tensor, nn

from study.errors import StudyError
from study.layers.convolution import resized
from study.layers.members import replace_modules, split_members, weighted_layers
from study.layers.perturbed import IndependentLayer, Weighted
from study.methods import MakeNetwork, Method
from study.spec import Strict

NORMS: Final = (nn.BatchNorm1d, nn.BatchNorm2d, nn.LayerNorm)
PACKABLE: Final = (nn.Linear, nn.Conv2d, *NORMS)


class Params(Strict):
    """What Packed-Ensembles are configured by.

    Attributes:
        members: M.
        alpha: Width of all members together over the backbone's.
        gamma: Groups within each member's hidden layers.
    """

    members: int = Field(4, ge=1, le=64)
    alpha: float = Field(2.0, gt=0, le=64)
    gamma: int = Field(1, ge=1, le=16)

    def width(self, units: int) -> int:
        """Return the width of a member's layer where the backbone has ``units``.

        Raises:
            StudyError: When there is not a unit for each group.
        """
        groups = self.members * self.gamma
        if int(self.alpha * units + 1e-9) < groups:
            least = math.ceil(1000 * groups / units) / 1000
            raise StudyError(
                f"params.alpha must be at least {least:g} for a layer of {units} units "
                f"to have one in each of members x gamma = {groups} groups, but is {self.alpha}; "
                "raise it, or lower members or gamma"
            )
        return self.gamma * math.ceil(int(self.alpha * units + 1e-9) / groups)


class GroupedLinear(nn.Module):
    """G linear layers side by side: (B, G * in) -> (B, G * out).

    Attributes:
        weight: (G, out, in).
        bias: (G * out,), or None.
    """

    def __init__(self, groups: int, into: int, out: int, bias: bool) -> None:
        super().__init__()
        bound = 1 / math.sqrt(into)
        self.weight = nn.Parameter(torch.empty(groups, out, into).uniform_(-bound, bound))
        self.bias: nn.Parameter | None = None
        if bias:
            self.bias = nn.Parameter(torch.empty(groups * out).uniform_(-bound, bound))

    def forward(self, x: Tensor) -> Tensor:
        """Apply each layer to its own part of the features."""
        parts = x.unflatten(1, (len(self.weight), -1))
        y = torch.einsum("bgi,goi->bgo", parts, self.weight).flatten(1)
        return y if self.bias is None else y + self.bias.to(y.dtype)


class Heads(nn.Module):
    """The members' last layers: (B, M * in) -> (M * B, classes)."""

    def __init__(self, members: int, into: int, classes: int) -> None:
        super().__init__()
        self.head = IndependentLayer(nn.Linear(into, classes), members, random=True)

    def forward(self, x: Tensor) -> Tensor:
        """Bring the members to the batch axis and apply their heads."""
        members = x.unflatten(1, (self.head.members, -1)).transpose(0, 1)
        logits: Tensor = self.head(members.flatten(0, 1))
        return logits


class Ensemble(Method):
    """M narrow networks, each in its own groups of one network's channels.

    Raises:
        StudyError: When the backbone's units cannot be divided among members, or it has weights
            of the user's, which would be lost.
    """

    heads = frozenset({"linear"})

    def __init__(self, params: Params, make_network: MakeNetwork, seed: int) -> None:
        super().__init__()
        self.members = params.members
        self.network = make_network()
        _require_packable(self.network)
        layers = weighted_layers(self.network)
        before = {id(layer): i for i, layer in enumerate(layers)}

        def packed(module: Any) -> nn.Module:
            if isinstance(module, NORMS):
                return _packed_norm(module, params)
            position = before[id(module)]
            previous = layers[position - 1] if position else None
            return _packed_layer(module, previous, module is layers[-1], params)

        replace_modules(self.network, PACKABLE, packed)

    def forward(self, x: Tensor) -> Tensor:
        """Return logits (M, B, C)."""
        return split_members(self.network(x), self.members)

    def effective_weights(self) -> Iterator[Tensor]:
        """Yield each layer's weights, (M, P)."""
        for layer in self.network.modules():
            if isinstance(layer, IndependentLayer):
                yield layer.effective_weight().detach().flatten(1)
            elif isinstance(layer, nn.Linear | nn.Conv2d | GroupedLinear):
                yield layer.weight.detach().reshape(self.members, -1)

    def member_network(self, member: int) -> nn.Module | None:
        """Return the narrow backbone that one member is."""
        kinds = (nn.Linear, nn.Conv2d, GroupedLinear, nn.BatchNorm1d, nn.BatchNorm2d, nn.GroupNorm)
        own: dict[int, Any] = {}
        for module in self.network.modules():
            if isinstance(module, Heads):
                own[id(module)] = module.head.plain(member)
            elif isinstance(module, kinds):
                own[id(module)] = _unpacked(module, member, self.members)
        return copy.deepcopy(self.network, own)


def _require_packable(network: nn.Module) -> None:
    if getattr(network, "pretrained", False):
        raise StudyError(
            "packed_ensembles has narrower layers than the backbone, so backbone.weights must not "
            "be given; remove it"
        )
    modules = [m for m in network.modules() if isinstance(m, PACKABLE)]
    packable = {id(p) for m in modules for p in m.parameters(recurse=False)}
    wrong = [name for name, p in network.named_parameters() if id(p) not in packable]
    wrong += [
        f"{name} in {m.groups} groups"
        for name, m in network.named_modules()
        if isinstance(m, nn.Conv2d) and m.groups > 1
    ]
    if wrong:
        raise StudyError(
            "packed_ensembles needs a backbone of linear layers, convolutions without groups, "
            "batch and layer norms alone, whose units can be divided among members, but "
            f"{type(network).__module__.rpartition('.')[2]} has {', '.join(wrong[:3])}; "
            "choose mlp, cnn, resnet18 or wide_resnet"
        )


def _packed_layer(
    layer: Weighted, previous: Weighted | None, last: bool, params: Params
) -> nn.Module:
    members, groups = params.members, params.members * params.gamma
    out, into = layer.weight.shape[:2]
    bias = layer.bias is not None
    if isinstance(layer, nn.Conv2d):
        inputs, groups = (into, 1) if previous is None else (members * params.width(into), groups)
        return resized(layer, inputs, members * params.width(out), groups)
    if previous is None:
        return nn.Linear(into, members * params.width(out), bias)
    pixels = into // len(previous.weight)  # Above 1 where an image has been flattened.
    own = pixels * params.width(len(previous.weight))
    if last:
        return Heads(members, own, out)
    return GroupedLinear(groups, own // params.gamma, params.width(out) // params.gamma, bias)


def _packed_norm(norm: nn.Module, params: Params) -> nn.Module:
    if isinstance(norm, nn.LayerNorm):
        width = params.members * params.width(norm.normalized_shape[0])
        return nn.GroupNorm(params.members, width, norm.eps)
    assert isinstance(norm, nn.BatchNorm1d | nn.BatchNorm2d)
    return type(norm)(params.members * params.width(norm.num_features), norm.eps, norm.momentum)


def _unpacked(packed: nn.Module, member: int, members: int) -> nn.Module:
    """Return the ordinary layer or norm that one member applies."""
    state = {
        name: (t.unflatten(0, (members, -1))[member] if t.dim() else t).detach().clone()
        for name, t in packed.state_dict().items()
    }
    if isinstance(packed, GroupedLinear):
        state["weight"] = torch.block_diag(*state["weight"])
    plain = _empty(packed, state["weight"].shape, members)
    plain.load_state_dict(state, assign=True)
    return plain


def _empty(packed: nn.Module, shape: torch.Size, members: int) -> nn.Module:
    """Return one member's layer without values, for a weight of ``shape``."""
    with torch.device("meta"):
        if isinstance(packed, nn.Conv2d):
            groups = max(1, packed.groups // members)
            return resized(packed, groups * shape[1], shape[0], groups)
        if isinstance(packed, nn.Linear | GroupedLinear):
            return nn.Linear(shape[1], shape[0], packed.bias is not None)
        if isinstance(packed, nn.GroupNorm):
            return nn.LayerNorm(shape[0], packed.eps)
        assert isinstance(packed, nn.BatchNorm1d | nn.BatchNorm2d)
        return type(packed)(shape[0], packed.eps, packed.momentum)


EXAMPLES = [
    {"members": 2, "alpha": 2.0, "gamma": 1},
    {"members": 3, "alpha": 1.5, "gamma": 2},
]
