"""The run folder: what is committed is whole, what is not is not there."""

import os
import shutil

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from study import schema
from study.schema import StudyError
from study.store import ROW, Store
from study.trial import new_row


@pytest.fixture
def store(tmp_path):
    store = Store(tmp_path / "run")
    store.create()
    return store


def test_a_row_survives_the_round_trip(store, make_spec):
    row = new_row(make_spec(), "data", "name")
    store.commit(row["trial"], row)
    found = store.rows()[row["trial"]]
    row |= {"finished": found["finished"], "files": []}
    assert found == row


def test_a_row_is_on_the_disk_once_it_is_committed(store, make_spec, monkeypatch):
    row, fsync, synced = new_row(make_spec(), "data", None), os.fsync, []

    def noted(descriptor):
        fsync(descriptor)
        synced.append(os.fstat(descriptor).st_ino)

    monkeypatch.setattr(os, "fsync", noted)
    store.commit(row["trial"], row)
    assert (store.folder(row["trial"]) / ROW).stat().st_ino in synced


def test_discard_takes_the_trial_back(store, make_spec):
    row = new_row(make_spec(), "data", None)
    store.commit(row["trial"], row)
    store.discard(row["trial"])
    assert store.row(row["trial"]) is None
    assert not store.folder(row["trial"]).exists()


def test_the_commit_mark_goes_first(store, make_spec, monkeypatch):
    row, rmtree, there = new_row(make_spec(), "data", None), shutil.rmtree, []
    store.commit(row["trial"], row)

    def noted(folder, **options):
        there.append((folder / ROW).exists())
        rmtree(folder, **options)

    monkeypatch.setattr(shutil, "rmtree", noted)
    store.discard(row["trial"])
    assert there == [False]


def test_a_row_cut_short_is_named(store, make_spec):
    row = new_row(make_spec(), "data", None)
    store.commit(row["trial"], row)
    path = store.folder(row["trial"]) / ROW
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(
        StudyError, match=f"{row['trial']}/trial.parquet: must be the one row of its trial"
    ):
        store.rows()


def test_another_schema_version_is_refused(store, make_spec):
    row = new_row(make_spec(), "data", None)
    store.commit(row["trial"], row)
    path = store.folder(row["trial"]) / ROW
    table = pq.read_table(path)
    pq.write_table(table.replace_schema_metadata({schema.VERSION_KEY: b"99"}), path)
    with pytest.raises(StudyError, match="schema version must be 4, but is 99"):
        store.rows()
    pq.write_table(pa.table({"a": [1]}), path)
    with pytest.raises(StudyError, match="no key 'schema_version'"):
        store.rows()
    pq.write_table(table.slice(0, 0), path)
    with pytest.raises(StudyError, match="it has 0 rows"):
        store.rows()
    other = new_row(make_spec(seed=9), "data", None)
    pq.write_table(pa.Table.from_pylist([other], schema=schema.TRIAL), path)
    with pytest.raises(StudyError, match=f"it is the row of trial {other['trial']}"):
        store.rows()


@pytest.mark.parametrize("name", ["../x", "a/b", "", ".", "a b"])
def test_names_never_become_paths(store, name):
    with pytest.raises(StudyError, match="letters and digits only"):
        store.folder(name)


def test_a_folder_that_cannot_be_made_is_one_line(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StudyError, match="must be writable"):
        Store(tmp_path / "file" / "run").create()


def test_json_that_is_broken_is_named(store):
    store.plan.write_text("{")
    with pytest.raises(StudyError, match=r"plan\.json: must be readable JSON"):
        store.read_json(store.plan)
    assert store.read_json(store.study) is None


def test_a_second_run_in_the_same_folder_is_refused(store):
    other = Store(store.root)
    with (
        store.locked(),
        pytest.raises(StudyError, match="another run is at work in this folder"),
        other.locked(),
    ):
        pass
    with other.locked():
        pass
