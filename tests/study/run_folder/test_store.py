"""The run folder: what is committed is whole, what is not is not there."""

import math
import os
import shutil
from dataclasses import replace
from datetime import datetime, timedelta
from types import NoneType
from typing import Literal, get_args, get_origin, get_type_hints

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from study import parquet_format
from study.errors import StudyError
from study.parquet_format import File, GeometryRow, TrialRow
from study.run_folder.store import GEOMETRY, ROW, RunFolder
from tests.study.conftest import row_of


@pytest.fixture
def store(tmp_path):
    store = RunFolder(tmp_path / "run")
    store.create()
    return store


def test_a_row_survives_the_round_trip(store, make_spec):
    row = row_of(make_spec(), "name", stack=("a", "b"), val_nll=0.5, peak_bytes=2**40)
    store.commit(row)
    found = store.rows()[row.trial]
    assert found == replace(row, finished=found.finished, files=())
    assert abs(found.finished - row.finished) < timedelta(milliseconds=1)


ARROW = {str: "string", int: "int", float: "double", bool: "bool", datetime: "timestamp"}


def test_a_row_has_the_columns_of_the_published_schema():
    hints = get_type_hints(TrialRow)
    assert set(hints) == set(parquet_format.TRIAL.names)
    for column in parquet_format.TRIAL:
        hint = hints[column.name]
        kinds = [kind for kind in get_args(hint) if kind is not NoneType]
        assert column.nullable == (len(kinds) < len(get_args(hint))), column.name
        kind = kinds[0] if column.nullable else hint
        if get_origin(kind) is tuple:
            item = get_args(kind)[0]
            assert column.type == pa.list_(parquet_format.FILE if item is File else pa.string())
        else:
            kind = type(get_args(kind)[0]) if get_origin(kind) is Literal else kind
            assert str(column.type).startswith(ARROW[kind]), column.name
    assert set(GeometryRow._fields) == set(parquet_format.GEOMETRY.names)
    assert list(get_type_hints(File)) == [parquet_format.FILE.field(i).name for i in range(2)]


def test_a_value_of_geometry_that_is_not_finite_is_null(store):
    values = [0.5, math.nan, math.inf, -math.inf, None]
    rows = [GeometryRow("barrier", value, 1, i=0, j=j) for j, value in enumerate(values)]
    store.write_geometry("a1", rows)
    table = pq.read_table(store.folder("a1") / GEOMETRY)
    assert table.schema.equals(parquet_format.GEOMETRY)
    assert table["value"].to_pylist() == [0.5, None, None, None, None]
    assert table["j"].to_pylist() == [0, 1, 2, 3, 4]
    assert table["layer"].null_count == 5


def test_a_row_is_on_the_disk_once_it_is_committed(store, make_spec, monkeypatch):
    row, fsync, synced = row_of(make_spec()), os.fsync, []

    def noted(descriptor):
        fsync(descriptor)
        synced.append(os.fstat(descriptor).st_ino)

    monkeypatch.setattr(os, "fsync", noted)
    store.commit(row)
    assert (store.folder(row.trial) / ROW).stat().st_ino in synced


def test_what_was_declared_is_on_the_disk(store, monkeypatch):
    fsync, synced = os.fsync, []
    monkeypatch.setattr(os, "fsync", lambda of: (fsync(of), synced.append(os.fstat(of).st_ino)))
    store.write_json(store.plan, {})
    assert store.plan.stat().st_ino in synced


def test_discard_takes_the_trial_back(store, make_spec):
    row = row_of(make_spec())
    store.commit(row)
    store.discard(row.trial)
    assert store.row(row.trial) is None
    assert not store.folder(row.trial).exists()


def test_the_commit_mark_goes_first(store, make_spec, monkeypatch):
    row, rmtree, there = row_of(make_spec()), shutil.rmtree, []
    store.commit(row)

    def noted(folder, **options):
        there.append((folder / ROW).exists())
        rmtree(folder, **options)

    monkeypatch.setattr(shutil, "rmtree", noted)
    store.discard(row.trial)
    assert there == [False]


def test_a_row_cut_short_is_named(store, make_spec):
    row = row_of(make_spec())
    store.commit(row)
    path = store.folder(row.trial) / ROW
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(
        StudyError, match=f"{row.trial}/trial.parquet: must be the one row of its trial"
    ):
        store.rows()


def test_a_row_of_before_a_column_was_there_is_read(store, make_spec):
    row = row_of(make_spec())
    store.commit(row)
    path = store.folder(row.trial) / ROW
    table = pq.read_table(path).drop_columns("deterministic")
    pq.write_table(table.replace_schema_metadata({parquet_format.VERSION_KEY: b"4"}), path)
    assert store.row(row.trial).deterministic is None
    assert store.row(row.trial).val_nll == row.val_nll
    pq.write_table(table.replace_schema_metadata({parquet_format.VERSION_KEY: b"5"}), path)
    with pytest.raises(StudyError, match="other columns"):
        store.row(row.trial)


def test_another_schema_version_is_refused(store, make_spec):
    row = row_of(make_spec())
    store.commit(row)
    path = store.folder(row.trial) / ROW
    table = pq.read_table(path)
    pq.write_table(table.replace_schema_metadata({parquet_format.VERSION_KEY: b"99"}), path)
    with pytest.raises(StudyError, match="schema version must be 4 or 5, but is 99"):
        store.rows()
    pq.write_table(pa.table({"a": [1]}), path)
    with pytest.raises(StudyError, match="no key 'schema_version'"):
        store.rows()
    pq.write_table(table.slice(0, 0), path)
    with pytest.raises(StudyError, match="it has 0 rows"):
        store.rows()
    other = row_of(make_spec(seed=9))
    store.commit(other)
    shutil.copy(store.folder(other.trial) / ROW, path)
    with pytest.raises(StudyError, match=f"it is the row of trial {other.trial}"):
        store.rows()


@pytest.mark.parametrize("name", ["../x", "a/b", "", ".", "a b"])
def test_names_never_become_paths(store, name):
    with pytest.raises(StudyError, match="letters and digits only"):
        store.folder(name)


def test_a_folder_that_cannot_be_made_is_one_line(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StudyError, match="must be writable"):
        RunFolder(tmp_path / "file" / "run").create()


def test_json_that_is_broken_is_named(store):
    store.plan.write_text("{")
    with pytest.raises(StudyError, match=r"plan\.json: must be readable JSON"):
        store.read_json(store.plan)
    assert store.read_json(store.study) is None


def test_a_second_run_in_the_same_folder_is_refused(store):
    other = RunFolder(store.root)
    with (
        store.locked(),
        pytest.raises(StudyError, match="another run is at work in this folder"),
        other.locked(),
    ):
        pass
    with other.locked():
        pass
