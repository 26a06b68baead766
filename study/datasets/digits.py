"""scikit-learn's 1,797 handwritten digits, 8x8 grey: real data that comes with the installation.

Out of distribution: 8x8 patches of scikit-learn's two sample photographs.
"""

from pathlib import Path
from typing import Final, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from study.datasets import CommonOptions, Dataset, Images
from study.datasets import _splits as splits

SIDE: Final = 8
PHOTO_SCALE: Final = 6
"""Pixels of the photograph per pixel of a patch, so that a patch shows parts of things."""
MIN_CONTRAST: Final = 16.0
"""Least standard deviation of a patch in grey levels: plain sky says nothing about a model."""


class Options(CommonOptions):
    """Options of the digits; what train and val leave is the test set."""

    name: Literal["digits"] = "digits"
    train_size: int = Field(300, ge=1, description="training images")
    val_size: int = Field(500, ge=1, description="images for tuning")


def load(options: Options, root: Path | None) -> Dataset:
    """Return the digits; ``root`` is not needed.

    Raises:
        StudyError: When the sizes asked for leave no image for the test.
    """
    from sklearn.datasets import load_digits

    raw = load_digits()
    images = np.rint(raw.images * (255 / 16)).astype(np.uint8)[:, None]
    labels = raw.target.astype(np.int64)
    return splits.assemble(
        options, (images, labels), None, classes=10, ood={"photo_patches": photo_patches()}
    )


def photo_patches() -> Images:
    """Return all 8x8 patches with contrast of the two photographs at a coarser scale, grey."""
    from sklearn.datasets import load_sample_images

    return np.concatenate([_patches(_coarse_grey(photo)) for photo in load_sample_images().images])


def _coarse_grey(photo: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Return the photo (H, W, 3) in grey, averaged over blocks of ``PHOTO_SCALE`` pixels."""
    grey = photo.mean(axis=2)
    height, width = (side // PHOTO_SCALE for side in grey.shape)
    whole = grey[: height * PHOTO_SCALE, : width * PHOTO_SCALE]
    coarse: NDArray[np.float64] = whole.reshape(height, PHOTO_SCALE, width, PHOTO_SCALE).mean(
        axis=(1, 3)
    )
    return coarse


def _patches(grey: NDArray[np.float64]) -> Images:
    windows = np.lib.stride_tricks.sliding_window_view(grey, (SIDE, SIDE))
    every = windows.reshape(-1, 1, SIDE, SIDE)
    structured = every[every.std(axis=(1, 2, 3)) >= MIN_CONTRAST]
    patches: Images = np.rint(structured).astype(np.uint8)
    return patches
