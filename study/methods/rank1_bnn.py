"""Rank-1 Bayesian neural networks (Dusenberry et al. 2020, arXiv 2005.07186).

BatchEnsemble whose fast weights are normal distributions: r_m ~ N(μ_m, σ_m²), likewise s_m, with
W_m = W ∘ s_m r_mᵀ and the shared W a point estimate. Each step draws r and s anew, once for the
batch; the loss is the mean over members of the cross-entropy and of the Kullback-Leibler divergence
from the prior N(1, prior_std²), the latter times ``kl_weight`` (in the paper 1 over the number of
training examples, annealed from 0).

Deviations: a member predicts by one draw that is fixed when the ensemble is built, so that it is
one function (the paper averages several draws of each component); the weight of the divergence is
constant; normal priors and posteriors alone; biases are each member's own point estimates.
"""

import math
from collections.abc import Iterator
from typing import Any, Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.nn import functional as F

from study.layers.perturbed import RankOneLayer, Start, Weighted
from study.methods import MakeNetwork
from study.methods._shared_network import SharedNetwork
from study.spec import Strict


class Params(Strict):
    """What a rank-1 Bayesian network is configured by.

    Attributes:
        members: M, the components of the mixture.
        init: Law of the means: N(1, init_std), or signs, -1 with probability ``negative_share``.
        posterior_std: Standard deviation of every fast weight at the start.
        prior_std: That of the prior.
        kl_weight: Of the divergence, in nats per example.
        fast_lr_multiplier: Learning rate of the fast weights over that of the shared ones.
    """

    members: int = Field(4, ge=1, le=64)
    init: Literal["normal", "sign"] = "sign"
    init_std: float | None = Field(None, gt=0, le=4)
    negative_share: float | None = Field(None, ge=0, le=1)
    posterior_std: float = Field(0.1, gt=0, le=4)
    prior_std: float = Field(0.1, gt=0, le=10)
    kl_weight: float = Field(1e-5, ge=0)
    fast_lr_multiplier: float = Field(1.0, gt=0, le=1000)

    @model_validator(mode="before")
    @classmethod
    def _start_as_published(cls, given: Any) -> Any:
        """Complete the law of the start: N(1, 0.5), or fair signs."""
        laws = {"normal": "init_std", "sign": "negative_share"}
        law = laws.get(given.get("init", "sign")) if isinstance(given, dict) else None
        return {law: 0.5, **given} if law else given

    @model_validator(mode="after")
    def _each_init_has_its_own_parameter(self) -> "Params":
        for name, init in (("init_std", "normal"), ("negative_share", "sign")):
            value = getattr(self, name)
            if (value is None) == (self.init == init):
                raise ValueError(
                    f"{name} must be given exactly when init is {init}, "
                    f"but {name}={value} and init={self.init}"
                )
        return self


class BayesianLayer(RankOneLayer):
    """A rank-one layer whose r and s are N(mean, std²), drawn anew in training.

    Args:
        layer: The layer to wrap.
        members: M.
        start: Draws the means.
        std: Standard deviations at the start.
    """

    def __init__(self, layer: Weighted, members: int, start: Start, std: float) -> None:
        super().__init__(layer, members, {"r": start, "s": start})
        raw = math.log(math.expm1(std))  # std = softplus(raw)
        for name in "rs":
            mean = self.fast[name]
            self.fast[f"{name}_std"] = nn.Parameter(torch.full_like(mean, raw))
            self.register_buffer(f"{name}_draw", torch.randn_like(mean))

    def scale(self, name: str) -> Tensor:
        """Return the draw of r or s, (M, size), that predicts."""
        return self._with(name, getattr(self, f"{name}_draw"))

    def applied(self, name: str) -> Tensor:
        """Return a new draw in training."""
        if not self.training:
            return self.scale(name)
        return self._with(name, torch.randn_like(self.fast[name]))

    def _with(self, name: str, noise: Tensor) -> Tensor:
        return self.fast[name] + F.softplus(self.fast[f"{name}_std"]) * noise

    def deviations(self) -> Tensor:
        """Return the means of r and s minus 1."""
        return torch.cat([self.fast["r"], self.fast["s"]], dim=1) - 1

    def average_members(self) -> None:
        """Become the layer of one member, which has the averaged means, without noise."""
        super().average_members()
        for name in "rs":
            draw = getattr(self, f"{name}_draw")
            setattr(self, f"{name}_draw", torch.zeros_like(draw[:1]))

    def divergence(self, prior_std: float) -> Tensor:
        """Return the mean over members of KL(N(mean, std²) ‖ N(1, prior_std²)), in nats."""
        total = self.weight.new_zeros(())
        for name in "rs":
            ratio = F.softplus(self.fast[f"{name}_std"]) / prior_std
            distance = (self.fast[name] - 1) / prior_std
            terms = 0.5 * (ratio.square() + distance.square() - 1) - ratio.log()
            total = total + terms.sum(1).mean()
        return total


class Ensemble(SharedNetwork):
    """M components whose fast weights are distributions."""

    def __init__(self, params: Params, make_network: MakeNetwork, seed: int) -> None:
        self.params = params
        super().__init__(params.members, make_network, own_lr_multiplier=params.fast_lr_multiplier)

    def replacement(self, layer: Weighted, layers: list[Weighted]) -> BayesianLayer:
        """Return a Bayesian layer with own biases."""
        new = BayesianLayer(layer, self.members, self._start, self.params.posterior_std)
        new.own_bias(random=False)
        return new

    def _start(self, members: int, size: int) -> Tensor:
        if self.params.init == "normal":
            return 1 + (self.params.init_std or 0.0) * torch.randn(members, size)
        negative = torch.rand(members, size) < (self.params.negative_share or 0.0)
        return torch.where(negative, -1.0, 1.0)

    def loss(self, logits_MBC: Tensor, y_MB: Tensor, label_smoothing: float) -> Tensor:
        """Return the mean cross-entropy plus the weighted divergence from the prior."""
        divergences = [layer.divergence(self.params.prior_std) for layer in self._layers()]
        fit = super().loss(logits_MBC, y_MB, label_smoothing)
        return fit + self.params.kl_weight * torch.stack(divergences).sum()

    def _layers(self) -> Iterator[BayesianLayer]:
        return (m for m in self.network.modules() if isinstance(m, BayesianLayer))


EXAMPLES = [
    {"members": 2, "negative_share": 0.5},
    {"members": 2, "init": "normal", "init_std": 0.5, "kl_weight": 1e-3},
]
