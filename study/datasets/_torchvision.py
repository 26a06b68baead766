"""Reading the sets that torchvision knows; it downloads what is missing where it can."""

import contextlib
import io
import socket
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np

from study.datasets import CommonOptions, Dataset, Images
from study.datasets._splits import Labelled, assemble, check_labels, data_folder
from study.errors import StudyError

DOWNLOAD_TIMEOUT: Final = 30.0
"""Seconds without an answer after which a download is given up, as behind a silent firewall."""


@dataclass(frozen=True)
class Source:
    """A class of torchvision and the files, below the data folder, that it needs."""

    class_name: str
    files: tuple[str, ...]


def _idx(class_name: str) -> Source:
    parts = ("train-images-idx3", "train-labels-idx1", "t10k-images-idx3", "t10k-labels-idx1")
    return Source(class_name, tuple(f"{class_name}/raw/{part}-ubyte" for part in parts))


SOURCES: Final = {
    "mnist": _idx("MNIST"),
    "fashion_mnist": _idx("FashionMNIST"),
    "cifar10": Source(
        "CIFAR10",
        tuple(
            f"cifar-10-batches-py/{name}"
            for name in (*(f"data_batch_{i}" for i in range(1, 6)), "test_batch", "batches.meta")
        ),
    ),
    "svhn": Source("SVHN", ("test_32x32.mat",)),
}


def load_with_ood(options: CommonOptions, ood: str, root: Path | None) -> Dataset:
    """Return the set ``options.name``; ``ood`` names the set whose test images are foreign to it.

    Raises:
        StudyError: When files are missing or damaged, or the sizes do not fit.
    """
    return assemble(
        options,
        read(options.name, root, train=True),
        read(options.name, root, train=False),
        classes=10,
        ood=read_ood(ood, root),
    )


def read_ood(name: str, root: Path | None) -> dict[str, Images]:
    """Return the test images of the set ``name`` under its name; nothing for ``none``.

    Raises:
        StudyError: When files are missing or damaged.
    """
    if name == "none":
        return {}
    return {name: read(name, root, train=False, remedy=", or set the dataset's ood to none")[0]}


def read(name: str, root: Path | None, *, train: bool, remedy: str = "") -> Labelled:
    """Return the images (N, C, H, W) and labels (N,) of one part of a set.

    Args:
        name: Key of ``SOURCES``.
        root: Folder with the files, or to which they are downloaded.
        train: Whether to read the training part; the test part otherwise (SVHN has only that).
        remedy: What else the user may do about missing files.

    Raises:
        StudyError: When the files are missing and cannot be downloaded, or are damaged.
    """
    folder = data_folder(name, root)
    source = SOURCES[name]
    missing = [file for file in source.files if not (folder / file).is_file()]
    part: dict[str, Any] = {"split": "test"} if name == "svhn" else {"train": train}
    try:
        raw = _construct(source.class_name, folder, download=bool(missing), **part)
    except Exception as error:  # torchvision's readers fail with whatever the damage provokes
        raise StudyError(_explain(name, folder, missing, error, remedy)) from error
    images = _images(raw.data)
    labels = np.asarray(raw.labels if name == "svhn" else raw.targets, np.int64)
    if len(images) != len(labels):
        raise StudyError(
            f"dataset {name}: images and labels in {folder} must be as many, but are "
            f"{len(images)} and {len(labels)}; delete the files to have them downloaded again"
        )
    check_labels(labels, 10, f"dataset {name} in {folder}")
    return images, labels


def _construct(class_name: str, folder: Path, **arguments: Any) -> Any:
    import torchvision.datasets  # slow to import

    with _quiet_download(), warnings.catch_warnings():
        # numpy deprecates how the published CIFAR-10 files were pickled; their user cannot fix it
        warnings.simplefilter("ignore", np.exceptions.VisibleDeprecationWarning)
        return getattr(torchvision.datasets, class_name)(str(folder), **arguments)


@contextlib.contextmanager
def _quiet_download() -> Iterator[None]:
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(DOWNLOAD_TIMEOUT)
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        socket.setdefaulttimeout(before)


def _explain(name: str, folder: Path, missing: list[str], error: Exception, remedy: str) -> str:
    reason = " ".join(str(error).split()) or type(error).__name__
    if missing:
        return (
            f"dataset {name}: no {missing[0]} in {folder}, and it cannot be downloaded ({reason}); "
            f"name the folder that has it with --data-root{remedy}"
        )
    return (
        f"dataset {name}: its files in {folder} are damaged ({reason}); "
        "delete them to have them downloaded again, or name another folder with --data-root"
    )


def _images(raw: Any) -> Images:
    """Return (N, C, H, W) from torchvision's (N, H, W), (N, H, W, 3) or (N, 3, H, W)."""
    images: Images = np.asarray(raw)
    if images.ndim == 3:
        return images[:, None]
    return np.ascontiguousarray(images if images.shape[1] == 3 else images.transpose(0, 3, 1, 2))
