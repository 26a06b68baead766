"""Optuna's journal in an object store is the journal that a file would hold."""

import optuna
import pytest
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend

from study.errors import StudyError
from study.run_folder.paths import any_path
from study.search.object_journal import ObjectJournal


@pytest.fixture
def at(object_store, tmp_path):
    name = f"journal-{abs(hash(str(tmp_path)))}"
    object_store.bucket(name)
    return any_path(f"s3://{name}/run/optuna")


def search(storage, trials):
    study = optuna.create_study(
        study_name="s",
        storage=storage,
        load_if_exists=True,
        sampler=optuna.samplers.RandomSampler(seed=0),
    )
    for _ in range(trials):
        trial = study.ask()
        study.tell(trial, trial.suggest_float("x", 0, 1))


def trials(storage):
    found = optuna.load_study(study_name="s", storage=storage).get_trials()
    return [(t.number, t.state, t.params, t.values) for t in found]


def test_it_holds_what_a_file_holds(at, tmp_path):
    file = JournalStorage(JournalFileBackend(str(tmp_path / "journal")))
    search(file, 5)
    search(JournalStorage(ObjectJournal(at)), 5)
    assert trials(JournalStorage(ObjectJournal(at))) == trials(file)


def test_parts_become_one_when_it_is_opened(at):
    search(JournalStorage(ObjectJournal(at)), 3)
    before = trials(JournalStorage(ObjectJournal(at)))
    assert len(list(at.glob("*"))) == 1
    search(JournalStorage(ObjectJournal(at)), 2)
    after = trials(JournalStorage(ObjectJournal(at)))
    assert after[:3] == before
    assert len(after) == 5


def test_a_joint_part_beside_those_it_was_made_of(at):
    search(JournalStorage(ObjectJournal(at)), 3)
    parts = {part.name: part.read_text() for part in at.glob("*")}
    before = trials(JournalStorage(ObjectJournal(at)))
    for name, text in parts.items():
        if not name.startswith("0000000000."):
            (at / name).write_text(text)  # As if the run had died before it removed them.
    assert trials(JournalStorage(ObjectJournal(at))) == before


def test_a_part_that_is_missing_is_refused(at):
    search(JournalStorage(ObjectJournal(at)), 3)
    sorted(at.glob("*"))[2].unlink()
    with pytest.raises(StudyError, match="must hold Optuna's whole journal, but lines"):
        ObjectJournal(at)


def test_what_is_no_journal_is_refused(at):
    (at / "0000000000.jsonl").write_text('{"op": 1}\n{"op"')
    with pytest.raises(StudyError, match="must be lines of JSON"):
        ObjectJournal(at)
