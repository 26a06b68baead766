"""Whatever is given as predictions: one clear line, or a verdict that says why it has none.

Every test writes real files and gives the command.
"""

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from analysis.data.files import write as write_file
from analysis.report.__main__ import main
from tests.analysis.make_predictions import ARMS, make_predictions
from tests.analysis.make_run import Data
from tests.analysis.printed import told
from tests.analysis.report.test_report import Page, payload

DATA = Data(test=60, shift=20, ood=15, classes=4, severities=2)
SMALL = {name: ARMS[name] for name in ("single", "deep_ensemble", "escaping", "tracking")}
Edit = Callable[[Path], object]


@pytest.fixture(scope="session")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder without fault, with a shift set."""
    place = tmp_path_factory.mktemp("whole") / "predictions"
    return make_predictions(place, SMALL, seeds=3, data=DATA, splits=("test", "shift", "ood"))


@pytest.fixture
def folder(whole: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(whole, tmp_path / "predictions"))


def judge(folder: Path, capsys: pytest.CaptureFixture[str]) -> tuple[int, Any, str]:
    """Give the command; return its status, the verdict (or the line on stderr) and the page."""
    out = folder.parent / "out" / "report.html"
    status = main(["--predictions", str(folder), "--out", str(out)])
    printed = capsys.readouterr()
    if status:
        assert not out.exists()
        assert printed.out == ""
        return status, printed.err, ""
    verdict = json.loads((out.parent / "verdict.json").read_text(), parse_constant=pytest.fail)
    html = out.read_text()
    payload(html)
    text = " ".join(Page(html).text.split())
    assert not re.search(r"\b(nan|NaN|inf|Infinity)\b|\bNone\b(?! of)", text), text
    assert told(printed.out)["found"] == " ".join(verdict["sentence"].split())
    return status, verdict, text


def refused(folder: Path, capsys: pytest.CaptureFixture[str], message: str) -> None:
    status, line, _ = judge(folder, capsys)
    assert status == 2, line
    assert re.search(message, line), line
    assert line.startswith("error: ")
    assert line.count("\n") == 1
    assert "; " in line


def arm(verdict: Any, name: str) -> Any:
    return next(entry for entry in verdict["arms"] if entry["arm"] == name)


def change(file: str, *edits: pl.Expr | Callable[[pl.DataFrame], pl.DataFrame]) -> Edit:
    """Return an edit of one file: expressions replace columns, functions the frame."""

    def edit(folder: Path) -> None:
        rows = pl.read_parquet(folder / file)
        for one in edits:
            rows = rows.with_columns(one) if isinstance(one, pl.Expr) else one(rows)
        rows.write_parquet(folder / file)

    return edit


def at(column: str, value: Any, row: int = 3, dtype: Any = None) -> pl.Expr:
    """Return an expression that changes one value."""
    value = pl.lit(value, dtype)
    return pl.when(pl.int_range(pl.len()) == row).then(value).otherwise(column).alias(column)


def logit(value: Any) -> Callable[[pl.DataFrame], pl.DataFrame]:
    """Return an edit that puts one value among the logits."""

    def edit(rows: pl.DataFrame) -> pl.DataFrame:
        lists = rows["logits"].to_list()
        lists[5][2] = value
        return rows.with_columns(pl.Series("logits", lists, pl.List(pl.Float64)))

    return edit


def move(old: str, new: str) -> Edit:
    return lambda folder: (folder / old).rename(folder / new)


def remove(*names: str) -> Edit:
    def edit(folder: Path) -> None:
        for name in names:
            path = folder / name
            shutil.rmtree(path) if path.is_dir() else path.unlink()

    return edit


def write(name: str, content: bytes | str) -> Edit:
    def edit(folder: Path) -> None:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.encode() if isinstance(content, str) else content)

    return edit


FILE = "tracking/1/test.parquet"
PROBABILITIES = pl.col("logits").list.eval(pl.element().exp() / pl.element().exp().sum())
REFUSED: dict[str, tuple[Edit, str]] = {
    "no single": (remove("single"), "must hold the arms single.* but single is not there"),
    "no deep ensemble": (remove("deep_ensemble"), "but deep_ensemble is not there"),
    "nothing": (remove(*SMALL), "must hold the arms single"),
    "no such folder": (lambda folder: shutil.rmtree(folder), "must be a folder"),
    "no test": (remove(FILE), r"tracking/1/test.parquet: must exist, but does not"),
    "shift here and there": (
        remove("single/2/shift.parquet"),
        r"single/2/shift.parquet: must exist, as others have it",
    ),
    "no seeds": (write("other/notes.txt", ""), "other: must hold a folder per seed"),
    "loose file": (write("other/test.parquet", ""), "must lie in a folder of its arm and seed"),
    "other file": (write("single/0/shfit.parquet", ""), "but one is 'shfit.parquet'"),
    "seed in words": (move("single/0", "single/seed_0"), "an integer, but one is 'seed_0'"),
    "seed twice": (
        lambda folder: shutil.copytree(folder / "single/0", folder / "single/00"),
        "a seed must be there once",
    ),
    "reserved name": (move("tracking", "deep_ensemble-4"), "not begin with deep_ensemble-"),
    "unprintable name": (move("tracking", "a\nb\x1b[31m"), r"but one is 'a\\nb\\x1b\[31m'"),
    "undecodable name": (
        lambda folder: (folder / "tracking").rename(folder / "caf\udce9"),
        r"but one is 'caf\\udce9'",
    ),
    "unequal members": (
        change(FILE, lambda rows: rows.filter(pl.col("member") < 3)),
        "as many members, but this one has 3 .* has 4",
    ),
    "shift of other size": (
        change("tracking/1/shift.parquet", lambda rows: rows.filter(pl.col("member") < 3)),
        "must hold the trial's 4 members, but holds 3",
    ),
    "single of many": (
        lambda folder: [
            shutil.copy(folder / FILE, folder / f"single/{s}/test.parquet") for s in range(3)
        ],
        "single must have 1 member, but has 4",
    ),
    "members from 1": (change(FILE, pl.col("member") + 1), "but are 1, 2, 3, 4; number them"),
    "twice in all members": (
        change(FILE, pl.col("example").replace({7: 8})),
        "an example must stand once .* but example 8 stands 2 times",
    ),
    "wide numbers twice": (
        change(FILE, pl.col("example").replace({7: 8}) * 10**16 - 2**60),
        f"but example {8 * 10**16 - 2**60} stands 2 times",
    ),
    "twice in one member": (
        change(FILE, lambda rows: pl.concat([rows, rows[:1]])),
        "every member must have as many rows, but they have 61, 60, 60, 60",
    ),
    "missing in one member": (
        change(FILE, at("example", 99)),
        "every member must have the same rows .* column example of member 1",
    ),
    "missing in one trial": (
        change(FILE, lambda rows: rows.filter(pl.col("example") != 7)),
        "examples of a split must be the same, in the same order, in every trial",
    ),
    "other labels in one trial": (
        change(FILE, (pl.col("label") + 1) % 4),
        "labels of a split must be the same",
    ),
    "other labels in one member": (
        change(FILE, at("label", 9)),
        "column label of member 1 differs from member 0's",
    ),
    "label of no class": (change(FILE, pl.col("label") + 1), "labels must be 0 to 3, but one is 4"),
    "stray label": (
        change(FILE, pl.col("label").replace({2: 10**9})),
        "labels must be 0 to 3, but one is 1000000000",
    ),
    "negative label": (change(FILE, -pl.col("label")), "labels must be 0 to 3, but one is -"),
    "null label": (
        change(FILE, pl.col("label").replace({2: None})),
        "labels may be null only out of distribution",
    ),
    "label in halves": (
        change(FILE, pl.col("label") + 0.5),
        "column label must hold whole numbers, but .* truncated",
    ),
    "label in words": (
        change(FILE, pl.col("label").cast(pl.String)),
        "column label must hold whole numbers, but is (large_)?string",
    ),
    "NaN": (change(FILE, logit(float("nan"))), "logits must be finite .* but 1 are NaN"),
    "infinite": (change(FILE, logit(float("-inf"))), "logits must be finite .* a floor"),
    "beyond float32": (change(FILE, logit(1e300)), "logits must be finite and within"),
    "beyond sense": (change(FILE, logit(-3e38)), "logits must be finite and within ±1e.10"),
    "null value": (change(FILE, logit(None)), "logits must have no null, but 1 values are"),
    "null list": (
        change(FILE, at("logits", None, dtype=pl.Array(pl.Float64, 4))),
        "logits must have no null",
    ),
    "unequal lists": (
        change(
            FILE,
            pl.col("logits")
            .arr.to_list()
            .list.head(pl.when(pl.col("example") < 9).then(3).otherwise(4)),
        ),
        "one value per class in every row, but rows have 3, 4 values",
    ),
    "other classes": (
        change(FILE, pl.col("logits").arr.to_list().list.head(3)),
        "labels must be 0 to 2",
    ),
    "one class": (
        change(FILE, pl.col("logits").arr.to_list().list.head(1)),
        "2 classes or more, but are of 1",
    ),
    "no class": (
        change(FILE, pl.col("logits").arr.to_list().list.head(0)),
        "2 classes or more, but are of 0",
    ),
    "probabilities": (
        change(FILE, pl.col("logits").arr.to_list(), PROBABILITIES),
        "sums to 1, as probabilities do; write their logarithm",
    ),
    "rounded probabilities": (
        change(
            FILE, pl.col("logits").arr.to_list(), PROBABILITIES.list.eval(pl.element().round(2))
        ),
        "sums to 1, as probabilities do; write their logarithm",
    ),
    "percent": (
        change(FILE, pl.col("logits").arr.to_list(), PROBABILITIES.list.eval(100 * pl.element())),
        "sums to 100, as probabilities in percent do; write the logarithm of a hundredth",
    ),
    "negative log-probabilities": (
        change(FILE, pl.col("logits").arr.to_list(), PROBABILITIES.list.eval(-pl.element().log())),
        "every value is positive, as -log p is; turn the sign",
    ),
    "whole numbers": (
        change(FILE, pl.col("logits").cast(pl.Array(pl.Int64, 4))),
        "column logits must hold lists of floats",
    ),
    "one number": (
        change(FILE, pl.col("logits").arr.get(0)),
        "column logits must hold lists of floats, but is",
    ),
    "empty": (change(FILE, lambda rows: rows.clear()), "tracking/1/test.parquet: must have rows"),
    "empty anywhere": (
        change("tracking/1/shift.parquet", lambda rows: rows.clear()),
        "tracking/1/shift.parquet: must have rows, but is empty",
    ),
    "no bytes": (write(FILE, b""), "must be whole Parquet"),
    "text": (write(FILE, "member,example\n"), "must be whole Parquet"),
    "cut": (
        lambda folder: (folder / FILE).write_bytes((folder / FILE).read_bytes()[:-40]),
        "must be whole Parquet",
    ),
    "damaged": (
        lambda folder: write(
            FILE,
            (folder / FILE).read_bytes()[:4] + bytes(4000) + (folder / FILE).read_bytes()[4004:],
        )(folder),
        "must be whole Parquet",
    ),
    "a folder for a file": (
        lambda folder: ((folder / FILE).unlink(), (folder / FILE).mkdir()),
        "must be one file, but is a folder",
    ),
    "wrong columns": (
        change(FILE, lambda rows: rows.rename({"label": "target"})),
        "missing: label; unknown: target",
    ),
    "no columns": (
        lambda folder: pl.DataFrame().write_parquet(folder / FILE),
        "missing: member, example, logits, label",
    ),
    "shift without condition": (
        change("single/0/shift.parquet", lambda rows: rows.drop("condition")),
        "missing: condition",
    ),
    "null condition": (
        change("single/0/shift.parquet", at("condition", None)),
        "column condition must have no null, but has 1",
    ),
    "condition in numbers": (
        change("single/0/shift.parquet", pl.lit(3).alias("condition")),
        "column condition must hold text",
    ),
    "severity of 0": (
        change("single/0/shift.parquet", pl.col("severity") - 1),
        "severity must be 1 to 100, but one is 0",
    ),
    "shift among the test": (
        change(FILE, pl.col("member").cast(pl.String).alias("condition")),
        "column condition must be the same in all rows of test",
    ),
    "protocol is no JSON": (write("protocol.json", "{"), "protocol.json: must be json"),
    "protocol is a list": (write("protocol.json", "[]"), "the protocol may hold delta, alpha"),
    "protocol of depth": (write("protocol.json", "[" * 100_000), "protocol.json: must be json"),
    "protocol is no YAML": (write("protocol.yaml", "a: [\n"), "protocol.yaml: must be yaml"),
    "protocol runs code": (
        write("protocol.yaml", "!!python/object/apply:os.system ['exit 1']"),
        "protocol.yaml: the protocol may hold delta",
    ),
    "two protocols": (
        lambda folder: [write(f"protocol.{s}", "{}")(folder) for s in ("json", "yaml")],
        "must be one file",
    ),
    "unknown key": (write("protocol.json", '{"margin": 0.3}'), "but holds margin"),
    "delta": (
        write("protocol.json", '{"delta": 25}'),
        "protocol.json: delta must be less than 1, but is 25",
    ),
    "delta is NaN": (write("protocol.json", '{"delta": NaN}'), "delta must be "),
    "endpoint": (
        write("protocol.json", '{"endpoints": ["ece"]}'),
        "protocol.json: endpoints must be among .* but is \\['ece'\\]",
    ),
    "seeds": (write("protocol.json", '{"seeds": 1}'), "seeds must be 2 or more, but are 1"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_mistake_is_one_line_and_status_2(
    name: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    edit, message = REFUSED[name]
    edit(folder)
    refused(folder, capsys, message)


def test_member_and_example_in_each_others_place_are_noticed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = make_predictions(tmp_path / "p", SMALL, seeds=1, data=Data(test=1001, classes=2))
    swapped = pl.col("example").alias("member"), pl.col("member").alias("example")
    change("tracking/0/test.parquet", lambda rows: rows.with_columns(swapped))(folder)
    refused(folder, capsys, "members must be 1000 at most, but are 1001; are member and example")


# --- what can be read, but not judged


@pytest.fixture(scope="session")
def clean(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which one candidate escapes."""
    place = tmp_path_factory.mktemp("clean") / "predictions"
    return make_predictions(place, SMALL, seeds=8, data=Data(test=300, classes=4))


@pytest.fixture
def eight(clean: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(clean, tmp_path / "predictions"))


def everywhere(pattern: str, one: Callable[[pl.DataFrame], pl.DataFrame]) -> Edit:
    """Return an edit of all files of a pattern."""

    def edit(folder: Path) -> None:
        for file in sorted(folder.glob(pattern)):
            one(pl.read_parquet(file)).write_parquet(file)

    return edit


def constant(rows: pl.DataFrame) -> pl.DataFrame:
    return rows.with_columns(logits=pl.lit([0.0] * 4, pl.Array(pl.Float32, 4)))


def first(members: int) -> Callable[[pl.DataFrame], pl.DataFrame]:
    return lambda rows: rows.filter(pl.col("member") < members)


def copies(name: str, seeds: Sequence[int]) -> Edit:
    """Return an edit that gives seeds of an arm the predictions of its seed 0."""
    source = f"{name}/0/test.parquet"
    return lambda folder: [
        shutil.copy(folder / source, folder / f"{name}/{seed}/test.parquet") for seed in seeds
    ]


def swapped_anchors(folder: Path) -> None:
    """Make the Deep Ensemble of copies of a worse network, and the single network of two."""
    everywhere("deep_ensemble/*/test.parquet", first(1))(folder)
    shutil.rmtree(folder / "single")
    move("deep_ensemble", "single")(folder)
    shutil.copytree(folder / "tracking", folder / "deep_ensemble")
    noise = pl.col("logits").arr.to_list().list.eval(pl.element() * 3)
    everywhere("deep_ensemble/*/test.parquet", lambda rows: rows.with_columns(noise))(folder)


ALL = "*/*/test.parquet"
NOT_BETTER = "calibrated NLL: the Deep Ensemble is not shown to be better than single"
OPEN: dict[str, tuple[Edit, str, str]] = {
    "one seed": (remove(*(f"escaping/{n}" for n in range(1, 8))), "too few seeds", "there are 1"),
    "constant everywhere": (everywhere(ALL, constant), "not assessable", "gave the same calibr"),
    "constant arm": (
        everywhere("escaping/*/test.parquet", constant),
        "not assessable",
        "all 8 runs of this arm gave the same calibrated NLL",
    ),
    "constant single": (
        everywhere("single/*/test.parquet", constant),
        "not assessable",
        "baseline single: no better than chance",
    ),
    "constant ensemble": (
        everywhere("deep_ensemble/*/test.parquet", constant),
        "not assessable",
        "baseline deep_ensemble-4: no better than chance",
    ),
    "no seeds in an arm": (
        copies("escaping", range(1, 8)),
        "not assessable",
        "all 8 runs of this arm gave the same calibrated NLL: were seeds used",
    ),
    "no seeds in single": (copies("single", range(1, 8)), "not assessable", "were seeds used"),
    "no seeds in the ensemble": (
        copies("deep_ensemble", range(1, 8)),
        "not assessable",
        "all 8 runs of the Deep Ensemble",
    ),
    "ensemble worse than single": (swapped_anchors, "not assessable", NOT_BETTER),
    "one example": (
        everywhere(ALL, lambda rows: rows.filter(pl.col("example") == 0)),
        "not assessable",
        "calibrated NLL was not measured in 8 of 8 runs",
    ),
    "two examples": (
        everywhere(ALL, lambda rows: rows.filter(pl.col("example") < 2)),
        "not assessable",
        "ensemble gain: the Deep Ensemble is not shown",
    ),
    "one label": (
        everywhere(ALL, lambda rows: rows.with_columns(label=0)),
        "not assessable",
        "baseline single: no better than chance",
    ),
    "pool too small": (
        lambda folder: [
            everywhere("deep_ensemble/*/test.parquet", first(2))(folder),
            everywhere("tracking/*/test.parquet", first(2))(folder),
        ],
        "not assessable",
        "its pool has fewer members",
    ),
    "fewer than declared": (
        lambda folder: [
            write("protocol.json", '{"seeds": 8}')(folder),
            remove("escaping/7")(folder),
        ],
        "runs missing",
        "1 of 8 runs are missing",
    ),
    "a declared endpoint without its split": (
        write("protocol.json", '{"endpoints": ["cll", "shift_nll"]}'),
        "not assessable",
        "shifted NLL was not measured in 8 of 8 runs",
    ),
}


@pytest.mark.parametrize("name", OPEN)
def test_what_cannot_be_judged_says_why(
    name: str, eight: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    edit, label, reason = OPEN[name]
    edit(eight)
    status, verdict, _ = judge(eight, capsys)
    assert status == 0
    assert verdict["verdict"] == "inconclusive"
    found = arm(verdict, "escaping")
    assert (found["verdict"], found["label"]) == ("inconclusive", label)
    assert reason in found["detail"]


def test_anchors_no_better_than_chance_are_open(
    eight: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    everywhere(ALL, lambda rows: rows.with_columns(label=pl.col("example") * 7919 % 4))(eight)
    _, verdict, text = judge(eight, capsys)
    assert arm(verdict, "escaping")["label"] == "not assessable"
    assert "chance" in arm(verdict, "escaping")["detail"]
    assert "chance" in text


def test_copies_of_a_run_are_no_runs(eight: Path, capsys: pytest.CaptureFixture[str]) -> None:
    copies("escaping", (1, 2))(eight)
    _, verdict, _ = judge(eight, capsys)
    assert arm(verdict, "escaping")["label"] == "not assessable"


@pytest.mark.parametrize("seeds", [1, 2, 3, 5])
def test_few_seeds_never_track(
    seeds: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = make_predictions(tmp_path / "p", SMALL, seeds, DATA)
    status, verdict, _ = judge(folder, capsys)
    assert status == 0
    assert verdict["seeds"] == {"planned": None, "fewest": seeds, "most": seeds}
    assert verdict["counts"]["tracks"] == 0
    if seeds == 1:
        assert verdict["counts"]["labels"] == {"too few seeds": 2}
        assert "at least 5 runs, but there are 1" in arm(verdict, "escaping")["detail"]


def test_an_arm_with_fewer_seeds_is_judged_by_its_own(
    eight: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    remove("escaping/6", "escaping/7")(eight)
    _, verdict, text = judge(eight, capsys)
    assert arm(verdict, "escaping")["seeds"] == 6
    assert (verdict["seeds"]["fewest"], verdict["seeds"]["most"]) == (6, 8)
    assert "6 to 8 seeds" in text


def test_anchors_alone_are_no_verdict(eight: Path, capsys: pytest.CaptureFixture[str]) -> None:
    remove("escaping", "tracking")(eight)
    _, verdict, _ = judge(eight, capsys)
    assert verdict["verdict"] == "inconclusive"
    assert "no candidate was confirmed" in verdict["reasons"]


@pytest.mark.parametrize("lone", ["escaping", "*ing"])
def test_one_member_is_placed_beside_an_ensemble(
    lone: str, eight: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    everywhere(f"{lone}/*/test.parquet", first(1))(eight)
    _, verdict, _ = judge(eight, capsys)
    found = arm(verdict, "escaping")
    assert (found["members"], found["reference"]) == (1, "deep_ensemble-4")
    assert found["verdict"] != "escapes"
    assert found["endpoints"]["gain"]["recovery"] == 0


def test_many_classes_are_judged(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = Data(test=40, classes=3000)
    folder = make_predictions(tmp_path / "p", SMALL, seeds=2, data=data)
    status, verdict, _ = judge(folder, capsys)
    assert status == 0
    assert verdict["counts"]["candidates"] == 2


NAMES = (
    "</script><script>alert(1)<",
    "..'\"{{7*7}}${x}&amp;<img src=x onerror=alert(1)>",
    "__proto__",
    "lr_0.1",
    "..\\..\\etc",
    "Σ ünïcode 🦆",
    "x" * 200,
)


def safe(name: str) -> str:
    """Return a name as a folder can have it."""
    return name.replace("/", "\N{DIVISION SLASH}")


@pytest.mark.parametrize("name", NAMES)
def test_a_strange_name_is_text(name: str, eight: Path, capsys: pytest.CaptureFixture[str]) -> None:
    name = safe(name)
    move("escaping", name)(eight)
    before = sorted(eight.parent.rglob("*.parquet"))
    _, verdict, text = judge(eight, capsys)
    html = (eight.parent / "out" / "report.html").read_text()
    assert arm(verdict, name)["verdict"] == "escapes"
    assert " ".join(name.split()) in text
    assert [tag for tag, _ in Page(html).tags].count("script") == 4
    assert "img" not in [tag for tag, _ in Page(html).tags]
    assert payload(html)["methods"][name] == [name]
    assert sorted(eight.parent.rglob("*.parquet")) == before


def test_the_folder_itself_may_have_a_strange_name(
    eight: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = eight.rename(eight.parent / "<b>100 %20 #1?")
    status, _, text = judge(folder, capsys)
    assert status == 0
    assert "<b>100 %20 #1?" in text


def test_a_path_that_cannot_be_written_is_refused(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    refused(folder.rename(folder.parent / "caf\udce9"), capsys, "a path must be printable")


def test_a_hidden_folder_without_predictions_is_no_arm(
    eight: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write(".ipynb_checkpoints/notes.txt", "")(eight)
    write("single/.DS_Store", "")(eight)
    status, verdict, _ = judge(eight, capsys)
    assert status == 0
    assert len(verdict["arms"]) == 2


def test_nothing_is_written_among_what_was_given(
    eight: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = sorted(eight.rglob("*"))
    judge(eight, capsys)
    assert sorted(eight.rglob("*")) == before
    assert (eight.parent / "out" / "verdict.json").exists()


@pytest.mark.parametrize("option", ["--out", "--export"])
def test_what_is_written_is_written_on_this_machine(
    option: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["--predictions", str(folder), option, "s3://bucket/page"]) == 2
    assert f"error: {option} s3://bucket/page: must be a path of this" in capsys.readouterr().err


def test_predictions_in_an_object_store_are_to_be_copied(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["--predictions", "s3://bucket/predictions"]) == 2
    assert "s3://bucket/predictions: must be a folder of this machine" in capsys.readouterr().err


def test_a_home_that_nobody_has_is_a_folder_that_is_not_there(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["--predictions", "~nobody-of-that-name/predictions"]) == 2
    assert "~nobody-of-that-name/predictions: must be a folder" in capsys.readouterr().err


def test_without_docstrings_there_is_no_report() -> None:
    command = [sys.executable, "-OO", "-c", "import analysis.report"]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ended.returncode == 1
    assert ended.stderr.startswith(
        "error: Python must keep docstrings, which Altair reads, but was"
    )


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of its own that holds no page."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(disk)]
    if os.geteuid() or subprocess.run(mount, check=False, capture_output=True).returncode:
        pytest.skip("only root can mount a small disk")
    try:
        yield disk
    finally:
        subprocess.run(["umount", "-l", str(disk)], check=True)


def test_a_full_disk_leaves_the_earlier_report_and_no_fragment(
    small_disk: Path, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = small_disk / "report.html"
    for earlier in ({}, {out: "earlier"}):
        for file, content in earlier.items():
            file.write_text(content)
        assert main(["--predictions", str(folder), "--out", str(out)]) == 2
        said = f"error: {out}: must be writable, but No space left on device; choose another place"
        assert capsys.readouterr().err == f"{said}\n"
        assert {file: file.read_text() for file in small_disk.iterdir()} == earlier


def test_a_link_is_followed_and_what_is_no_file_is_written_to(tmp_path: Path) -> None:
    link, pipe = tmp_path / "link.html", tmp_path / "pipe"
    link.symlink_to(tmp_path / "page.html")
    write_file(link, "page")
    assert link.is_symlink()
    assert (tmp_path / "page.html").read_text() == "page"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    write_file(pipe, "page")
    assert os.read(reader, 9) == b"page"
    os.close(reader)
