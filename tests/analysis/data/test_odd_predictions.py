"""Predictions as people hand them in: kind and case -> the line that says what to do, or the value.

What is damaged, or breaks the format outright, is in ``tests/analysis/report/test_bad_input.py``.
"""

import os
import re
import shutil
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from analysis.data.external import load_predictions
from analysis.data.predictions import predictions
from analysis.measures.measure import measure
from study.errors import StudyError
from tests.analysis.make_predictions import ARMS, make_predictions
from tests.analysis.make_run import Data

Edit = Callable[[Path], object]
FILE = "tracking/1/test.parquet"
LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n"


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    arms = {name: ARMS[name] for name in ("single", "deep_ensemble", "tracking")}
    place = tmp_path_factory.mktemp("odd") / "predictions"
    return make_predictions(place, arms, seeds=2, data=Data(test=40, classes=4))


@pytest.fixture
def folder(whole: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(whole, tmp_path / "predictions"))


def values(change: Callable[[np.ndarray[Any, Any]], np.ndarray[Any, Any]]) -> Edit:
    """Return an edit of the logits (rows, classes) of one file."""

    def edit(folder: Path) -> None:
        rows = pl.read_parquet(folder / FILE)
        logits = change(rows["logits"].to_numpy().astype(np.float64))
        rows.with_columns(logits=logits.astype(np.float32)).write_parquet(folder / FILE)

    return edit


def column(name: str, change: Callable[[list[Any]], Any]) -> Edit:
    """Return an edit of one column of one file."""

    def edit(folder: Path) -> None:
        table = pq.read_table(folder / FILE, partitioning=None)
        at = table.schema.get_field_index(name)
        pq.write_table(table.set_column(at, name, change(table[name].to_pylist())), folder / FILE)

    return edit


def write(name: str, content: bytes | str) -> Edit:
    def edit(folder: Path) -> None:
        (folder / name).write_bytes(content.encode() if isinstance(content, str) else content)

    return edit


def copy(old: str, new: str) -> Edit:
    return lambda folder: shutil.copytree(folder / old, folder / new)


def shifted(z: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Return logits of the same probabilities."""
    return np.asarray(z + 10 * np.random.default_rng(0).normal(size=(len(z), 1)), np.float32)


def part_of_deep_ensemble(
    change: Callable[[np.ndarray[Any, Any]], np.ndarray[Any, Any]] = lambda z: z,
) -> Edit:
    """Return an edit that takes the later members of every Deep Ensemble for an arm."""

    def edit(folder: Path) -> None:
        for place in (folder / "deep_ensemble").iterdir():
            rows = pl.read_parquet(place / "test.parquet").filter(pl.col("member") > 0)
            (folder / "mine" / place.name).mkdir(parents=True)
            file = folder / "mine" / place.name / "test.parquet"
            # Decimals, as pandas makes of whole numbers where it once had a gap.
            rows.with_columns(
                pl.col("member") - 1.0, logits=change(rows["logits"].to_numpy())
            ).write_parquet(file)

    return edit


def members_turned(folder: Path) -> None:
    """Take the Deep Ensembles, their members in another order, for an arm."""
    for place in (folder / "deep_ensemble").iterdir():
        rows = pl.read_parquet(place / "test.parquet")
        (folder / "mine" / place.name).mkdir(parents=True)
        file = folder / "mine" / place.name / "test.parquet"
        rows.with_columns(member=3 - pl.col("member")).write_parquet(file)


def a_network_again(folder: Path) -> None:
    """Give two seeds of an arm a network in common."""
    first, second = (folder / "tracking" / seed / "test.parquet" for seed in ("0", "1"))
    shared = pl.read_parquet(first).filter(pl.col("member") == 0)
    rest = pl.read_parquet(second).filter(pl.col("member") > 0)
    pl.concat([shared.select(rest.columns), rest]).write_parquet(second)


def copied_twice(folder: Path) -> None:
    """Make an arm of one member of the Deep Ensemble, twice in every file."""
    for place in (folder / "deep_ensemble").iterdir():
        rows = pl.read_parquet(place / "test.parquet").filter(pl.col("member") == 0)
        twice = pl.concat([rows, rows.with_columns(pl.col("member") + 1)])
        (folder / "mine" / place.name).mkdir(parents=True)
        twice.write_parquet(folder / "mine" / place.name / "test.parquet")


def in_parts(folder: Path) -> None:
    """Leave a folder of parts, as Spark and Dask write."""
    table = pq.read_table(folder / FILE, partitioning=None)
    (folder / FILE).unlink()
    (folder / FILE).mkdir()
    pq.write_table(table, folder / FILE / "part-0.parquet")


def log_softmax(z: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    return np.asarray(z - np.log(np.exp(z).sum(-1, keepdims=True)))


def sigmoid(z: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    return np.asarray(1 / (1 + np.exp(-z)))


BELOW_1 = "every value lies from 0 to 1, as a sigmoid's scores do; write their logarithm"
NUMBER = "must hold whole numbers, but is {}; number the {}"
CALLED = "must be called protocol.json or protocol.yaml or protocol.yml; rename or remove it"
REFUSED: dict[str, tuple[Edit, str]] = {
    "logits | a sigmoid's scores": (values(sigmoid), BELOW_1),
    "logits | probabilities of one digit": (
        values(lambda z: np.exp(log_softmax(z)).round(1)),
        BELOW_1,
    ),
    "logits | softmax over the examples": (
        values(lambda z: np.exp(z) / np.exp(z).sum(0, keepdims=True)),
        BELOW_1,
    ),
    "logits | one-hot": (
        values(lambda z: np.eye(4)[z.argmax(-1)]),
        "sums to 1, as probabilities do; write their logarithm",
    ),
    "logits | one-hot in percent": (
        values(lambda z: 100 * np.eye(4)[z.argmax(-1)]),
        "sums to 100, as probabilities in percent do",
    ),
    "logits | log-probabilities to base 2": (
        values(lambda z: log_softmax(z) / np.log(2)),
        r"they are to base 2; multiply them by log\(2\) = 0.69315",
    ),
    "logits | log-probabilities to base 10": (
        values(lambda z: log_softmax(z) / np.log(10)),
        r"they are to base 10; multiply them by log\(10\) = 2.30259",
    ),
    "logits | log-probabilities to base 10 of two digits": (
        values(lambda z: (log_softmax(z) / np.log(10)).round(2)),
        "they are to base 10; multiply",
    ),
    "logits | log-probabilities to base 2 of two digits": (
        values(lambda z: (log_softmax(z) / np.log(2)).round(2)),
        "they are to base 2; multiply",
    ),
    "logits | decimals": (
        column("logits", lambda rows: pa.array([[Decimal("1.5")] * 4] * len(rows))),
        "must hold lists of floats, but is list<.*decimal.*>; write one list of C floats",
    ),
    "logits | text": (
        column("logits", lambda rows: pa.array([str(row) for row in rows])),
        "must hold lists of floats, but is string",
    ),
    "logits | lists in lists": (
        column("logits", lambda rows: pa.array([[row] for row in rows])),
        "must hold lists of floats, but is list<.*list",
    ),
    "logits | a column for each class": (
        lambda folder: (
            pl.read_parquet(folder / FILE)
            .with_columns(logit_0=0.5)
            .drop("logits")
            .write_parquet(folder / FILE)
        ),
        "missing: logits; unknown: logit_0",
    ),
    "example | names of files": (
        column("example", lambda rows: pa.array([f"{row}.png" for row in rows])),
        NUMBER.format("string", "examples, alike in every file"),
    ),
    "example | hashes of 64 bits": (
        column("example", lambda rows: pa.array([2**63 + row for row in rows], pa.uint64())),
        "column example must hold whole numbers, but Integer value 9223372036854775808 not in",
    ),
    "member | names": (
        column("member", lambda rows: pa.array([f"m{row}" for row in rows])),
        NUMBER.format("string", "members from 0"),
    ),
    "label | true and false": (
        column("label", lambda rows: pa.array([row > 1 for row in rows])),
        NUMBER.format("bool", "classes from 0"),
    ),
    "label | one-hot": (
        column("label", lambda rows: pa.array([[0, 1]] * len(rows))),
        NUMBER.format("list<.*>", "classes from 0"),
    ),
    "label | categories": (
        column("label", lambda rows: pa.array([f"c{row}" for row in rows]).dictionary_encode()),
        NUMBER.format("dictionary<.*>", "classes from 0"),
    ),
    "label | NaN for unknown": (
        column("label", lambda rows: pa.array([float("nan"), *rows[1:]], pa.float64())),
        "label must hold whole numbers, but .*nan.*; number the classes from 0",
    ),
    "file | a folder of parts": (in_parts, "must be one file, but is a folder, as of parts; write"),
    "file | Git LFS's pointer": (
        write(FILE, LFS),
        "is Git LFS's pointer to the file, not the file; fetch it with git lfs pull",
    ),
    "file | Feather": (
        lambda folder: pl.read_parquet(folder / FILE).write_ipc(folder / FILE),
        "must be whole Parquet",
    ),
    "file | macOS' shadow of one": (
        write("tracking/1/._test.parquet", "x"),
        r"but one is '._test.parquet'; rename it, or take it away",
    ),
    "file | capitals": (
        lambda folder: (folder / FILE).rename(folder / "tracking/1/TEST.parquet"),
        "but one is 'TEST.parquet'; rename it",
    ),
    "folder | seed=1": (
        lambda folder: (folder / "tracking/1").rename(folder / "tracking/seed=1"),
        "must be named by its seed, an integer, but one is 'seed=1'",
    ),
    "folder | 1_0, which Python takes for 10": (
        lambda folder: (folder / "tracking/1").rename(folder / "tracking/1_0"),
        "must be named by its seed, an integer, but one is '1_0'",
    ),
    "folder | deep-ensemble": (
        lambda folder: (folder / "deep_ensemble").rename(folder / "deep-ensemble"),
        "but deep_ensemble is not there; add deep_ensemble/<seed>/test.parquet",
    ),
    "folder | the Deep Ensemble again, which would escape": (
        copy("deep_ensemble", "mine"),
        "mine/0/test.parquet: must hold the predictions of its own arm, but is a copy of "
        ".*deep_ensemble/0/test.parquet; put these there, or take the arm away",
    ),
    "folder | a part of the Deep Ensemble, which would escape": (
        part_of_deep_ensemble(),
        "mine/0/test.parquet: must hold the predictions of its own arm, but its member 0 is member "
        "1 of .*deep_ensemble/0/test.parquet, an anchor's",
    ),
    "folder | the same with other logits of the same probabilities": (
        part_of_deep_ensemble(shifted),
        "mine/0/test.parquet: must hold .* but its member 0 is member 1 of .*deep_ensemble/0/test",
    ),
    "folder | the members of a Deep Ensemble in another order": (
        members_turned,
        "mine/0/test.parquet: must hold the predictions of its own arm, but is a copy of .*deep_e",
    ),
    "folder | a member of the Deep Ensemble twice": (
        copied_twice,
        "mine/0/test.parquet: must hold .* but its member 0 is member 0 of .*deep_ensemble/0/test",
    ),
    "folder | two seeds with a network in common": (
        a_network_again,
        "tracking/0/test.parquet: must share no network with another seed, but its member 0 is",
    ),
    "folder | a link to another arm": (
        lambda folder: os.symlink(folder / "tracking", folder / "latest"),
        "latest/0/test.parquet: must hold .* but is a copy of .*tracking/0/test.parquet",
    ),
    "folder | a link to itself": (
        lambda folder: os.symlink(folder, folder / "loop"),
        "must be named by its seed, an integer, but one is 'deep_ensemble'",
    ),
    "protocol | protocol.YAML": (write("protocol.YAML", "delta: 0.3"), CALLED),
    "protocol | Protocol.json": (write("Protocol.json", "{}"), CALLED),
    "protocol | protocol.toml": (write("protocol.toml", "delta = 0.3"), CALLED),
    "protocol | empty": (write("protocol.yaml", "# to do\n"), "but holds nothing"),
    "protocol | a key twice in YAML": (
        write("protocol.yaml", "seeds: 5\nseeds: 10\n"),
        "must be yaml, but seeds stands twice",
    ),
    "protocol | a key twice in JSON": (
        write("protocol.json", '{"seeds": 5, "seeds": 10}'),
        "must be json, but seeds stands twice",
    ),
    "protocol | percent": (write("protocol.yaml", "alpha: 5"), "alpha must be less than 0.5"),
    "protocol | text for a number": (
        write("protocol.yaml", 'delta: "0.25"'),
        "delta must be a valid number, but is '0.25'",
    ),
    "protocol | a list as its key": (write("protocol.yaml", "? [a]\n: 3\n"), "protocol may hold"),
    "protocol | UTF-16": (
        write("protocol.yaml", "delta: 0.3".encode("utf-16")),
        "must be yaml, but 'utf-8' codec",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_would_be_misunderstood_is_refused(case: str, folder: Path) -> None:
    edit, message = REFUSED[case]
    edit(folder)
    with pytest.raises(StudyError, match=message) as caught:
        measure(load_predictions(folder))
    assert "; " in str(caught.value)


READ: dict[str, Edit] = {
    "logits | float64": values(lambda z: z),
    "logits | the largest taken away": values(lambda z: z - z.max(-1, keepdims=True)),
    "label | a dictionary of integers": column(
        "label", lambda rows: pa.array(rows).dictionary_encode()
    ),
    "label | floats that are whole": column("label", lambda rows: pa.array(rows, pa.float32())),
    "member | unsigned bytes": column("member", lambda rows: pa.array(rows, pa.uint8())),
    "file | Windows' thumbnails beside it": write("tracking/1/Thumbs.db", "x"),
    "file | the same as CSV beside it": write("tracking/1/test.csv", "member,example"),
    "folder | notes": write("README.md", "x"),
}


@pytest.mark.parametrize("case", READ)
def test_what_is_harmless_changes_nothing(case: str, whole: Path, folder: Path) -> None:
    READ[case](folder)
    before = predictions(load_predictions(whole), "tracking/1", "test")
    after = predictions(load_predictions(folder), "tracking/1", "test")
    np.testing.assert_allclose(log_softmax(after.logits), log_softmax(before.logits), atol=1e-5)
    assert after.fingerprints() == before.fingerprints()


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("protocol.yaml", "alpha: 4e-2\ndelta: .3\nendpoints: [nll, gain]\nsensitivity: [2e-1]\n"),
        (
            "protocol.yml",
            "alpha: 0.04\r\ndelta: 0.3\r\nendpoints: [nll, gain]\r\nsensitivity: [0.2]",
        ),
        (
            "protocol.json",
            '\ufeff{"alpha": 4e-2, "delta": 0.3, "endpoints": ["nll", "gain"], "sensitivity": [0.2]}',
        ),
    ],
    ids=["YAML 1.2", "Windows' line ends", "JSON with a byte order mark"],
)
def test_a_protocol_is_read_as_it_is_meant(folder: Path, name: str, content: str) -> None:
    (folder / name).write_text(content, newline="")
    plan = load_predictions(folder).plan
    assert plan is not None
    protocol = plan.protocol
    assert (protocol.alpha, protocol.delta, protocol.sensitivity) == (0.04, 0.3, (0.2,))
    assert [endpoint.key for endpoint in protocol.endpoints] == ["nll", "gain"]


@pytest.mark.parametrize(
    "change",
    [
        lambda z: log_softmax(z).round(2),
        lambda z: 9 * (z - z.max(-1, keepdims=True)),
        lambda z: z - 40,
    ],
    ids=["natural logarithms of two digits", "surest first", "all below 0"],
)
def test_what_may_be_logits_is_no_other_base(
    folder: Path, change: Callable[[np.ndarray[Any, Any]], np.ndarray[Any, Any]]
) -> None:
    values(change)(folder)
    assert np.isfinite(predictions(load_predictions(folder), "tracking/1", "test").logits).all()


@pytest.mark.parametrize("arm", ["mine", "negative_control"])
def test_constant_predictions_and_controls_are_no_copies(folder: Path, arm: str) -> None:
    """What many networks predict proves nothing, and the negative control may be of one network."""
    for seed in ("0", "1"):
        file = folder / "single" / seed / "test.parquet"
        rows = pl.read_parquet(file)
        if arm == "mine":
            rows = rows.with_columns(logits=np.tile(np.float32([2, 0, 0, -1]), (len(rows), 1)))
            rows.write_parquet(file)
        twice = pl.concat([rows, rows.with_columns(pl.col("member") + 1)])
        (folder / arm / seed).mkdir(parents=True)
        twice.write_parquet(folder / arm / seed / "test.parquet")
    assert set(measure(load_predictions(folder)).replicates["members"]) >= {2}


def test_certain_predictions_are_no_other_base(folder: Path) -> None:
    values(lambda z: -40 * (np.arange(4) != z.argmax(-1)[:, None]))(folder)
    found = predictions(load_predictions(folder), "tracking/1", "test")
    assert re.fullmatch(r"\[-40.0, 0.0\]", str(np.unique(found.logits).tolist()))
