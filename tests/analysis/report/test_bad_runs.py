"""Whatever a run folder holds: one clear line, or a page that says what it lacks."""

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from analysis.report.__main__ import main
from study import parquet_format
from tests.analysis.make_run import DEEP_ENSEMBLE, NEGATIVE, POSITIVE, SINGLE, Arm, Data, make_run
from tests.analysis.printed import told
from tests.analysis.report.test_report import Page, payload

SMALL = Data(test=60, shift=20, ood=20, severities=2)
Edit = Callable[[Path], object]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    arms = (SINGLE, DEEP_ENSEMBLE, POSITIVE, NEGATIVE, Arm("candidate", "sve", diversity=0.9))
    return make_run(tmp_path_factory.mktemp("whole") / "run", arms, 2, SMALL, search=6)


@pytest.fixture
def folder(whole: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(whole, tmp_path / "run"))


def first(pattern: str, change: Callable[[Path], object]) -> Edit:
    return lambda folder: change(sorted(folder.glob(pattern))[0])


def cut(size: int) -> Callable[[Path], object]:
    return lambda file: file.write_bytes(file.read_bytes()[:size])


def version(number: bytes | None) -> Callable[[Path], object]:
    def change(file: Path) -> None:
        table = pq.read_table(file, partitioning=None)
        metadata = {} if number is None else {parquet_format.VERSION_KEY: number}
        pq.write_table(table.replace_schema_metadata(metadata), file)

    return change


def column(name: str, value: Any) -> Edit:
    """Return an edit that gives every trial's row one value."""

    def edit(folder: Path) -> None:
        for file in folder.glob("trials/*/trial.parquet"):
            table = pq.read_table(file, partitioning=None)
            at = table.schema.get_field_index(name)
            field = pa.field(name, table.schema.field(at).type)
            table = table.set_column(at, field, pa.array([value], field.type))
            pq.write_table(table, file)

    return edit


def as_folder(name: str) -> Edit:
    def edit(folder: Path) -> None:
        (folder / name).unlink(missing_ok=True)
        (folder / name).mkdir()

    return edit


def plan(**values: Any) -> Edit:
    def edit(folder: Path) -> None:
        content = json.loads((folder / "plan.json").read_text())
        (folder / "plan.json").write_text(json.dumps(content | values))

    return edit


def arms(**values: Any) -> Edit:
    """Return an edit of every declared arm."""

    def edit(folder: Path) -> None:
        content = json.loads((folder / "plan.json").read_text())
        plan(arms=[arm | values for arm in content["arms"]])(folder)

    return edit


def twice(folder: Path) -> None:
    content = json.loads((folder / "plan.json").read_text())
    plan(arms=content["arms"] * 2)(folder)


TRIAL, TEST = "trials/*/trial.parquet", "trials/*/test.parquet"
REFUSED: dict[str, tuple[Edit, str]] = {
    "older trial": (
        first(TRIAL, version(b"2")),
        "schema version must be 4 or 5, but is 2; read it",
    ),
    "newer trial": (
        first(TRIAL, version(b"99")),
        "schema version must be 4 or 5, but is 99; read it",
    ),
    "newer predictions": (
        first(TEST, version(b"6")),
        r"test\.parquet: schema version must be 4 or 5",
    ),
    "no version": (first(TRIAL, version(None)), "no key 'schema_version'"),
    "half a trial": (first(TRIAL, cut(300)), "must be whole Parquet"),
    "empty trial": (first(TRIAL, cut(0)), "must be whole Parquet"),
    "half of predictions": (first(TEST, cut(2000)), "must be whole Parquet"),
    "half of geometry": (first("trials/*/geometry.parquet", cut(90)), "must be whole Parquet"),
    "trial is a folder": (
        first(TRIAL, lambda file: (file.unlink(), file.mkdir())),
        "must be one file, but is a folder",
    ),
    "renamed trial": (
        first("trials/*", lambda trial: trial.rename(trial.parent / "other")),
        "trial must be the folder's name, but is .*; put the folder back",
    ),
    "no predictions": (first(TEST, Path.unlink), "must exist, as the trial is complete"),
    "half a plan": (first("plan.json", cut(100)), r"plan\.json: must be JSON"),
    "plan is a folder": (as_folder("plan.json"), r"plan\.json: must be JSON, but .*directory"),
    "study is a folder": (as_folder("study.json"), r"study\.json: must hold the study"),
    "verdict is a folder": (as_folder("verdict.json"), r"verdict\.json: must be writable"),
    "arms are text": (plan(arms="all"), "arms must be a valid array, but is 'all'"),
    "seeds are true": (plan(seeds=True), "seeds must be a valid integer, but is True"),
    "tuning is text": (plan(tuning="x"), "tuning must be an object, but is 'x'"),
    "members of an arm": (
        arms(members=None),
        r"arms\.0\.members must be a valid integer, but is None",
    ),
    "method of an arm": (arms(method=3), r"arms\.0\.method must be a valid string, but is 3"),
    "arms twice": (twice, "an arm must be declared once, but single is there twice"),
    "spec is no JSON": (column("spec", "x"), "spec must be a JSON object, .* but is 'x'"),
    "sections are no objects": (column("spec", '{"params": 3}'), "as must its sections"),
    "versions are a list": (column("versions", "[1]"), "versions must be a JSON object"),
    "role is unknown": (column("role", "boss"), "role must be one of"),
    "members of none": (column("members", 0), "must hold the trial's 0 members, but holds"),
}


def judge(folder: Path, capsys: pytest.CaptureFixture[str]) -> tuple[int, str, str]:
    """Give the command; return its status, what it says was found (or the error) and the text of the page."""
    out = folder.parent / "out.html"
    status = main(["--runs", str(folder), "--out", str(out)])
    printed = capsys.readouterr()
    line = printed.out + printed.err
    if status:
        assert line.count("\n") == 1
        assert line.startswith("error: ")
        assert "; " in line
        return status, line, ""
    html = out.read_text()
    payload(html)
    text = " ".join(Page(html).text.split())
    assert not re.search(r"\b(nan|NaN|inf|Infinity)\b", text)
    return status, told(line)["found"], text


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_not_as_it_must_be_is_one_line(
    name: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    edit, message = REFUSED[name]
    edit(folder)
    status, line, _ = judge(folder, capsys)
    assert status == 2
    assert re.search(message, line), line


JUDGED: dict[str, Edit] = {
    "no validation loss anywhere": column("val_nll", None),
    "an endless validation loss": column("val_nll", float("inf")),
    "no costs anywhere": lambda folder: [
        column(name, None)(folder)
        for name in ("parameters", "stored_bytes", "train_flops", "infer_flops")
    ],
    "costs of nothing": column("train_flops", 0),
    "no time": column("seconds", float("nan")),
    "an empty specification": column("spec", "{}"),
    "no commit": column("commit", None),
    "only a temporary row": first(
        TEST, lambda file: (file.parent / "trial.parquet").rename(file.parent / ".trial.parquet-1")
    ),
    "features cannot be kept": lambda folder: (folder / "features").write_text(""),
    "no shift set": lambda folder: [
        file.unlink() for file in folder.glob("trials/*/*shift.parquet")
    ],
    "many more seeds declared": plan(seeds=10**9),
    "a folder among the trials": lambda folder: (folder / "trials" / "notes").mkdir(),
}


@pytest.mark.parametrize("name", JUDGED)
def test_what_is_lacking_is_no_fault(
    name: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    JUDGED[name](folder)
    status, line, text = judge(folder, capsys)
    assert status == 0
    assert line.startswith(("No verdict", "No configuration", "Exploratory: No "))
    assert "Does " in text
