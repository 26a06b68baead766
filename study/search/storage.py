"""Where Optuna keeps its state: a journal beside the trials, or a database."""

import json
import time

import optuna
from optuna.storages.journal import JournalFileBackend

from study.errors import StudyError
from study.run_folder.paths import ObjectPath
from study.run_folder.store import RunFolder
from study.search.object_journal import ObjectJournal
from study.space.settings import Study
from study.spec import digest


def open_storage(study: Study, store: RunFolder) -> optuna.storages.BaseStorage:
    """Return Optuna's storage: the database that the study names, or a journal beside its trials.

    Raises:
        StudyError: When the database does not answer, or the journal is damaged.
    """
    if study.storage is not None:
        return _open_database(study.storage)
    if isinstance(store.journal, ObjectPath):
        return optuna.storages.JournalStorage(ObjectJournal(store.journal))
    if store.journal.exists():
        for number, line in enumerate(store.journal.read_bytes().splitlines(), 1):
            try:
                json.loads(line)
            except ValueError:
                raise StudyError(
                    f"{store.journal}: must be Optuna's whole journal, but line {number} is no "
                    "JSON; remove the lines from there on and give the same command again"
                ) from None
    lock = store.journal.with_name(f"{store.journal.name}.lock")
    # Optuna waits for ever for a lock that was held when the folder was moved: it leads nowhere.
    if lock.is_symlink() and lock.readlink() != store.journal:
        lock.unlink(missing_ok=True)
    backend = JournalFileBackend(str(store.journal))
    return optuna.storages.JournalStorage(backend)


def silence() -> None:
    """Let Optuna log no more than warnings."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)


def _open_database(url: str) -> optuna.storages.BaseStorage:
    """Return the storage in a database; its tables may just be made by another run."""
    for last in (False, False, True):
        try:
            return optuna.storages.RDBStorage(url, engine_kwargs={"pool_pre_ping": True})
        except Exception as error:
            why = " ".join(str(error).split())[:300]
            if last or "already exists" not in why:
                raise StudyError(
                    f"storage: {url}: the database must answer, but {why}; fix that, or leave "
                    "storage out"
                ) from None
        time.sleep(1)
    raise AssertionError


def optuna_name(study: Study, store: RunFolder, method: str) -> str:
    """Return the name of a method's search in Optuna's storage; a database is shared by runs."""
    if study.storage is None:
        return method
    run = store.read_json(store.study) or {}
    return f"{study.name}/{run.get('id', digest(str(store.root)))}/{method}"
