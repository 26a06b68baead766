"""A method of known recovery: its members are made of networks that were trained apart.

Of the mean of n independent networks the loss falls about as 1 - 1/n (equal where errors add), so
of M members of a Deep Ensemble n that differ recover (1 - 1/n) / (1 - 1/M).
"""

from collections.abc import Iterator
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from study.methods import MakeNetwork, deep_ensemble
from study.spec import Strict


class Params(Strict):
    """How many networks are trained, and what the members are made of.

    ``own``: member m is the mean of networks m, m + M, ... (of fewer networks than members, several
    members are one network). ``mean``: every member is the mean of all networks. ``opposed``: that
    mean with something added in half of the members and taken away in the others. ``copy_number`` tells
    configurations apart that are the same.
    """

    members: int = Field(4, ge=2, multiple_of=2)
    networks: int = Field(4, ge=1)
    made_of: Literal["own", "mean", "opposed"] = "own"
    copy_number: int = 0


class Ensemble(deep_ensemble.Ensemble):
    """A Deep Ensemble's networks, mixed when they predict."""

    trained_apart = False

    def __init__(self, params: Params, make_network: MakeNetwork, seed: int) -> None:
        super().__init__(deep_ensemble.Params(members=params.networks), make_network, seed)
        self.members, self.made_of = params.members, params.made_of
        self.copy_number = params.copy_number

    def forward(self, x: Tensor) -> Tensor:
        """Return the members' log-probabilities (M, B, C)."""
        p_NBC = super().forward(x).double().softmax(-1)
        if self.made_of == "own":
            chosen = [p_NBC[m % len(p_NBC) :: self.members].mean(0) for m in range(self.members)]
            return torch.stack(chosen).log().float()
        p_MBC = p_NBC.mean(0).expand(self.members, -1, -1)
        if self.made_of == "opposed":
            p_MBC = p_MBC + _opposed(p_MBC)
        return p_MBC.log().float()

    def member_network(self, member: int) -> None:  # type: ignore[override]
        """Return None: a member is no network."""

    def effective_weights(self) -> Iterator[Tensor]:
        """Yield nothing: see ``member_network``."""
        yield from ()


def _opposed(p_MBC: Tensor) -> Tensor:
    """Return what moves nearly all of the second class's probability to the first, or as much back.

    Over an even number of members it sums to 0, so the ensemble is as it was.
    """
    top, classes = p_MBC.topk(2)
    moved = 0.9999 * top[..., 1:]
    step = torch.zeros_like(p_MBC).scatter(-1, classes, torch.cat([moved, -moved], -1))
    sign = torch.tensor([1.0, -1.0]).repeat(len(p_MBC) // 2)
    return step * sign[:, None, None]


EXAMPLES = [{"networks": 2}, {"networks": 1, "made_of": "opposed"}]
