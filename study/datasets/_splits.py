"""What every image set does alike: find its folder, check labels, split, make shifted copies."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from study.datasets import CommonOptions, Dataset, Images, Labels, Shifted
from study.datasets._corruptions import VALIDATION, VALIDATION_SEVERITIES, shifted, subset
from study.errors import StudyError
from study.spec import derive_seed

Labelled = tuple[Images, Labels]
Rows = NDArray[np.int64]


def data_folder(name: str, root: Path | None) -> Path:
    """Return ``root`` once it is known to be a folder.

    Raises:
        StudyError: When it is not given or is no folder.
    """
    if root is None:
        raise StudyError(f"dataset {name} needs a folder with its files; name it with --data-root")
    if not root.is_dir():
        raise StudyError(f"dataset {name}: there is no folder {root}; fix --data-root")
    return root


def check_labels(labels: Labels, classes: int, what: str) -> None:
    """Check that every label is from 0 to ``classes`` - 1.

    Args:
        labels: (N,).
        classes: Number of classes C.
        what: File or set for the error.

    Raises:
        StudyError: With the first row that is wrong.
    """
    wrong = np.flatnonzero((labels < 0) | (labels >= classes))
    if len(wrong):
        raise StudyError(
            f"{what}, row {wrong[0]}: label must be from 0 to {classes - 1}, but is "
            f"{labels[wrong[0]]}; drop or relabel such rows"
        )


def assemble(
    options: CommonOptions,
    pool: Labelled,
    test: Labelled | None,
    classes: int,
    ood: dict[str, Images],
    val: Labelled | None = None,
    shift: Shifted | None = None,
) -> Dataset:
    """Return the set whose train and val come from ``pool``.

    Args:
        options: Sizes and seed of the split.
        pool: Images and labels that train and val are drawn from.
        test: The set's own test images and labels; None: what train and val leave of the pool.
        classes: Number of classes C.
        ood: Out-of-distribution images by name; at most ``ood_size`` of each are kept.
        val: Images and labels that val is drawn from instead of the pool.
        shift: The set's own shifted test images; by default the test ladder of the project.

    Raises:
        StudyError: When there are too few images for the sizes asked for, or a single class.
    """
    _check_two_classes(pool[1], options.name)
    if val is None:
        rows = split(pool[1], options, spare=0 if test else 1)
        train, val, rest = (_take(pool, part) for part in rows)
        test = test or rest
    else:
        train = _sample(pool, "train_size", options.train_size or len(pool[1]), options)
        val = _sample(val, "val_size", options.val_size, options)
        test = test or val
    size, seed, distinct = options.shift_size, shift_seed(options), options.shift_distinct
    shift = shift or shifted(*test, size, seed, distinct=distinct)
    # What the test's shifted copies contain is no part of the validation ladder.
    ladder = [condition for condition in VALIDATION if condition not in shift.condition]
    return Dataset(
        train=train,
        val=val,
        test=test,
        val_shift=shifted(*val, size, seed, ladder, VALIDATION_SEVERITIES, distinct),
        shift=shift,
        classes=classes,
        ood={name: keep(images, options) for name, images in ood.items()},
    )


def shift_seed(options: CommonOptions) -> int:
    """Return the seed of the shifted copies: of their subset and of their corruptions."""
    return derive_seed("shift", options.split_seed)


def _check_two_classes(labels: Labels, name: str) -> None:
    if len(np.unique(labels)) < 2:
        raise StudyError(
            f"dataset {name}: the training images must have at least 2 classes, "
            f"but all have label {labels[0] if len(labels) else None}; check the labels"
        )


def split(labels: Labels, options: CommonOptions, spare: int = 0) -> tuple[Rows, Rows, Rows]:
    """Return the ascending rows of train, val and the rest, all with all classes' proportions.

    The val of a seed does not depend on ``train_size``, and a smaller train is part of a larger.

    Args:
        labels: (N,) of all rows that may be drawn.
        options: Sizes (train null: all that val leaves) and seed of the split.
        spare: Rows that must be left over.

    Raises:
        StudyError: When the sizes ask for more rows than there are, or when rows must be left over
            and train is to take all.
    """
    if spare and options.train_size is None:
        raise StudyError(
            f"dataset {options.name}: train_size must be a number because the set has no test "
            "images of its own, but is null; set it so that enough images are left for the test"
        )
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


def _take(data: Labelled, rows: Rows) -> Labelled:
    return data[0][rows], data[1][rows]


def _sample(data: Labelled, key: str, size: int, options: CommonOptions) -> Labelled:
    if size > len(data[1]):
        raise StudyError(
            f"dataset {options.name}: {key} must be at most {len(data[1])}, but is {size}; lower it"
        )
    order = stratified_order(data[1], derive_seed("split", options.split_seed))
    return _take(data, np.sort(order[:size]))
