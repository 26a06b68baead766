"""Snapshot Ensembles (Huang et al. 2017, arXiv 1704.00109): M minima on the path of one training.

The learning rate goes through M cycles of cosine annealing, from its peak to 0, each starting where
the one before ended; the network at the end of each cycle is a member (eqs. 1 and 2). The training
costs what one network's does. ``skip`` leaves that many first cycles without a member, as the
paper's use of the last m of M snapshots does.
"""

import copy
from collections.abc import Iterator
from functools import partial

import torch
from pydantic import Field
from torch import Tensor, nn

from study.members import weighted_layers
from study.methods import MakeNetwork, Method, Phase
from study.spec import Strict


class Params(Strict):
    """``members`` is the number of snapshots M, ``skip`` that of earlier cycles without one."""

    members: int = Field(4, ge=1, le=64)
    skip: int = Field(0, ge=0, le=64)


class Ensemble(Method):
    """One network in training, M copies of it from along the way in prediction."""

    def __init__(self, params: Params, make_network: MakeNetwork, seed: int) -> None:
        super().__init__()
        self.members, self.skip = params.members, params.skip
        self.network = make_network()
        self.snapshots = nn.ModuleList()

    def phases(self) -> list[Phase]:
        """Return a cycle for each skipped or kept snapshot."""
        cycles = self.members + self.skip
        keep = [number >= self.skip for number in range(cycles)]
        return [
            Phase(1 / cycles, end=partial(self._end, kept), schedule="cosine", diverse=False)
            for kept in keep
        ]

    def _end(self, keep: bool) -> None:
        if keep and len(self.snapshots) < self.members - 1:
            self.snapshots.append(copy.deepcopy(self.network).requires_grad_(False).eval())

    def _networks(self) -> list[nn.Module]:
        """Return the members; the last, and what is yet to come, is the present network."""
        kept = list(self.snapshots)
        return kept + [self.network] * (self.members - len(kept))

    def forward(self, x: Tensor) -> Tensor:
        """Return logits (M, B, C)."""
        return torch.stack([network(x) for network in self._networks()])

    def training_forward(self, x: Tensor, y_B: Tensor) -> tuple[Tensor, Tensor]:
        """Return logits (1, B, C) of the present network and labels (1, B)."""
        return self.network(x).unsqueeze(0), y_B.unsqueeze(0)

    def member_network(self, member: int) -> nn.Module:
        """Return a copy of one snapshot."""
        return copy.deepcopy(self._networks()[member])

    def effective_weights(self) -> Iterator[Tensor]:
        """Yield each layer's weights, (M, P)."""
        for layers in zip(*map(weighted_layers, self._networks()), strict=True):
            yield torch.stack([layer.weight.detach().flatten() for layer in layers])


EXAMPLES = [{"members": 2}, {"members": 2, "skip": 1}]
