"""LoRA-Ensemble (Mühlematter et al. 2024, arXiv 2405.14438): each member's own low-rank update.

Member m applies W_m = W + B_m A_m in every adapted layer, with A_m (rank, in) drawn from Xavier's
uniform law with gain ``init_gain`` and B_m (out, rank) = 0, so that all members start as the
trained base. As in the authors' code there is no factor α/r. W is frozen or slowly trained; each
member has its own head. ``members: 1`` is the paper's single network with LoRA: a control, since
one update alone already gave half of the ensemble's gain there.

``layers: attention`` adapts the query, key, value and output projections, as the paper does in a
vision transformer; ``all`` adapts every linear and convolutional layer but the head, a kernel's
inputs and sides taken together.

Deviations: the base is trained within the trial for the share ``warm_start`` of the epochs, where
the paper takes pretrained weights; heads start from the trained one; norms and shared biases follow
``base``.
"""

import math
from typing import Literal

import torch
from pydantic import Field

from study.errors import StudyError
from study.layers.fixed_heads import kind_of
from study.layers.perturbed import IndependentLayer, LowRankLayer, MemberLayer, Weighted
from study.methods import MakeNetwork
from study.methods._shared_network import SharedNetwork
from study.spec import Strict

ATTENTION = ("query", "key", "value", "out")
"""What a backbone calls its attention's projections."""


class Params(Strict):
    """What a LoRA-Ensemble is configured by.

    Attributes:
        members: M; 1 for the control.
        rank: Of the update.
        init_gain: Of A's initial values.
        warm_start: Share of the epochs in which the plain network is trained alone.
        layers: Which layers have updates.
        base: Whether the shared weights are ``frozen`` after the warm start, or trained at a tenth
            of the members' rate (``slow``).
        head: Each member's ``own`` last layer, or one that is ``shared`` (and treated as ``base``);
            without effect where the backbone's head is fixed.
        lr_multiplier: Learning rate of the members' weights over that of the warm start.
        decay: Whether weight decay reaches the updates.
    """

    members: int = Field(4, ge=1, le=64)
    rank: int = Field(8, ge=1, le=256)
    init_gain: float = Field(10.0, gt=0, le=100)
    warm_start: float = Field(0.5, ge=0, lt=1)
    layers: Literal["all", "attention"] = "all"
    base: Literal["frozen", "slow"] = "frozen"
    head: Literal["own", "shared"] = "own"
    lr_multiplier: float = Field(1.0, gt=0, le=1000)
    decay: bool = False


class Ensemble(SharedNetwork):
    """M members with low-rank updates of one network."""

    def __init__(self, params: Params, make_network: MakeNetwork, seed: int) -> None:
        self.params = params
        super().__init__(
            params.members,
            make_network,
            warm_start=params.warm_start,
            shared_lr_multiplier=0.0 if params.base == "frozen" else 0.1 * params.lr_multiplier,
            own_lr_multiplier=params.lr_multiplier,
            decay_own=params.decay,
        )
        names = {name.rpartition(".")[2] for name, _ in self.network.named_modules()}
        if params.layers == "attention" and not names & set(ATTENTION):
            raise StudyError(
                "params.layers=attention needs a backbone with attention, but this one has no "
                f"{', '.join(ATTENTION)}; set params.layers to all"
            )

    def replacement(self, layer: Weighted, layers: list[Weighted]) -> MemberLayer | None:
        """Add updates to a chosen layer, or give members their own heads if asked for."""
        params = self.params
        if layer is layers[-1] and kind_of(self.network) == "linear":
            return IndependentLayer(layer, params.members) if params.head == "own" else None
        if params.layers == "attention":
            name = next(name for name, m in self.network.named_modules() if m is layer)
            if name.rpartition(".")[2] not in ATTENTION:
                return None
        return _updated(layer, params)


def _updated(layer: Weighted, params: Params) -> LowRankLayer:
    """Return the layer with A from Xavier's uniform law and B = 0."""
    out, into = layer.weight.flatten(1).shape
    bound = params.init_gain * math.sqrt(6 / (params.rank + into))
    a = torch.empty(params.members, params.rank, into).uniform_(-bound, bound)
    b = torch.zeros(params.members, out, params.rank)
    return LowRankLayer(layer, a, b)


EXAMPLES = [
    {"members": 2, "rank": 2},
    {"members": 1, "rank": 1, "warm_start": 0.0, "base": "slow", "head": "shared"},
    {"members": 2, "rank": 2, "layers": "attention"},
]
