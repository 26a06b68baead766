"""What an image set is: arrays, shifted copies, options."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, SerializerFunctionWrapHandler, model_serializer

from study.spec import Strict

Images = NDArray[np.uint8]
Labels = NDArray[np.int64]


def evenly(total: int, most: int) -> NDArray[np.int64]:
    """Return at most ``most`` indices, evenly spread over ``total``."""
    return np.linspace(0, total - 1, min(total, most)).round().astype(np.int64)


class CommonOptions(Strict):
    """Options that every image set has."""

    name: str
    train_size: int | None = Field(None, ge=1, description="training images kept; null: all")
    val_size: int = Field(ge=1, description="images held out of the training set")
    split_seed: int = Field(0, ge=0)
    shift_size: int = Field(400, ge=1, description="images per corruption and severity")
    shift_distinct: bool = Field(
        False,
        description="whether each corruption and severity has images of its own, as far as there "
        "are enough: as many copies then say more about images in general",
    )
    ood_size: int = Field(1000, ge=1, description="out-of-distribution images kept at most")

    @model_serializer(mode="wrap")
    def _as_before(self, dump: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Leave out what older studies do not have, so that their trials keep their identities."""
        options: dict[str, Any] = dump(self)
        if not self.shift_distinct:
            options.pop("shift_distinct", None)
        return options


@dataclass(frozen=True)
class Shifted:
    """Corrupted copies of a split, R rows in all.

    Attributes:
        images: (R, C, H, W).
        labels: (R,).
        example: (R,) number of the clean original in its split.
        condition: (R,) name of the corruption.
        severity: (R,) 1 to 5.
    """

    images: Images
    labels: Labels
    example: NDArray[np.int32]
    condition: NDArray[np.str_]
    severity: NDArray[np.int8]

    @classmethod
    def of(
        cls,
        images: Images,
        labels: Labels,
        examples: NDArray[np.int64],
        cells: Sequence[tuple[str, int]],
    ) -> "Shifted":
        """Return copies of S examples in each of K cells.

        Args:
            images: (K * S, C, H, W), in the order of ``examples``.
            labels: (N,) of the split that the examples are of.
            examples: (K, S) their numbers in the split.
            cells: Condition and severity of each row of these.
        """
        conditions, severities = zip(*cells, strict=True)
        _, size = examples.shape
        return cls(
            images=images,
            labels=labels[examples].ravel(),
            example=examples.ravel().astype(np.int32),
            condition=np.repeat(conditions, size),
            severity=np.repeat(np.array(severities, np.int8), size),
        )


@dataclass(frozen=True)
class Dataset:
    """One image set, ready for training: uint8 images (N, C, H, W) and int64 labels (N,).

    ``notes`` are lines for the user on what was read; they are no part of the fingerprint.
    """

    train: tuple[Images, Labels]
    val: tuple[Images, Labels]
    test: tuple[Images, Labels]
    val_shift: Shifted
    shift: Shifted
    classes: int
    ood: dict[str, Images] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    @property
    def shape(self) -> tuple[int, int, int]:
        """Channels, height and width of one image."""
        _, c, h, w = self.train[0].shape
        return c, h, w

    @property
    def fingerprint(self) -> str:
        """SHA-256 (16 digits) over the bytes and shapes of every array."""
        sha = hashlib.sha256()
        for name, array in self.arrays().items():
            sha.update(f"{name}{array.shape}{array.dtype}".encode())
            sha.update(np.ascontiguousarray(array).view(np.uint8).data)
        return sha.hexdigest()[:16]

    def arrays(self) -> dict[str, NDArray[Any]]:
        """Return every numeric array under a name, in a fixed order."""
        found: dict[str, NDArray[Any]] = {}
        for split in ("train", "val", "test"):
            found[f"{split}/images"], found[f"{split}/labels"] = getattr(self, split)
        for split in ("val_shift", "shift"):
            shifted: Shifted = getattr(self, split)
            found[f"{split}/images"] = shifted.images
            found[f"{split}/labels"] = shifted.labels
            found[f"{split}/example"] = shifted.example
            found[f"{split}/severity"] = shifted.severity
        for name in sorted(self.ood):
            found[f"ood/{name}"] = self.ood[name]
        return found
