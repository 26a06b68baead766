"""Mixed-precision quantised Deep Ensemble: M networks in the memory of one fp32 network.

Each member is trained as a member of a Deep Ensemble is, then, from the peak learning rate on
again, with fake quantisation
Q(w) = Δ clip(round(w/Δ), -q, q), q = 2^(b-1) - 1, Δ = max|w| / q of an output channel or a tensor,
and the straight-through estimator. Linear and convolutional weights have b bits, differing by
layer and member; biases, norms and Δ stay at fp32. All stored bytes must fit into ``budget`` times
those of one fp32 network. The bits are found in one of three ways:

* ``given``: parameters, which the study's search proposes; it learns the budget as a constraint.
* ``differentiable``, in the manner of AQ-BERT (Zhao et al. 2021, arXiv 2112.14938): for the first
  half of the fine-tuning the weights are Σ_b p_b Q_b(w), p = softmax(α) of each layer, and the loss
  has the term ``size_weight`` · E[bytes] / share.
* ``barrier``, in the manner of BP-NAS (Yu et al. 2020, arXiv 2007.10026): the same mixture with
  -``barrier_weight`` · log(1 - E[bytes] / share), which close to the budget and outside goes on
  as a quadratic, and the Prob-1 term ``one_hot_weight`` · Σ_l (1 - Σ_b p_lb²).

After the search a layer has its most probable bits; while the member exceeds its M-th of the
budget, the layer goes one level down that loses least log-probability per byte.

Deviations: of both papers only the abstracts were read, so the terms are not their exact forms.
α is trained on the same images as the weights, without Gumbel noise; the unit is the layer, not
AQ-BERT's subgroup, and 0 bits (pruning) is no choice; size means bytes, not BP-NAS's bit
operations; activations are not quantised; no distribution reshaping. Batch-norm statistics are
the running averages of the fine-tuning, which begins with those of the fp32 network.
"""

import copy
import math
from typing import Any, Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from study.errors import StudyError
from study.layers.members import weighted_layers
from study.layers.quantised import (
    LEVELS,
    Granularity,
    Mixture,
    Quantiser,
    Sizes,
    barrier,
    fitted,
    quantised_layers,
    set_quantisers,
)
from study.methods import MakeNetwork, Phase, deep_ensemble, single
from study.spec import Strict, Training

Bits = Literal[2, 3, 4, 6, 8]


class Params(Strict):
    """What a quantised ensemble is configured by.

    Attributes:
        members: M.
        budget: Bytes of all members over those of one fp32 network.
        search: How the bits are found; each way has its own parameters, the others' are null.
        bits_first: Of the first weighted layer, before ``bits_step``.
        bits_middle: Of all between.
        bits_last: Of the last; 8 or more in the published practice, as for the first.
        bits_step: By how many of the levels 2, 3, 4, 6, 8 members 0, 2, ... are above the given
            bits and members 1, 3, ... below, as far as there are levels.
        qat_share: Share of the epochs with fake quantisation, the search of the bits included.
        granularity: Whether each output ``channel`` or ``tensor`` has its own Δ.
        size_weight: Of the size in the loss.
        barrier_weight: Of the barrier, μ.
        one_hot_weight: Of the Prob-1 term.
        bits_lr_multiplier: Learning rate of α over that of the weights.
    """

    members: int = Field(4, ge=1, le=64)
    budget: float = Field(1.0, gt=0, le=16)
    search: Literal["given", "differentiable", "barrier"] = "given"
    bits_first: Bits | None = None
    bits_middle: Bits | None = None
    bits_last: Bits | None = None
    bits_step: int | None = Field(None, ge=0, le=2)
    qat_share: float = Field(0.5, gt=0, lt=1)
    granularity: Granularity = "channel"
    size_weight: float | None = Field(None, ge=0)
    barrier_weight: float | None = Field(None, ge=0)
    one_hot_weight: float | None = Field(None, ge=0)
    bits_lr_multiplier: float | None = Field(None, gt=0, le=1000)

    @model_validator(mode="before")
    @classmethod
    def _bits_that_fit(cls, given: Any) -> Any:
        """Complete the bits where they are given: four members fit in the bytes of one network."""
        if isinstance(given, dict) and given.get("search", "given") == "given":
            return {"bits_first": 8, "bits_middle": 6, "bits_last": 8, "bits_step": 0, **given}
        return given

    @model_validator(mode="after")
    def _each_search_has_its_own_parameters(self) -> "Params":
        for name, ways in {
            "bits_first": ("given",),
            "bits_middle": ("given",),
            "bits_last": ("given",),
            "bits_step": ("given",),
            "size_weight": ("differentiable",),
            "barrier_weight": ("barrier",),
            "one_hot_weight": ("barrier",),
            "bits_lr_multiplier": ("differentiable", "barrier"),
        }.items():
            value = getattr(self, name)
            if (value is None) == (self.search in ways):
                raise ValueError(
                    f"{name} must be given exactly when search is {' or '.join(ways)}, "
                    f"but {name}={value} and search={self.search}"
                )
        return self


def member_bits(params: Params, member: int, layers: int) -> list[int]:
    """Return the given bits of a member's layers."""
    given = [params.bits_first, *[params.bits_middle] * (layers - 2), params.bits_last][:layers]
    step = (params.bits_step or 0) * (-1 if member % 2 else 1)
    places = (LEVELS.index(bits) + step for bits in given if bits is not None)
    return [LEVELS[min(max(place, 0), len(LEVELS) - 1)] for place in places]


class Member(single.Ensemble):
    """One network: trained at fp32, then with fake quantisation.

    Args:
        params: Of the ensemble.
        network: At fp32.
        bits: Of each layer; None where they are searched.
        share: Bytes that it may take.
    """

    def __init__(
        self, params: Params, network: nn.Module, bits: list[int] | None, share: float
    ) -> None:
        super().__init__(single.Params(), lambda: network, 0)
        self.params, self.share = params, share
        self.bits = bits
        self.sizes = Sizes.of(network, params.granularity)

    def phases(self) -> list[Phase]:
        """Return fp32 training, the search of the bits if there is one, and fine-tuning."""
        share = self.params.qat_share
        if self.params.search == "given":
            return [Phase(1 - share), Phase(share, begin=self.quantise)]
        return [
            Phase(1 - share),
            Phase(share / 2, begin=self._mix),
            Phase(share / 2, begin=self._settle),
        ]

    def param_groups(self, training: Training) -> list[dict[str, Any]]:
        """Return the weights, and α with its rate and no decay."""
        groups = super().param_groups(training)
        alphas = [mixture.alpha for mixture in self._mixtures()]
        if not alphas:
            return groups
        ids = {id(alpha) for alpha in alphas}
        groups[0]["params"] = [p for p in groups[0]["params"] if id(p) not in ids]
        lr = training.lr * (self.params.bits_lr_multiplier or 1.0)
        return [*groups, {"params": alphas, "lr": lr, "weight_decay": 0.0}]

    def loss(self, logits_MBC: Tensor, y_MB: Tensor, label_smoothing: float) -> Tensor:
        """Return the cross-entropy, with the terms of the size while bits are searched."""
        loss = super().loss(logits_MBC, y_MB, label_smoothing)
        mixtures = self._mixtures()
        if not mixtures:
            return loss
        probabilities = [mixture.alpha.softmax(0) for mixture in mixtures]
        ratio = self.sizes.expected(probabilities, mixtures[0].bytes) / self.share
        if self.params.search == "differentiable":
            return loss + (self.params.size_weight or 0.0) * ratio
        spread = torch.stack([1 - p.square().sum() for p in probabilities]).sum()
        inside = (self.params.barrier_weight or 0.0) * barrier(ratio)
        return loss + inside + (self.params.one_hot_weight or 0.0) * spread

    def quantise(self) -> None:
        """Let every layer have its bits, from now on."""
        assert self.bits is not None
        set_quantisers(
            self.network, (Quantiser(bits, self.params.granularity) for bits in self.bits)
        )

    def _mix(self) -> None:
        weights = (layer.weight for layer in weighted_layers(self.network))
        set_quantisers(self.network, (Mixture(self.params.granularity, w) for w in weights))

    def _settle(self) -> None:
        found = [mixture.alpha.softmax(0).tolist() for mixture in self._mixtures()]
        self.bits = fitted(found, self.sizes, self.share)
        self.quantise()

    def _mixtures(self) -> list[Mixture]:
        return [module for module in self.network.modules() if isinstance(module, Mixture)]

    def member_network(self, member: int) -> nn.Module:
        """Return a copy of the plain network with the weights applied; ``member`` is 0."""
        own: dict[int, Any] = {id(layer): layer.plain() for layer in quantised_layers(self.network)}
        return copy.deepcopy(self.network, own)  # The copy has these.


class Ensemble(deep_ensemble.Ensemble):
    """M quantised networks, trained apart, with the seeds of a Deep Ensemble."""

    def __init__(self, params: Params, make_network: MakeNetwork, seed: int) -> None:
        super().__init__(deep_ensemble.Params(members=params.members), make_network, seed)
        networks = [own.network for own in self._singles()]
        state = networks[0].state_dict().values()
        one, layers = sum(t.nbytes for t in state), len(weighted_layers(networks[0]))
        self.limit = params.budget * one
        given = params.search == "given"
        self.singles = nn.ModuleList(
            Member(
                params,
                network,
                member_bits(params, m, layers) if given else None,
                self.limit / self.members,
            )
            for m, network in enumerate(networks)
        )
        least = sum(own.sizes.stored([LEVELS[0]] * layers) for own in self._own())
        if least > self.limit:
            raise StudyError(
                f"params.budget must be at least {math.ceil(1e4 * least / one) / 1e4:g}, what "
                f"{self.members} members of this backbone take at {LEVELS[0]} bits, but is "
                f"{params.budget}; raise it or have fewer members"
            )

    def _own(self) -> list[Member]:
        return [own for own in self.singles if isinstance(own, Member)]

    def excess(self) -> float | None:
        """Return bytes / budget - 1; None while the bits are searched: they are made to fit."""
        known = all(own.bits is not None for own in self._own())
        return self.stored_bytes() / self.limit - 1 if known else None

    def stored_bytes(self) -> int:
        """Return the bytes of packed weights, Δ, bits and what stays at fp32, once bits are found.

        Before it is their state as it is.
        """
        sizes = [own.sizes.stored(own.bits) for own in self._own() if own.bits is not None]
        return sum(sizes) if len(sizes) == self.members else super().stored_bytes()


GIVEN = {"search": "given", "bits_first": 8, "bits_middle": 4, "bits_last": 6, "bits_step": 1}
SEARCHED = {"bits_lr_multiplier": 10.0, "granularity": "tensor"}
EXAMPLES: list[dict[str, Any]] = [
    {"members": 2} | GIVEN,
    {"members": 3, "search": "differentiable", "size_weight": 1.0} | SEARCHED,
    {"members": 2, "search": "barrier", "barrier_weight": 0.1, "one_hot_weight": 0.1} | SEARCHED,
]
