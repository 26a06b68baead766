"""Methods that train one network, in whose batch axis the members stand, if there are several."""

from torch import Tensor, nn

from study.layers.members import split_members
from study.methods import Method


class OneNetwork(Method):
    """A method whose training passes each batch once through ``self.network``.

    Attributes:
        stackable: Whether training is that pass and nothing else, so that several methods of one
            shape may be trained as one (see :mod:`study.training.stack`). Of the class alone: a
            subclass may do more.
    """

    network: nn.Module
    stackable = False

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
