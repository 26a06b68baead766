"""The images of a data set that its report shows, as a table of the public format."""

from collections.abc import Iterator
from functools import reduce
from typing import Any, Final

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from study.datasets._types import Dataset, Images, evenly
from study.parquet_format import IMAGES

SHOWN: Final = 12
"""Images of each out-of-distribution set, and test images at least."""
MOST: Final = 2000
MOST_BYTES: Final = 2**24
"""Test images kept at most, by number and by size: among them are sought those that members
disagree on."""


def sample(dataset: Dataset) -> pa.Table:
    """Return test images, corrupted copies of some and out-of-distribution ones."""
    images, labels = dataset.test
    shift = dataset.shift
    # Of each corruption one example is shown at every severity, in turn another; where none has
    # copies at all severities, one of each severity.
    at, copied = [], []
    for number, name in enumerate(dict.fromkeys(shift.condition.tolist())):
        own = np.flatnonzero(shift.condition == name)
        cells = [own[shift.severity[own] == s] for s in np.unique(shift.severity[own])]
        everywhere = reduce(np.intersect1d, [shift.example[cell] for cell in cells])
        for cell in cells:
            if len(everywhere):
                cell = cell[shift.example[cell] == everywhere[number % len(everywhere)]]
            at.append(int(cell[number % len(cell)]))
            copied.append(shift.example[at[-1]])
    most = max(SHOWN, min(MOST, MOST_BYTES // images[0].nbytes))
    kept = np.union1d(evenly(len(images), most), copied)
    rows = list(_rows("test", images[kept], example=kept, label=labels[kept]))
    rows += _rows(
        "shift",
        shift.images[at],
        example=shift.example[at],
        label=shift.labels[at],
        condition=shift.condition[at],
        severity=shift.severity[at],
    )
    for name, foreign in sorted(dataset.ood.items()):
        few = evenly(len(foreign), SHOWN)
        rows += _rows("ood", foreign[few], example=few, condition=np.repeat(name, len(few)))
    return pa.Table.from_pylist(rows, schema=IMAGES)


def _rows(split: str, images: Images, **columns: NDArray[Any]) -> Iterator[dict[str, object]]:
    _, channels, height, width = images.shape
    for n, image in enumerate(images):
        yield {
            "split": split,
            "channels": channels,
            "height": height,
            "width": width,
            "pixels": np.ascontiguousarray(image).tobytes(),
        } | {name: values[n].item() for name, values in columns.items()}
