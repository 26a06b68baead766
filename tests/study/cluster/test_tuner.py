"""Which search trials make up a job, and that a kill in the middle of one changes no number."""

from dataclasses import replace

import pyarrow.parquet as pq
import pytest

from study.cluster.job_queue import JobQueue
from study.cluster.runtime import Runtime
from study.cluster.tuner import _replicates_per_job, _together
from study.progress.table import Progress
from study.run_folder.store import RunFolder
from study.stages.sequence import stages
from study.trials.trial import run_trials


@pytest.fixture
def study(smoke):
    budget = smoke.budget.model_copy(update={"trials": 8, "generation": 4})
    resources = smoke.resources.model_copy(update={"concurrency": 1})
    return smoke.model_copy(update={"budget": budget, "resources": resources})


class KilledError(Exception):
    """The driver and its workers have died."""


class Mortal(RunFolder):
    """A run folder of which the process dies that commits once too often."""

    lives = 0

    def commit(self, row):
        super().commit(row)
        self.lives -= 1
        if not self.lives:
            raise KilledError


def search(study, data, folder, lives=0):
    """Do the search stage, or what a process of so many lives does of it."""
    store = Mortal(folder)
    store.create()
    store.lives = lives
    together = _together(study, Runtime(), _replicates_per_job(study, data))
    rows, print_ = store.rows(), data.fingerprint
    jobs = JobQueue(
        study, store, rows, print_, Progress(), stages(study, store, rows, together=together)
    )
    while jobs.stage.name == "search":
        job = jobs.next()
        run_trials(job.specs, data, store, fingerprint=print_, name=job.name)
        jobs.end(job)
    return store


def numbers(store):
    return {
        trial: (
            row.name,
            row.stack,
            row.val_nll,
            pq.read_table(store.folder(trial) / "val.parquet"),
        )
        for trial, row in store.rows().items()
    }


def test_a_search_in_stacks_is_the_same_after_it_was_killed(study, data, tmp_path):
    whole = numbers(search(study, data, tmp_path / "whole"))
    assert len(whole) == 24
    stacks = {stack for _, stack, *_ in whole.values() if stack}
    assert max(map(len, stacks)) == 4
    assert all(name is None for name, stack, *_ in whole.values() if stack)
    for lives in (3, 6, 5):
        with pytest.raises(KilledError):
            search(study, data, tmp_path / "killed", lives)
    assert numbers(search(study, data, tmp_path / "killed")) == whole


def test_search_trials_are_joined_only_where_every_slot_keeps_one(study, data, make_spec):
    per_job = _replicates_per_job(study, data)

    def most(runtime=Runtime(), generation=4, **resources):  # noqa: B008
        changed = {
            "resources": study.resources.model_copy(update=resources),
            "budget": study.budget.model_copy(update={"generation": generation}),
        }
        one = study.model_copy(update=changed)
        together = _together(one, runtime, per_job)
        return together and together(make_spec())[1]

    assert most() == 4
    assert most(generation=3) == 3
    assert most(generation=1) is None
    assert most(gpus_per_trial=0.5) is None
    assert most(replace(Runtime(), log=("mlflow",))) is None
    assert most(replace(Runtime(), address="auto")) is None
