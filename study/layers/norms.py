"""Norms in which each member, or each group of a batch, has its own statistics."""

import torch
from torch import Tensor, nn

from study.layers.members import MemberModule, split_members


class GroupedBatchNorm(nn.Module):
    """Batch normalisation in which each group of the batch has its statistics, scale and shift.

    Args:
        norm: What each group has a copy of.
        groups: N.
    """

    def __init__(self, norm: nn.BatchNorm1d | nn.BatchNorm2d, groups: int) -> None:
        super().__init__()
        self.groups = groups
        self.kind = type(norm)
        device = norm.weight.device
        features = groups * norm.num_features
        self.norm = nn.BatchNorm1d(features, norm.eps, norm.momentum, device=device)
        self.norm.weight.data = norm.weight.detach().repeat(groups)
        self.norm.bias.data = norm.bias.detach().repeat(groups)
        for name in ("running_mean", "running_var"):
            getattr(self.norm, name).copy_(getattr(norm, name).repeat(groups))

    def forward(self, x: Tensor) -> Tensor:
        """Normalise (N*B, C, ...) by channel within each group."""
        by_group = split_members(x, self.groups)
        channels = by_group.transpose(0, 1).flatten(1, 2)
        y = self.norm(channels.flatten(2) if channels.dim() > 2 else channels)
        y = y.view(by_group.shape[1], self.groups, *by_group.shape[2:])
        return y.transpose(0, 1).flatten(0, 1)

    @torch.no_grad()
    def plain(self, group: int) -> nn.BatchNorm1d | nn.BatchNorm2d:
        """Return the ordinary norm of one group."""
        features = self.norm.num_features // self.groups
        norm = self.kind(features, self.norm.eps, self.norm.momentum).to(self.norm.weight.device)
        for name in ("weight", "bias", "running_mean", "running_var"):
            getattr(norm, name).copy_(getattr(self.norm, name).view(self.groups, -1)[group])
        return norm


class MemberBatchNorm(GroupedBatchNorm, MemberModule):
    """Batch normalisation in which each member has its own statistics, scale and shift."""

    def __init__(self, norm: nn.BatchNorm1d | nn.BatchNorm2d, members: int) -> None:
        super().__init__(norm, members)
        self.members = members

    def average_members(self) -> None:
        """Become the one-member norm with averaged statistics, scale and shift."""
        for tensor in (self.norm.weight, self.norm.bias):
            tensor.data = tensor.data.view(self.members, -1).mean(0)
        mean, var = (getattr(self.norm, f"running_{k}") for k in ("mean", "var"))
        self.norm.running_mean = mean.view(self.members, -1).mean(0)
        self.norm.running_var = var.view(self.members, -1).mean(0)
        self.norm.num_features //= self.members
        self.members = self.groups = 1
