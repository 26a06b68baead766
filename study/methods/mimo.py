"""MIMO (Havasi et al. 2021): M subnetworks of one network, each with its own input and head.

The first layer takes M images, concatenated over their channels, and the last has M heads. In
training the images are different ones, each head learns the label of its own, and the subnetworks
have to become independent; in evaluation all M inputs are the same image. So the members share
every layer between and cost one forward pass.

As in the published code, for each batch the examples are repeated ``batch_repetition`` times and
shuffled; all but a share ``input_repetition`` of the positions is then shuffled anew for each
member, and at the others the members see the same image. In evaluation member m is the plain
backbone whose first layer has the sum of the weights of the M inputs, with head m.

Deviations: the loss is the mean over members, not their sum, so that a learning rate means the same
for every M; the new first and last layers have torch's own initial values on every backbone, also
where the others have weights of the user's.
"""

import copy
from typing import Any

import torch
from pydantic import Field
from torch import Tensor, nn

from study.errors import StudyError
from study.layers.convolution import resized
from study.layers.members import Folded, replace_modules, split_members, weighted_layers
from study.layers.perturbed import IndependentLayer, Weighted
from study.methods import MakeNetwork, Method
from study.spec import Strict


class Params(Strict):
    """What MIMO is configured by.

    Attributes:
        members: M, the number of inputs and of heads.
        input_repetition: Share of the positions of a training batch at which all inputs are the
            same image.
        batch_repetition: How often each example stands in a training batch.
    """

    members: int = Field(3, ge=1, le=16)
    input_repetition: float = Field(0.0, ge=0, le=1)
    batch_repetition: int = Field(4, ge=1, le=16)


class Ensemble(Method):
    """One network with M inputs and M heads."""

    heads = frozenset({"linear"})

    def __init__(self, params: Params, make_network: MakeNetwork, seed: int) -> None:
        super().__init__()
        self.params, self.members = params, params.members
        self.network = make_network()
        layers = weighted_layers(self.network)

        def adapted(layer: Weighted) -> nn.Module | None:
            if layer is layers[-1]:
                if not isinstance(layer, nn.Linear):
                    raise StudyError(
                        "mimo needs a backbone whose last layer is linear, but it is a "
                        "convolution; choose another backbone"
                    )
                heads = IndependentLayer(layer, self.members, random=True)
                return Folded("head", heads, self.members)
            return _widened(layer, self.members) if layer is layers[0] else None

        replace_modules(self.network, (nn.Linear, nn.Conv2d), adapted)

    def forward(self, x: Tensor) -> Tensor:
        """Return logits (M, B, C); every input is the same image."""
        return split_members(self.network(x.repeat(1, self.members, 1, 1)), self.members)

    def training_forward(self, x: Tensor, y_B: Tensor) -> tuple[Tensor, Tensor]:
        """Return logits (M, B', C) and labels (M, B') of shuffled images, B' examples a member."""
        index_MB = self.positions(len(x), x.device)
        images = x[index_MB].transpose(0, 1).flatten(1, 2)
        return split_members(self.network(images), self.members), y_B[index_MB]

    def positions(self, batch: int, device: torch.device) -> Tensor:
        """Draw which example each member sees at each position, (M, B')."""
        repeated = torch.arange(batch, device=device).repeat(self.params.batch_repetition)
        common = _shuffle(repeated)
        own = int(len(common) * (1.0 - self.params.input_repetition))
        rows = [torch.cat([_shuffle(common[:own]), common[own:]]) for _ in range(self.members)]
        return torch.stack(rows)

    def member_network(self, member: int) -> nn.Module | None:
        """Return the plain backbone that a member is when all inputs are the same image."""
        first = weighted_layers(self.network)[0]
        plain = copy.deepcopy(first)
        of_images = first.weight.detach().unflatten(1, (self.members, -1))
        plain.weight = nn.Parameter(of_images.sum(1))
        if isinstance(plain, nn.Linear):
            plain.in_features = plain.weight.shape[1]
        else:
            plain.in_channels = plain.weight.shape[1]
        own: dict[int, Any] = {id(first): plain}
        for module in self.network.modules():
            if isinstance(module, Folded):
                heads: Any = module[0]
                own[id(module)] = heads.plain(member)
        return copy.deepcopy(self.network, own)


def _widened(layer: Weighted, members: int) -> Weighted:
    """Return a fresh layer of the same kind for M images at once."""
    if isinstance(layer, nn.Linear):
        return nn.Linear(members * layer.in_features, layer.out_features, layer.bias is not None)
    return resized(layer, members * layer.in_channels, layer.out_channels, layer.groups)


def _shuffle(index: Tensor) -> Tensor:
    return index[torch.randperm(len(index), device=index.device)]


EXAMPLES = [
    {"members": 3, "input_repetition": 0.0, "batch_repetition": 4},
    {"members": 2, "input_repetition": 0.6, "batch_repetition": 1},
]
