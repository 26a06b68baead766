"""SWAG (Maddox et al. 2019, arXiv 1902.02476): M draws from a Gaussian fitted to SGD's iterates.

After the share ``1 - collect`` of the training, the learning rate stays at ``lr_multiplier`` times
its peak and the weights θ are looked at after each epoch: their mean θ̄, the mean of their squares,
and the last ``rank`` deviations D from the running mean. A member is one draw (eq. 1)

    θ_m = θ̄ + √(scale/2) · Σ^{1/2} z₁ + √(scale/2) / √(K-1) · D z₂,  Σ = mean of squares - θ̄²,

z₁, z₂ standard normal, K the columns of D. ``scale: 0`` is SWA, the mean alone, M times.

Deviations: M draws are fixed at the end of the training, so a member is one function, as in
:mod:`study.methods.mc_dropout`; batch-norm statistics of a draw are estimated on the last training
batches of the last epoch (``RECENT`` images) instead of the whole training set.
"""

import copy
import math
from collections import deque
from collections.abc import Iterator
from typing import Any

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn.utils import parameters_to_vector, vector_to_parameters

from study.members import renormalise, weighted_layers
from study.methods import MakeNetwork, Method, Phase
from study.spec import Strict, Training

RECENT = 512


class Params(Strict):
    """What SWAG is configured by.

    Attributes:
        members: M.
        collect: Share of the epochs in which iterates are collected.
        rank: Deviations that are kept, at most.
        scale: Of the covariance; 1 is the paper's.
        lr_multiplier: Of the constant learning rate while collecting, over the peak.
    """

    members: int = Field(4, ge=1, le=256)
    collect: float = Field(0.25, gt=0, lt=1)
    rank: int = Field(20, ge=2, le=200)
    scale: float = Field(1.0, ge=0, le=100)
    lr_multiplier: float = Field(0.5, gt=0, le=10)


class Ensemble(Method):
    """One network in training, M draws in prediction."""

    def __init__(self, params: Params, make_network: MakeNetwork, seed: int) -> None:
        super().__init__()
        self.members, self.params = params.members, params
        self.network = make_network()
        self.draws = nn.ModuleList()
        self.collecting = False
        self.iterates: list[Tensor] = []
        self.recent: deque[Tensor] = deque()

    def phases(self) -> list[Phase]:
        """Return the ordinary training and the collecting, after which the members are drawn."""
        share = self.params.collect
        return [
            Phase(1 - share, diverse=False),
            Phase(
                share,
                begin=self._begin,
                after_epoch=self._collect,
                end=self._draw,
                schedule="constant",
                diverse=False,
            ),
        ]

    def _begin(self) -> None:
        self.collecting = True

    def param_groups(self, training: Training) -> list[dict[str, Any]]:
        """Return one group, with the constant learning rate while iterates are collected."""
        groups = super().param_groups(training)
        if self.collecting:
            groups[0]["lr"] = training.lr * self.params.lr_multiplier
        return groups

    @torch.no_grad()
    def _collect(self) -> None:
        self.iterates.append(parameters_to_vector(self.network.parameters()).clone())

    def _draw(self) -> None:
        """Draw the members; what they were drawn from is not kept."""
        images = torch.cat(list(self.recent))[-RECENT:]
        for theta in draws(torch.stack(self.iterates), self.params, self.members):
            network = copy.deepcopy(self.network).requires_grad_(False)
            vector_to_parameters(theta, network.parameters())
            renormalise(network, images)
            self.draws.append(network)
        self.iterates, self.recent = [], deque()

    def _networks(self) -> list[nn.Module]:
        return list(self.draws) or [self.network] * self.members

    def forward(self, x: Tensor) -> Tensor:
        """Return logits (M, B, C)."""
        return torch.stack([network(x) for network in self._networks()])

    def training_forward(self, x: Tensor, y_B: Tensor) -> tuple[Tensor, Tensor]:
        """Return logits (1, B, C) of the network and labels (1, B)."""
        if self.collecting:
            self.recent.append(x)
            while sum(map(len, self.recent)) - len(self.recent[0]) >= RECENT:
                self.recent.popleft()
        return self.network(x).unsqueeze(0), y_B.unsqueeze(0)

    def member_network(self, member: int) -> nn.Module:
        """Return a copy of one draw."""
        return copy.deepcopy(self._networks()[member])

    def effective_weights(self) -> Iterator[Tensor]:
        """Yield each layer's weights, (M, P)."""
        for layers in zip(*map(weighted_layers, self._networks()), strict=True):
            yield torch.stack([layer.weight.detach().flatten() for layer in layers])

    def checkpoint(self) -> dict[str, Tensor]:
        """Return the draws: their statistics of batch norms belong to them."""
        return self.draws.state_dict()


def draws(iterates_TP: Tensor, params: Params, members: int) -> Tensor:
    """Return draws (M, P) from the Gaussian of the iterates (T, P); one iterate has no spread."""
    steps = torch.arange(1, len(iterates_TP) + 1, device=iterates_TP.device).unsqueeze(1)
    running = iterates_TP.cumsum(0) / steps
    mean, square = running[-1], iterates_TP.square().mean(0)
    std = (square - mean.square()).clamp(min=0).sqrt()
    deviations = (iterates_TP - running)[-params.rank :]
    root = math.sqrt(params.scale / 2)
    z1 = torch.randn(members, len(mean), device=mean.device)
    z2 = torch.randn(members, len(deviations), device=mean.device)
    low_rank = z2 @ deviations / math.sqrt(max(1, len(deviations) - 1))
    return mean + root * (std * z1 + low_rank)


EXAMPLES = [{"members": 2, "rank": 2}, {"members": 2, "scale": 0.0}]
