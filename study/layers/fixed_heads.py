"""Heads whose class vectors are fixed and equiangular, so that only features are learned.

Logits are τ cos(z, v_c), z the penultimate features (B, F) and v_c the vectors of a simplex
equiangular tight frame: pairwise cosines -1/(C-1), the least that C vectors can all have (Papyan et
al. 2020, as a fixed classifier Yang et al. 2022; equiangular class vectors in CLDNet, Li et al.
2024, arXiv 2401.09067). The frame lies in a random subspace of C-1 dimensions, not along the first
axes: rectified features would else never reach the vectors with negative coordinates.

``equiangular``: one frame, the same for every seed and member. ``rotated``, which is ours: member m
has V Q_m, Q_m a random rotation from its own seed, so that equal predictions need other features.
"""

import math
from typing import Final, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from study.errors import StudyError
from study.layers.members import MemberModule, split_members

Kind = Literal["linear", "equiangular", "rotated"]
FRAME_SEED: Final = 0


def simplex(classes: int) -> Tensor:
    """Return C unit vectors of C-1 dimensions with pairwise cosines -1/(C-1), (C, C-1)."""
    k = torch.arange(1, classes, dtype=torch.float64, device="cpu").unsqueeze(1)
    column = torch.arange(classes, device="cpu")
    helmert = ((column < k).double() - k * (column == k)) / (k * (k + 1)).sqrt()
    return helmert.mT * math.sqrt(classes / (classes - 1))


def frame(features: int, classes: int, generator: torch.Generator | None = None) -> Tensor:
    """Return a simplex frame in a random subspace, (C, F), uniform over all rotations.

    Args:
        features: F.
        classes: C.
        generator: Of the subspace; by default torch's global one.

    Raises:
        StudyError: When the frame does not fit into F dimensions.
    """
    if features < classes - 1:
        raise StudyError(
            f"an equiangular head of {classes} classes needs at least {classes - 1} features, but "
            f"the backbone has {features}; the nearest legal width is {classes - 1}"
        )
    shape = (features, classes - 1)
    normal = torch.randn(shape, generator=generator, dtype=torch.float64, device="cpu")
    q, r = torch.linalg.qr(normal)
    basis = q * r.diagonal().sign()  # Without the signs QR's own choice would not be uniform.
    return (simplex(classes) @ basis.mT).float()


class EquiangularHead(nn.Module):
    """From features (B, F) to logits (B, C), without anything to learn.

    Args:
        features: F.
        classes: C.
        scale: τ.
        rotated: Whether the frame is drawn from torch's global random state, for this head alone.

    Attributes:
        frame: (C, F) unit vectors; a parameter without gradient, so that it goes wherever the
            weights of a member go.
    """

    def __init__(self, features: int, classes: int, scale: float, rotated: bool = False) -> None:
        super().__init__()
        self.scale, self.rotated = scale, rotated
        generator = None if rotated else torch.Generator().manual_seed(FRAME_SEED)
        self.frame = nn.Parameter(frame(features, classes, generator), requires_grad=False)

    def forward(self, z: Tensor) -> Tensor:
        """Return τ cos(z, v_c)."""
        return self.scale * F.linear(F.normalize(z, dim=-1), self.frame)


class MemberHead(MemberModule):
    """Rotated heads of members in the batch axis: (M*B, F) -> (M*B, C).

    Member 0 keeps the frame of ``head``; the others draw theirs from torch's global random state.
    Averaged class vectors have a length below 1.
    """

    def __init__(self, head: EquiangularHead, members: int) -> None:
        super().__init__()
        self.members, self.scale = members, head.scale
        classes, features = head.frame.shape
        drawn = [frame(features, classes).to(head.frame.device) for _ in range(members - 1)]
        self.frames = nn.Parameter(torch.stack([head.frame.detach(), *drawn]), requires_grad=False)

    def forward(self, z: Tensor) -> Tensor:
        """Return τ cos(z, v_mc) for each member's part of the batch."""
        unit = F.normalize(split_members(z, self.members), dim=-1)
        return self.scale * torch.bmm(unit, self.frames.mT).flatten(0, 1)

    def plain(self, member: int) -> EquiangularHead:
        """Return the head of one member."""
        _, classes, features = self.frames.shape
        head = EquiangularHead(features, classes, self.scale)
        head.rotated = True
        head.frame = nn.Parameter(self.frames[member].detach().clone(), requires_grad=False)
        return head


def install(network: nn.Module, kind: Kind, scale: float) -> None:
    """Replace the layer called ``head`` in place; ``linear`` leaves it as it is.

    Raises:
        StudyError: When there is no such linear layer, or the frame does not fit its features.
    """
    if kind == "linear":
        return
    head = getattr(network, "head", None)
    if not isinstance(head, nn.Linear):
        raise StudyError(
            f"backbone.head={kind} needs a backbone whose last layer is linear and called head; "
            "set backbone.head to linear"
        )
    network.head = EquiangularHead(head.in_features, head.out_features, scale, kind == "rotated")


def kind_of(network: nn.Module) -> Kind:
    """Return which head ``install`` gave to a network."""
    head = getattr(network, "head", None)
    if not isinstance(head, EquiangularHead):
        return "linear"
    return "rotated" if head.rotated else "equiangular"
