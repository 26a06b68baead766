"""Reading images from Parquet in the layout of the Hugging Face hub's image sets.

A row has the encoded image as ``image`` or ``img`` (struct of ``bytes`` and ``path``) and the class
as ``label``. Files are found by their split's name: one file, parts that are numbered from 0, or a
folder of that name. Of an image of several frames, as an animated GIF, the first counts.
"""

import io
import json
import re
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from PIL import Image, ImageOps, UnidentifiedImageError

from study.datasets import Images, Labels
from study.datasets._splits import Labelled, check_labels
from study.errors import StudyError
from study.run_folder.paths import is_lfs_pointer

MAX_PIXELS: Final = 4096 * 4096
"""Pixels of one stored image: a small file can decode to gigabytes."""
MAX_BYTES: Final = 8 * 2**30
"""Decoded bytes of one split, all of which is held in memory."""
MAX_ROWS: Final = 2_000_000
"""Rows of one split."""
FORMATS: Final = ("PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF")
"""What may be decoded: pictures, not the documents and programs that Pillow also opens."""
EIGHT_BIT: Final = {"1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr"}


@dataclass(frozen=True)
class Form:
    """What images are brought to.

    Attributes:
        channels: 1 for grey, 3 for colour.
        resize: Height and width in pixels, whatever the proportions; None: as stored.
    """

    channels: Literal[1, 3]
    resize: int | None = None


SPLITS: Final = {
    "train": ("train",),
    "validation": ("validation", "valid", "val", "dev"),
    "test": ("test",),
}
"""What files of each split are called."""
NAMES: Final = tuple(name for names in SPLITS.values() for name in names)

PART: Final = re.compile(
    r"(?P<row>[a-z_. -]*)(?P<number>\d{1,6})(-of-(?P<total>\d{1,6}))?([^a-z0-9].*)?", re.IGNORECASE
)
"""The name of a numbered file; longer numbers are dates or digests."""
UNFINISHED: Final = re.compile(
    r".*\.parquet\.(incomplete|part|partial|crdownload|download|aria2|tmp)", re.IGNORECASE
)
"""What the hub's client and browsers call a file that they still write."""


def find(folder: Path, split: str) -> list[Path]:
    """Return the Parquet files of ``split`` in ``folder``, in the order of their names.

    Raises:
        StudyError: When a part of a row of numbered files is missing or twice, or there are two
            sets.
    """
    found = {name: _called(folder, name) for name in SPLITS[split]}
    found = {name: files for name, files in found.items() if files}
    if len(found) > 1:
        raise StudyError(
            f"{folder}: a split must have one name, but there are files of {' and of '.join(found)}"
            "; keep those of one"
        )
    files = next(iter(found.values()), [])
    generations = sorted({_generation(folder, file) for file in files})
    if len(generations) > 1:
        raise StudyError(
            f"{folder}: the {split} files must be of one generation, but some are of "
            f"{' and some of '.join(generations)}; remove those of the other download"
        )
    rows: dict[str, dict[int, Path]] = {}
    for file in files:
        if match := PART.fullmatch(file.stem):
            number, row = int(match["number"]), rows.setdefault(_row(match), {})
            if (other := row.setdefault(number, file)) != file:
                raise StudyError(
                    f"{folder}: part {number} of the {split} files must be there once, but is "
                    f"{other.name!r} and {file.name!r}; remove the copy, or number all"
                )
    total = int(generations[0]) if generations and generations[0].isdigit() else 0
    for row in rows.values():
        for number in range(max(total, max(row) + 1)):
            if number not in row:
                raise StudyError(
                    f"{folder}: part {number} of the {split} files is missing; get it again, or "
                    "number the files from 0"
                )
    return files


def _row(match: re.Match[str]) -> str:
    """Return what stands before the number of a file."""
    return match["row"].rstrip("-_. ").lower()


def _generation(folder: Path, file: Path) -> str:
    """Return of how many parts a file says that it is, or where it lies; of one set all agree."""
    match = PART.fullmatch(file.stem)
    if match and match["total"]:
        return match["total"]
    # Files of a folder need not say how many they are.
    if file.parent != folder:
        return f"the folder {file.parent.name}/"
    return "parts without a total" if match else "one file"


def parquet_files(folder: Path) -> list[Path]:
    """Return the Parquet files in a folder, and in the folders in it that are called by a split.

    What macOS puts beside a file on a foreign disk (``._train.parquet``) is none of them.

    Raises:
        StudyError: When one of them is still being downloaded.
    """
    if not folder.is_dir():
        return []
    places = [folder, *(path for path in folder.iterdir() if _stem(path) in NAMES)]
    inside = sorted(file for place in places if place.is_dir() for file in place.iterdir())
    for file in inside:
        if UNFINISHED.fullmatch(file.name):
            raise StudyError(
                f"{file}: every file must be whole, but this download has not ended; let it end, "
                "or remove the file"
            )
    return [
        file
        for file in inside
        if file.suffix.lower() == ".parquet"
        and not file.name.startswith("._")
        and not file.is_dir()
    ]


def _stem(path: Path) -> str:
    """Return what the folder of a split is called: Spark gives it the name of a file."""
    return path.name.removesuffix(".parquet")


def _name(folder: Path, file: Path) -> str:
    """Return what a file is called without its number, or the folder in ``folder`` that has it."""
    if file.parent != folder:
        return _stem(file.parent)
    match = PART.fullmatch(file.stem)
    return _row(match) if match else file.stem.lower()


def _called(folder: Path, *names: str) -> list[Path]:
    """Return the files of one of these names, numbered or not, or in a folder of that name."""
    return [file for file in parquet_files(folder) if _name(folder, file) in names]


def place_of(folder: Path) -> Path:
    """Return where a set lies in its folder: there, or in ``data/`` as in a clone of the hub."""
    below = folder / "data"
    return below if not _called(folder, *NAMES) and parquet_files(below) else folder


def unread(folder: Path) -> list[str]:
    """Return the names of Parquet files in a folder, or in ``data/`` in it, that nothing reads."""
    read = set(_called(place_of(folder), *NAMES))
    every = [*parquet_files(folder), *parquet_files(folder / "data")]
    return [str(file.relative_to(folder)) for file in every if file not in read]


def read(files: list[Path], form: Form, classes: int) -> Labelled:
    """Return the images (N, C, H, W) and labels (N,) of all rows, in the order of the files.

    Raises:
        StudyError: With the file, and the row where one is at fault.
    """
    images = read_images(files, form)
    labels = [_read_labels(file) for file in files]
    for file, part in zip(files, labels, strict=True):
        check_labels(part, classes, str(file))
    return images, np.concatenate(labels)


def count_classes(files: list[Path]) -> int:
    """Return the number of classes: of the names in the files' metadata, else the largest label's.

    Raises:
        StudyError: When a file cannot be read, names differ between files, or labels without names
            do not number the classes.
    """
    named = {file: names for file in files if (names := _named_classes(_open(file).schema_arrow))}
    for file, names in named.items():
        first = next(iter(named))
        if names != named[first]:
            raise StudyError(
                f"{file}: its classes must have the names and the order of those in {first.name}, "
                f"but {_differing(named[first], names)}; write both with the same names"
            )
    if named:
        return len(next(iter(named.values())))
    labels = np.unique(np.concatenate([_read_labels(file) for file in files]))
    # A negative label is said with its row, when the file is read.
    if len(labels) and labels[0] >= 0 and (labels[0] > 0 or labels[-1] != len(labels) - 1):
        raise StudyError(
            f"{files[0].parent}: labels must number the classes from 0 without gaps, but the "
            f"{len(labels)} that occur are from {labels[0]} to {labels[-1]}; renumber them"
        )
    return int(labels.max(initial=0)) + 1


def _differing(ours: list[str], theirs: list[str]) -> str:
    """Say where two lists of class names differ first."""
    for number, (one, other) in enumerate(zip(ours, theirs, strict=False)):
        if one != other:
            return f"class {number} is {other!r} here and {one!r} there"
    return f"there are {len(theirs)} here and {len(ours)} there"


def read_images(files: list[Path], form: Form) -> Images:
    """Return the images (N, C, H, W) of all rows, in the order of the files.

    Raises:
        StudyError: With the file and row of an image that does not fit.
    """
    total = sum(_open(file).metadata.num_rows for file in files)
    if not total:
        raise StudyError(f"{files[0]}: must have at least one row, but has none; get it again")
    images: Images | None = None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # MAX_PIXELS is stricter
        for row, (where, encoded) in enumerate(_encoded_images(files)):
            image = _decode(encoded, form, where)
            if images is None:
                images = _allocate(total, image.shape, files[0])
            if image.shape != images.shape[1:]:
                raise StudyError(
                    f"{where}: all images must have the same size, but this one is "
                    f"{_size(image.shape)} and the first {_size(images.shape[1:])}; set resize"
                )
            images[row] = image
    assert images is not None
    return images


def _open(file: Path) -> pq.ParquetFile:
    try:
        return pq.ParquetFile(file)
    except (pa.ArrowException, OSError) as error:
        raise _damaged(file, error) from error


def _damaged(file: Path, error: Exception) -> StudyError:
    if is_lfs_pointer(file):
        return StudyError(f"{file}: is Git LFS's pointer to the file; fetch it with git lfs pull")
    reason = " ".join(str(error).split())
    return StudyError(f"{file}: cut short or not Parquet ({reason}); get the file again")


def _read_column(file: Path, source: pq.ParquetFile, name: str) -> Iterator[pa.Array]:
    try:
        for batch in source.iter_batches(batch_size=512, columns=[name]):
            yield batch.column(0)
    except (pa.ArrowException, OSError) as error:
        raise _damaged(file, error) from error


def _read_labels(file: Path) -> Labels:
    source = _open(file)
    schema = source.schema_arrow
    if schema.names.count("label") != 1:
        raise _no_column(file, "label", schema)
    if not pa.types.is_integer(schema.field("label").type):
        raise StudyError(
            f"{file}: column label must hold integers, but holds {schema.field('label').type}; "
            "number the classes from 0"
        )
    column = pa.chunked_array(_read_column(file, source, "label"), schema.field("label").type)
    if column.null_count:
        row = pc.index(pc.is_null(column), True).as_py()
        raise StudyError(f"{file}, row {row}: label must be a number, but is null; drop such rows")
    largest = pc.max(column).as_py() or 0
    if largest > np.iinfo(np.int64).max:
        raise StudyError(f"{file}: label must be from 0, but is {largest}; number the classes")
    labels: Labels = column.to_numpy().astype(np.int64)
    if len(labels) and (labels == -1).all():
        raise StudyError(
            f"{file}: every label is -1, as where they are kept secret; get them, or take the "
            "file away: the test is drawn from other files then"
        )
    return labels


def _no_column(file: Path, name: str, schema: pa.Schema) -> StudyError:
    found = ", ".join(schema.names)
    return StudyError(f"{file}: must have one column {name}, but has {found}; rename the column")


def _named_classes(schema: pa.Schema) -> list[str] | None:
    """Return the class names that the hub's own metadata lists, if it is there."""
    try:
        features: Any = json.loads((schema.metadata or {})[b"huggingface"])["info"]["features"]
        return list(features["label"]["names"]) or None
    except (KeyError, TypeError, ValueError):
        return None


def _encoded_images(files: list[Path]) -> Iterator[tuple[str, bytes | None]]:
    for file in files:
        source = _open(file)
        name = _image_column(file, source.schema_arrow)
        row = 0
        for column in _read_column(file, source, name):
            for encoded in pc.struct_field(column, "bytes").to_pylist():
                yield f"{file}, row {row}", encoded
                row += 1


def _image_column(file: Path, schema: pa.Schema) -> str:
    name = next((name for name in ("image", "img") if schema.names.count(name) == 1), None)
    if name is None:
        raise _no_column(file, "image or img", schema)
    kind = schema.field(name).type
    if not pa.types.is_struct(kind) or kind.get_field_index("bytes") < 0:
        raise StudyError(
            f"{file}: column {name} must be a struct with the field bytes, but is {kind}; "
            "write the set with embedded images"
        )
    return name


def _decode(encoded: bytes | None, form: Form, where: str) -> Images:
    """Return one image (C, H, W)."""
    if encoded is None:
        raise StudyError(f"{where}: has no image bytes; write the set with embedded images")
    try:
        image = Image.open(io.BytesIO(encoded), formats=FORMATS)
        _check(image, where)
        return _pixels(image, form)
    except StudyError:
        raise
    except Exception as error:  # Pillow's decoders fail with whatever the damage provokes
        reason = re.sub(r" <_io.*?>", "", str(error)) or type(error).__name__
        remedy = "drop the row or get the file again"
        if isinstance(error, UnidentifiedImageError):
            reason, remedy = (
                f"it is none of {', '.join(FORMATS)}",
                f"convert it to one, or {remedy}",
            )
        raise StudyError(f"{where}: the image cannot be decoded ({reason}); {remedy}") from error


def _check(image: Image.Image, where: str) -> None:
    if image.width * image.height > MAX_PIXELS:
        raise StudyError(
            f"{where}: an image must have at most {MAX_PIXELS} pixels, but is "
            f"{image.width}x{image.height}; store it smaller"
        )
    if image.mode not in EIGHT_BIT:
        raise StudyError(
            f"{where}: an image must have 8 bits per channel, but is of Pillow's mode "
            f"{image.mode}; convert it"
        )


def _pixels(image: Image.Image, form: Form) -> Images:
    if "exif" in image.info:
        image = ImageOps.exif_transpose(image)
    if "A" in image.mode or "transparency" in image.info:
        # As a browser shows it; without a ground, pixels that nobody sees would count.
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(white, image)
    image = image.convert("L" if form.channels == 1 else "RGB")
    if form.resize:
        image = image.resize((form.resize, form.resize), Image.Resampling.BILINEAR)
    pixels = np.asarray(image)
    return pixels[None] if form.channels == 1 else pixels.transpose(2, 0, 1)


def _allocate(total: int, shape: tuple[int, ...], file: Path) -> Images:
    most = min(MAX_ROWS, MAX_BYTES // int(np.prod(shape)))
    if total > most:
        raise StudyError(
            f"{file.parent}: a split must have at most {most} images of {_size(shape)}, "
            f"but has {total}; set a smaller resize or use fewer rows"
        )
    return np.empty((total, *shape), np.uint8)


def _size(shape: tuple[int, ...]) -> str:
    return f"{shape[2]}x{shape[1]}"
