"""Images as people hand them in: kind and case -> the line that says what to do, or the value."""

import base64
import io
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from study.datasets import Dataset, inspect, load
from study.errors import StudyError
from study.run import main

Write = Callable[..., Any]
Edit = Callable[[Path, Write], object]
LFS = "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n"
PART = "train-00000-of-00001"


def made(folder: Path, **given: Any) -> Dataset:
    options = {"name": "parquet", "path": str(folder), "val_size": 4, "shift_size": 2, **given}
    return load(options, None)


@pytest.fixture
def folder(tmp_path: Path, write_parquet: Write) -> Path:
    write_parquet(tmp_path / "set/train.parquet")
    write_parquet(tmp_path / "set/test.parquet", [0, 1, 0])
    return tmp_path / "set"


def columns(**found: Any) -> Edit:
    """Return an edit of the training file; None takes a column away, a callable changes it."""

    def edit(folder: Path, _: Write) -> None:
        table = pq.read_table(folder / "train.parquet", partitioning=None)
        have = dict(zip(table.column_names, table.columns, strict=True))
        new = {name: of(have) if callable(of) else of for name, of in found.items()}
        kept = {name: column for name, column in (have | new).items() if column is not None}
        pq.write_table(pa.table(kept), folder / "train.parquet")

    return edit


def twice(name: str) -> Edit:
    def edit(folder: Path, _: Write) -> None:
        table = pq.read_table(folder / "train.parquet", partitioning=None)
        pq.write_table(table.append_column(name, table[name]), folder / "train.parquet")

    return edit


def rename(new: str) -> Edit:
    return lambda folder, _: (folder / "train.parquet").rename(folder / new)


def parts(*names: str) -> Edit:
    """Return an edit that leaves training files of these names."""

    def edit(folder: Path, write: Write) -> None:
        (folder / "train.parquet").unlink()
        for name in names:
            write(folder / f"{name}.parquet")

    return edit


def named(train: list[str], test: list[str]) -> Edit:
    """Return an edit that gives the classes names in both files."""

    def edit(folder: Path, write: Write) -> None:
        write(folder / "train.parquet", names=train)
        write(folder / "test.parquet", [0, 1, 0], names=test)

    return edit


def as_text(have: dict[str, Any]) -> list[dict[str, str]]:
    """Return the images in base64, as in JSON."""
    return [{"bytes": base64.b64encode(row["bytes"]).decode()} for row in have["image"].to_pylist()]


INTEGERS = "column label must hold integers, but holds {}; number the classes from 0"
REFUSED: dict[str, tuple[Edit, str]] = {
    "classes | in another order in the test": (
        named(["cat", "dog"], ["dog", "cat"]),
        "test.parquet: its classes must have the names and the order of those in train.parquet, "
        "but class 0 is 'dog' here and 'cat' there; write both with the same names",
    ),
    "classes | one more in the test": (
        named(["cat", "dog"], ["cat", "dog", "fox"]),
        "but there are 3 here and 2 there",
    ),
    "file | a browser's second download": (
        parts(PART, f"{PART} (1)"),
        r"part 0 of the train files must be there once, but is '.* \(1\).parquet' and .*; remove",
    ),
    "file | parts with two digests": (
        parts(f"{PART}-0a1b", f"{PART}-2c3d"),
        "part 0 of the train files must be there once",
    ),
    "file | the first part is missing": (
        parts("train/0001"),
        "part 0 of the train files is missing; get it again, or number the files from 0",
    ),
    "file | a part between is missing": (
        parts("train-00000", "train-00002"),
        "part 1 of the train files is missing; get it again",
    ),
    "file | a part of Spark's is missing": (
        parts("train.parquet/part-00001-4f1e-c000.snappy"),
        "part 0 of the train files is missing; get it again",
    ),
    "file | a part that is still downloaded": (
        lambda folder, _: (folder / "train-00001.parquet.incomplete").touch(),
        "00001.parquet.incomplete: every file must be whole, but this download has not ended; let",
    ),
    "file | parts beside one file": (
        lambda folder, write: write(folder / "train_0.parquet"),
        "must be of one generation, but some are of one file and some of parts without a total",
    ),
    "file | a file beside a folder of its name": (
        lambda folder, write: write(folder / "train/0000.parquet"),
        "must be of one generation, but some are of one file and some of the folder train/",
    ),
    "file | Git LFS's pointer": (
        lambda folder, _: (folder / "train.parquet").write_text(LFS),
        "train.parquet: is Git LFS's pointer to the file; fetch it with git lfs pull",
    ),
    "file | a page that says 404": (
        lambda folder, _: (folder / "train.parquet").write_text("<!doctype html>"),
        "train.parquet: cut short or not Parquet",
    ),
    "file | another ending": (
        rename("train.pq"),
        r"no train.parquet in .*set, but test.parquet, train.pq; fix path, or rename the files",
    ),
    "file | another word before": (
        rename("my_train.parquet"),
        r"no train.parquet in .*set, but my_train.parquet, test.parquet",
    ),
    "file | another word behind": (
        rename("train_clean.parquet"),
        "no train.parquet in .*set, but test.parquet, train_clean.parquet",
    ),
    "file | another word": (
        rename("training.parquet"),
        r"no train.parquet in .*set, but test.parquet, training.parquet",
    ),
    "folder | one too high": (
        lambda folder, _: shutil.move(folder, folder.parent / "moved") and
        shutil.move(folder.parent / "moved", folder / "default"),
        r"no train.parquet in .*set, but default; fix path",
    ),
    "folder | empty": (
        lambda folder, _: [file.unlink() for file in folder.iterdir()],
        r"no train.parquet in .*set, which is empty; fix path",
    ),
    "folder | a link that leads nowhere": (
        lambda folder, _: [
            (folder / "train.parquet").unlink(),
            (folder / "train.parquet").symlink_to("blobs/none"),
        ],
        "train.parquet: cut short or not Parquet .*; get the file again",
    ),
    "label | kept secret in the test": (
        lambda folder, write: write(folder / "test.parquet", [-1] * 3),
        "test.parquet: every label is -1, as where they are kept secret; get them, or take",
    ),
    "label | beyond 64 bits with a sign": (
        columns(label=pa.array([0, 2**63 + 1] * 10, pa.uint64())),
        "label must be from 0, but is 9223372036854775809; number the classes",
    ),
    "label | floats": (columns(label=[0.0, 1.0] * 10), INTEGERS.format("double")),
    "label | true and false": (columns(label=[False, True] * 10), INTEGERS.format("bool")),
    "label | lists": (columns(label=[[0], [1]] * 10), INTEGERS.format("list<.*>")),
    "label | categories": (
        columns(label=pa.array(["a", "b"] * 10).dictionary_encode()),
        INTEGERS.format("dictionary<.*>"),
    ),
    "label | fine and coarse": (
        columns(fine_label=[0, 1] * 10, coarse_label=[0, 0] * 10, label=None),
        "must have one column label, but has image, fine_label, coarse_label; rename the column",
    ),
    "label | two columns": (twice("label"), "must have one column label, but has image, label, la"),
    "image | two columns": (twice("image"), "must have one column image or img, but has image"),
    "image | base64": (columns(image=as_text), "row 0: the image cannot be decoded"),
    "image | the path alone": (
        columns(image=[{"bytes": None, "path": "a.png"}] * 20),
        "row 0: has no image bytes|column image must be a struct",
    ),
    "image | nested lists": (
        columns(image=[[[0] * 8] * 8] * 20),
        "column image must be a struct with the field bytes, but is list<.*>; write the set with",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_what_would_be_misunderstood_is_refused(
    case: str, folder: Path, write_parquet: Write
) -> None:
    edit, message = REFUSED[case]
    edit(folder, write_parquet)
    with pytest.raises(StudyError, match=message) as caught:
        made(folder)
    assert "\n" not in str(caught.value)


def in_folders(folder: Path, _: Write) -> None:
    """Lay the files as the hub's own conversion does."""
    for file in sorted(folder.glob("*.parquet")):
        (folder / file.stem).mkdir()
        file.rename(folder / file.stem / "0000.parquet")


READ: dict[str, Edit] = {
    "file | Train.parquet": rename("Train.parquet"),
    "file | TRAIN.PARQUET": rename("TRAIN.PARQUET"),
    "folder | train/0000.parquet": in_folders,
    "folder | train/, and what macOS puts beside a file": lambda folder, write: [
        in_folders(folder, write),
        (folder / "train/._0000.parquet").write_text("x"),
    ],
    "folder | train.parquet/, as Spark writes": lambda folder, _: [
        part := (folder / "train.parquet").rename(folder / "part-00000-4f1e-c000.snappy.parquet"),
        (folder / "train.parquet").mkdir(),
        part.rename(folder / "train.parquet" / part.name),
    ],
    "folder | a link, as in a cache of the hub": lambda folder, _: [
        (folder / "train.parquet").rename(folder.parent / "blob"),
        (folder / "train.parquet").symlink_to("../blob"),
    ],
    "label | bytes": columns(label=pa.array([0, 1] * 10, pa.uint8())),
    "label | a dictionary of integers": columns(label=pa.array([0, 1] * 10).dictionary_encode()),
    "image | large binary": columns(
        image=lambda have: have["image"].cast(
            pa.struct([("bytes", pa.large_binary()), ("path", pa.string())])
        )
    ),
    "classes | named in one file alone": lambda folder, _: pq.write_table(
        pq.read_table(folder / "train.parquet", partitioning=None).replace_schema_metadata(
            {"huggingface": '{"info": {"features": {"label": {"names": ["cat", "dog"]}}}}'}
        ),
        folder / "train.parquet",
    ),
}


@pytest.mark.parametrize("case", READ)
def test_what_is_meant_is_read(case: str, folder: Path, write_parquet: Write) -> None:
    before = made(folder).fingerprint
    READ[case](folder, write_parquet)
    assert made(folder).fingerprint == before


@pytest.mark.parametrize("kind", ["GIF", "TIFF"])
def test_of_several_frames_the_first_counts(folder: Path, write_parquet: Write, kind: str) -> None:
    frames = [Image.new("L", (8, 8), grey) for grey in (50, 90)]
    frames[0].save(out := io.BytesIO(), kind, save_all=True, append_images=frames[1:])
    write_parquet(folder / "test.parquet", [0, 1], encoded={0: out.getvalue()})
    assert (made(folder, channels=1).test[0][0] == 50).all()


def test_foreign_images_that_are_not_foreign_are_counted(folder: Path) -> None:
    data = made(folder, ood_path=str(folder))
    assert inspect(data) == [
        "3 out-of-distribution images of set are in test as well: they are not foreign"
    ]


@pytest.mark.parametrize(
    "name",
    [
        *("train_extra", "train_test_split", "train copy", "test_hidden", "index"),
        *("data/train", "data/test"),
    ],
)
def test_what_is_not_read_is_said(folder: Path, write_parquet: Write, name: str) -> None:
    before = made(folder)
    write_parquet(folder / f"{name}.parquet")
    after = made(folder)
    assert after.fingerprint == before.fingerprint
    assert after.notes == (f"{folder}: nothing reads {name}.parquet",)


def test_another_file_above_hides_no_data(folder: Path, write_parquet: Write) -> None:
    expected = made(folder).fingerprint
    data = folder.rename(folder.parent / "data")
    folder.mkdir()
    data.rename(folder / "data")
    write_parquet(folder / "index.parquet")
    assert made(folder).fingerprint == expected


@pytest.mark.parametrize(
    ("path", "line"),
    [
        ("s3://bucket/set", "path must be a folder of this machine, but is s3://bucket/set; down"),
        ("hf://datasets/user/set", "but is hf://datasets/user/set; download the set and name its"),
        ("user/set", "no folder .*/user/set; fix path or --data-root, or download the set there"),
    ],
)
def test_a_set_that_is_elsewhere(tmp_path: Path, path: str, line: str) -> None:
    with pytest.raises(StudyError, match=line):
        load({"name": "parquet", "path": path}, tmp_path)


def test_a_copy_of_the_file_is_counted(folder: Path) -> None:
    shutil.copy(folder / "train.parquet", folder / "train_1.parquet")
    (folder / "train.parquet").rename(folder / "train_0.parquet")
    assert any("are both in train and in val" in line for line in inspect(made(folder)))


def test_a_file_for_a_folder(folder: Path) -> None:
    with pytest.raises(StudyError, match=r"path must be a folder, but .*test\.parquet is a file"):
        made(folder / "test.parquet")


def test_the_home_folder_may_be_written_as_a_tilde(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = made(folder).fingerprint
    monkeypatch.setenv("HOME", str(folder.parent))
    assert made(Path("~/set")).fingerprint == expected


@pytest.mark.parametrize(
    ("root", "line"),
    [
        ("", "error: dataset mnist needs a folder with its files; name it with --data-root\n"),
        ("~/none", "error: dataset mnist: there is no folder {}/none; fix --data-root\n"),
    ],
    ids=["STUDY_DATA_ROOT | empty", "STUDY_DATA_ROOT | a tilde that no shell saw"],
)
def test_the_folder_that_the_environment_names(
    root: str,
    line: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("STUDY_DATA_ROOT", root)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    assert main(["--space", "smoke", "--set", "dataset={name: mnist}", "--dry-run"]) == 2
    assert capsys.readouterr().err == line.format(tmp_path)


def test_pixels_of_a_folder_of_a_split(tmp_path: Path, write_parquet: Write) -> None:
    parts = [write_parquet(tmp_path / f"s/test/000{i}.parquet", [i, i]) for i in range(2)]
    write_parquet(tmp_path / "s/train/0000.parquet")
    data = made(tmp_path / "s")
    np.testing.assert_array_equal(data.test[0], np.concatenate(parts).transpose(0, 3, 1, 2))
    assert data.test[1].tolist() == [0, 0, 1, 1]
