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

import math
from collections import deque
from typing import Any

import torch
from pydantic import Field
from torch import Tensor, nn

from study.layers.members import update_batch_norm
from study.methods import MakeNetwork, Phase
from study.methods._one_training import OneTraining
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


class Ensemble(OneTraining):
    """One network in training, M draws in prediction."""

    def __init__(self, params: Params, make_network: MakeNetwork, seed: int) -> None:
        super().__init__(params.members, make_network)
        self.params = params
        self.moments: Moments | None = None
        self.recent: deque[Tensor] = deque()

    def phases(self) -> list[Phase]:
        """Return the ordinary training and the collecting, after which the members are drawn."""
        share = self.params.collect
        return [
            Phase(1 - share, diverse=False),
            Phase(
                share,
                at_least=2,  # One iterate has no spread: the members would be copies.
                begin=self._begin,
                after_epoch=self._collect,
                end=self._draw,
                schedule="constant",
                diverse=False,
            ),
        ]

    def _begin(self) -> None:
        self.moments = Moments(self.params.rank)

    def param_groups(self, training: Training) -> list[dict[str, Any]]:
        """Return one group, with the constant learning rate while iterates are collected."""
        groups = super().param_groups(training)
        if self.moments is not None:
            groups[0]["lr"] = training.lr * self.params.lr_multiplier
        return groups

    def _trained(self) -> list[nn.Parameter]:
        return [p for p in self.network.parameters() if p.requires_grad]

    @torch.no_grad()
    def _collect(self) -> None:
        assert self.moments is not None
        self.moments.take(torch.cat([p.flatten() for p in self._trained()]))

    @torch.no_grad()
    def _draw(self) -> None:
        """Draw the members; what they were drawn from is not kept. The last is the network."""
        assert self.moments is not None
        images = torch.cat(list(self.recent))[-RECENT:]
        for theta in self.moments.draws(self.params.scale, self.members):
            trained = self._trained()
            parts = theta.split([p.numel() for p in trained])
            for parameter, part in zip(trained, parts, strict=True):
                parameter.copy_(part.view_as(parameter))
            update_batch_norm(self.network, images)
            self.keep()
        self.moments, self.recent = None, deque()

    def training_forward(self, x: Tensor, y_B: Tensor) -> tuple[Tensor, Tensor]:
        """Return logits (1, B, C) of the network and labels (1, B)."""
        if self.moments is not None:
            self.recent.append(x)
            while sum(map(len, self.recent)) - len(self.recent[0]) >= RECENT:
                self.recent.popleft()
        return super().training_forward(x, y_B)


class Moments:
    """Running mean, variance and last deviations of vectors (P,); rank deviations are kept.

    In Welford's form, since the mean of squares less the squared mean loses all digits where the
    weights move little.
    """

    def __init__(self, rank: int) -> None:
        self.count = 0
        self.mean = self.squares = torch.zeros(())
        self.deviations: deque[Tensor] = deque(maxlen=rank)

    def take(self, theta: Tensor) -> None:
        """Take one more vector into account."""
        self.count += 1
        change = theta - self.mean
        self.mean = self.mean + change / self.count
        own = theta - self.mean
        self.squares = self.squares + change * own
        self.deviations.append(own)

    def draws(self, scale: float, members: int) -> Tensor:
        """Return draws (M, P) from the Gaussian of eq. 1; that of one vector has no spread."""
        std = (self.squares / self.count).sqrt()
        deviations = torch.stack(list(self.deviations))
        z1 = torch.randn(members, len(self.mean), device=std.device)
        z2 = torch.randn(members, len(deviations), device=std.device)
        low_rank = z2 @ deviations / math.sqrt(max(1, len(deviations) - 1))
        return self.mean + math.sqrt(scale / 2) * (std * z1 + low_rank)


EXAMPLES = [{"members": 2, "rank": 2}, {"members": 2, "scale": 0.0}]
