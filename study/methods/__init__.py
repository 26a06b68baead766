"""The contract of an ensemble method: one file each, named by its key in YAML.

A method module has ``Params`` (what can be configured) and ``Ensemble`` (a :class:`Method`). The
member axis stands first in everything that leaves a method, M=1 for a single network, in training
and evaluation alike.
"""

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from study.plugins import load_plugin
from study.spec import Strict, Training

MakeNetwork = Callable[[], nn.Module]


class Method(nn.Module):
    """An ensemble of M members.

    A subclass is built as ``Ensemble(params, make_network, seed)``: ``make_network`` returns a
    freshly initialised backbone, drawn from the current torch random state.
    """

    members: int

    def forward(self, x: Tensor) -> Tensor:
        """Return ``logits_MBC`` for images (B, C, H, W); every member sees every image."""
        raise NotImplementedError

    def training_forward(self, x: Tensor, y_B: Tensor) -> tuple[Tensor, Tensor]:
        """Return logits (M, B', C) and their labels (M, B') for one training batch.

        By default every member sees the whole batch: B' = B.
        """
        return self(x), y_B.expand(self.members, -1)

    def loss(self, logits_MBC: Tensor, y_MB: Tensor, label_smoothing: float) -> Tensor:
        """Return the mean over members of each member's own cross-entropy, in nats.

        Never the cross-entropy of the averaged prediction, under which members collude (Jeffares
        et al. 2023).
        """
        return F.cross_entropy(
            logits_MBC.flatten(0, 1), y_MB.flatten(), label_smoothing=label_smoothing
        )

    def parts(self) -> list[tuple["Method", int | None]]:
        """Return the parts that are trained apart, each with its own seed (None: the trial's)."""
        return [(self, None)]

    def param_groups(self, training: Training) -> list[dict[str, Any]]:
        """Return the optimiser's groups: ``params``, ``lr`` and ``weight_decay`` of each."""
        decay = training.weight_decay
        return [{"params": list(self.parameters()), "lr": training.lr, "weight_decay": decay}]

    def perturbations(self) -> Tensor | None:
        """Return each member's own weights as deviations from the shared network, (M, P)."""
        return None

    def effective_weights(self) -> Iterator[Tensor]:
        """Yield, layer by layer, the weights (M, P) that each member really applies."""
        yield from ()

    def member_network(self, member: int) -> nn.Module | None:
        """Return a copy of one member as the plain backbone, with what it really applies.

        In evaluation it maps images (B, C, H, W) to ``forward(x)[member]``. None, for every member,
        when the members are not networks of their own.
        """
        return None

    def collapsed(self) -> "Method | None":
        """Return the one-member control in which the members' own weights are averaged."""
        return None


def build(
    name: str, params: dict[str, Any] | Strict, make_network: MakeNetwork, seed: int
) -> Method:
    """Build the method ``name`` with initial weights that depend on ``seed`` alone."""
    module = load_plugin("study.methods", name)
    if isinstance(params, dict):
        params = module.Params(**params)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        method: Method = module.Ensemble(params, make_network, seed)
    return method
