"""What is odd about a data set, said before hours are spent on it."""

from collections.abc import Iterator
from hashlib import blake2b
from itertools import combinations

import numpy as np

from study.datasets._types import Dataset, Images

SHOWN = 5
"""Classes that are named at most."""


def inspect(data: Dataset) -> list[str]:
    """Return a line on each of: duplicates, constant images, absent classes, sorted splits.

    Out-of-distribution images are looked for among the others, too.

    None of these need be a mistake (blank images exist, and a small split may miss a class), so
    nothing is refused.
    """
    return [*data.notes, *_duplicates(data), *_constant(data), *_classes(data), *_sorted(data)]


def _splits(data: Dataset) -> dict[str, Images]:
    return {"train": data.train[0], "val": data.val[0], "test": data.test[0]}


def _digests(images: Images) -> set[bytes]:
    """Return the images' digests: a set may fill most of the memory."""
    return {blake2b(image.tobytes(), digest_size=16).digest() for image in images}


def _duplicates(data: Dataset) -> Iterator[str]:
    seen = {name: _digests(images) for name, images in _splits(data).items()}
    for name, images in _splits(data).items():
        if len(seen[name]) < len(images):
            copies = len(images) - len(seen[name])
            yield f"{copies} of the {len(images)} {name} images are copies of others in {name}"
    for one, other in combinations(seen, 2):
        if both := len(seen[one] & seen[other]):
            yield f"{both} images are both in {one} and in {other}: {other} is no test of learning"
    for name, images in data.ood.items():
        for split in seen:
            if both := len(seen[split] & _digests(images)):
                yield (
                    f"{both} out-of-distribution images of {name} are in {split} as well: they are "
                    "not foreign"
                )


def _constant(data: Dataset) -> Iterator[str]:
    for name, images in _splits(data).items():
        flat = images.reshape(len(images), -1)
        if found := int((flat.min(1) == flat.max(1)).sum()):
            yield f"{found} of the {len(images)} {name} images are one colour throughout"


def _classes(data: Dataset) -> Iterator[str]:
    for name in ("train", "val", "test"):
        counts = np.bincount(getattr(data, name)[1], minlength=data.classes)
        if np.count_nonzero(counts) == 1:
            yield f"every example in {name} is of class {counts.argmax()}: nothing to tell apart"
        elif empty := np.flatnonzero(counts == 0).tolist():
            more = ", ..." if len(empty) > SHOWN else ""
            listed = f"{', '.join(map(str, empty[:SHOWN]))}{more}"
            yield f"{len(empty)} of {data.classes} classes have no example in {name}: {listed}"


def _sorted(data: Dataset) -> Iterator[str]:
    for name in ("train", "val", "test"):
        labels = getattr(data, name)[1]
        runs, present = 1 + int((np.diff(labels) != 0).sum()), len(np.unique(labels))
        if 1 < runs == present < len(labels) / 2:
            yield (
                f"{name} is sorted by class ({runs} runs in {len(labels)} images): batches are "
                "drawn at random, but a part that is cut off in order has not all classes"
            )
