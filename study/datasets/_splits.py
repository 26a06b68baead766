"""What every image set does alike: split by a recorded seed, and make the shifted copies."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from study.corruptions import TEST, VALIDATION, VALIDATION_SEVERITIES, shifted, subset
from study.datasets import CommonOptions, Dataset, Images, Labels, Shifted
from study.schema import StudyError
from study.spec import derive_seed

Labelled = tuple[Images, Labels]
Rows = NDArray[np.int64]


def assemble(
    options: CommonOptions,
    pool: Labelled,
    test: Labelled | None,
    classes: int,
    ood: dict[str, Images],
    shift: Shifted | None = None,
) -> Dataset:
    """Return the set whose train and val come from ``pool``.

    Args:
        options: Sizes and seed of the split.
        pool: Images and labels that train and val are drawn from.
        test: The set's own test images and labels; None: what train and val leave of the pool.
        classes: Number of classes C.
        ood: Out-of-distribution images by name; at most ``ood_size`` of each are kept.
        shift: The set's own shifted test images; by default the test ladder of the project.

    Raises:
        StudyError: When ``pool`` is too small for the sizes asked for.
    """
    rows = split(pool[1], options, spare=0 if test else 1)
    train, val, rest = (_take(pool, part) for part in rows)
    test = test or rest
    seed = derive_seed("shift", options.split_seed)
    shift = shift or shifted(*test, options.shift_size, seed)
    return Dataset(
        train=train,
        val=val,
        test=test,
        val_shift=shifted(*val, options.shift_size, seed, held_out(shift), VALIDATION_SEVERITIES),
        shift=shift,
        classes=classes,
        ood={name: keep(images, options) for name, images in ood.items()},
    )


def _take(data: Labelled, rows: Rows) -> Labelled:
    return data[0][rows], data[1][rows]


def held_out(shift: Shifted) -> Sequence[str]:
    """Return the validation ladder without what the test's shifted copies also contain."""
    tested = {*TEST, *np.unique(shift.condition).tolist()}
    return [condition for condition in VALIDATION if condition not in tested]


def split(labels: Labels, options: CommonOptions, spare: int = 0) -> tuple[Rows, Rows, Rows]:
    """Return the ascending rows of train, val and the rest, all with all classes' proportions.

    The val of a seed does not depend on ``train_size``, and a smaller train is part of a larger.

    Args:
        labels: (N,) of all rows that may be drawn.
        options: Sizes (train null: all that val leaves) and seed of the split.
        spare: Rows that must be left over.

    Raises:
        StudyError: When the sizes ask for more rows than there are.
    """
    left = len(labels) - options.val_size - spare
    train_size = left if options.train_size is None else options.train_size
    if not 1 <= train_size <= left:
        raise StudyError(
            f"dataset {options.name}: train_size + val_size must be at most "
            f"{len(labels) - spare}, with at least 1 for training, but is "
            f"{options.train_size} + {options.val_size}; lower train_size or val_size"
        )
    order = stratified_order(labels, derive_seed("split", options.split_seed))
    val, train, rest = np.split(order, [options.val_size, options.val_size + train_size])
    return np.sort(train), np.sort(val), np.sort(rest)


def stratified_order(labels: Labels, seed: int) -> Rows:
    """Return a seeded order of the rows in which every stretch has all classes' proportions."""
    shuffled = np.random.default_rng(seed).permutation(len(labels))
    place = np.empty(len(labels))
    for label in np.unique(labels):
        rows = np.flatnonzero(labels[shuffled] == label)
        place[rows] = (np.arange(len(rows)) + 0.5) / len(rows)
    return shuffled[np.argsort(place, kind="stable")]


def keep(images: Images, options: CommonOptions) -> Images:
    """Return at most ``ood_size`` of the images, drawn by the split's seed."""
    return images[subset(len(images), options.ood_size, derive_seed("ood", options.split_seed))]
