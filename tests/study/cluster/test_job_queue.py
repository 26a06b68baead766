"""The queue of jobs when workers die."""

import pytest

from study.cluster.job_queue import MORE, JobQueue, WorkerDeath
from study.errors import StudyError
from study.jobs import Job
from study.progress.table import Progress
from study.progress.tally import Use
from study.run_folder.store import RunFolder
from study.stages.sequence import stages
from study.stages.stage import FixedStage
from tests.study.conftest import row_of, some_row


def make(study, tmp_path):
    store = RunFolder(tmp_path / "run")
    store.create()
    rows = {}
    return JobQueue(study, store, rows, "data", Progress(), stages(study, store, rows))


def test_a_job_whose_worker_died_is_the_next(smoke, tmp_path):
    job_queue = make(smoke, tmp_path)
    first = job_queue.next()
    job_queue.next()
    job_queue.end(first, WorkerDeath())
    assert job_queue.next() is first
    assert job_queue.rows == {}


def test_a_worker_that_dies_too_often_is_a_failed_trial(smoke, tmp_path):
    job_queue = make(smoke, tmp_path)
    job = job_queue.next()
    for _ in range(smoke.resources.max_failures):
        job_queue.end(job, WorkerDeath())
        assert job_queue.next() is job
    job_queue.end(job, WorkerDeath("short of memory"))
    assert job_queue.next() is not job
    row = job_queue.store.row(job.spec.trial)
    assert (row.status, row.reason) == ("failed", "worker died or could not start: short of memory")


def test_a_worker_that_crashes_too_often_says_by_what_signal(smoke, tmp_path):
    job_queue = make(smoke, tmp_path)
    job = job_queue.next()
    file = job_queue.store.last_words_file(job.spec.trial)
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("Fatal Python error: Segmentation fault\n\nCurrent thread ...")
    for _ in range(smoke.resources.max_failures):
        job_queue.end(job, WorkerDeath())
        assert job_queue.next() is job  # Another attempt may do: memory may have been short.
        assert job_queue.store.last_words(job.spec.trial) == ""  # They are not the next one's.
        file.write_text("Fatal Python error: Segmentation fault\n\nCurrent thread ...")
    job_queue.end(job, WorkerDeath("it could not be reached", "link"))
    reason = job_queue.store.row(job.spec.trial).reason
    assert reason == "worker died: Segmentation fault; last_words.txt says where"


def test_a_trial_may_be_restarted_as_often_as_asked_for(smoke, tmp_path):
    resources = smoke.resources.model_copy(update={"max_failures": 0})
    job_queue = make(smoke.model_copy(update={"resources": resources}), tmp_path)
    job = job_queue.next()
    job_queue.end(job, WorkerDeath())
    assert job_queue.store.row(job.spec.trial).status == "failed"


def test_a_lost_node_is_no_fault_of_the_job(smoke, tmp_path):
    job_queue = make(smoke, tmp_path)
    job = job_queue.next()
    for _ in range(5 * smoke.resources.max_failures):
        job_queue.end(job, WorkerDeath(lost="node"))
        assert job_queue.next() is job
    for _ in range(smoke.resources.max_failures):
        job_queue.end(job, WorkerDeath())
        assert job_queue.next() is job
    job_queue.end(job, WorkerDeath())
    assert job_queue.store.row(job.spec.trial).status == "failed"


def test_a_worker_that_can_never_be_reached_is_a_failed_trial(smoke, tmp_path):
    job_queue = make(smoke, tmp_path)
    job = job_queue.next()
    for _ in range(MORE["link"]):
        job_queue.end(job, WorkerDeath("it could not be reached", "link"))
        assert job_queue.next() is job
    job_queue.end(job, WorkerDeath("it could not be reached", "link"))
    assert job_queue.store.row(job.spec.trial).status == "failed"


def test_a_trial_that_was_committed_before_its_worker_died_is_not_run_again(smoke, tmp_path):
    job_queue = make(smoke, tmp_path)
    job = job_queue.next()
    results = {"val_nll": 1.0, "val_shift_nll": 1.0, "val_gain": 0.0}
    job_queue.store.commit(row_of(job.spec, job.name, **results))
    job_queue.end(job, WorkerDeath())
    assert job_queue.rows[job.spec.trial].status == "complete"
    assert job_queue.next() is not job


@pytest.mark.parametrize("death", [WorkerDeath(), WorkerDeath("it could not be reached", "link")])
def test_a_trial_that_hung_is_not_run_again(smoke, tmp_path, death):
    job_queue = make(smoke, tmp_path)
    job = job_queue.next()
    job_queue.store.folder(job.spec.trial).mkdir()
    job_queue.store.last_words_file(job.spec.trial).write_text("File ..., line 7")
    job_queue.end(job, death)
    row = job_queue.rows[job.spec.trial]
    assert row.status == "failed"
    assert row.reason == "took more than resources.trial_hours=24; last_words.txt says where"


def test_an_empty_note_of_a_hang_is_a_dead_worker(smoke, tmp_path):
    job_queue = make(smoke, tmp_path)
    job = job_queue.next()
    job_queue.store.folder(job.spec.trial).mkdir()
    job_queue.store.last_words_file(job.spec.trial).touch()
    job_queue.end(job, WorkerDeath())
    assert job_queue.next() is job


def test_too_many_failures_stop_the_run(smoke, tmp_path, monkeypatch):
    monkeypatch.setattr("study.cluster.job_queue.FEW", 4)
    job_queue = make(smoke, tmp_path)
    jobs = [job_queue.next() for _ in range(4)]
    for job in jobs[:3]:
        job_queue.store.commit(row_of(job.spec, job.name, status="failed", reason="no luck"))
        job_queue.end(job)
    job_queue.store.commit(row_of(jobs[3].spec, val_nll=1.0, val_shift_nll=1.0, val_gain=0.0))
    with pytest.raises(StudyError, match=r"3 of 4 trials of this run failed.*most often: no luck"):
        job_queue.end(jobs[3])


def test_a_full_disk_stops_the_run(smoke, tmp_path, monkeypatch):
    job_queue = make(smoke, tmp_path)
    monkeypatch.setattr("study.run_folder.free_space.RESERVE", 1e18)
    with pytest.raises(StudyError, match=r"must be free.*nothing that was finished is lost"):
        job_queue.next()


def test_of_a_job_that_died_only_what_is_missing_fails(smoke, tmp_path):
    job_queue = make(smoke, tmp_path)
    first = job_queue.next().spec
    second = first.model_copy(update={"replicate": 1})
    job_queue.stage = FixedStage("rescore", [Job(first), Job(second)], {}, lambda spec: 2)
    job_queue.waiting, job = None, job_queue.stage.next()
    results = {"val_nll": 1.0, "val_shift_nll": 1.0, "val_gain": 0.0}
    job_queue.store.commit(row_of(first, **results))
    for _ in range(smoke.resources.max_failures):
        job_queue.end(job, WorkerDeath())
        assert job_queue.next() is job
    job_queue.end(job, WorkerDeath())
    statuses = [job_queue.rows[spec.trial].status for spec in job.specs]
    assert statuses == ["complete", "failed"]
    assert job_queue.progress.use.trials == 2


def test_configurations_of_a_job_that_died_are_run_once_more_alone(smoke, tmp_path):
    job_queue = make(smoke, tmp_path)
    specs = [job_queue.next().spec for _ in range(3)]
    job = Job(specs[0], None, tuple(specs[1:]))
    assert job.mixed
    results = {"val_nll": 1.0, "val_shift_nll": 1.0, "val_gain": 0.0}
    job_queue.store.commit(row_of(specs[0], **results))
    for _ in range(smoke.resources.max_failures):
        job_queue.end(job, WorkerDeath())
        assert job_queue.next() is job
    job_queue.end(job, WorkerDeath())
    second, third = job_queue.next(), job_queue.next()
    assert [second.specs, third.specs] == [(specs[1],), (specs[2],)]
    job_queue.store.commit(row_of(specs[2], **results))
    job_queue.end(third)
    for _ in range(smoke.resources.max_failures + 1):
        job_queue.end(second, WorkerDeath())
    statuses = [job_queue.rows[spec.trial].status for spec in specs]
    assert statuses == ["complete", "failed", "complete"]


def test_how_well_slots_were_used():
    use = Use()
    assert "on 2 slots" in Use(trials=1).line(2)
    use.add([some_row(seconds=3.0, train_seconds=1.5), some_row(seconds=1.0, train_seconds=0.5)])
    assert use.line(1) == (
        "2 trials in 4 s on 1 slots: 100% of their time in trials, 50% in training"
    )
