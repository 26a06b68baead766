"""The queue of jobs when workers die."""

from study.agenda import Agenda
from study.progress import Progress
from study.store import Store
from study.trial import new_row


def make(study, tmp_path):
    store = Store(tmp_path / "run")
    store.create()
    return Agenda(study, store, {}, "data", Progress())


def test_a_job_whose_worker_died_is_the_next(smoke, tmp_path):
    agenda = make(smoke, tmp_path)
    first = agenda.next()
    agenda.next()
    agenda.end(first, died=True)
    assert agenda.next() is first
    assert agenda.rows == {}


def test_a_worker_that_dies_too_often_is_a_failed_trial(smoke, tmp_path):
    agenda = make(smoke, tmp_path)
    job = agenda.next()
    for _ in range(smoke.resources.max_failures):
        agenda.end(job, died=True)
        assert agenda.next() is job
    agenda.end(job, died=True)
    assert agenda.next() is not job
    row = agenda.store.row(job.spec.trial)
    assert (row["status"], row["reason"]) == ("failed", "worker died or could not start")


def test_a_trial_that_was_committed_before_its_worker_died_is_not_run_again(smoke, tmp_path):
    agenda = make(smoke, tmp_path)
    job = agenda.next()
    results = {"val_nll": 1.0, "val_shift_nll": 1.0, "val_gain": 0.0}
    agenda.store.commit(job.spec.trial, new_row(job.spec, "data", job.name) | results)
    agenda.end(job, died=True)
    assert agenda.rows[job.spec.trial]["status"] == "complete"
    assert agenda.next() is not job
