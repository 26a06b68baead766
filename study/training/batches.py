"""A split of images on the device, as uint8, normalised and augmented batch by batch there."""

import warnings
from functools import cached_property

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


class DeviceImages:
    """The images of one split on one device.

    Args:
        images: (N, C, H, W) uint8.
        mean: (C,) mean of the training images, in units of 0 to 255.
        std: (C,) their standard deviation.
        device: Where the images are kept and batches are made.
    """

    def __init__(self, images: Images, mean: Tensor, std: Tensor, device: torch.device) -> None:
        with warnings.catch_warnings():
            # Arrays shared between processes are read-only; nothing here writes to them.
            warnings.filterwarnings("ignore", "The given NumPy array is not writable")
            self.images = torch.from_numpy(images).to(device)
        self.scale = (1 / std).view(-1, 1, 1).to(device)
        self.shift = (-mean / std).view(-1, 1, 1).to(device)
        self.windows: Tensor | None = None
        self.normalised: Tensor | None = None
        if self.images.numel() <= SMALL:
            self.normalised = self._normalise(self.images)

    def __len__(self) -> int:
        return len(self.images)

    def batch(self, index: Tensor) -> Tensor:
        """Return the normalised images (B, C, H, W) at ``index`` (B,)."""
        if self.normalised is not None:
            return self.normalised[index]
        return self._normalise(self.images[index])

    def augmented(self, index: Tensor, flip: bool, generator: torch.Generator) -> Tensor:
        """Return the images at ``index``, each shifted by up to an eighth and maybe flipped.

        The same augmentation as padding by zeros and cropping at random, drawn per image.
        """
        if self.windows is None:
            pad = self.images.shape[-1] // 8
            padded = torch.nn.functional.pad(self.images, [pad] * 4)
            height, width = self.images.shape[-2:]
            self.windows = padded.unfold(2, height, 1).unfold(3, width, 1)
        b, choices = len(index), self.windows.shape[2]
        y, x = torch.randint(choices, (2, b), generator=generator).to(index.device)
        images = self.windows[index, :, y, x]
        if flip:
            flipped = (torch.rand(b, generator=generator) < 0.5).to(index.device)
            images = torch.where(flipped[:, None, None, None], images.flip(-1), images)
        return self._normalise(images)

    def _normalise(self, images: Tensor) -> Tensor:
        return torch.addcmul(self.shift, images.float(), self.scale)


class Splits:
    """A dataset on a device, each of its splits brought there once.

    Attributes:
        train: The training images and their labels (N,).
    """

    def __init__(self, dataset: Dataset, device: torch.device) -> None:
        self.dataset, self.device = dataset, device
        self.statistics = channel_statistics(dataset.train[0])
        self.known: dict[int, DeviceImages] = {}
        images, labels = dataset.train
        self.train = self.pixels(images), torch.tensor(labels, device=device)

    def pixels(self, images: Images) -> DeviceImages:
        """Return one of the dataset's own arrays of images."""
        if id(images) not in self.known:
            self.known[id(images)] = DeviceImages(images, *self.statistics, self.device)
        return self.known[id(images)]

    def some(self, images: Images, most: int) -> Tensor:
        """Return ``most`` of the images, or all, evenly spread (B, C, H, W)."""
        own = self.pixels(images)
        return own.batch(torch.as_tensor(evenly(len(own), most), device=self.device))

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
