"""Who gets a free worker, and whose fault a lost worker is."""

from types import SimpleNamespace

import pytest
from ray.exceptions import ActorUnavailableError, RayActorError

from study.cluster.job_queue import JobQueue, WorkerDeath
from study.cluster.nodes import NOTICE_LOSS
from study.cluster.tune_searcher import (
    JobQueueSearcher,
    OldestWithoutWorker,
    Watching,
    worker_death,
)
from study.progress.table import Progress
from study.run_folder.store import RunFolder


class Nodes:
    """As many slots as asked for, and nodes of which some were lost."""

    grows, alive = False, ("here",)

    def __init__(self, slots):
        self.slots = self.present = slots

    def renew(self):
        return []

    def node_of(self, actor):
        return actor


@pytest.fixture
def make(smoke, tmp_path):
    def make(slots):
        store = RunFolder(tmp_path / "run")
        store.create()
        return JobQueueSearcher(JobQueue(smoke, store, {}, "data", Progress()), Nodes(slots))

    return make


def trials(*statuses):
    return [SimpleNamespace(status=s, PENDING="PENDING", name=n) for n, s in enumerate(statuses)]


@pytest.mark.parametrize(
    ("present", "running", "chosen"),
    [
        (1, 0, 3),  # The free worker's slot is the only one: the oldest.
        (2, 1, 3),
        (3, 1, 4),  # A worker is being started for the oldest.
        (4, 1, 5),
        (9, 1, 5),  # For all: the one that has waited least.
    ],
)
def test_the_oldest_for_which_no_worker_is_being_started(make, present, running, chosen):
    searcher = make(present)
    every = trials("TERMINATED", "TERMINATED", "RUNNING", "PENDING", "PENDING", "PENDING")
    searcher.live = set(range(2, 6))
    searcher.started = dict.fromkeys(range(running))
    given = OldestWithoutWorker(searcher).choose_trial_to_run(
        SimpleNamespace(get_trials=lambda: every)
    )
    assert given.name == chosen


def test_where_none_waits_none_is_chosen(make):
    scheduler = OldestWithoutWorker(make(2))
    assert (
        scheduler.choose_trial_to_run(SimpleNamespace(get_trials=lambda: trials("TERMINATED")))
        is None
    )


def test_as_many_are_handed_out_as_fit_twice(make):
    searcher = make(2)
    given = [searcher.suggest(str(n)) for n in range(6)]
    assert [g is None for g in given] == [False] * 4 + [True] * 2
    searcher.nodes.slots = 3
    assert searcher.suggest("6") is not None


def test_a_machine_that_may_go_gets_no_nap(make):
    searcher = make(60)
    searcher.nodes.grows = True
    given = [searcher.suggest(str(n)) for n in range(20)]
    jobs = [g for g in given if g is not None]
    assert 0 < len(jobs) < 20
    assert all(job["specs"] for job in jobs)
    searcher.nodes.grows = False
    assert searcher.suggest("20")["specs"] is None


def lost(searcher, node):
    """Have a worker on a node be lost; return the job's first trial."""
    searcher.suggest("a")
    trial = searcher.jobs["a"].spec.trial
    begun = SimpleNamespace(trial_id="a", temporary_state=SimpleNamespace(ray_actor=node))
    Watching(searcher).on_trial_start(1, [], begun)
    searcher.on_trial_complete("a", error=True)
    return trial


def test_a_worker_lost_with_its_node_is_no_fault_of_the_trial(make):
    searcher = make(1)
    trial = lost(searcher, "there")
    searcher.look()
    assert searcher.job_queue.deaths == {(trial, True): 1}


@pytest.mark.parametrize("gone", [True, False])
def test_whether_the_node_is_lost_too_is_seen_a_little_later(make, gone):
    searcher = make(1)
    trial = lost(searcher, "here")
    searcher.look()
    assert searcher.job_queue.deaths == {}
    ((at, node, job, death),) = searcher.doubtful
    if gone:
        searcher.nodes.alive = ()
    else:
        searcher.doubtful = [(at - NOTICE_LOSS, node, job, death)]
    searcher.look()
    assert searcher.job_queue.deaths == {(trial, gone): 1}
    assert searcher.job_queue.next() is job


def test_on_this_machine_alone_it_is_the_trials_fault(make):
    searcher = make(1)
    trial = lost(searcher, None)
    assert searcher.job_queue.deaths == {(trial, False): 1}


def test_a_worker_that_cannot_be_reached_is_no_fault_of_the_trial(make):
    searcher = make(1)
    searcher.deaths["a"] = worker_death(ActorUnavailableError("no route", None))
    trial = lost(searcher, "here")
    assert searcher.job_queue.deaths == {(trial, True): 1}
    assert searcher.deaths == {}


def test_on_this_machine_alone_every_worker_can_be_reached(make):
    searcher = make(1)
    searcher.deaths["a"] = worker_death(ActorUnavailableError("too busy", None))
    trial = lost(searcher, None)
    assert searcher.job_queue.deaths == {(trial, False): 1}


DIED = """The actor died unexpectedly before finishing this task.
\tclass_name: A
\tactor_id: 0d455c7341472d379789525301000000
The actor is dead because its worker process has died. Worker exit type: SYSTEM_ERROR Worker exit \
detail: Worker unexpectedly exits with a connection error code 2. End of file. Some common causes \
include: (1) the process was killed by the OOM killer due to high memory usage, (2) ..."""
"""Of Ray 2.60."""


@pytest.mark.parametrize(
    ("error", "why"),
    [
        (None, ""),
        (RayActorError(error_msg="The actor is dead because its node has died."), ""),
        (
            RayActorError(error_msg=DIED),
            "Worker unexpectedly exits with a connection error code 2. End of file.",
        ),
        (
            RayActorError(error_msg="Traceback\n  at\nImportError: no x\n", actor_init_failed=True),
            "ImportError: no x",
        ),
        (OSError("disk\nfull"), "full"),
    ],
)
def test_why_a_worker_died(error, why):
    assert worker_death(error) == WorkerDeath(why)
