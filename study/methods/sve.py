"""Singular Value Ensembles (arXiv 2601.22068): shared directions, each member's own strengths.

Every adapted layer's trained weight is decomposed once, W = U diag(σ) Vᵀ, a kernel's inputs and
sides taken together. U and V are frozen; member m applies W_m = U diag(σ_m) Vᵀ and trains σ_m, from
σ_m = σ ∘ (1 + ε_m) with ε_m ~ N(0, init_std²), its bias and, where asked for, its own head. So a
member costs min(in, out) weights for each layer.

The base must know something already: the plain network is trained within the trial for the share
``warm_start``, or has weights of the user's. From a random base members can only rescale random
directions, and the method is worst.

Deviations, the paper known from its abstract and second-hand notes alone: the warm start inside the
trial; what is not adapted, as norms, is trained jointly by all members; ``positive: softplus``
beside the clamp at 0, under which a singular value that has reached 0 gets no gradient any more.
"""

from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from study.layers.fixed_heads import kind_of
from study.layers.perturbed import IndependentLayer, MemberLayer, Weighted
from study.methods import MakeNetwork
from study.methods._shared_network import SharedNetwork
from study.spec import Strict


class Params(Strict):
    """What a Singular Value Ensemble is configured by.

    Attributes:
        members: M.
        init_std: Relative spread of the members' singular values at their start.
        warm_start: Share of the epochs in which the plain network is trained alone.
        layers: Which layers are adapted, in the order in which they act.
        head: Each member's ``own`` last layer, from the trained one, or an adapted one
            (``singular``); without effect where the backbone's head is fixed.
        bias: ``shared``, or each member's ``own``, from the trained one.
        positive: How singular values stay at least 0.
        lr_multiplier: Learning rate of the members' weights over that of the warm start.
        decay: Whether weight decay reaches the singular values.
    """

    members: int = Field(4, ge=1, le=64)
    init_std: float = Field(0.01, gt=0, le=4)
    warm_start: float = Field(0.5, ge=0, lt=1)
    layers: Literal["all", "no_first"] = "all"
    head: Literal["own", "singular"] = "own"
    bias: Literal["shared", "own"] = "own"
    positive: Literal["clamp", "softplus"] = "clamp"
    lr_multiplier: float = Field(1.0, gt=0, le=1000)
    decay: bool = False


class SingularLayer(MemberLayer):
    """W_m = U diag(σ_m) Vᵀ, for the singular vectors of the wrapped layer's weight.

    Args:
        layer: The layer to wrap; its weight is frozen.
        members: M.
        std: Relative spread of σ_m at the start.
        softplus: Keep σ_m positive by softplus instead of a clamp.
    """

    u: Tensor
    sigma: Tensor
    v: Tensor

    def __init__(self, layer: Weighted, members: int, std: float, softplus: bool) -> None:
        super().__init__(layer, members)
        self.softplus = softplus
        self.weight.requires_grad_(False)
        u, sigma, v = torch.linalg.svd(self.weight.flatten(1), full_matrices=False)
        for name, value in {"u": u, "sigma": sigma, "v": v}.items():
            self.register_buffer(name, value, persistent=False)  # They follow from the weight.
        start = (sigma * (1 + std * torch.randn(members, len(sigma)))).clamp(min=0)
        if softplus:
            start = _inverse_softplus(start)
        self.fast = nn.ParameterDict({"sigma": nn.Parameter(start)})

    def singular_values(self) -> Tensor:
        """Return σ_m, (M, min(in, out))."""
        own = self.fast["sigma"]
        return F.softplus(own) if self.softplus else own.clamp(min=0)

    def effective_weight(self) -> Tensor:
        """Return U diag(σ_m) Vᵀ, (M, *weight.shape)."""
        product = (self.u * self.singular_values().unsqueeze(1)) @ self.v
        return product.view(self.members, *self.shape)

    def deviations(self) -> Tensor:
        """Return σ_m - σ."""
        return self.singular_values() - self.sigma


def _inverse_softplus(y: Tensor) -> Tensor:
    y = y.clamp(min=1e-6)
    return y + torch.log(-torch.expm1(-y))


class Ensemble(SharedNetwork):
    """M members that share the singular vectors of one trained network."""

    def __init__(self, params: Params, make_network: MakeNetwork, seed: int) -> None:
        self.params = params
        super().__init__(
            params.members,
            make_network,
            warm_start=params.warm_start,
            shared_lr_multiplier=params.lr_multiplier,
            own_lr_multiplier=params.lr_multiplier,
            decay_own=params.decay,
        )

    def replacement(self, layer: Weighted, layers: list[Weighted]) -> MemberLayer | None:
        """Decompose a chosen layer; give members their own bias or head as asked for."""
        params = self.params
        is_head = layer is layers[-1] and kind_of(self.network) == "linear"
        if is_head and params.head == "own":
            return IndependentLayer(layer, params.members)
        if layer is layers[0] and params.layers == "no_first":
            return None
        new = SingularLayer(layer, params.members, params.init_std, params.positive == "softplus")
        if params.bias == "own":
            new.own_bias(random=False)
        return new


EXAMPLES = [
    {"members": 2, "init_std": 0.1},
    {"members": 2, "init_std": 0.1, "warm_start": 0.0, "head": "singular", "bias": "shared"},
    {"members": 2, "layers": "no_first", "positive": "softplus", "head": "singular"},
]
