"""FiLM-Ensemble (Turkoglu et al. 2022): members that differ in the scale and shift of norms alone.

After each normalisation member m applies γ_m ∘ x + β_m, a γ and β of its own; all other weights are
shared. So a member costs two numbers per normalised channel. How far apart the members start is the
gain ρ: as in the authors' code γ and β are drawn as a Xavier-uniform matrix (M, F), from
±ρ√(6/(M + F)), or are ±ρ at random (``sign``). Both have mean 0: at first the members use different
signs of the channels, not perturbations of one network.

The statistics of batch normalisation are those of the joint batch (``shared``) or each ``member``'s
own, as in the authors' code; those of layer normalisation are each example's anyway.

Deviations: ``around_one`` adds 1 to the Xavier-drawn γ, so that ρ → 0 is the plain network; weight
decay and learning rate are the shared weights' as in the authors' code, which clips gradients, this
does not. The paper's text was not read beyond its abstract: what is said of it is of that code.
"""

import copy
import math
from collections.abc import Iterator
from typing import Final, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from study.errors import StudyError
from study.layers.members import MemberModule, replace_modules, split_members
from study.layers.norms import MemberBatchNorm
from study.methods import MakeNetwork
from study.methods._shared_network import SharedNetwork
from study.spec import Strict

BATCH_NORMS: Final = (nn.BatchNorm1d, nn.BatchNorm2d)


class Params(Strict):
    """What a FiLM-Ensemble is configured by.

    Attributes:
        members: M.
        gain: ρ, the size of γ and β at their start.
        init: Their law: ``xavier``, ``sign`` or ``around_one``.
        norm: Batch normalisation's statistics over the joint batch (``shared``) or by ``member``.
    """

    members: int = Field(4, ge=1, le=64)
    gain: float = Field(1.0, gt=0, le=64)
    init: Literal["xavier", "sign", "around_one"] = "xavier"
    norm: Literal["shared", "member"] = "shared"


class FilmNorm(MemberModule):
    """A norm with common statistics, and γ and β (M, F) by member."""

    def __init__(self, norm: nn.Module, gamma: Tensor, beta: Tensor) -> None:
        super().__init__()
        self.members = len(gamma)
        self.norm = copy.deepcopy(norm)
        self.norm.register_parameter("weight", None)
        self.norm.register_parameter("bias", None)
        self.gamma, self.beta = nn.Parameter(gamma), nn.Parameter(beta)

    def forward(self, x: Tensor) -> Tensor:
        """Normalise (M*B, ...), then scale and shift each member's part."""
        y = split_members(self.norm(x), self.members)
        batch, images = isinstance(self.norm, BATCH_NORMS), [1] * (y.dim() - 3)
        shape = (self.members, 1, -1, *images) if batch else (self.members, 1, *images, -1)
        # In the activations' type, so that mixed precision stays that.
        beta, gamma = (v.view(shape).to(y.dtype) for v in (self.beta, self.gamma))
        return torch.addcmul(beta, y, gamma).flatten(0, 1)

    def plain(self, member: int) -> nn.Module:
        """Return the ordinary norm that one member applies."""
        norm = copy.deepcopy(self.norm)
        for name, value in (("weight", self.gamma), ("bias", self.beta)):
            norm.register_parameter(name, nn.Parameter(value[member].detach().clone()))
        return norm


class Ensemble(SharedNetwork):
    """M members in one network whose norms scale and shift member by member.

    Raises:
        StudyError: When the network has no norms, or statistics by member have no batch norm.
    """

    def __init__(self, params: Params, make_network: MakeNetwork, seed: int) -> None:
        self.params = params
        super().__init__(params.members, make_network)

    def adapt(self) -> None:
        """Give every member its own scale and shift in every norm."""
        kinds = (*BATCH_NORMS, nn.LayerNorm)
        norms = [m for m in self.network.modules() if isinstance(m, kinds)]
        if not norms:
            raise StudyError(
                "film_ensemble needs batch or layer normalisation, but backbone.norm is none or "
                "the network has no norm; set backbone.norm to batch or layer"
            )
        if self.params.norm == "member" and not any(isinstance(m, BATCH_NORMS) for m in norms):
            raise StudyError(
                "params.norm=member needs batch normalisation, but the network has only layer "
                "norms; set params.norm to shared"
            )
        replace_modules(self.network, kinds, self._film)

    def _film(self, norm: nn.Module) -> MemberModule:
        assert isinstance(norm.weight, Tensor)
        gamma, beta = (self._start(norm.weight.numel()) for _ in range(2))
        if self.params.init == "around_one":
            gamma = gamma + 1
        if self.params.norm == "shared" or isinstance(norm, nn.LayerNorm):
            return FilmNorm(norm, gamma, beta)
        assert isinstance(norm, nn.BatchNorm1d | nn.BatchNorm2d)
        own = MemberBatchNorm(norm, self.members)
        own.norm.weight.data, own.norm.bias.data = gamma.flatten(), beta.flatten()
        return own

    def _start(self, features: int) -> Tensor:
        draw = torch.rand(self.members, features) * 2 - 1
        if self.params.init == "sign":
            return self.params.gain * torch.where(draw < 0, -1.0, 1.0)
        return draw * self.params.gain * math.sqrt(6 / (self.members + features))

    def modulations(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield each norm's γ and β, (M, F)."""
        for module in self.network.modules():
            if isinstance(module, FilmNorm):
                yield module.gamma, module.beta
            elif isinstance(module, MemberBatchNorm):
                weight, bias = module.norm.weight, module.norm.bias
                yield weight.view(self.members, -1), bias.view(self.members, -1)

    def perturbations(self) -> Tensor | None:
        """Return γ - 1 and β of all norms, (M, P)."""
        return torch.cat([v for gamma, beta in self.modulations() for v in (gamma - 1, beta)], 1)

    def effective_weights(self) -> Iterator[Tensor]:
        """Yield each layer's weights, the same for all, and then each norm's γ, (M, P)."""
        yield from super().effective_weights()
        for gamma, _ in self.modulations():
            yield gamma.detach()


EXAMPLES = [
    {"members": 2, "gain": 1.0},
    {"members": 3, "gain": 0.5, "init": "sign", "norm": "member"},
    {"members": 2, "gain": 4.0, "init": "around_one"},
]
