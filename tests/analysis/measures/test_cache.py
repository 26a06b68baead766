"""A second report reads no predictions; what is foreign, damaged or out of date is measured again."""

import ast
import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from analysis.data.external import load_predictions
from analysis.data.run import load
from analysis.measures import cache
from analysis.measures.measure import Measures, measure
from analysis.measures.per_example import ExampleValues
from study.errors import StudyError
from tests.analysis.make_predictions import make_predictions
from tests.analysis.make_run import DEEP_ENSEMBLE, SINGLE, Arm, Data, make_run

CANDIDATE = Arm("candidate", "batchensemble", members=2, diversity=0.5)
ARMS = [SINGLE, DEEP_ENSEMBLE, CANDIDATE]
DATA = Data(test=31, shift=17, ood=10, classes=4, severities=2)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return make_run(tmp_path / "run", ARMS, seeds=2, data=DATA)


def same(a: Measures, b: Measures) -> bool:
    frames = [n for n, own in vars(a).items() if isinstance(own, pl.DataFrame)]
    arms = a.replicates["arm"].unique().to_list()
    return all(getattr(a, name).equals(getattr(b, name)) for name in frames) and all(
        equal(a.examples(arm), b.examples(arm)) for arm in arms
    )


def equal(a: ExampleValues | None, b: ExampleValues | None) -> bool:
    assert a is not None
    assert b is not None
    return (
        a.replicates == b.replicates
        and a.values.keys() == b.values.keys()
        and all(np.array_equal(a.values[key], b.values[key]) for key in a.values)
        and all(np.array_equal(a.weights[key], b.weights[key]) for key in a.weights)
    )


def kept(folder: Path) -> list[Path]:
    return sorted((folder / "features").iterdir())


def spoil(folder: Path) -> None:
    """Turn every prediction into zeros without a trace in size and time."""
    for file in folder.glob("trials/*/[!t]*.parquet"):
        blank(file)
    for file in folder.glob("trials/*/test.parquet"):
        blank(file)


def blank(file: Path) -> None:
    stat = file.stat()
    file.write_bytes(bytes(stat.st_size))
    os.utime(file, ns=(stat.st_atime_ns, stat.st_mtime_ns))


def test_a_second_report_reads_no_prediction_and_is_the_same(folder: Path) -> None:
    first = measure(load(folder))
    assert [len(kept(folder)), first.replicates.height] == [6, 6]
    spoil(folder)
    assert same(measure(load(folder)), first)


def test_nothing_kept_is_the_same(folder: Path) -> None:
    measure(load(folder))
    first = measure(load(folder))
    shutil.rmtree(folder / "features")
    (folder / "features").write_text("no folder")
    again = measure(load(folder))
    assert same(again, first)
    shutil.copytree(folder / "trials", folder.parent / "other" / "trials")
    shutil.copy(folder / "plan.json", folder.parent / "other")
    assert same(measure(load(folder.parent / "other")), first)


def test_a_changed_prediction_is_measured_again(folder: Path) -> None:
    first = measure(load(folder))
    spoil(folder)
    file = next(folder.glob("trials/*/test.parquet"))
    os.utime(file, ns=(0, 0))
    with pytest.raises(StudyError, match=r"test.parquet: must be whole Parquet"):
        measure(load(folder))
    assert first.replicates.height == 6


def test_another_need_is_measured_again(folder: Path) -> None:
    first = measure(load(folder))
    larger = make_run(folder, [replace(CANDIDATE, members=3)], seeds=2, data=DATA, declare=False)
    run = replace(load(larger), plan=None)
    found = measure(run)
    assert {"deep_ensemble-2", "deep_ensemble-3"} <= set(found.replicates["arm"])
    two = found.replicates.filter(pl.col("arm") == "deep_ensemble-2")
    assert two.equals(first.replicates.filter(pl.col("arm") == "deep_ensemble-2"))


def test_a_control_that_appears_is_measured(folder: Path) -> None:
    assert measure(load(folder)).replicates["mean_weights_cll"].null_count() == 6
    for split in ("test", "shift"):
        for file in folder.glob(f"trials/*/collapsed_{split}.parquet"):
            shutil.copy(file, file.with_name(f"mean_weights_{split}.parquet"))
    own = measure(load(folder)).replicates.filter(pl.col("method") == "batchensemble")
    for name in ("nll", "cll", "shift_nll"):
        assert own[f"mean_weights_{name}"].null_count() == 0
        assert own[f"mean_weights_{name}"].equals(own[f"collapsed_{name}"], check_names=False)


def other_code(file: Path) -> None:
    table = pq.read_table(file)
    pq.write_table(table.replace_schema_metadata({b"key": b"of another release"}), file)


def changed_scalar(file: Path) -> None:
    parquet = pq.ParquetFile(file)
    metadata = dict(parquet.schema_arrow.metadata)
    metadata[b"scalars"] = metadata[b"scalars"].replace(b'"nll": 0', b'"nll": 1')
    groups = [parquet.read_row_group(i) for i in range(parquet.num_row_groups)]
    schema = parquet.schema_arrow.with_metadata(metadata)
    with pq.ParquetWriter(file, schema) as writer:
        for group in groups:
            writer.write_table(group.replace_schema_metadata(metadata))


def damaged_inside(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[len(content) // 6 : len(content) // 5] = b"\xff" * (
        len(content) // 5 - len(content) // 6
    )
    file.write_bytes(content)


DAMAGE: dict[str, Callable[[Path], object]] = {
    "empty": lambda file: file.write_bytes(b""),
    "cut": lambda file: file.write_bytes(file.read_bytes()[:-40]),
    "no Parquet": lambda file: file.write_text("hello" * 1000),
    "no metadata": lambda file: pq.write_table(pa.table({"x": [1]}), file),
    "other code": other_code,
    "changed scalar": changed_scalar,
    "damaged inside": damaged_inside,
    "a folder": lambda file: (file.unlink(), file.mkdir()),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_a_damaged_file_never_hurts(folder: Path, name: str) -> None:
    first = measure(load(folder))
    expected = {arm: first.examples(arm) for arm in first.replicates["arm"].unique()}
    for file in kept(folder):
        DAMAGE[name](file)
    again = measure(load(folder))
    assert again.replicates.equals(first.replicates)
    assert all(equal(again.examples(arm), own) for arm, own in expected.items())
    assert again.severities.equals(first.severities)


def test_damage_after_measuring_never_hurts(folder: Path) -> None:
    found = measure(load(folder))
    before = found.examples("single")
    for file in kept(folder):
        damaged_inside(file)
    assert equal(found.examples("single"), before)
    shutil.rmtree(folder / "features")
    assert equal(found.examples("single"), before)


def test_nothing_is_written_among_what_was_given(tmp_path: Path) -> None:
    folder = make_predictions(tmp_path / "given", seeds=2, splits=("test", "shift"))
    before = sorted(folder.rglob("*"))
    found = measure(load_predictions(folder))
    assert sorted(folder.rglob("*")) == before
    values = found.examples("escaping")
    assert values is not None
    assert values.values["shift_gain"].shape == (2, 40)
    assert found.examples("nobody") is None


def test_ids_are_file_names_whatever_they_hold() -> None:
    assert cache.name_of("single/0") == "single%2F0.parquet"
    names = {cache.name_of(trial) for trial in ("..", "a/../b", "é" * 300, "ü" * 300, "a\\b")}
    assert len(names) == 5
    assert all("/" not in name and len(name) < 255 for name in names)


def test_the_numbers_are_small_and_no_file_is_left_over(folder: Path) -> None:
    measure(load(folder))
    assert all(file.suffix == ".parquet" for file in kept(folder))
    table = pq.read_table(kept(folder)[0])
    assert {table.schema.field(n).type for n in table.column_names if n != "example"} == {
        pa.float32()
    }


def imported(file: Path) -> set[Path]:
    """Return the project's files that a file imports, by whatever way."""
    found: set[Path] = set()
    open_ = [file]
    while open_:
        for node in ast.walk(ast.parse(open_.pop().read_text())):
            if isinstance(node, ast.ImportFrom) and node.module:
                names = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
                files = {cache.ROOT / f"{name.replace('.', '/')}.py" for name in names}
                new = {path for path in files if path.exists()} - found
                found |= new
                open_ += new
    return found


def test_every_file_that_measures_makes_what_is_kept_stale() -> None:
    only_refuse = {
        "analysis/data/protocol.py",
        "analysis/data/roles.py",
        "study/errors.py",
        "study/run_folder/paths.py",
        "study/thresholds.py",
    }  # They read no number that is measured.
    measuring = imported(cache.ROOT / "analysis" / "measures" / "cache.py")
    names = {path.relative_to(cache.ROOT).as_posix() for path in measuring}
    names = {name for name in names if not name.startswith("analysis/metrics/")}
    assert names - only_refuse <= set(cache.SOURCES)
    assert all((cache.ROOT / name).is_file() for name in cache.SOURCES)
