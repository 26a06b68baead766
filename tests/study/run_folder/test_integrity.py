"""Damaged trials are found, set aside by name and done again."""

import pyarrow.parquet as pq
import pytest

from study import parquet_format
from study.errors import StudyError
from study.run_folder.integrity import examine, set_aside, sound_rows, verify
from study.run_folder.store import ROW, RunFolder
from study.trials.trial import run_trials


@pytest.fixture
def run(make_spec, data, tmp_path):
    """A run folder with three trials, and their names."""
    store = RunFolder(tmp_path / "run")
    store.create()
    specs = [make_spec("single", stage="search", seed=seed) for seed in range(3)]
    for spec in specs:
        run_trials([spec], data, store, fingerprint=data.fingerprint)
    return store, [spec.trial for spec in specs]


def test_a_folder_without_trials_is_no_sound_run(tmp_path):
    with pytest.raises(StudyError, match="no trial is committed there"):
        verify(RunFolder(tmp_path / "none"))


def flip(path, at):
    content = bytearray(path.read_bytes())
    content[at] ^= 1
    path.write_bytes(content)


def test_what_was_committed_is_sound(run, capsys):
    store, trials = run
    rows, damaged = examine(store)
    assert sorted(rows) == sorted(trials)
    assert damaged == {}
    assert verify(store) == 0
    assert "3 trials with 6 files" in capsys.readouterr().out


DAMAGES = {
    "a bit flips": (lambda f: flip(f / "val.parquet", 200), "val.parquet not as committed"),
    "a file is cut": (
        lambda f: (f / "val.parquet").write_bytes((f / "val.parquet").read_bytes()[:100]),
        "val.parquet not as committed",
    ),
    "a file vanishes": (lambda f: (f / "val.parquet").unlink(), "val.parquet missing"),
    "the row is cut": (
        lambda f: (f / ROW).write_bytes((f / ROW).read_bytes()[:-20]),
        "must be the one row of its trial",
    ),
    "the row is empty": (lambda f: (f / ROW).write_bytes(b""), "must be the one row of its trial"),
    "the folder is renamed": (lambda f: f.rename(f.with_name("f" * 16)), "it is the row of trial"),
    "the folder is a copy": (lambda f: f.rename(f.with_name("a copy")), "it is the row of trial"),
}


def test_the_commit_mark_is_set_aside_first(object_store):
    object_store.bucket("aside")
    store = RunFolder("s3://aside/run")
    for name in ("val.parquet", ROW):
        (store.folder("a1") / name).write_text(name)
    before = len(object_store.requests())
    assert set_aside(store, "a1") == "damaged/a1-1"
    asked = object_store.requests()[before:]
    gone = [r.rpartition("/")[2] for r in asked if r.startswith("DELETE")]
    assert [name for name in gone if name] == [ROW, "val.parquet"]


@pytest.mark.parametrize("damage", DAMAGES)
def test_damage_is_named_and_set_aside(run, capsys, damage):
    store, trials = run
    act, message = DAMAGES[damage]
    act(store.folder(trials[0]))
    assert verify(store) == 1
    assert message in capsys.readouterr().out
    assert sorted(sound_rows(store)) == sorted(trials[1:])
    said = capsys.readouterr().out
    assert message in said
    assert len(list((store.root / "damaged").iterdir())) == 1
    assert verify(store) == 0


def test_a_row_of_another_release_is_no_damage(run):
    store, trials = run
    path = store.folder(trials[0]) / ROW
    pq.write_table(
        pq.read_table(path).replace_schema_metadata({parquet_format.VERSION_KEY: b"9"}), path
    )
    with pytest.raises(StudyError, match="schema version must be"):
        sound_rows(store)
    assert path.exists()


def test_one_trial_may_be_damaged_twice(run, data, make_spec):
    store, trials = run
    for _ in range(2):
        flip(store.folder(trials[0]) / "val.parquet", 100)
        sound_rows(store)
        spec = make_spec("single", stage="search", seed=0)
        run_trials([spec], data, store, fingerprint=data.fingerprint)
    assert sorted(examine(store)[0]) == sorted(trials)
    assert len(list((store.root / "damaged").iterdir())) == 2


def test_a_trial_that_was_begun_is_no_damage(run, capsys):
    store, trials = run
    (store.folder(trials[0]) / ROW).unlink()
    assert store.unfinished() == [trials[0]]
    assert verify(store) == 0
    assert "1 were begun and not ended" in capsys.readouterr().out


def test_the_row_names_every_file(run):
    store, trials = run
    for trial in trials:
        files = {file.name for file in store.row(trial).files}
        assert files == {p.name for p in store.folder(trial).glob("*.parquet")} - {ROW}
        assert pq.read_table(store.folder(trial) / "val.parquet").num_rows > 0
