"""The images that a report shows are those that the networks were tested on."""

from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest

from study import datasets
from study.datasets._sample import SHOWN
from study.parquet_format import IMAGES


def image(row):
    pixels = np.frombuffer(row["pixels"], np.uint8)
    return pixels.reshape(row["channels"], row["height"], row["width"])


def test_every_kept_image_is_the_one_that_its_numbers_say(data):
    table = datasets.sample(data)
    assert table.schema.equals(IMAGES, check_metadata=True)
    keys = zip(data.shift.example, data.shift.condition, data.shift.severity, strict=True)
    at = {(int(e), str(c), int(s)): n for n, (e, c, s) in enumerate(keys)}
    for row in table.to_pylist():
        number = row["example"]
        if row["split"] == "test":
            expected, label = data.test[0][number], data.test[1][number]
        elif row["split"] == "shift":
            n = at[number, row["condition"], row["severity"]]
            expected, label = data.shift.images[n], data.shift.labels[n]
        else:
            expected, label = data.ood[row["condition"]][number], None
        np.testing.assert_array_equal(image(row), expected)
        assert row["label"] == label


@pytest.mark.parametrize("distinct", [False, True])
def test_what_is_corrupted_is_there_clean_and_at_every_severity(data, distinct):
    if distinct:
        options = {"name": "digits", "train_size": 100, "shift_size": 5, "shift_distinct": True}
        data = datasets.load(options)
    rows = datasets.sample(data).to_pylist()
    clean = {r["example"] for r in rows if r["split"] == "test"}
    shifted = [r for r in rows if r["split"] == "shift"]
    conditions = set(data.shift.condition.tolist())
    assert {r["example"] for r in shifted} <= clean
    examples = {(r["condition"], r["example"]) for r in shifted}
    assert len(examples) == len(conditions) * (5 if distinct else 1)
    assert len({(r["condition"], r["severity"]) for r in shifted}) == len(conditions) * 5
    assert len(shifted) == len(conditions) * 5
    assert len([r for r in rows if r["split"] == "ood"]) == SHOWN * len(data.ood)


def test_large_images_are_few(data):
    large = np.zeros((60, 3, 1024, 1024), np.uint8)
    copies = datasets.Shifted(
        images=large[:2],
        labels=data.test[1][:2],
        example=np.array([30, 30], np.int32),
        condition=np.array(["blur", "blur"]),
        severity=np.array([1, 2], np.int8),
    )
    table = datasets.sample(replace(data, test=(large, data.test[1][:60]), shift=copies, ood={}))
    splits = pa.compute.value_counts(table["split"]).to_pylist()
    assert {s["values"]: s["counts"] for s in splits} == {"test": SHOWN + 1, "shift": 2}
