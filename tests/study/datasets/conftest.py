"""Small files in the layouts in which the real image sets are published."""

import hashlib
import io
import pickle
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from numpy.typing import NDArray
from PIL import Image
from scipy.io import savemat

Array = NDArray[Any]


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Make every download fail at once; the list tells what was asked for."""
    asked: list[str] = []

    def refuse(request: Any, *_: Any, **__: Any) -> None:
        asked.append(request.full_url)
        raise OSError("no network")

    monkeypatch.setattr("urllib.request.urlopen", refuse)
    return asked


def _idx(array: Array) -> bytes:
    sizes = b"".join(size.to_bytes(4, "big") for size in array.shape)
    return bytes([0, 0, 8, array.ndim]) + sizes + array.astype(np.uint8).tobytes()


@pytest.fixture
def write_idx(tmp_path: Path, rng: np.random.Generator) -> Callable[..., Path]:
    """Write MNIST or Fashion-MNIST with 40 + 20 random images."""

    def write(name: str = "MNIST", labels: Sequence[int] = range(10)) -> Path:
        raw = tmp_path / name / "raw"
        raw.mkdir(parents=True)
        for part, count in (("train", 40), ("t10k", 20)):
            images = rng.integers(0, 256, (count, 28, 28))
            (raw / f"{part}-images-idx3-ubyte").write_bytes(_idx(images))
            (raw / f"{part}-labels-idx1-ubyte").write_bytes(_idx(np.resize(labels, count)))
        return tmp_path

    return write


@pytest.fixture
def write_svhn(
    tmp_path: Path, rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> Callable[[], Array]:
    """Write SVHN's test file with 12 random images and return them (N, C, H, W)."""
    svhn = pytest.importorskip("torchvision.datasets").SVHN

    def write() -> Array:
        images = rng.integers(0, 256, (32, 32, 3, 12), dtype=np.uint8)
        file = tmp_path / "test_32x32.mat"
        savemat(file, {"X": images, "y": np.resize(np.arange(1, 11), 12)[:, None]})
        known = (svhn.split_list["test"][0], file.name, _md5(file))
        monkeypatch.setattr(svhn, "split_list", {**svhn.split_list, "test": known})
        return images.transpose(3, 2, 0, 1)

    return write


@pytest.fixture
def write_cifar(
    tmp_path: Path, rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> Callable[[], Path]:
    """Write CIFAR-10 as published, with 5 x 20 + 10 random images."""
    cifar = pytest.importorskip("torchvision.datasets").CIFAR10

    def write() -> Path:
        folder = tmp_path / "cifar-10-batches-py"
        folder.mkdir()
        known = []
        for i, name in enumerate([*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"]):
            count = 20 if i < 5 else 10
            pixels = rng.integers(0, 256, (count, 3072), dtype=np.uint8)
            batch = {"data": pixels, "labels": np.resize(range(10), count).tolist()}
            (folder / name).write_bytes(pickle.dumps(batch))
            known.append([name, _md5(folder / name)])
        (folder / "batches.meta").write_bytes(pickle.dumps({"label_names": list("abcdefghij")}))
        meta = {**cifar.meta, "md5": _md5(folder / "batches.meta")}
        monkeypatch.setattr(cifar, "train_list", known[:5])
        monkeypatch.setattr(cifar, "test_list", known[5:])
        monkeypatch.setattr(cifar, "meta", meta)
        return tmp_path

    return write


def _md5(file: Path) -> str:
    return hashlib.md5(file.read_bytes()).hexdigest()


def png(image: Array) -> bytes:
    """Return (H, W) or (H, W, 3) uint8 as PNG."""
    out = io.BytesIO()
    Image.fromarray(image).save(out, "PNG")
    return out.getvalue()


@pytest.fixture
def write_parquet(rng: np.random.Generator) -> Callable[..., Array]:
    """Write one Parquet file as the hub has them and return its images (N, H, W, 3)."""

    def write(
        file: Path,
        labels: Sequence[Any] = (0, 1) * 10,
        *,
        side: int = 8,
        column: str = "image",
        names: list[str] | None = None,
        encoded: dict[int, bytes | None] | None = None,
    ) -> Array:
        images = rng.integers(0, 256, (len(labels), side, side, 3), dtype=np.uint8)
        cells = [
            {"bytes": (encoded or {}).get(i, png(image)), "path": f"{i}.png"}
            for i, image in enumerate(images)
        ]
        kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
        table = pa.table({column: pa.array(cells, kind), "label": labels})
        if names:
            features = f'{{"info": {{"features": {{"label": {{"names": {names}}}}}}}}}'
            table = table.replace_schema_metadata({"huggingface": features.replace("'", '"')})
        file.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(table, file)
        return images

    return write
