"""MNIST and Fashion-MNIST: one layout, read through torchvision."""

import os
import socket
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from study.datasets import load
from study.errors import StudyError

MNIST = {"name": "mnist", "val_size": 10, "shift_size": 3}
Write = Callable[..., Path]


def test_mnist_with_fashion_mnist_out_of_distribution(write_idx: Write) -> None:
    write_idx("FashionMNIST")
    root = write_idx("MNIST")
    data = load(MNIST, root)
    assert [len(part[1]) for part in (data.train, data.val, data.test)] == [30, 10, 20]
    raw = np.frombuffer((root / "MNIST/raw/t10k-images-idx3-ubyte").read_bytes(), np.uint8, -1, 16)
    np.testing.assert_array_equal(data.test[0].ravel(), raw)
    assert data.test[1].tolist() == [*range(10)] * 2
    foreign = (root / "FashionMNIST/raw/t10k-images-idx3-ubyte").read_bytes()[16:]
    assert data.ood["fashion_mnist"].tobytes() == foreign


def test_fashion_mnist_with_mnist_out_of_distribution(write_idx: Write) -> None:
    write_idx("FashionMNIST")
    data = load({**MNIST, "name": "fashion_mnist"}, write_idx("MNIST"))
    assert list(data.ood) == ["mnist"]
    assert not np.array_equal(data.ood["mnist"], data.test[0])


def test_ood_none_needs_no_other_set(write_idx: Write) -> None:
    assert load({**MNIST, "ood": "none"}, write_idx("MNIST")).ood == {}


def test_files_that_are_there_are_not_downloaded(write_idx: Write, no_network: list[str]) -> None:
    load({**MNIST, "ood": "none"}, write_idx("MNIST"))
    assert no_network == []


def test_missing_files_without_network(
    tmp_path: Path, no_network: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(StudyError) as caught:
        load(MNIST, tmp_path)
    message = str(caught.value)
    assert message.startswith(f"dataset mnist: no MNIST/raw/train-images-idx3-ubyte in {tmp_path}")
    assert "no network" in message
    assert message.endswith("name the folder that has it with --data-root")
    assert "\n" not in message
    assert no_network
    assert capsys.readouterr().out == ""
    assert socket.getdefaulttimeout() is None


def test_missing_ood_names_the_option_that_does_without(
    write_idx: Write, no_network: list[str]
) -> None:
    with pytest.raises(StudyError, match=r"^dataset fashion_mnist: .* or set the dataset's ood to"):
        load(MNIST, write_idx("MNIST"))


@pytest.mark.parametrize("name", ["mnist", "fashion_mnist", "cifar10"])
def test_a_data_folder_is_needed(name: str, tmp_path: Path) -> None:
    options = {"name": name, "val_size": 10}
    with pytest.raises(StudyError, match=f"^dataset {name} needs a folder .* with --data-root$"):
        load(options, None)
    with pytest.raises(StudyError, match=f"^dataset {name}: there is no folder .*; fix --data-ro"):
        load(options, tmp_path / "typo")
    assert not (tmp_path / "typo").exists()


@pytest.mark.parametrize("size", [0, 7, 1000])
def test_a_file_cut_short(size: int, write_idx: Write) -> None:
    root = write_idx("MNIST")
    os.truncate(root / "MNIST/raw/train-images-idx3-ubyte", size)
    with pytest.raises(
        StudyError, match=f"^dataset mnist: its files in {root} are damaged .*; del"
    ):
        load(MNIST, root)


def test_fewer_labels_than_images(write_idx: Write) -> None:
    root = write_idx("MNIST")
    (root / "MNIST/raw/train-labels-idx1-ubyte").write_bytes(
        (root / "MNIST/raw/t10k-labels-idx1-ubyte").read_bytes()
    )
    with pytest.raises(StudyError, match="must be as many, but are 40 and 20"):
        load(MNIST, root)


def test_a_label_out_of_range(write_idx: Write) -> None:
    with pytest.raises(StudyError, match="row 2: label must be from 0 to 9, but is 12; drop"):
        load(MNIST, write_idx("MNIST", labels=[0, 1, 12]))


@pytest.mark.parametrize(("name", "ood"), [("mnist", "fashion_mnist"), ("fashion_mnist", "mnist")])
def test_real_files_at_default_options(name: str, ood: str, data_root: Path) -> None:
    from importlib import import_module

    options = import_module(f"study.datasets.{name}").Options()
    data = load(options.model_dump(), data_root)
    assert [len(part[1]) for part in (data.train, data.val, data.test)] == [55_000, 5_000, 10_000]
    assert (data.shape, data.ood[ood].shape) == ((1, 28, 28), (1000, 1, 28, 28))
    assert np.bincount(data.val[1]).min() > 440
