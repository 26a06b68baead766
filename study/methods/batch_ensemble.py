"""BatchEnsemble (Wen et al. 2020) and its rank-k relatives: multiplicatively perturbed members.

Member m applies W_m = W ∘ P_m in every adapted layer, W shared, P_m its own:

* rank 1 (Wen et al. 2020, eq. 1): P_m = s_m r_mᵀ; in a convolution r_m scales input and s_m output
  channels;
* rank k > 1, in the identity-residual form of LoMETab (arXiv 2605.14365): P_m = 1 + A_m B_mᵀ/√k,
  scaled so that an entry of P_m starts with standard deviation ``init_std`` whatever k is;
* rank "full": P_m = 1 + E_m, the most that the form can express.

The fast weights are what P_m is made of. Deviations from Wen et al.: their initialisation, decay,
learning rate and placement, biases, batches and normalisation are parameters, since each may decide
the outcome. The loss is a mean over members, so a fast weight's gradient carries a factor 1/M
that ``fast_lr_multiplier`` may undo.
"""

import copy
from collections.abc import Iterator
from functools import partial
from typing import Any, Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from study.fast_weights import (
    MemberBatchNorm,
    MemberLayer,
    RankOneLayer,
    ResidualLayer,
    Start,
    Weighted,
)
from study.members import fold, replace_modules, unfold, weighted_layers
from study.methods import MakeNetwork, Method
from study.schema import StudyError
from study.spec import Strict, Training


class Params(Strict):
    """What a BatchEnsemble is configured by.

    Attributes:
        members: M.
        rank: Rank of the perturbation; above 1 in the identity-residual form.
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
    """

    members: int = Field(4, ge=1, le=64)
    rank: Literal[1, 2, 4, 8, "full"] = 1
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
    def _residual_form_is_normal(self) -> "Params":
        if self.rank != 1 and (self.init != "normal" or self.adapt != "rs"):
            raise ValueError(
                f"rank={self.rank} must have init=normal and adapt=rs, "
                f"but init={self.init} and adapt={self.adapt}"
            )
        return self


class Ensemble(Method):
    """M members in one network whose adapted layers are perturbed member by member."""

    def __init__(self, params: Params, make_network: MakeNetwork, seed: int) -> None:
        super().__init__()
        self.members = params.members
        self.split = params.batch == "split"
        self.fast_lr_multiplier = params.fast_lr_multiplier
        self.decay_fast = params.fast_decay != "none"
        self.network = make_network()
        self._adapt(params)
        if params.norm == "member":
            self._own_norms()

    def _adapt(self, params: Params) -> None:
        layers = weighted_layers(self.network)
        chosen = {
            "all": layers,
            "first": layers[:1],
            "last": layers[-1:],
            "no_last": layers[:-1],
        }[params.layers]

        def adapted(layer: Weighted) -> MemberLayer | None:
            if not any(layer is c for c in chosen):
                return None
            new = _perturbed(layer, params, first=layer is layers[0])
            if params.bias != "shared":
                new.own_bias(random=params.bias == "random")
            return new

        replace_modules(self.network, (nn.Linear, nn.Conv2d), adapted)

    def _own_norms(self) -> None:
        kinds = (nn.BatchNorm1d, nn.BatchNorm2d)
        if not any(isinstance(m, kinds) for m in self.network.modules()):
            raise StudyError(
                "params.norm=member needs batch normalisation, but the network has none; "
                "set params.norm to shared or choose another backbone"
            )
        replace_modules(self.network, kinds, lambda norm: MemberBatchNorm(norm, self.members))

    def forward(self, x: Tensor) -> Tensor:
        """Return logits (M, B, C)."""
        return unfold(self.network(fold(x, self.members)), self.members)

    def training_forward(self, x: Tensor, y_B: Tensor) -> tuple[Tensor, Tensor]:
        """Return logits and labels; with a split batch each member sees B // M examples."""
        if not self.split:
            return super().training_forward(x, y_B)
        own = len(x) // self.members
        if own == 0:
            raise StudyError(
                f"params.batch=split needs at least one example per member, but a batch of "
                f"{len(x)} has {self.members} members; raise training.batch_size"
            )
        used = own * self.members
        return unfold(self.network(x[:used]), self.members), y_B[:used].view(self.members, own)

    def param_groups(self, training: Training) -> list[dict[str, Any]]:
        """Return all but the fast weights, and the fast weights with their own rate and decay."""
        own = [p for layer in self._member_layers() for p in layer.fast.values()]
        ids = {id(p) for p in own}
        shared = [p for p in self.parameters() if id(p) not in ids]
        decay = training.weight_decay
        fast_lr = training.lr * self.fast_lr_multiplier
        return [
            {"params": shared, "lr": training.lr, "weight_decay": decay},
            {"params": own, "lr": fast_lr, "weight_decay": decay if self.decay_fast else 0.0},
        ]

    def perturbations(self) -> Tensor:
        """Return the fast weights' deviations from the unperturbed network, (M, P)."""
        return torch.cat([layer.deviations() for layer in self._member_layers()], dim=1)

    def effective_weights(self) -> Iterator[Tensor]:
        """Yield each layer's W_m, (M, P); a layer that is not adapted is the same for all."""
        for layer in self.network.modules():
            if isinstance(layer, MemberLayer):
                yield layer.effective_weight().detach().flatten(1)
            elif isinstance(layer, Weighted):
                yield layer.weight.detach().flatten().expand(self.members, -1)

    def member_network(self, member: int) -> nn.Module:
        """Return the plain network with W_m, and the member's own biases and norms."""
        own = {
            id(module): module.plain(member)
            for module in self.network.modules()
            if isinstance(module, MemberLayer | MemberBatchNorm)
        }
        return copy.deepcopy(self.network, own)  # The copy has these in their places.

    def collapsed(self) -> "Ensemble":
        """Return the one-member network in which own weights, biases and norms are averaged.

        The averages are of r and s, not of W_m: with random signs they are near 0, and the control
        says only that the members are no perturbations of one network.
        """
        one = copy.deepcopy(self)
        one.members = 1
        for module in one.network.modules():
            if isinstance(module, MemberLayer):
                for parameter in module.own_parameters():
                    parameter.data = parameter.data.mean(0, keepdim=True)
                module.members = 1
            elif isinstance(module, MemberBatchNorm):
                module.average_members()
        return one

    def _member_layers(self) -> Iterator[MemberLayer]:
        return (m for m in self.network.modules() if isinstance(m, MemberLayer))


def _perturbed(layer: Weighted, params: Params, first: bool) -> MemberLayer:
    if params.rank != 1:
        assert params.init_std is not None
        rank = None if params.rank == "full" else params.rank
        return ResidualLayer(layer, params.members, rank, params.init_std)
    start = {name: _start(params, first and name == "r") for name in params.adapt}
    anchor = 1.0 if params.fast_decay == "toward_one" else 0.0
    return RankOneLayer(layer, params.members, start, anchor)


def _start(params: Params, first_r: bool) -> Start:
    """Return the law of one fast weight's initial values."""
    if params.init == "normal":
        std = params.init_std or 0.0
        return lambda m, n: 1 + std * torch.randn(m, n)
    if params.init == "sign" or (params.init == "tabm_sign" and first_r):
        return partial(_signs, negative_share=params.negative_share or 0.0)
    if params.init == "tabm_normal" and first_r:
        return torch.randn
    return torch.ones


def _signs(members: int, size: int, negative_share: float) -> Tensor:
    return torch.where(torch.rand(members, size) < negative_share, -1.0, 1.0)
