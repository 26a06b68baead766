"""Split-Ensemble (Chen et al. 2024, arXiv 2312.09148): sub-networks for groups of classes.

The C classes are split into G groups. Sub-network g tells its K_g classes and one more, "none of
mine", apart, for which the other groups' images serve as out-of-distribution examples. Of these it
is known only that they are none of its own: their targets are 1/C for each of the K_g classes and
(C - K_g)/C for "none of mine". The assembled prediction is p(y) ∝ p_g(y) (1 - p_g(none of mine)), g
the group of y; its unnormalised logarithms are the logits, whose log-sum-exp is low where no group
claims the image.

The sub-networks solve different tasks: there is one prediction, so M = 1, and what compares members
is not defined (``comparable``). The stages of the backbone before the share ``shared`` are one
trunk, which images pass once.

Groups are ``random``, or by ``confusion``: during a warm start the plain network collects how much
probability of each class goes to each other, and the most confused classes come together, after the
semantic groups that the paper found best.

Deviations: a fixed split depth instead of pruning and splitting by the correlation of masks; the
``loss`` may be the softmax cross-entropy instead of the paper's binary one; other groups' images
weigh, all together, as much as the group's own, times ``ood_weight``.
"""

import copy
from typing import Any, Final, Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from study.errors import StudyError
from study.layers.members import stages_of
from study.methods import MakeNetwork, Method, Phase
from study.spec import Strict

NONE_OF_MINE: Final = 0
"""Place of the additional class among a sub-network's outputs."""


class Params(Strict):
    """What a Split-Ensemble is configured by.

    Attributes:
        groups: G, groups of classes of about equal size.
        grouping: How classes come together.
        warm_start: Share of the epochs in which the plain network is trained.
        shared: Share of the backbone's stages that is one trunk; the head never is.
        loss: Binary cross-entropy of each output (``bce``), or softmax cross-entropy (``ce``).
        ood_weight: Weight of other groups' images, over that which balances them.
    """

    groups: int = Field(2, ge=2, le=256)
    grouping: Literal["random", "confusion"] = "random"
    warm_start: float = Field(0.25, gt=0, lt=1)
    shared: float = Field(0.5, ge=0, le=1)
    loss: Literal["bce", "ce"] = "bce"
    ood_weight: float = Field(1.0, gt=0, le=1000)


class Parallel(nn.Module):
    """A stage that each sub-network has for itself: (G*B, ...) -> (G*B, ...).

    Args:
        stages: One for each sub-network.
        fold: Whether it is the first: the input is the trunk's, (B, ...), and goes to all.
        width: Outputs to which shorter ones are filled up.
    """

    def __init__(self, stages: list[nn.Module], fold: bool, width: int | None = None) -> None:
        super().__init__()
        self.stages, self.fold, self.width = nn.ModuleList(stages), fold, width

    def forward(self, x: Tensor) -> Tensor:
        """Apply each stage to its own part."""
        parts = [x] * len(self.stages) if self.fold else x.chunk(len(self.stages))
        outputs = [stage(part) for stage, part in zip(self.stages, parts, strict=True)]
        if self.width is not None:
            outputs = [F.pad(y, (0, self.width - y.shape[1])) for y in outputs]
        return torch.cat(outputs)


class Ensemble(Method):
    """G sub-networks behind one trunk, as one assembled prediction."""

    members = 1
    comparable = False
    heads = frozenset({"linear"})
    confusion: Tensor
    group_of: Tensor

    def __init__(self, params: Params, make_network: MakeNetwork, seed: int) -> None:
        super().__init__()
        self.params = params
        self.network = make_network()
        head = getattr(self.network, "head", None)
        if not isinstance(head, nn.Linear):
            raise StudyError(
                "split_ensemble needs a backbone whose last layer is linear and called head; "
                "choose another backbone"
            )
        self.classes = head.out_features
        most = self.classes // 2
        if params.groups > most:
            raise StudyError(
                f"params.groups must be at most {most}, so that each has two of the "
                f"{self.classes} classes, but is {params.groups}; lower it"
            )
        confusion = torch.zeros(self.classes, self.classes)
        self.register_buffer("confusion", confusion, persistent=False)
        self.register_buffer("group_of", torch.zeros(self.classes, dtype=torch.uint8))
        self.groups: list[list[int]] = []

    def phases(self) -> list[Phase]:
        """Return the plain network's training and that of the sub-networks."""
        share = self.params.warm_start
        return [Phase(share, diverse=False), Phase(1 - share, begin=self._split, diverse=False)]

    def _split(self) -> None:
        """Group the classes, and give every group what lies behind the trunk for itself."""
        count = self.params.groups
        if self.params.grouping == "random":
            order = torch.randperm(self.classes, device="cpu").tolist()
            self.groups = [sorted(order[g::count]) for g in range(count)]
        else:
            self.groups = confusion_groups(self.confusion, count)
        for number, group in enumerate(self.groups):
            self.group_of[group] = number
        names = stages_of(self.network)
        cut = min(round(self.params.shared * len(names)), len(names) - 1)
        for name in names[cut:]:
            stage = self.network.get_submodule(name)
            stages = [copy.deepcopy(stage) for _ in self.groups]
            width = None
            if name == "head":
                stages = [_head(stage, len(group)) for group in self.groups]
                width = 1 + max(map(len, self.groups))
            own = Parallel(stages, fold=name == names[cut], width=width)
            self.network.set_submodule(name, own)

    def forward(self, x: Tensor) -> Tensor:
        """Return the assembled log-probabilities (1, B, C), unnormalised."""
        if not self.groups:
            logits: Tensor = self.network(x)
            return logits.unsqueeze(0)
        assembled = x.new_empty(len(x), self.classes)
        for group, own in zip(self.groups, self._sub_logits(x), strict=True):
            if self.params.loss == "ce":
                inside = own.log_softmax(1)[:, 1:]
            else:
                inside = F.logsigmoid(own[:, 1:]) + F.logsigmoid(-own[:, :1])
            assembled[:, group] = inside
        return assembled.unsqueeze(0)

    def _sub_logits(self, x: Tensor) -> list[Tensor]:
        """Return each sub-network's logits (B, 1 + K_g)."""
        parts = self.network(x).chunk(len(self.groups))
        return [y[:, : 1 + len(group)] for y, group in zip(parts, self.groups, strict=True)]

    def training_forward(self, x: Tensor, y_B: Tensor) -> tuple[Tensor, Tensor]:
        """Return the sub-networks' filled up logits (G, B, K') and the labels (G, B)."""
        logits: Tensor = self.network(x)
        if not self.groups:
            with torch.no_grad():
                self.confusion.index_add_(0, y_B, logits.float().softmax(1))
            return logits.unsqueeze(0), y_B.unsqueeze(0)
        count = len(self.groups)
        return logits.unflatten(0, (count, -1)), y_B.expand(count, -1)

    def loss(self, logits_MBC: Tensor, y_MB: Tensor, label_smoothing: float) -> Tensor:
        """Return the mean over sub-networks of their weighted cross-entropy, in nats."""
        if not self.groups:
            return super().loss(logits_MBC, y_MB, label_smoothing)
        y, losses = y_MB[0], []
        for number, (group, own) in enumerate(zip(self.groups, logits_MBC, strict=True)):
            wanted, mine = targets(y, self.group_of == number, len(group), label_smoothing)
            logits = own[:, : wanted.shape[1]]
            if self.params.loss == "ce":
                each = -(wanted * logits.log_softmax(1)).sum(1)
            else:
                each = F.binary_cross_entropy_with_logits(logits, wanted, reduction="none").sum(1)
            balance = len(group) / (self.classes - len(group)) * self.params.ood_weight
            weight = torch.where(mine, 1.0, balance)
            losses.append((weight * each).sum() / weight.sum())
        return torch.stack(losses).mean()


def targets(
    y_B: Tensor, group_C: Tensor, count: int, label_smoothing: float = 0.0
) -> tuple[Tensor, Tensor]:
    """Return a sub-network's targets (B, 1 + K) and which images are of its own classes (B,).

    Args:
        y_B: Classes of the images.
        group_C: Which classes are its own.
        count: K, how many these are.
        label_smoothing: Of the cross-entropy.
    """
    classes = len(group_C)
    place_B = (group_C.cumsum(0) * group_C)[y_B]  # From 1 on; others' are at NONE_OF_MINE.
    mine = place_B != NONE_OF_MINE
    one_hot = (place_B.unsqueeze(1) == torch.arange(count + 1, device=y_B.device)).float()
    one_hot = (1 - label_smoothing) * one_hot + label_smoothing / (count + 1)
    other = one_hot.new_full((count + 1,), 1 / classes)
    other[NONE_OF_MINE] = (classes - count) / classes
    return torch.where(mine.unsqueeze(1), one_hot, other), mine


def confusion_groups(confusion_CC: Tensor, count: int) -> list[list[int]]:
    """Return ``count`` groups of about equal size, of classes that are confused with each other.

    The largest symmetrised confusions come first: a class joins the group that has most of it.
    """
    share = confusion_CC / confusion_CC.sum(1, keepdim=True).clamp(min=1e-12)
    mutual = (share + share.T).cpu()
    mutual.fill_diagonal_(0)
    classes = len(mutual)
    sizes = [classes // count + (g < classes % count) for g in range(count)]
    left, groups = set(range(classes)), []
    for size in sizes:
        rest = sorted(left)
        group = [max(rest, key=lambda c: (mutual[c, rest].max().item(), -c))]
        while len(group) < size:
            others = [c for c in rest if c not in group]
            group.append(max(others, key=lambda c: (mutual[c, group].sum().item(), -c)))
        left -= set(group)
        groups.append(sorted(group))
    return groups


def _head(head: Any, classes: int) -> nn.Linear:
    like = head.weight
    return nn.Linear(head.in_features, classes + 1, device=like.device, dtype=like.dtype)


EXAMPLES = [
    {"groups": 2, "warm_start": 0.5},
    {"groups": 2, "warm_start": 0.5, "grouping": "confusion", "shared": 0.0, "loss": "ce"},
    {"groups": 2, "warm_start": 0.5, "shared": 1.0},
]
