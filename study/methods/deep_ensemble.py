"""Deep Ensemble: M independently initialised and trained networks (Lakshminarayanan et al. 2017).

No adversarial training, as in most later work. Each member has its own stream for initialisation,
order of batches, augmentation and dropout, so member m is exactly the single network with seed
``member_seed(seed, m)``, and the first M members of a larger pool are a Deep Ensemble of size M.
"""

import torch
from pydantic import Field
from torch import Tensor, nn

from study.methods import MakeNetwork, Method, single
from study.spec import Strict, derive_seed


class Params(Strict):
    """What a Deep Ensemble is configured by: its size alone."""

    members: int = Field(4, ge=1, le=256)


def member_seed(seed: int, member: int) -> int:
    """Return the seed of one member's own single network."""
    return derive_seed(seed, "member", member)


class Ensemble(Method):
    """M single networks, trained apart."""

    trained_apart = True
    heads = frozenset({"linear", "equiangular", "rotated"})

    def __init__(self, params: Params, make_network: MakeNetwork, seed: int) -> None:
        super().__init__()
        self.members = params.members
        self.seeds = [member_seed(seed, m) for m in range(params.members)]
        self.singles = nn.ModuleList()
        for own_seed in self.seeds:
            torch.manual_seed(own_seed)
            self.singles.append(single.Ensemble(single.Params(), make_network, own_seed))

    def forward(self, x: Tensor) -> Tensor:
        """Return logits (M, B, C)."""
        return torch.cat([network(x) for network in self.singles])

    def independent_members(self) -> list[tuple[Method, int | None]]:
        """Return the networks, each with its seed."""
        return list(zip(self._singles(), self.seeds, strict=True))

    def member_network(self, member: int) -> nn.Module:
        """Return a copy of one single network."""
        return self._singles()[member].member_network(0)

    def _singles(self) -> list[single.Ensemble]:
        return [one for one in self.singles if isinstance(one, single.Ensemble)]


EXAMPLES = [{"members": 2}]
