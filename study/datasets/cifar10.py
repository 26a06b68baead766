"""CIFAR-10 (Krizhevsky 2009): 60,000 photographs of 10 kinds of thing, 32x32 colour.

Out of distribution: the test images of SVHN. Shifted: the published CIFAR-10-C where its folder is
among the data, else the project's own ladder.
"""

from pathlib import Path
from typing import Literal

from pydantic import Field

from study.datasets import CommonOptions, Dataset, Shifted, _cifar10c
from study.datasets import _parquet_images as parquet_images
from study.datasets import _torchvision as torchvision
from study.datasets._splits import Labelled, assemble, data_folder, shift_seed
from study.errors import StudyError


class Options(CommonOptions):
    """Options of CIFAR-10."""

    name: Literal["cifar10"] = "cifar10"
    val_size: int = Field(5000, ge=1, description="training images held out for tuning")
    ood: Literal["svhn", "none"] = "svhn"


def load(options: Options, root: Path | None) -> Dataset:
    """Return CIFAR-10 from ``root``: torchvision's layout, else ``cifar10/*.parquet``, else by net.

    Raises:
        StudyError: When files are missing or damaged, or the sizes do not fit.
    """
    folder = data_folder(options.name, root)
    ood = torchvision.read_ood(options.ood, folder)
    train, test = _read(folder)
    shift = _published_shift(options, folder, test)
    return assemble(options, train, test, classes=10, ood=ood, shift=shift)


def _read(folder: Path) -> tuple[Labelled, Labelled]:
    in_parquet = parquet_images.find(folder / "cifar10", "train")
    if in_parquet and not (folder / "cifar-10-batches-py").is_dir():
        return _read_parquet(folder / "cifar10", "train"), _read_parquet(folder / "cifar10", "test")
    remedy = ", as it is or as cifar10/train.parquet and cifar10/test.parquet"
    return (
        torchvision.read("cifar10", folder, train=True, remedy=remedy),
        torchvision.read("cifar10", folder, train=False, remedy=remedy),
    )


def _read_parquet(folder: Path, split: str) -> Labelled:
    files = parquet_images.find(folder, split)
    if not files:
        raise StudyError(f"dataset cifar10: no {split}*.parquet in {folder}; complete the folder")
    data = parquet_images.read(files, parquet_images.Form(channels=3), classes=10)
    if data[0].shape[1:] != (3, 32, 32):
        raise StudyError(
            f"{files[0]}: images must be 32x32 in colour, but are {data[0].shape[1:]}; "
            "name other sets with dataset parquet"
        )
    return data


def _published_shift(options: Options, folder: Path, test: Labelled) -> Shifted | None:
    corrupted = folder / "CIFAR-10-C"
    if not corrupted.is_dir():
        return None
    size, seed, distinct = options.shift_size, shift_seed(options), options.shift_distinct
    return _cifar10c.read(corrupted, test[1], size, seed, distinct)
