"""Members that are networks from along one training."""

import copy

import torch
from torch import Tensor, nn

from study.methods import MakeNetwork
from study.methods._one_network import OneNetwork


class OneTraining(OneNetwork):
    """One network in training, M networks from along its way in prediction.

    Attributes:
        kept: Those that were kept, M - 1 at the end; the rest is the present network.
    """

    def __init__(self, members: int, make_network: MakeNetwork) -> None:
        super().__init__(members, make_network)
        self.kept = nn.ModuleList()

    def keep(self) -> None:
        """Keep a copy of the network as a member, unless only the last is to come."""
        if len(self.kept) < self.members - 1:
            self.kept.append(copy.deepcopy(self.network).requires_grad_(False).eval())

    def networks(self) -> list[nn.Module]:
        """Return the members."""
        return [*self.kept, *[self.network] * (self.members - len(self.kept))]

    def forward(self, x: Tensor) -> Tensor:
        """Return logits (M, B, C)."""
        return torch.stack([network(x) for network in self.networks()])

    def member_network(self, member: int) -> nn.Module:
        """Return a copy of one member."""
        return copy.deepcopy(self.networks()[member])
