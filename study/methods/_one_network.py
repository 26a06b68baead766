"""Methods that train one network, in whose batch axis the members stand, if there are several."""

from typing import Any

from torch import Tensor, nn

from study.layers.members import repeat_for_members, split_members
from study.methods import MakeNetwork, Method


class OneNetwork(Method):
    """A method whose training passes each batch once through ``self.network``.

    Attributes:
        stackable: Whether training is that pass and nothing else, so that several methods of one
            shape may be trained as one (see :mod:`study.training.stack`). Of the class alone: a
            subclass may do more.
    """

    stackable = False

    def __init__(self, members: int, make_network: MakeNetwork) -> None:
        super().__init__()
        self.members = members
        self.network: nn.Module = make_network()

    @classmethod
    def in_common(cls, params: dict[str, Any]) -> dict[str, Any]:
        """Return what of the parameters must be equal in methods that are trained as one.

        By default all. What only draws the start, or sets rates in ``param_groups``, may differ.
        """
        return params

    def forward(self, x: Tensor) -> Tensor:
        """Return logits (M, B, C)."""
        return split_members(self.network(repeat_for_members(x, self.members)), self.members)

    def enter(self, x: Tensor, y: Tensor, streams: int = 1) -> tuple[Tensor, Tensor]:
        """Return what enters the network in training, (S*M*B', ...), and its labels (S*M, B').

        By default there is one member.

        Args:
            x: Batches of S streams, one after the other, (S*B, ...).
            y: Their labels (S*B,).
            streams: S.
        """
        return x, y.view(streams, -1)

    def training_forward(self, x: Tensor, y_B: Tensor) -> tuple[Tensor, Tensor]:
        """Return logits (M, B', C) and labels (M, B')."""
        x, y_MB = self.enter(x, y_B)
        return split_members(self.network(x), len(y_MB)), y_MB
