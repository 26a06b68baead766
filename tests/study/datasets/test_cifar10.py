import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from study.datasets import load
from study.datasets._cifar10c import CONDITIONS
from study.datasets._corruptions import TEST
from study.datasets.cifar10 import _read_parquet
from study.errors import StudyError

CIFAR = {"name": "cifar10", "val_size": 20, "shift_size": 4}
PLAIN = {**CIFAR, "ood": "none"}
Write = Callable[..., Any]


def published_test(root: Path) -> np.ndarray:
    batch = pickle.loads((root / "cifar-10-batches-py/test_batch").read_bytes())
    return batch["data"].reshape(-1, 3, 32, 32)


def write_corrupted(root: Path, labels: Any = range(10)) -> Path:
    """Write CIFAR-10-C of ten test images; pixels tell condition, severity and example."""
    folder = root / "CIFAR-10-C"
    folder.mkdir()
    for c, name in enumerate((*CONDITIONS, "spatter")):
        images = np.full((50, 32, 32, 3), c, np.uint8)
        images[..., 1] = np.repeat(range(1, 6), 10)[:, None, None]
        images[..., 2] = np.tile(range(10), 5)[:, None, None]
        np.save(folder / f"{name}.npy", images)
    np.save(folder / "labels.npy", np.tile(np.asarray(labels, np.uint8), 5))
    return folder


def test_published_files(write_cifar: Write, write_svhn: Write) -> None:
    foreign = write_svhn()
    root = write_cifar()
    data = load(CIFAR, root)
    np.testing.assert_array_equal(data.test[0], published_test(root))
    assert data.test[1].tolist() == list(range(10))
    assert [len(part[1]) for part in (data.train, data.val)] == [80, 20]
    np.testing.assert_array_equal(data.ood["svhn"], foreign)
    assert set(data.shift.condition) == set(TEST)


def test_missing_svhn_names_both_remedies(write_cifar: Write, no_network: list[str]) -> None:
    with pytest.raises(StudyError) as caught:
        load(CIFAR, write_cifar())
    assert str(caught.value).startswith("dataset svhn: no test_32x32.mat in ")
    assert str(caught.value).endswith("with --data-root, or set the dataset's ood to none")
    assert len(no_network) == 1


def test_missing_files_without_network(tmp_path: Path, no_network: list[str]) -> None:
    with pytest.raises(StudyError) as caught:
        load(PLAIN, tmp_path)
    assert str(caught.value).startswith(
        f"dataset cifar10: no cifar-10-batches-py/data_batch_1 in {tmp_path}"
    )
    assert str(caught.value).endswith(
        "--data-root, as it is or as cifar10/train.parquet and cifar10/test.parquet"
    )
    assert no_network


def test_damaged_files_are_kept_and_reported(write_cifar: Write, no_network: list[str]) -> None:
    root = write_cifar()
    (root / "cifar-10-batches-py/data_batch_3").write_bytes(b"half a file")
    with pytest.raises(StudyError, match=r"^dataset cifar10: its files in .* are damaged"):
        load(PLAIN, root)
    assert (root / "cifar-10-batches-py/data_batch_3").read_bytes() == b"half a file"
    assert no_network == []


def test_parquet_where_the_published_files_are_not(tmp_path: Path, write_parquet: Write) -> None:
    folder = tmp_path / "cifar10"
    write_parquet(folder / "train.parquet", [*range(10)] * 4, side=32, column="img")
    images = write_parquet(folder / "test.parquet", range(10), side=32, column="img")
    data = load(PLAIN, tmp_path)
    np.testing.assert_array_equal(data.test[0], images.transpose(0, 3, 1, 2))
    assert data.classes == 10


def test_parquet_without_its_test_part(tmp_path: Path, write_parquet: Write) -> None:
    write_parquet(tmp_path / "cifar10/train.parquet", range(10), side=32)
    with pytest.raises(StudyError, match=r"no test\*.parquet in .*cifar10; complete"):
        load(PLAIN, tmp_path)


def test_parquet_of_another_set(tmp_path: Path, write_parquet: Write) -> None:
    write_parquet(tmp_path / "cifar10/train.parquet", range(10), side=28)
    with pytest.raises(StudyError, match=r"must be 32x32 in colour, but are .3, 28, 28.; name"):
        load(PLAIN, tmp_path)


def test_published_files_come_before_parquet(write_cifar: Write, write_parquet: Write) -> None:
    root = write_cifar()
    for part in ("train", "test"):
        write_parquet(root / f"cifar10/{part}.parquet", range(10), side=32)
    np.testing.assert_array_equal(load(PLAIN, root).test[0], published_test(root))


@pytest.mark.parametrize("distinct", [False, True])
def test_published_corruptions_replace_the_ladder(write_cifar: Write, distinct: bool) -> None:
    root = write_cifar()
    write_corrupted(root)
    data = load(PLAIN | {"shift_distinct": distinct}, root)
    shift = data.shift
    assert shift.images.shape == (15 * 5 * 4, 3, 32, 32)
    assert shift.images.flags.c_contiguous
    assert [CONDITIONS[i] for i in shift.images[:, 0, 0, 0]] == shift.condition.tolist()
    assert shift.images[:, 1, 0, 0].tolist() == shift.severity.tolist()
    assert shift.images[:, 2, 0, 0].tolist() == shift.example.tolist()
    np.testing.assert_array_equal(shift.labels, data.test[1][shift.example])
    rows = list(zip(shift.condition, shift.severity, shift.example, strict=True))
    order = {name: i for i, name in enumerate(CONDITIONS)}
    assert rows == sorted(rows, key=lambda row: (order[row[0]], *row[1:]))


def test_brightness_is_then_no_longer_held_out(write_cifar: Write) -> None:
    root = write_cifar()
    write_corrupted(root)
    assert set(load(PLAIN, root).val_shift.condition) == {"speckle_noise", "translation"}


def test_corruptions_in_another_order_are_refused(write_cifar: Write) -> None:
    root = write_cifar()
    write_corrupted(root, labels=[1, 0, *range(2, 10)])
    with pytest.raises(StudyError, match=r"labels.npy: the labels do not follow the order .*; use"):
        load(PLAIN, root)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda file: file.unlink(), "fog.npy: is missing; complete CIFAR-10-C"),
        (lambda file: file.write_bytes(file.read_bytes()[:900]), "fog.npy: cut short or no array"),
        (lambda file: file.write_bytes(b""), "fog.npy: cut short or no array"),
        (lambda file: np.save(file, np.zeros((10, 32, 32, 3))), "but is .10, 32, 32, 3. float64"),
    ],
)
def test_incomplete_corruptions(
    damage: Callable[[Path], None], message: str, write_cifar: Write
) -> None:
    root = write_cifar()
    damage(write_corrupted(root) / "fog.npy")
    with pytest.raises(StudyError, match=message):
        load(PLAIN, root)


def test_real_test_images_from_parquet(data_root: Path) -> None:
    images, labels = _read_parquet(data_root / "cifar10", "test")
    assert images.shape == (10_000, 3, 32, 32)
    assert np.bincount(labels).tolist() == [1000] * 10
