"""A split of images as uint8, normalised and augmented batch by batch on the device.

Training images lie on the device. Splits that are only predicted stay in the host's memory, from
where one batch at a time is copied: the shifted test set of a real study has gigabytes.
"""

import warnings
from collections.abc import Iterator
from functools import cached_property
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from study.datasets import Dataset, Images, evenly

SMALL = 2**22
"""Values of a split up to which it is normalised once and kept as floats."""

WATCHED = 1000
"""Validation images that are looked at along a training, at most."""


def default_device() -> torch.device:
    """Return the GPU, or where there is none the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


class Crops(NamedTuple):
    """How N images are augmented.

    Attributes:
        y: First row of each in the padded image, (N,).
        x: First column.
        flipped: Whether an image is mirrored, (N,) bool; None where none is.
    """

    y: Tensor
    x: Tensor
    flipped: Tensor | None

    def of(self, batch: slice) -> "Crops":
        """Return those of some of the images."""
        flipped = None if self.flipped is None else self.flipped[batch]
        return Crops(self.y[batch], self.x[batch], flipped)

    def to(self, device: torch.device) -> "Crops":
        """Return them on a device."""
        flipped = None if self.flipped is None else self.flipped.to(device)
        return Crops(self.y.to(device), self.x.to(device), flipped)


class DeviceImages:
    """The images of one split, from which one device gets batches.

    Args:
        images: (N, C, H, W) uint8.
        mean: (C,) mean of the training images, in units of 0 to 255.
        std: (C,) their standard deviation.
        device: Where batches are made.
        kept: Whether the images lie there, too, and not in the host's memory.
    """

    def __init__(
        self, images: Images, mean: Tensor, std: Tensor, device: torch.device, kept: bool = True
    ) -> None:
        with warnings.catch_warnings():
            # Arrays shared between processes are read-only; nothing here writes to them.
            warnings.filterwarnings("ignore", "The given NumPy array is not writable")
            self.images = torch.from_numpy(images)
        self.device = device
        self.scale = (1 / std).view(-1, 1, 1).to(device)
        self.shift = (-mean / std).view(-1, 1, 1).to(device)
        self.windows: Tensor | None = None
        self.normalised: Tensor | None = None
        if kept:
            self.images = self.images.to(device)
            if self.images.numel() <= SMALL:
                self.normalised = self._normalise(self.images)

    def __len__(self) -> int:
        return len(self.images)

    def batch(self, index: Tensor) -> Tensor:
        """Return the normalised images (B, C, H, W) at ``index`` (B,)."""
        if self.normalised is not None:
            return self.normalised[index]
        return self._normalise(self._copied(self.images[index.to(self.images.device)]))

    def batches(self, size: int) -> Iterator[Tensor]:
        """Yield all normalised images in order, ``size`` at a time."""
        if self.normalised is not None:
            yield from (part.clone() for part in self.normalised.split(size))
        else:
            yield from (self._normalise(self._copied(part)) for part in self.images.split(size))

    def _copied(self, images: Tensor) -> Tensor:
        """Return images on the device; the host goes on while they are on their way."""
        if self.device.type == "cuda" and not images.is_cuda:
            images = images.pin_memory()  # From other memory a copy is waited for.
        return images.to(self.device, non_blocking=True)

    def pad(self) -> Tensor:
        """Return every shift of the images by up to an eighth, a view (N, C, Y, X, H, W)."""
        if self.windows is None:
            pad = self.images.shape[-1] // 8
            padded = torch.nn.functional.pad(self.images, [pad] * 4)
            height, width = self.images.shape[-2:]
            self.windows = padded.unfold(2, height, 1).unfold(3, width, 1)
        return self.windows

    def draw_crops(self, sizes: list[int], flip: bool, generator: torch.Generator) -> Crops:
        """Draw shifts and mirrors for batches of these sizes, on the CPU, each (sum of sizes,).

        Batch by batch, so that a batch's are the same however many are drawn at a time.
        """
        choices = 1 + 2 * (self.images.shape[-1] // 8)
        shifts, flipped = [], []
        for size in sizes:
            shifts.append(torch.randint(choices, (2, size), generator=generator))
            if flip:
                flipped.append(torch.rand(size, generator=generator) < 0.5)
        y, x = torch.cat(shifts, dim=1)
        return Crops(y, x, torch.cat(flipped) if flip else None)

    def augmented(self, index: Tensor, crops: Crops) -> Tensor:
        """Return the images at ``index`` (B,), each shifted by up to an eighth and maybe mirrored.

        The same augmentation as padding by zeros and cropping at random, drawn per image.
        """
        images = self.pad()[index, :, crops.y, crops.x]
        if crops.flipped is not None:
            images = torch.where(crops.flipped[:, None, None, None], images.flip(-1), images)
        return self._normalise(images)

    def _normalise(self, images: Tensor) -> Tensor:
        return torch.addcmul(self.shift, images.float(), self.scale)


class Splits:
    """A dataset of which a device gets batches.

    Attributes:
        train: The training images and their labels (N,), both on the device.
    """

    def __init__(self, dataset: Dataset, device: torch.device) -> None:
        self.dataset, self.device = dataset, device
        self.statistics = channel_statistics(dataset.train[0])
        self.known: dict[int, DeviceImages] = {}
        images, labels = dataset.train
        own = self.known[id(images)] = DeviceImages(images, *self.statistics, device)
        self.train = own, torch.tensor(labels, device=device)

    def pixels(self, images: Images) -> DeviceImages:
        """Return one of the dataset's own arrays of images; small ones are kept on the device."""
        if id(images) not in self.known:
            kept = images.size <= SMALL
            self.known[id(images)] = DeviceImages(images, *self.statistics, self.device, kept)
        return self.known[id(images)]

    def some(self, images: Images, most: int) -> Tensor:
        """Return ``most`` of the images, or all, evenly spread (B, C, H, W)."""
        own = self.pixels(images)
        return own.batch(torch.as_tensor(evenly(len(own), most), device=own.images.device))

    @cached_property
    def watched(self) -> tuple[DeviceImages, Tensor]:
        """The validation images that training is watched on, and their labels on the CPU."""
        images, labels = self.dataset.val
        few = evenly(len(labels), WATCHED)
        own = DeviceImages(images[few], *self.statistics, self.device)
        return own, torch.tensor(labels[few])


def channel_statistics(images: Images) -> tuple[Tensor, Tensor]:
    """Return the mean and standard deviation (C,) of uint8 images, in units of 0 to 255."""
    values = np.arange(256)
    counts = np.stack(
        [np.bincount(images[:, c].ravel(), minlength=256) for c in range(images.shape[1])]
    )
    share = counts / counts.sum(1, keepdims=True)
    mean = share @ values
    variance = share @ values**2 - mean**2
    std = np.sqrt(np.maximum(variance, 1.0))
    return torch.from_numpy(mean).float(), torch.from_numpy(std).float()
