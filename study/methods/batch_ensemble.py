"""BatchEnsemble (Wen et al. 2020) and its rank-k relatives: multiplicatively perturbed members.

Member m applies W_m = W ∘ P_m in every adapted layer, W shared, P_m its own:

* rank 1 (Wen et al. 2020, eq. 1): P_m = s_m r_mᵀ; in a convolution r_m scales input and s_m output
  channels;
* rank k > 1, in the identity-residual form of LoMETab (arXiv 2605.14365): P_m = 1 + A_m B_mᵀ/√k,
  scaled so that an entry of P_m starts with standard deviation ``init_std`` whatever k is;
* rank "full": P_m = 1 + E_m, the most that the form can express.

With ``form: additive`` it is W_m = W + A_m B_mᵀ/√k instead, whose second term starts with
``init_std`` times the standard deviation of W.

The fast weights are what P_m, or the second term, is made of. With a warm start they join late, as
late-phase weights do (von Oswald et al. 2021): the plain network is trained first. Deviations from
that paper: either stretch of the training has a learning-rate schedule of its own, and the members
are not averaged at the end.

Deviations from Wen et al.: their initialisation, decay, learning rate and placement, biases,
batches and normalisation are parameters, since each may decide the outcome. The loss is a mean over
members, so a fast weight's gradient carries a factor 1/M that ``fast_lr_multiplier`` may undo.
"""

import math
from typing import Any, Literal

import torch
from pydantic import Field, model_validator
from torch import nn

from study.errors import StudyError
from study.layers.members import replace_modules
from study.layers.norms import MemberBatchNorm
from study.layers.perturbed import (
    LowRankLayer,
    LowRankScaledLayer,
    MemberLayer,
    RankOneLayer,
    Start,
    Weighted,
)
from study.methods import MakeNetwork
from study.methods._shared_network import SharedNetwork
from study.spec import Strict


class Params(Strict):
    """What a BatchEnsemble is configured by.

    Attributes:
        members: M.
        rank: Rank of the perturbation; above 1 in the identity-residual form.
        form: Of a perturbation of rank k: ``multiplicative`` or ``additive``.
        init: Law of r and s. ``ones``; ``normal``: N(1, init_std); ``sign``: -1 with probability
            ``negative_share``, else 1; ``tabm_sign`` and ``tabm_normal``: only the first layer's r
            is random (such signs; N(0, 1)), all else ones (TabM, Gorishniy et al. 2025).
        layers: Which layers are adapted, in the order in which they act.
        adapt: Which of r (inputs) and s (outputs) exist.
        bias: ``shared``, or each member's own from the ``same`` or a ``random`` start.
        fast_lr_multiplier: Learning rate of the fast weights over that of the shared ones; 0
            keeps them as they start.
        fast_decay: Weight decay of the fast weights: ``none`` as in uncertainty-baselines,
            ``same`` as the shared weights' as in torch-uncertainty, ``toward_one`` as strong but
            pulling to the unperturbed network (in the residual form both do).
        batch: Every member sees the whole batch (``repeat``) or an M-th of it (``split``).
        norm: Batch normalisation over the joint batch (``shared``) or by ``member``.
        warm_start: Share of the epochs in which the plain network is trained alone.
        shared_lr_multiplier: Learning rate of the shared weights, once the members are there, over
            the training's; 0 freezes them.
    """

    members: int = Field(4, ge=1, le=64)
    rank: Literal[1, 2, 4, 8, "full"] = 1
    form: Literal["multiplicative", "additive"] = "multiplicative"
    init: Literal["ones", "normal", "sign", "tabm_sign", "tabm_normal"] = "normal"
    init_std: float | None = Field(None, gt=0, le=4)
    negative_share: float | None = Field(None, ge=0, le=1)
    layers: Literal["all", "first", "last", "no_last"] = "all"
    adapt: Literal["rs", "r", "s"] = "rs"
    bias: Literal["shared", "same", "random"] = "same"
    fast_lr_multiplier: float = Field(1.0, ge=0, le=1000)
    fast_decay: Literal["none", "same", "toward_one"] = "none"
    batch: Literal["repeat", "split"] = "repeat"
    norm: Literal["shared", "member"] = "shared"
    warm_start: float = Field(0.0, ge=0, lt=1)
    shared_lr_multiplier: float = Field(1.0, ge=0, le=100)

    @model_validator(mode="before")
    @classmethod
    def _spread_as_published(cls, given: Any) -> Any:
        """Complete the law of a random start: N(1, 0.5) as uncertainty-baselines, or fair signs."""
        laws = {"normal": "init_std", "sign": "negative_share", "tabm_sign": "negative_share"}
        law = laws.get(given.get("init", "normal")) if isinstance(given, dict) else None
        return {law: 0.5, **given} if law else given

    @model_validator(mode="after")
    def _each_init_has_its_own_parameter(self) -> "Params":
        for name, inits in (("init_std", ("normal",)), ("negative_share", ("sign", "tabm_sign"))):
            value = getattr(self, name)
            if (value is None) == (self.init in inits):
                raise ValueError(
                    f"{name} must be given exactly when init is {' or '.join(inits)}, "
                    f"but {name}={value} and init={self.init}"
                )
        return self

    @model_validator(mode="after")
    def _tabm_has_a_first_r(self) -> "Params":
        if self.init.startswith("tabm") and (self.adapt == "s" or self.layers == "last"):
            raise ValueError(
                f"init={self.init} must have r in the first layer, "
                f"but adapt={self.adapt} and layers={self.layers}"
            )
        return self

    @model_validator(mode="after")
    def _additive_form_has_a_rank(self) -> "Params":
        if self.form == "additive" and self.rank == "full":
            raise ValueError("form=additive must have a rank of 1 to 8, but rank=full")
        return self

    @model_validator(mode="after")
    def _residual_form_is_normal(self) -> "Params":
        form = f"rank={self.rank}" if self.rank != 1 else f"form={self.form}"
        other = self.rank != 1 or self.form == "additive"
        if other and (self.init != "normal" or self.adapt != "rs"):
            raise ValueError(
                f"{form} must have init=normal and adapt=rs, "
                f"but init={self.init} and adapt={self.adapt}"
            )
        return self


class Ensemble(SharedNetwork):
    """M members in one network whose adapted layers are perturbed member by member."""

    stackable = True

    def __init__(self, params: Params, make_network: MakeNetwork, seed: int) -> None:
        self.params = params
        super().__init__(
            params.members,
            make_network,
            warm_start=params.warm_start,
            shared_lr_multiplier=params.shared_lr_multiplier,
            own_lr_multiplier=params.fast_lr_multiplier,
            decay_own=params.fast_decay != "none",
            split=params.batch == "split",
        )

    @classmethod
    def in_common(cls, params: dict[str, Any]) -> dict[str, Any]:
        """Return the parameters without those of the start and of the fast weights' rates.

        Own biases are of one shape wherever they start; decay towards one changes the layers.
        """
        free = {"init", "init_std", "negative_share", "fast_lr_multiplier", "bias", "fast_decay"}
        own = Params(**params)
        return own.model_dump(exclude=free) | {
            "own biases": own.bias != "shared",
            "toward one": own.fast_decay == "toward_one",
        }

    def replacement(self, layer: Weighted, layers: list[Weighted]) -> MemberLayer | None:
        """Perturb a chosen layer, with each member's own bias if asked for."""
        params = self.params
        chosen = {
            "all": layers,
            "first": layers[:1],
            "last": layers[-1:],
            "no_last": layers[:-1],
        }[params.layers]
        if not any(layer is c for c in chosen):
            return None
        new = _perturbed(layer, params, first=layer is layers[0])
        if params.bias != "shared":
            new.own_bias(random=params.bias == "random")
        return new

    def adapt(self) -> None:
        """Perturb the chosen layers, and give members their own norms as asked for."""
        super().adapt()
        if self.params.norm == "shared":
            return
        kinds = (nn.BatchNorm1d, nn.BatchNorm2d)
        if not any(isinstance(m, kinds) for m in self.network.modules()):
            raise StudyError(
                "params.norm=member needs batch normalisation, but the network has none; "
                "set params.norm to shared or choose another backbone"
            )
        replace_modules(self.network, kinds, lambda norm: MemberBatchNorm(norm, self.members))


def _perturbed(layer: Weighted, params: Params, first: bool) -> MemberLayer:
    if params.form == "additive":
        assert params.init_std is not None
        assert params.rank != "full"
        std = params.init_std * layer.weight.detach().std(correction=0).item()
        out, into = layer.weight.flatten(1).shape
        # The entries of W_m - W have this deviation for any rank: those of A and B its root.
        a = torch.randn(params.members, params.rank, into) * math.sqrt(std)
        b = torch.randn(params.members, out, params.rank) * math.sqrt(std)
        return LowRankLayer(layer, a, b, factor=1 / math.sqrt(params.rank))
    if params.rank != 1:
        assert params.init_std is not None
        rank = None if params.rank == "full" else params.rank
        return LowRankScaledLayer(layer, params.members, rank, params.init_std)
    start = {name: _start(params, first and name == "r") for name in params.adapt}
    anchor = 1.0 if params.fast_decay == "toward_one" else 0.0
    return RankOneLayer(layer, params.members, start, anchor)


def _start(params: Params, first_r: bool) -> Start:
    """Return the law of one fast weight's initial values."""
    if params.init == "normal":
        std = params.init_std or 0.0
        return lambda m, n: 1 + std * torch.randn(m, n)
    if params.init == "sign" or (params.init == "tabm_sign" and first_r):
        share = params.negative_share or 0.0
        return lambda m, n: torch.where(torch.rand(m, n) < share, -1.0, 1.0)
    if params.init == "tabm_normal" and first_r:
        return torch.randn
    return torch.ones


NORMAL = {"members": 2, "init": "normal", "init_std": 0.5}
EXAMPLES: list[dict[str, Any]] = [
    NORMAL,
    {"members": 2, "init": "sign", "negative_share": 0.5, "batch": "split"},
    NORMAL | {"rank": 2, "bias": "random"},
    NORMAL | {"rank": 2, "form": "additive"},
    NORMAL | {"rank": "full"},
    NORMAL | {"bias": "shared", "layers": "no_last"},
    NORMAL | {"warm_start": 0.5, "shared_lr_multiplier": 0.0},
]
