"""One network: the anchor at recovery 0, as an ensemble of one member."""

import copy

from torch import Tensor, nn

from study.methods import MakeNetwork, Method
from study.methods._one_network import OneNetwork
from study.spec import Strict


class Params(Strict):
    """A single network has nothing of its own to configure."""


class Ensemble(OneNetwork):
    """The plain backbone with a member axis of length one."""

    members = 1
    stackable = True
    training_forward = Method.training_forward  # By ``forward``, which a subclass may replace.
    heads = frozenset({"linear", "equiangular", "rotated"})

    def __init__(self, params: Params, make_network: MakeNetwork, seed: int) -> None:
        super().__init__()
        self.network = make_network()

    def forward(self, x: Tensor) -> Tensor:
        """Return logits (1, B, C)."""
        logits: Tensor = self.network(x)
        return logits.unsqueeze(0)

    def member_network(self, member: int) -> nn.Module:
        """Return a copy of the network; ``member`` is 0."""
        return copy.deepcopy(self.network)


EXAMPLES: list[dict[str, int]] = [{}]
