"""CIFAR-10-C (Hendrycks and Dietterich 2019): CIFAR-10's test images under 15 corruptions.

The published folder has one array (50000, 32, 32, 3) per corruption: the 10,000 test images in
their order at severity 1, then at 2, to 5; and their labels. The four extra corruptions, published
for validation, are left aside.
"""

from itertools import product
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from study.datasets import Images, Labels, Shifted
from study.datasets._corruptions import SEVERITIES, subsets
from study.errors import StudyError

CONDITIONS: Final = (
    "gaussian_noise",
    "shot_noise",
    "impulse_noise",
    "defocus_blur",
    "glass_blur",
    "motion_blur",
    "zoom_blur",
    "snow",
    "frost",
    "fog",
    "brightness",
    "contrast",
    "elastic_transform",
    "pixelate",
    "jpeg_compression",
)


def read(folder: Path, labels: Labels, size: int, seed: int, distinct: bool = False) -> Shifted:
    """Return the corrupted copies of seeded subsets of the test images.

    Args:
        folder: The published ``CIFAR-10-C``.
        labels: (N,) of the clean test images in their published order.
        size: Images of a subset at most.
        seed: Root of the draw.
        distinct: See :func:`study.datasets._corruptions.subsets`.

    Raises:
        StudyError: When a file is missing, damaged, or does not belong to these test images.
    """
    cells = list(product(CONDITIONS, SEVERITIES))
    examples = subsets(len(cells), len(labels), size, seed, distinct)
    _check_labels(folder / "labels.npy", labels)
    by_condition = np.split(examples, len(CONDITIONS))
    copies = [
        _read_condition(folder / f"{name}.npy", own, len(labels))
        for name, own in zip(CONDITIONS, by_condition, strict=True)
    ]
    return Shifted.of(np.concatenate(copies), labels, examples, cells)


def _read_condition(file: Path, examples: NDArray[np.int64], total: int) -> Images:
    """Return the copies under one condition of the images (5, S), severity by severity."""
    stored = _map(file)
    expected = (len(SEVERITIES) * total, 32, 32, 3)
    if stored.shape != expected or stored.dtype != np.uint8:
        raise StudyError(
            f"{file}: must be {expected} uint8, but is {stored.shape} {stored.dtype}; get it again"
        )
    rows = (examples + total * np.arange(len(SEVERITIES))[:, None]).ravel()
    return np.ascontiguousarray(stored[rows].transpose(0, 3, 1, 2))


def _check_labels(file: Path, labels: Labels) -> None:
    if not np.array_equal(_map(file), np.tile(labels, len(SEVERITIES))):
        raise StudyError(
            f"{file}: the labels do not follow the order of the test images, so corrupted and "
            "clean images cannot be paired; use the original CIFAR-10 (cifar-10-batches-py) or "
            "move CIFAR-10-C away"
        )


def _map(file: Path) -> NDArray[np.generic]:
    """Return the array without reading it into memory."""
    if not file.is_file():
        raise StudyError(f"{file}: is missing; complete CIFAR-10-C or move its folder away")
    try:
        stored: NDArray[np.generic] = np.load(file, mmap_mode="r")
    except (ValueError, EOFError, OSError) as error:
        raise StudyError(f"{file}: cut short or no array ({error}); get the file again") from error
    return stored
