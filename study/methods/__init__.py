"""The contract of an ensemble method: one file each, named by its key in YAML.

A method module has ``Params`` (what can be configured), ``Ensemble`` (a :class:`Method`) and
``EXAMPLES`` (small configurations, on which :mod:`study.conformance` checks the contract). The
member axis stands first in everything that leaves a method, M=1 for a single network, in training
and evaluation alike.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any
from weakref import WeakSet

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from study.errors import StudyError
from study.layers.fixed_heads import Kind, kind_of
from study.layers.members import weighted_layers
from study.plugins import load_plugin
from study.spec import Schedule, Strict, Training

MakeNetwork = Callable[[], nn.Module]
TrainingForward = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
"""See :meth:`Method.training_forward`."""

Act = Callable[[], None]


def _nothing() -> None:
    pass


@dataclass(frozen=True)
class Phase:
    """A stretch of training with an optimiser and a learning-rate schedule of its own.

    What is called may change the method: add layers, freeze weights, keep a copy.

    Attributes:
        share: Of the epochs; the shares of all phases sum to 1.
        at_least: Epochs that it needs.
        begin: Called before the phase's optimiser is made.
        after_epoch: Called after each of its epochs.
        end: Called after the last.
        schedule: In place of ``training.schedule``.
        diverse: Whether the members are trained side by side, so that a diversity term applies.
    """

    share: float = 1.0
    at_least: int = 1
    begin: Act = _nothing
    after_epoch: Act = _nothing
    end: Act = _nothing
    schedule: Schedule | None = None
    diverse: bool = True


class Method(nn.Module):
    """An ensemble of M members.

    A subclass is built as ``Ensemble(params, make_network, seed)``: ``make_network`` returns a
    freshly initialised backbone, drawn from the current torch random state.

    Attributes:
        members: M.
        comparable: Whether the members solve the same task, so that measures of their
            disagreement are defined.
        trained_apart: Whether the members are networks that never knew of each other.
        heads: Kinds of head that it can wrap (see :mod:`study.layers.fixed_heads`); ``rotated``
            only where each member has a head of its own.
    """

    members: int
    comparable = True
    trained_apart = False
    heads: frozenset[Kind] = frozenset({"linear", "equiangular"})

    def forward(self, x: Tensor) -> Tensor:
        """Return ``logits_MBC`` for images (B, C, H, W); every member sees every image."""
        raise NotImplementedError

    def training_forward(self, x: Tensor, y_B: Tensor) -> tuple[Tensor, Tensor]:
        """Return logits (M, B', C) and their labels (M, B') for one training batch.

        By default every member sees the whole batch: B' = B.
        """
        return self(x), y_B.expand(self.members, -1)

    def member_forwards(self) -> list[TrainingForward]:
        """Return the passes of which a training step may be made, one after another.

        The mean of their losses must be the loss of ``training_forward``.
        """
        return [self.training_forward]

    def loss(self, logits_MBC: Tensor, y_MB: Tensor, label_smoothing: float) -> Tensor:
        """Return the mean over members of each member's own cross-entropy, in nats.

        Never the cross-entropy of the averaged prediction, under which members collude (Jeffares
        et al. 2023).
        """
        return F.cross_entropy(
            logits_MBC.flatten(0, 1), y_MB.flatten(), label_smoothing=label_smoothing
        )

    def batch_seeds(self, seed: int) -> list[int]:
        """Return the seeds of the streams of batches that are trained on side by side.

        A training batch holds one of each stream, one after the other.
        """
        return [seed]

    def independent_members(self) -> list[tuple["Method", int | None]]:
        """Return the parts that are trained apart, each with its own seed (None: the trial's)."""
        return [(self, None)]

    def phases(self) -> list[Phase]:
        """Return the stretches of the training, in order; of each part, where there are parts."""
        return [Phase()]

    def param_groups(self, training: Training) -> list[dict[str, Any]]:
        """Return the optimiser's groups: ``params``, ``lr`` and ``weight_decay`` of each.

        Together they hold, once each, the parameters that the present phase trains: by default all
        that require a gradient.
        """
        trained = [p for p in self.parameters() if p.requires_grad]
        return [{"params": trained, "lr": training.lr, "weight_decay": training.weight_decay}]

    def perturbations(self) -> Tensor | None:
        """Return each member's own weights as deviations from the shared network, (M, P)."""
        return None

    def effective_weights(self) -> Iterator[Tensor]:
        """Yield, layer by layer, the weights (M, P) that each member really applies.

        By default those of the members' networks, none where they are not networks of their own.
        """
        every = (self.member_network(member) for member in range(self.members))
        networks = [network for network in every if network is not None]
        for layers in zip(*map(weighted_layers, networks), strict=True):
            yield torch.stack([layer.weight.detach().flatten() for layer in layers])

    def member_network(self, member: int) -> nn.Module | None:
        """Return a copy of one member as the plain backbone, with what it really applies.

        In evaluation it maps images (B, C, H, W) to ``forward(x)[member]``. None, for every member,
        when the members are not networks of their own.
        """
        return None

    def collapsed(self) -> "Method | None":
        """Return the one-member control in which the members' own weights are averaged."""
        return None

    def excess(self) -> float | None:
        """Return by how much the method exceeds a limit of its own; above 0 it is not trained.

        Known before the training. The search learns it as a constraint; None where there is none.
        """
        return None

    def stored_bytes(self) -> int:
        """Return the bytes that the trained members take where they are stored."""
        return sum(tensor.nbytes for tensor in self.state_dict().values())


def build(
    name: str, params: dict[str, Any] | Strict, make_network: MakeNetwork, seed: int
) -> Method:
    """Build a method, an ``nn.Module``, with initial weights that depend on ``seed`` alone.

    Args:
        name: Key of a method (``batch_ensemble``), or dotted name of one of your own.
        params: The method's parameters; what is left out has its default.
        make_network: Returns a new network, from (B, ...) to logits (B, C), at every call. The
            method takes it over: most replace its ``nn.Linear`` and ``nn.Conv2d`` in place, in the
            order in which they were defined, which must be that in which they act.
        seed: Of the weights that the method adds, and of ``make_network``'s random numbers.

    Returns:
        From (B, ...) to the members' logits (M, B, C). In a loop of your own,
        ``method.loss(*method.training_forward(x, y), label_smoothing=0.0)`` is the loss of a batch.
        Methods of several :meth:`~Method.phases` need :func:`study.training.fit.fit`.

    Raises:
        StudyError: When there is no such method, it cannot wrap the network, or ``make_network``
            returns one network twice.
    """
    module = load_plugin("study.methods", name)
    if isinstance(params, dict):
        params = module.Params(**params)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        kind = module.Ensemble
        method: Method = kind(params, _checked(make_network, name, kind.heads), seed)
    return method


def _checked(make_network: MakeNetwork, method: str, heads: frozenset[Kind]) -> MakeNetwork:
    """Return ``make_network``, which then refuses to return one network twice, or another head."""
    made: WeakSet[nn.Module] = WeakSet()

    def make() -> nn.Module:
        network = make_network()
        if network in made:
            raise StudyError(
                f"make_network must return a new network at every call, as {method} has several, "
                "but returns one twice; build the network inside it"
            )
        made.add(network)
        if (kind := kind_of(network)) not in heads:
            raise StudyError(
                f"backbone.head must be {' or '.join(sorted(heads))} for {method}, "
                f"but is {kind}; set it to linear"
            )
        return network

    return make
