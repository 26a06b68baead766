"""One network: the anchor at recovery 0, as an ensemble of one member."""

import copy

from torch import nn

from study.methods import MakeNetwork, Method
from study.methods._one_network import OneNetwork
from study.spec import Strict


class Params(Strict):
    """A single network has nothing of its own to configure."""


class Ensemble(OneNetwork):
    """The plain backbone with a member axis of length one."""

    stackable = True
    training_forward = Method.training_forward  # By ``forward``, which a subclass may replace.
    heads = frozenset({"linear", "equiangular", "rotated"})

    def __init__(self, params: Params, make_network: MakeNetwork, seed: int) -> None:
        super().__init__(1, make_network)

    def member_network(self, member: int) -> nn.Module:
        """Return a copy of the network; ``member`` is 0."""
        return copy.deepcopy(self.network)


EXAMPLES: list[dict[str, int]] = [{}]
