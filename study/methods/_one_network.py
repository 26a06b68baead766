"""Methods that train one network, in whose batch axis the members stand, if there are several."""

from torch import Tensor, nn

from study.members import unfold
from study.methods import Method


class OneNetwork(Method):
    """A method whose training passes each batch once through ``self.network``.

    Attributes:
        stackable: Whether training is that pass and nothing else, so that several methods of one
            shape may be trained as one (see :mod:`study.methods._stack`). Of the class alone: a
            subclass may do more.
    """

    network: nn.Module
    stackable = False

    def enter(self, x: Tensor, y_B: Tensor) -> tuple[Tensor, Tensor]:
        """Return what enters the network in training, (M*B', ...), and its labels (M, B').

        By default there is one member.
        """
        return x, y_B.unsqueeze(0)

    def training_forward(self, x: Tensor, y_B: Tensor) -> tuple[Tensor, Tensor]:
        """Return logits (M, B', C) and labels (M, B')."""
        x, y_MB = self.enter(x, y_B)
        return unfold(self.network(x), len(y_MB)), y_MB
