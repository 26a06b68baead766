"""Members that live in one network, in its batch axis, some of whose layers know them."""

import copy
from collections.abc import Iterator
from functools import partial
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.modules.batchnorm import _BatchNorm

from study.errors import StudyError
from study.layers.fixed_heads import EquiangularHead, MemberHead
from study.layers.members import (
    MemberModule,
    repeat_for_members,
    replace_modules,
    weighted_layers,
)
from study.layers.norms import MemberBatchNorm
from study.layers.perturbed import MemberLayer, Weighted
from study.methods import MakeNetwork, Method, Phase, TrainingForward
from study.methods._one_network import OneNetwork
from study.spec import Training


class SharedNetwork(OneNetwork):
    """M members in one network; a subclass says in ``replacement`` how layers know them.

    With a warm start the plain network is trained alone for that share of the epochs, and adapted
    then; until then all members are that network. A subclass sets what ``replacement`` needs before
    it calls ``__init__`` here.

    Args:
        members: M.
        make_network: Of the backbone.
        warm_start: Share of the epochs, from 0 and below 1.
        shared_lr_multiplier: Learning rate of the shared weights over the training's, once the
            network is adapted; 0 freezes them.
        own_lr_multiplier: The same of the members' own weights.
        decay_own: Whether weight decay reaches the members' own weights; it does reach own biases,
            unless the shared weights are frozen.
        split: Whether, in training, each member sees an M-th of the batch instead of all of it.
    """

    heads = frozenset({"linear", "equiangular", "rotated"})

    def __init__(
        self,
        members: int,
        make_network: MakeNetwork,
        *,
        warm_start: float = 0.0,
        shared_lr_multiplier: float = 1.0,
        own_lr_multiplier: float = 1.0,
        decay_own: bool = False,
        split: bool = False,
    ) -> None:
        super().__init__(members, make_network)
        self.warm_start = warm_start
        self.shared_lr_multiplier = shared_lr_multiplier
        self.own_lr_multiplier = own_lr_multiplier
        self.decay_own = decay_own
        self.split = split
        self.adapted = False
        if not warm_start:
            self._begin()

    def replacement(self, layer: Weighted, layers: list[Weighted]) -> MemberLayer | None:
        """Return what takes the place of one of the network's ``layers``; None keeps it."""
        raise NotImplementedError

    def adapt(self) -> None:
        """Replace layers of ``self.network`` by such as know the members, in place."""
        layers = weighted_layers(self.network)
        replace_modules(
            self.network, (nn.Linear, nn.Conv2d), lambda layer: self.replacement(layer, layers)
        )

    def _begin(self) -> None:
        self.adapt()
        replace_modules(
            self.network,
            EquiangularHead,
            lambda head: MemberHead(head, self.members) if head.rotated else None,
        )
        self.adapted = True
        if self.shared_lr_multiplier == 0:
            own = {id(p) for p in self.own_parameters()}
            for parameter in self.parameters():
                parameter.requires_grad_(id(parameter) in own)

    def phases(self) -> list[Phase]:
        """Return the warm start, if there is one, and the training of the members."""
        if not self.warm_start:
            return [Phase()]
        return [
            Phase(self.warm_start, diverse=False),
            Phase(1 - self.warm_start, begin=self._begin),
        ]

    def forward(self, x: Tensor) -> Tensor:
        """Return logits (M, B, C)."""
        if self.adapted:
            return super().forward(x)
        logits: Tensor = self.network(x)
        return logits.expand(self.members, *logits.shape)

    def enter(self, x: Tensor, y: Tensor, streams: int = 1) -> tuple[Tensor, Tensor]:
        """Return images and labels, (S, B) in a warm start, (S*M, B // M) with a split batch."""
        if not self.adapted:
            return super().enter(x, y, streams)
        if not self.split:
            y_SMB = y.view(streams, 1, -1).expand(-1, self.members, -1)
            return repeat_for_members(x, self.members, streams), y_SMB.flatten(0, 1)
        batch = len(x) // streams
        own = batch // self.members
        if own == 0:
            raise StudyError(
                f"params.batch=split needs at least one example per member, but a batch of "
                f"{batch} has {self.members} members; raise training.batch_size"
            )
        used = own * self.members
        x, y = (v.unflatten(0, (streams, batch))[:, :used].flatten(0, 1) for v in (x, y))
        return x, y.view(-1, own)

    def training_forward(self, x: Tensor, y_B: Tensor) -> tuple[Tensor, Tensor]:
        """Return logits and labels of what enters; with whole batches, those of ``forward``."""
        if self.adapted and not self.split:
            return Method.training_forward(self, x, y_B)
        return super().training_forward(x, y_B)

    def member_forwards(self) -> list[TrainingForward]:
        """Return a pass for each member, where none depends on others by shared statistics."""
        layers = list(self.network.modules())
        own = {id(layer.norm) for layer in layers if isinstance(layer, MemberBatchNorm)}
        # Statistics of the joint batch couple the members: apart they would train otherwise.
        joint = any(isinstance(layer, _BatchNorm) and id(layer) not in own for layer in layers)
        alone = vars(type(self)).get("stackable", False) and self.adapted and not joint
        if not alone or self.members == 1:
            return super().member_forwards()
        return [partial(self._pass_of, self._of_one(), member) for member in range(self.members)]

    def _of_one(self) -> nn.Module:
        """Return the network as one member's, which has this one's tensors."""
        tensors = [*self.network.parameters(), *self.network.buffers()]
        one = copy.deepcopy(self.network, {id(tensor): tensor for tensor in tensors})
        for module in one.modules():
            if isinstance(module, MemberLayer | MemberHead):
                module.members = 1
            elif isinstance(module, MemberBatchNorm):
                module.members = module.groups = 1
        return one

    def _pass_of(
        self, network: nn.Module, member: int, x: Tensor, y_B: Tensor
    ) -> tuple[Tensor, Tensor]:
        if self.split:
            every, labels = self.enter(x, y_B)
            x, y_B = every.chunk(self.members)[member], labels[member]
        own = {
            f"{name}.{key}": tensor.chunk(self.members)[member]
            for name, module in self.network.named_modules()
            for key, tensor in _own_tensors(module)
        }
        logits: Tensor = functional_call(network, own, (x,))
        return logits.unsqueeze(0), y_B.unsqueeze(0)

    def param_groups(self, training: Training) -> list[dict[str, Any]]:
        """Return the shared weights, and the members' own with their rate and decay.

        Own biases go with the shared weights, unless those are frozen.
        """
        if not self.adapted:
            return super().param_groups(training)
        frozen = self.shared_lr_multiplier == 0
        fast = (p for layer in self.member_layers() for p in layer.fast.values())
        own = list(self.own_parameters() if frozen else fast)
        ids = {id(p) for p in own}
        shared = [p for p in self.parameters() if p.requires_grad and id(p) not in ids]
        decay = training.weight_decay
        shared_lr = training.lr * self.shared_lr_multiplier
        own_lr = training.lr * self.own_lr_multiplier
        groups = [
            {"params": shared, "lr": shared_lr, "weight_decay": decay},
            {"params": own, "lr": own_lr, "weight_decay": decay if self.decay_own else 0.0},
        ]
        return [group for group in groups if group["params"]]

    def member_layers(self) -> Iterator[MemberLayer]:
        """Yield the adapted layers."""
        return (m for m in self.network.modules() if isinstance(m, MemberLayer))

    def own_parameters(self) -> Iterator[Tensor]:
        """Yield every parameter that each member has for itself and that is trained."""
        for module in self.network.modules():
            if isinstance(module, MemberModule) and not isinstance(module, MemberHead):
                yield from module.own_parameters()

    def perturbations(self) -> Tensor | None:
        """Return the fast weights' deviations from the unperturbed network, (M, P)."""
        deviations = [layer.deviations() for layer in self.member_layers()]
        return torch.cat(deviations, dim=1) if deviations else None

    def effective_weights(self) -> Iterator[Tensor]:
        """Yield each layer's W_m, (M, P); a layer that is not adapted is the same for all."""
        for layer in self.network.modules():
            if isinstance(layer, MemberLayer):
                yield layer.effective_weight().detach().flatten(1)
            elif isinstance(layer, Weighted):
                yield layer.weight.detach().flatten().expand(self.members, -1)

    def member_network(self, member: int) -> nn.Module | None:
        """Return the plain network with W_m, and the member's own biases, norms and head."""
        own = {
            id(module): module.plain(member)
            for module in self.network.modules()
            if isinstance(module, MemberModule)
        }
        return copy.deepcopy(self.network, own)  # The copy has these in their places.

    def collapsed(self) -> Self:
        """Return the one-member network in which own weights, biases and norms are averaged.

        The averages are of what W_m is made of, not of W_m: those of random signs are near 0, and
        the control says only that the members are no perturbations of one network.
        """
        one = copy.deepcopy(self)
        one.members = 1
        for module in one.network.modules():
            if isinstance(module, MemberModule):
                module.average_members()
        return one


def _own_tensors(module: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Yield, by name, what has a part of each member's in its leading axis."""
    if isinstance(module, MemberLayer):
        own = {id(tensor) for tensor in module.own_parameters()}
        yield from ((name, p) for name, p in module.named_parameters() if id(p) in own)
    elif isinstance(module, MemberBatchNorm | MemberHead):
        state = [*module.named_parameters(), *module.named_buffers()]
        yield from ((name, tensor) for name, tensor in state if tensor.dim())
