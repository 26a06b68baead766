"""Masksembles (Durasov et al. 2021): members that use fixed, overlapping subsets of the units.

Member m applies W_m = W ∘ (1 mask_mᵀ), its binary mask over the inputs, in every linear and
convolutional layer but the first: over hidden units, features of tokens, or channels. It is
BatchEnsemble with fixed binary r and no s. Kept units are not scaled up, as in the paper; nothing
but the masks tells the members apart.

The masks are those of the published algorithm: each has as many ones as there would be with M masks
in scale times as many positions, and positions that no mask uses are dropped. Scale 1 is the plain
network; the larger the scale, the less the members overlap and the fewer units each has.

On a residual block the inputs of both convolutions and of the projection are masked, each layer by
masks of its own; shortcuts without weights are not.

Deviations: the published generator searches the scale at random until all of a layer's units are
used; here the number of positions is computed from its expectation, and only the masks are drawn
until that is so; where that is unlikely (few units, hardly any overlap), the last draw is mended
unit by unit. The generator refuses layers of fewer than 10 units, this one does not. The paper
splits the batch among the masks in training (``batch: split``); every member seeing the whole batch
is the default, as for BatchEnsemble.
"""

from typing import Final, Literal

import torch
from pydantic import Field
from torch import Tensor

from study.errors import StudyError
from study.layers.perturbed import MemberLayer, RankOneLayer, Weighted
from study.methods import MakeNetwork
from study.methods._shared_network import SharedNetwork
from study.spec import Strict

TRIES: Final = 100
"""Draws of a layer's masks, before one is mended."""


class Params(Strict):
    """What Masksembles is configured by.

    Attributes:
        members: M, the number of masks.
        scale: Positions over ones of a mask, before unused positions are dropped.
        batch: Every member sees the whole batch (``repeat``) or an M-th of it (``split``).
    """

    members: int = Field(4, ge=1, le=64)
    scale: float = Field(2.0, ge=1, le=6)
    batch: Literal["repeat", "split"] = "repeat"


def active_units(units: int, members: int, scale: float) -> int:
    """Return how many of ``units`` each mask keeps."""
    return max(-(-units // members), int(units / (scale * (1 - (1 - 1 / scale) ** members))))


def draw_masks(units: int, members: int, scale: float) -> Tensor:
    """Draw masks (M, units) with equally many ones each, which together use every unit."""
    active = active_units(units, members, scale)
    positions = _positions(units, members, active)
    for _ in range(TRIES):
        masks = _random_masks(members, positions, active)
        used = masks[:, masks.any(dim=0)]
        if used.shape[1] == units:
            return used
    return _with_every_unit(_random_masks(members, units, active))


def _random_masks(members: int, positions: int, active: int) -> Tensor:
    kept = torch.rand(members, positions).argsort(dim=1)[:, :active]
    return torch.zeros(members, positions).scatter_(1, kept, 1.0)


def _with_every_unit(masks: Tensor) -> Tensor:
    """Let each unused unit take, in some mask, the place of one that another mask has too."""
    while len(unused := (masks.sum(0) == 0).nonzero()):
        member, unit = (masks * (masks.sum(0) > 1)).nonzero()[0]
        masks[member, unit], masks[member, unused[0]] = 0.0, 1.0
    return masks


def _positions(units: int, members: int, active: int) -> int:
    """Return of how many positions, at least ``units``, masks are expected to use ``units``."""
    positions = units
    if active * members > units:
        while positions * (1 - (1 - active / positions) ** members) < units - 0.5:
            positions += 1
    return positions


class MaskedLayer(RankOneLayer):
    """W_m = W ∘ (1 mask_mᵀ), applied to the activations: y_m = (x ∘ mask_m) Wᵀ + b."""

    mask: Tensor

    def __init__(self, layer: Weighted, members: int, scale: float) -> None:
        super().__init__(layer, members, start={})
        self.register_buffer("mask", draw_masks(self.shape[1], members, scale))

    def scale(self, name: str) -> Tensor | None:
        """Return the masks as r; there is no s."""
        return self.mask if name == "r" else None

    def deviations(self) -> Tensor:
        """Return mask_m - 1."""
        return self.mask - 1

    def average_members(self) -> None:
        """Become the layer of one member, whose mask is the members' mean."""
        super().average_members()
        self.mask = self.mask.mean(0, keepdim=True)

    def _has_fewer_weights(self, x: Tensor) -> bool:
        return False


class Ensemble(SharedNetwork):
    """M members in one network, each with its own subset of the hidden units."""

    def __init__(self, params: Params, make_network: MakeNetwork, seed: int) -> None:
        self.params = params
        super().__init__(params.members, make_network, split=params.batch == "split")

    def replacement(self, layer: Weighted, layers: list[Weighted]) -> MemberLayer | None:
        """Mask the inputs of a layer that is not the first."""
        if layer is layers[0]:
            return None
        return MaskedLayer(layer, self.members, self.params.scale)

    def adapt(self) -> None:
        """Mask the inputs of every layer but the first."""
        super().adapt()
        masks = [m.mask for m in self.network.modules() if isinstance(m, MaskedLayer)]
        if self.members > 1 and self.params.scale > 1 and all(bool(mask.all()) for mask in masks):
            raise StudyError(
                f"params.scale={self.params.scale} must leave out units, but in layers of at most "
                f"{max([0, *(mask.shape[1] for mask in masks)])} none is; raise it or the width"
            )

    def stored_bytes(self) -> int:
        """Return the bytes of the state with masks of a byte per unit."""
        state = self.state_dict().items()
        return sum(t.numel() if name.endswith(".mask") else t.nbytes for name, t in state)


EXAMPLES = [
    {"members": 2, "scale": 2.0},
    {"members": 3, "scale": 1.5, "batch": "split"},
]
