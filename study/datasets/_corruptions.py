"""A ladder of corruptions with severities 1 to 5, made on the spot from any uint8 images.

It serves image sets without a published corrupted version. Two ladders that share no corruption
keep selection apart from the verdict, as CIFAR-10-C does with its four extra corruptions
(Hendrycks and Dietterich 2019): ``VALIDATION`` is what tuning may see, ``TEST`` what is reported.

Every amount that has a length is a share of the image's side, so that a severity means the same at
8x8 and at 64x64. The random draws of an image (noise, direction) do not depend on the severity:
between two severities of a corruption only its amount differs.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Final

import numpy as np
from numpy.typing import NDArray

from study.datasets._types import Images, Labels, Shifted
from study.spec import derive_seed

Floats = NDArray[np.float32]


@dataclass(frozen=True)
class Corruption:
    """A corruption and its amount at each of the five severities.

    Attributes:
        apply: From images (N, C, H, W) as float32 in 0 to 255, an amount and a random generator
            to corrupted images, not yet clipped.
        amounts: The amount at severities 1 to 5.
    """

    apply: Callable[[Floats, float, np.random.Generator], Floats]
    amounts: tuple[float, float, float, float, float]


def _gaussian_noise(x: Floats, amount: float, rng: np.random.Generator) -> Floats:
    return x + 255 * amount * rng.standard_normal(x.shape, dtype=np.float32)


def _speckle_noise(x: Floats, amount: float, rng: np.random.Generator) -> Floats:
    return x + x * amount * rng.standard_normal(x.shape, dtype=np.float32)


def _blur(x: Floats, amount: float, rng: np.random.Generator) -> Floats:
    from scipy import ndimage  # Slow to load, and no worker corrupts images.

    height, width = x.shape[2:]
    sigma = (0, 0, amount * height, amount * width)
    blurred: Floats = ndimage.gaussian_filter(x, sigma, mode="nearest")
    return blurred


def _contrast(x: Floats, amount: float, rng: np.random.Generator) -> Floats:
    mean = x.mean(axis=(2, 3), keepdims=True)
    faded: Floats = mean + (x - mean) * np.float32(1 - amount)
    return faded


def _brightness(x: Floats, amount: float, rng: np.random.Generator) -> Floats:
    return x + np.float32(255 * amount)


def _rotation(x: Floats, amount: float, rng: np.random.Generator) -> Floats:
    from scipy import ndimage

    clockwise = rng.random(len(x)) < 0.5
    turned = np.empty_like(x)
    for rows, degrees in ((clockwise, -amount), (~clockwise, amount)):
        turned[rows] = ndimage.rotate(
            x[rows], degrees, axes=(3, 2), reshape=False, order=1, mode="nearest"
        )
    return turned


def _translation(x: Floats, amount: float, rng: np.random.Generator) -> Floats:
    from scipy import ndimage

    direction = rng.integers(4, size=len(x))
    height, width = x.shape[2:]
    down, right = amount * height, amount * width
    moved = np.empty_like(x)
    for i, offset in enumerate(((down, right), (down, -right), (-down, right), (-down, -right))):
        rows = direction == i
        moved[rows] = ndimage.shift(x[rows], (0, 0, *offset), order=1, mode="nearest")
    return moved


def _pixelation(x: Floats, amount: float, rng: np.random.Generator) -> Floats:
    height, width = (_block_average(side, amount) for side in x.shape[2:])
    return _product(width, _product(height, x).swapaxes(2, 3)).swapaxes(2, 3)


def _product(matrix: Floats, x: Floats) -> Floats:
    """Return ``matrix @ x`` for (S, S) and (N, C, S, ...), the same on every CPU.

    BLAS adds in an order that depends on the CPU, and means of pixels often end in exactly .5: the
    last bit would decide whether a pixel is rounded up, and the data would differ by machine. Here
    terms are added in their order, each product exact.
    """
    total: Floats = np.zeros_like(x)
    for column, line in zip(matrix.T, np.moveaxis(x, 2, 0), strict=True):
        exact = column[:, None].astype(np.float64) * line[:, :, None]
        total = (exact + total).astype(np.float32)
    return total


def _block_average(side: int, amount: float) -> Floats:
    """Return the (side, side) matrix that averages a line over ``side * (1 - amount)`` blocks.

    A pixel on the border of two blocks takes part in both, and shows both, by its overlap.
    """
    blocks = max(1, round(side * (1 - amount)))
    edges = np.linspace(0, side, blocks + 1)
    pixel = np.arange(side)
    overlap = np.minimum(edges[1:, None], pixel + 1) - np.maximum(edges[:-1, None], pixel)
    overlap = overlap.clip(0).astype(np.float32)
    together = (overlap[:, :, None] * overlap[:, None, :]).sum(0)  # Of two terms at most.
    average: Floats = together * np.float32(blocks / side)
    return average


CORRUPTIONS: Final[dict[str, Corruption]] = {
    "gaussian_noise": Corruption(_gaussian_noise, (0.08, 0.14, 0.20, 0.26, 0.35)),
    "blur": Corruption(_blur, (0.05, 0.075, 0.10, 0.125, 0.15)),
    "contrast": Corruption(_contrast, (0.25, 0.4, 0.5, 0.6, 0.7)),
    "rotation": Corruption(_rotation, (5, 10, 15, 20, 25)),
    "pixelation": Corruption(_pixelation, (0.15, 0.25, 0.375, 0.5, 0.6)),
    "speckle_noise": Corruption(_speckle_noise, (0.15, 0.3, 0.45, 0.6, 0.8)),
    "brightness": Corruption(_brightness, (0.08, 0.16, 0.24, 0.32, 0.4)),
    "translation": Corruption(_translation, (0.02, 0.04, 0.06, 0.08, 0.1)),
}
"""Amounts: noise and brightness in shares of the full range (speckle: of the pixel), blur's sigma
and translation in shares of the side, contrast and pixelation in shares of contrast and resolution
lost, rotation in degrees."""

TEST: Final = ("gaussian_noise", "blur", "contrast", "rotation", "pixelation")
VALIDATION: Final = ("speckle_noise", "brightness", "translation")
VALIDATION_SEVERITIES: Final = (1, 2, 3)
SEVERITIES: Final = (1, 2, 3, 4, 5)


def corrupt(images: Images, condition: str, severity: int, seed: int) -> Images:
    """Return corrupted copies of ``images``, equal for equal arguments.

    Args:
        images: (N, C, H, W).
        condition: Key of ``CORRUPTIONS``.
        severity: 1 to 5.
        seed: Root of the random draws.

    Raises:
        ValueError: When the severity is not one of 1 to 5.
    """
    if severity not in SEVERITIES:
        raise ValueError(f"severity must be one of {SEVERITIES}, but is {severity}")
    corruption = CORRUPTIONS[condition]
    rng = np.random.default_rng(derive_seed("corruption", seed, condition))
    changed = corruption.apply(images.astype(np.float32), corruption.amounts[severity - 1], rng)
    return np.rint(changed).clip(0, 255).astype(np.uint8)


def shifted(
    images: Images,
    labels: Labels,
    size: int,
    seed: int,
    conditions: Sequence[str] = TEST,
    severities: Sequence[int] = SEVERITIES,
    distinct: bool = False,
) -> Shifted:
    """Return corrupted copies of seeded subsets.

    Args:
        images: (N, C, H, W) clean images of a split.
        labels: (N,).
        size: Images of a subset at most.
        seed: Root of the subsets and of the corruptions' random draws.
        conditions: Keys of ``CORRUPTIONS``, at least one.
        severities: Any of 1 to 5, at least one.
        distinct: See :func:`subsets`.

    Returns:
        Rows ordered by condition, severity and example, in the order of the arguments.
    """
    cells = list(product(conditions, severities))
    examples = subsets(len(cells), len(labels), size, seed, distinct)
    copies = [corrupt(images[own], *cell, seed) for own, cell in zip(examples, cells, strict=True)]
    return Shifted.of(np.concatenate(copies), labels, examples, cells)


def subsets(
    number: int, total: int, size: int, seed: int, distinct: bool = False
) -> NDArray[np.int64]:
    """Return K subsets of at most S of the numbers below ``total``, each ascending, (K, S).

    Args:
        number: K.
        total: Of what they are drawn.
        size: S.
        seed: Of the draw.
        distinct: Whether none shares a number with another before all have been used, or all are
            the same.
    """
    rng = np.random.default_rng(derive_seed("subset", seed))
    drawn = rng.permutation(total)
    size = min(size, total)
    first = np.arange(number) * size if distinct else np.zeros(number, np.int64)
    return np.sort(drawn[(first[:, None] + np.arange(size)) % total], axis=1)


def subset(total: int, size: int, seed: int) -> NDArray[np.int64]:
    """Return at most ``size`` of the numbers below ``total``, ascending, drawn by ``seed``."""
    (only,) = subsets(1, total, size, seed)
    return only
