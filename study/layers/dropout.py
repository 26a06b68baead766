"""Dropout whose masks cost a CPU a quarter of torch's: four units share a random number.

Torch draws a double for each unit. Here each has 15 bits, so the rate is rounded to a multiple of
2^-15; units that are kept are divided by the share that is, so that means are exact.
"""

from collections.abc import Sequence
from typing import Final

import torch
from torch import Tensor, nn

LEVELS: Final = 2**15


def drop(
    x: Tensor,
    rate: float | Sequence[float],
    generators: Sequence[torch.Generator | None] = (None,),
) -> Tensor:
    """Return x with units set to 0 at random and the others scaled up.

    Args:
        x: (N*B, ...).
        rate: Share of the units that are dropped, from 0 and below 1; of all, or N of them.
        generators: N, each of its own part of the batch; None is torch's global one.
    """
    if rate == 0:
        return x
    rates = [rate] * len(generators) if isinstance(rate, float | int) else rate
    parts = zip(x.chunk(len(generators)), rates, generators, strict=True)
    masks = [_mask(*part) for part in parts]
    return x * (masks[0] if len(masks) == 1 else torch.cat(masks))


def _mask(x: Tensor, rate: float, generator: torch.Generator | None) -> Tensor:
    """Return 0 where a unit is dropped, else the factor that keeps the mean, in the shape of x."""
    if x.device.type != "cpu":
        keep = torch.empty_like(x).bernoulli_(1 - rate, generator=generator)
        return keep.div_(1 - rate)
    dropped = min(round(rate * LEVELS), LEVELS - 1)
    drawn = torch.empty(-(-x.numel() // 4), dtype=torch.int64).random_(generator=generator)
    level = drawn.view(torch.int16)[: x.numel()].bitwise_and_(LEVELS - 1)
    return (level >= dropped).to(x.dtype).mul_(LEVELS / (LEVELS - dropped)).view(x.shape)


class Dropout(nn.Dropout):
    """``nn.Dropout`` with the cheap masks."""

    def forward(self, x: Tensor) -> Tensor:
        """Drop units in training."""
        return drop(x, self.p) if self.training else x


class MemberDropout(nn.Module):
    """Ordinary dropout in training; one fixed mask per member in evaluation."""

    def __init__(self, rate: float, members: int, seed: int) -> None:
        super().__init__()
        self.rate, self.members, self.seed = rate, members, seed
        self.mask: Tensor | None = None

    def forward(self, x: Tensor) -> Tensor:
        """Drop units of ``x``: (B, ...) in training, (M*B, ...) in evaluation."""
        if self.training:
            return drop(x, self.rate)
        mask = self._mask(x)
        return (x.unflatten(0, (self.members, -1)) * mask).flatten(0, 1)

    def _mask(self, x: Tensor) -> Tensor:
        if self.mask is None or self.mask.shape[2:] != x.shape[1:]:
            generator = torch.Generator().manual_seed(self.seed)
            keep = torch.rand(self.members, 1, *x.shape[1:], generator=generator) >= self.rate
            self.mask = keep / (1 - self.rate)
        self.mask = self.mask.to(x.device)
        return self.mask.to(x.dtype)
