"""The images that a run kept for its report."""

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from analysis.data.files import read_published
from analysis.data.run import Run
from study.errors import StudyError

NAME: Final = "images.parquet"
REMEDY: Final = "remove it and give the command of the study again"


@dataclass(frozen=True)
class Image:
    """One image as the networks see it, before it is normalised.

    Attributes:
        split: ``test``, ``shift`` or ``ood``.
        example: Its number in the split's predictions; of ``ood``, in its set.
        label: Class, None out of distribution.
        condition: Corruption or out-of-distribution set, None for a test image.
        severity: 1 to 5, None where it is no corruption.
        pixels: (C, H, W) uint8; a series has H = 1.
    """

    split: str
    example: int
    label: int | None
    condition: str | None
    severity: int | None
    pixels: npt.NDArray[np.uint8]


def images(run: Run) -> list[Image]:
    """Return the images; none where none were kept.

    Raises:
        StudyError: When the file is damaged or breaks the format.
    """
    file = run.folder / NAME
    if run.given or not file.exists():
        return []
    table = read_published(file, "IMAGES", REMEDY)
    try:
        return [_image(**row) for row in table.to_pylist()]
    except ValueError as error:
        raise StudyError(f"{file}: pixels must fill their image, but {error}; {REMEDY}") from None


def _image(channels: int, height: int, width: int, pixels: bytes, **about: Any) -> Image:
    shape = (channels, height, width)
    return Image(**about, pixels=np.frombuffer(pixels, np.uint8).reshape(shape))
