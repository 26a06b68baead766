"""Any image set in Parquet files as the Hugging Face hub has them: a folder with train and test.

The folder, or ``data/`` in it, has the files of ``train`` and may have those of ``validation`` (or
``valid``, ``val``, ``dev``) and ``test``. Each is one file (``train.parquet``), parts that are
numbered from 0 (``train-00000-of-00002.parquet``, ``train_0.parquet``) or a folder
(``train/0000.parquet``); no other file is read, and a note names it. Transparent images are laid on
white. Without test files the validation files are the test; without both, the test is what train
and val leave of the training files.
"""

import os.path
from dataclasses import replace
from pathlib import Path
from typing import Literal

from pydantic import Field

from study.datasets import CommonOptions, Dataset, Images
from study.datasets import _parquet_images as parquet_images
from study.datasets._parquet_images import Form
from study.datasets._splits import Labelled, assemble, data_folder
from study.errors import StudyError
from study.run_folder.paths import local_path

SHOWN = 5
"""Names of files that a line has at most."""


class Options(CommonOptions):
    """Options of a set in Parquet files."""

    name: Literal["parquet"] = "parquet"
    path: str = Field(min_length=1, description="folder, absolute or below the data root")
    val_size: int = Field(500, ge=1, description="images held out for tuning")
    resize: int | None = Field(None, ge=1, le=4096, description="side in pixels; null: as stored")
    channels: Literal[1, 3] = 3
    ood_path: str | None = Field(
        None, min_length=1, description="folder with out-of-distribution images, labels ignored"
    )


def load(options: Options, root: Path | None) -> Dataset:
    """Return the set in the folder ``options.path``.

    Raises:
        StudyError: With the file and row that is at fault, or when the sizes do not fit.
    """
    folder = _folder("path", options.path, root)
    ignored = parquet_images.unread(folder)
    notes = (f"{folder}: nothing reads {_few(ignored)}",) if ignored else ()
    folder = parquet_images.place_of(folder)
    files = {split: parquet_images.find(folder, split) for split in ("train", "validation", "test")}
    if not files["train"]:
        raise StudyError(f"dataset parquet: no train.parquet in {folder}, {_inside(folder)}")
    classes = parquet_images.count_classes([file for split in files.values() for file in split])
    form = Form(options.channels, options.resize)
    data = {
        split: parquet_images.read(found, form, classes) for split, found in files.items() if found
    }
    _check_sizes(data, folder)
    test = data.get("test") or data.get("validation")
    val = data.get("validation") if "test" in data else None
    ood = _read_ood(options, form, data["train"], root)
    return replace(assemble(options, data["train"], test, classes, ood, val), notes=notes)


def _inside(folder: Path) -> str:
    """Say what is there instead, and what to do."""
    names = sorted(path.name for path in folder.iterdir())
    if not names:
        return "which is empty; fix path"
    return f"but {_few(names)}; fix path, or rename the files"


def _few(names: list[str]) -> str:
    return f"{', '.join(names[:SHOWN])}{', ...' if len(names) > SHOWN else ''}"


def _folder(key: str, path: str, root: Path | None) -> Path:
    """Return the folder that the option ``key`` names."""
    if "://" in path:
        raise StudyError(
            f"dataset parquet: {key} must be a folder of this machine, but is {path}; "
            "download the set and name its folder"
        )
    folder = local_path(path)
    if not folder.is_absolute():
        base = data_folder("parquet", root)
        folder = base / os.path.normpath(path)
        if os.path.normpath(path).startswith(os.pardir):
            raise StudyError(
                f"dataset parquet: {key} must stay inside the data folder {base}, but is {path}; "
                "give an absolute path"
            )
    if folder.is_file():
        raise StudyError(
            f"dataset parquet: {key} must be a folder, but {folder} is a file; name that above it"
        )
    if not folder.is_dir():
        raise StudyError(
            f"dataset parquet: there is no folder {folder}; fix {key} or --data-root, or download "
            "the set there"
        )
    return folder


def _check_sizes(data: dict[str, Labelled], folder: Path) -> None:
    shapes = {split: images.shape[1:] for split, (images, _) in data.items()}
    for split, shape in shapes.items():
        if shape != shapes["train"]:
            raise StudyError(
                f"{folder}: all images must have the same size, but those of {split} are {shape} "
                f"and those of train {shapes['train']}; set resize"
            )


def _read_ood(
    options: Options, form: Form, train: Labelled, root: Path | None
) -> dict[str, Images]:
    if options.ood_path is None:
        return {}
    folder = _folder("ood_path", options.ood_path, root)
    files = parquet_images.find(folder, "test") or parquet_images.parquet_files(folder)
    if not files:
        raise StudyError(f"dataset parquet: no *.parquet in {folder}; fix ood_path")
    images = parquet_images.read_images(files, form)
    if images.shape[1:] != train[0].shape[1:]:
        raise StudyError(
            f"{folder}: out-of-distribution images must be {train[0].shape[1:]} as the training "
            f"images are, but are {images.shape[1:]}; set resize"
        )
    return {folder.name: images}
