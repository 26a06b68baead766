import io
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image
from pydantic import ValidationError

from study.datasets import Dataset, _parquet_images, load
from study.datasets.parquet import Options
from study.errors import StudyError

Write = Callable[..., Any]


def made(root: Path | None, **given: Any) -> Dataset:
    options = {"name": "parquet", "path": "set", "val_size": 4, "shift_size": 2, **given}
    return load(options, root)


def encode(image: Image.Image, kind: str = "PNG", **how: Any) -> bytes:
    out = io.BytesIO()
    image.save(out, kind, **how)
    return out.getvalue()


@pytest.fixture
def folder(tmp_path: Path, write_parquet: Write) -> Path:
    write_parquet(tmp_path / "set/train.parquet")
    write_parquet(tmp_path / "set/test.parquet", [0, 1, 0])
    return tmp_path / "set"


def test_pixels_and_labels(tmp_path: Path, write_parquet: Write) -> None:
    train = write_parquet(tmp_path / "set/train.parquet", [0, 1] * 10)
    test = write_parquet(tmp_path / "set/test.parquet", [2, 0])
    data = made(tmp_path)
    np.testing.assert_array_equal(data.test[0], test.transpose(0, 3, 1, 2))
    assert data.test[1].tolist() == [2, 0]
    every = np.concatenate([data.train[0], data.val[0]])
    assert {i.tobytes() for i in every} == {i.tobytes() for i in train.transpose(0, 3, 1, 2).copy()}
    assert data.classes == 3


def test_numbered_parts_are_one_split(tmp_path: Path, write_parquet: Write) -> None:
    parts = [
        write_parquet(tmp_path / f"set/test-0000{i}-of-00002.parquet", [i, i]) for i in range(2)
    ]
    write_parquet(tmp_path / "set/train-00000-of-00001.parquet", column="img")
    data = made(tmp_path)
    np.testing.assert_array_equal(data.test[0], np.concatenate(parts).transpose(0, 3, 1, 2))
    assert data.test[1].tolist() == [0, 0, 1, 1]


def test_a_missing_part(folder: Path, write_parquet: Write) -> None:
    (folder / "train.parquet").unlink()
    write_parquet(folder / "train-00000-of-00002.parquet")
    with pytest.raises(StudyError, match="part 1 of the train files is missing; get it again"):
        made(folder.parent)


def test_class_names_count_classes_that_do_not_occur(folder: Path, write_parquet: Write) -> None:
    write_parquet(folder / "train.parquet", names=["cat", "dog", "fox", "owl"])
    assert made(folder.parent).classes == 4


def test_validation_files_are_val(folder: Path, write_parquet: Write) -> None:
    held = write_parquet(folder / "validation.parquet", [0, 1] * 3)
    data = made(folder.parent, val_size=6)
    np.testing.assert_array_equal(data.val[0], held.transpose(0, 3, 1, 2))
    assert (len(data.train[1]), len(data.test[1])) == (20, 3)


def test_validation_files_without_test_files_are_the_test(
    folder: Path, write_parquet: Write
) -> None:
    (folder / "test.parquet").unlink()
    held = write_parquet(folder / "validation.parquet", [0, 1] * 3)
    data = made(folder.parent)
    np.testing.assert_array_equal(data.test[0], held.transpose(0, 3, 1, 2))
    assert (len(data.train[1]), len(data.val[1])) == (16, 4)


def test_training_files_alone(folder: Path) -> None:
    (folder / "test.parquet").unlink()
    data = made(folder.parent, train_size=10)
    assert [len(part[1]) for part in (data.train, data.val, data.test)] == [10, 4, 6]


def test_grey_and_resized(folder: Path, write_parquet: Write) -> None:
    write_parquet(folder / "test.parquet", [0, 1], side=20)
    data = made(folder.parent, channels=1, resize=12)
    assert data.shape == (1, 12, 12)
    assert data.test[0].shape == (2, 1, 12, 12)


def test_photographs_are_turned_upright(folder: Path, write_parquet: Write) -> None:
    stored = np.arange(64, dtype=np.uint8).reshape(8, 8) * 4
    exif = Image.Exif()
    exif[0x0112] = 6
    turned = encode(Image.fromarray(stored), exif=exif)
    write_parquet(folder / "test.parquet", [0], encoded={0: turned})
    data = made(folder.parent, channels=1)
    np.testing.assert_array_equal(data.test[0][0, 0], np.rot90(stored, -1))


def test_splits_of_different_sizes(folder: Path, write_parquet: Write) -> None:
    write_parquet(folder / "test.parquet", [0], side=9)
    with pytest.raises(StudyError, match=r"those of test are .3, 9, 9. and those of train"):
        made(folder.parent)


def test_ood_folder(folder: Path, write_parquet: Write) -> None:
    foreign = write_parquet(folder.parent / "other/anything.parquet", [7, 7])
    data = made(folder.parent, ood_path="other")
    np.testing.assert_array_equal(data.ood["other"], foreign.transpose(0, 3, 1, 2))


def test_ood_of_another_size(folder: Path, write_parquet: Write) -> None:
    write_parquet(folder.parent / "other/anything.parquet", [7, 7], side=9)
    with pytest.raises(StudyError, match=r"must be .3, 8, 8. as .* but are .3, 9, 9.; set resize"):
        made(folder.parent, ood_path="other")


def test_an_absolute_path_needs_no_data_folder(folder: Path) -> None:
    assert made(None, path=str(folder)).classes == 2


def test_fingerprint_follows_one_pixel(folder: Path, write_parquet: Write) -> None:
    before = made(folder.parent).fingerprint
    assert made(folder.parent).fingerprint == before
    image = Image.new("RGB", (8, 8))
    table = pq.read_table(folder / "test.parquet").to_pydict()
    table["image"][1]["bytes"] = encode(image)
    pq.write_table(pa.table(table), folder / "test.parquet")
    assert made(folder.parent).fingerprint != before


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"path": "../set"},
            "path must stay inside the data folder .*, but is ../set; give an abs",
        ),
        ({"path": "a/../../set"}, "path must stay inside the data folder"),
        ({"path": "sets"}, "there is no folder .*sets; fix path or --data-root"),
        ({"ood_path": "none"}, "there is no folder .*none; fix ood_path or --data-root"),
        ({"ood_path": "."}, r"no \*.parquet in .*; fix ood_path"),
        ({"path": "."}, r"no train.parquet in .*; fix path"),
        ({"val_size": 20}, "train_size . val_size must be at most 20"),
    ],
)
def test_options_that_do_not_fit(folder: Path, options: dict[str, Any], message: str) -> None:
    with pytest.raises(StudyError, match=message):
        made(folder.parent, **options)


def test_a_relative_path_needs_the_data_folder(folder: Path) -> None:
    with pytest.raises(StudyError, match="needs a folder with its files; name it with --data-root"):
        made(None)


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ([0, 1, -1], "row 2: label must be from 0 to 1, but is -1; drop or relabel"),
        ([0, None, 1], "row 1: label must be a number, but is null; drop such rows"),
        (["cat", "dog"], "column label must hold integers, but holds string; number"),
    ],
)
def test_wrong_labels(folder: Path, write_parquet: Write, labels: Any, message: str) -> None:
    write_parquet(folder / "test.parquet", labels)
    with pytest.raises(StudyError, match=rf"test\.parquet(:|,) {message}"):
        made(folder.parent)


def test_a_label_beyond_the_class_names(folder: Path, write_parquet: Write) -> None:
    write_parquet(folder / "train.parquet", [0, 1, 2, 1] * 3, names=["cat", "dog"])
    with pytest.raises(StudyError, match=r"train\.parquet, row 2: .* from 0 to 1, but is 2; drop"):
        made(folder.parent)


def test_a_single_class(folder: Path, write_parquet: Write) -> None:
    write_parquet(folder / "train.parquet", [1] * 10)
    with pytest.raises(StudyError, match="must have at least 2 classes, but all have label 1"):
        made(folder.parent)


@pytest.mark.parametrize("share", [0.0, 0.5, 0.99])
def test_a_file_cut_short(folder: Path, share: float) -> None:
    file = folder / "train.parquet"
    file.write_bytes(file.read_bytes()[: int(share * file.stat().st_size)])
    with pytest.raises(StudyError, match=r"train\.parquet: cut short or not Parquet .*; get the"):
        made(folder.parent)


def test_bytes_overwritten_inside(folder: Path) -> None:
    file = folder / "train.parquet"
    content = file.read_bytes()
    file.write_bytes(content[:4] + b"\0" * 200 + content[204:])
    with pytest.raises(StudyError, match=re.escape(str(file))):
        made(folder.parent)


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"image": [b"x"], "label": [0]}, "column image must be a struct with .* but is binary"),
        (
            {"picture": [0], "label": [0]},
            "must have one column image or img, but has picture, label",
        ),
        (
            {"image": [{"bytes": b"x"}], "class": [0]},
            "one column label, but has image, class; rename",
        ),
    ],
)
def test_wrong_columns(folder: Path, columns: dict[str, Any], message: str) -> None:
    pq.write_table(pa.table(columns), folder / "test.parquet")
    with pytest.raises(StudyError, match=rf"test\.parquet: .*{message}"):
        made(folder.parent)


def test_no_rows(folder: Path, write_parquet: Write) -> None:
    write_parquet(folder / "test.parquet", pa.array([], pa.int64()))
    with pytest.raises(StudyError, match="must have at least one row, but has none"):
        made(folder.parent)


GOOD = encode(Image.new("RGB", (8, 8), (9, 200, 40)))


@pytest.mark.parametrize(
    ("encoded", "message"),
    [
        (
            b"no picture",
            "the image cannot be decoded .it is none of PNG, .*; convert it to one, or",
        ),
        (
            b"<svg/>",
            "it is none of PNG, JPEG, WEBP, BMP, GIF, TIFF.; convert it to one, or drop the",
        ),
        (encode(Image.new("L", (8, 8)), "JPEG2000"), "it is none of PNG, JPEG"),
        (GOOD[:50], "the image cannot be decoded"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n", "the image cannot be decoded"),
        (None, "has no image bytes; write the set with embedded images"),
        (encode(Image.new("I;16", (8, 8))), "8 bits per channel, but is of Pillow's mode I;16"),
        (encode(Image.new("L", (9, 8))), "same size, but this one is 9x8 and the first 8x8; set"),
        (encode(Image.new("1", (5000, 5000))), "at most 16777216 pixels, but is 5000x5000; store"),
        (encode(Image.new("1", (12000, 12000))), "at most 16777216 pixels, but is 12000x12000"),
    ],
)
def test_wrong_images(
    folder: Path, write_parquet: Write, encoded: bytes | None, message: str
) -> None:
    write_parquet(folder / "test.parquet", [0, 1, 0], encoded={1: encoded})
    with pytest.raises(StudyError, match=rf"test\.parquet, row 1: .*{message}") as caught:
        made(folder.parent)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("name", "limit"), [("MAX_ROWS", 19), ("MAX_BYTES", 19 * 3 * 8 * 8)])
def test_more_images_than_memory_may_hold(
    folder: Path, monkeypatch: pytest.MonkeyPatch, name: str, limit: int
) -> None:
    monkeypatch.setattr(_parquet_images, name, limit)
    with pytest.raises(StudyError, match="at most 19 images of 8x8, but has 20; set a smaller res"):
        made(folder.parent)


@pytest.mark.parametrize("given", [{"channels": 2}, {"resize": 0}, {"path": ""}, {"colour": True}])
def test_options_are_checked(given: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        Options.model_validate({"path": "set", **given})


def test_two_generations_of_a_set_are_refused(folder: Path, write_parquet: Write) -> None:
    (folder / "train.parquet").rename(folder / "train-00000-of-00001.parquet")
    for part in range(2):
        write_parquet(folder / f"train-0000{part}-of-00002.parquet")
    with pytest.raises(StudyError, match="some are of 00001 and some of 00002; remove"):
        made(folder.parent)


def test_one_file_beside_numbered_parts_is_refused(folder: Path, write_parquet: Write) -> None:
    write_parquet(folder / "train-00000-of-00001.parquet")
    with pytest.raises(StudyError, match="some are of 00001 and some of one file"):
        made(folder.parent)


@pytest.mark.parametrize("name", ["val", "valid", "validation", "dev"])
def test_every_name_of_validation_is_known(folder: Path, write_parquet: Write, name: str) -> None:
    images = write_parquet(folder / f"{name}-00000-of-00001.parquet", [0, 1] * 3)
    data = made(folder.parent, val_size=6)
    np.testing.assert_array_equal(data.val[0], images.transpose(0, 3, 1, 2))
    write_parquet(folder / "validated.parquet")
    assert made(folder.parent).notes == (f"{folder}: nothing reads validated.parquet",)


def test_two_names_of_validation_are_refused(folder: Path, write_parquet: Write) -> None:
    write_parquet(folder / "val.parquet")
    write_parquet(folder / "dev.parquet")
    with pytest.raises(StudyError, match="there are files of val and of dev; keep those of one"):
        made(folder.parent)


def test_a_clone_of_the_hub_has_its_files_in_data(folder: Path) -> None:
    expected = made(folder.parent).fingerprint
    (folder / "data").mkdir()
    for file in folder.glob("*.parquet"):
        file.rename(folder / "data" / file.name)
    assert made(folder.parent).fingerprint == expected


@pytest.mark.parametrize("labels", [[1, 2], [0, 50_000], [3, 3, 4]])
def test_labels_that_do_not_number_the_classes(
    tmp_path: Path, write_parquet: Write, labels: list[int]
) -> None:
    write_parquet(tmp_path / "set/train.parquet", labels * 10)
    write_parquet(tmp_path / "set/test.parquet", labels)
    with pytest.raises(StudyError, match=f"occur are from {labels[0]} to {labels[-1]}; renumber"):
        made(tmp_path)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_a_drawing_in_transparency_is_seen_on_white(
    folder: Path, write_parquet: Write, mode: str, channels: int
) -> None:
    def drawn(column: int) -> bytes:
        alpha = np.zeros((8, 8), np.uint8)
        alpha[:, column] = 255
        image = Image.fromarray(np.zeros((8, 8), np.uint8)).convert("RGBA")
        image.putalpha(Image.fromarray(alpha))
        if mode == "P":
            palette = Image.fromarray(1 - alpha // 255, "P")
            palette.putpalette([0, 0, 0, 0, 0, 0])
            return encode(palette, transparency=1)
        return encode(image.convert(mode))

    write_parquet(folder / "train.parquet", encoded={i: drawn(i % 8) for i in range(20)})
    data = made(folder.parent, channels=channels, resize=8)
    dark = (data.train[0] == 0).all(1)
    assert (dark.sum((1, 2)) == 8).all()
    assert {tuple(rows) for rows in dark.any(1)} == {tuple(np.arange(8) == i) for i in range(8)}
