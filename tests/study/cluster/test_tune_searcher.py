"""Who gets a free worker, and whose fault a lost worker is."""

from types import SimpleNamespace

import pytest
from ray.exceptions import ActorUnavailableError, RayActorError, RayTaskError

from study.cluster.job_queue import JobQueue, WorkerDeath
from study.cluster.nodes import NOTICE_LOSS
from study.cluster.tune_searcher import (
    DETAIL,
    LONGEST,
    JobQueueSearcher,
    OldestWithoutWorker,
    Watching,
    worker_death,
)
from study.progress.table import Progress
from study.run_folder.store import RunFolder
from study.stages.sequence import stages


class Nodes:
    """As many slots as asked for, and nodes of which some were lost."""

    grows, alive = False, ("here",)

    def __init__(self, slots, joined=True):
        self.joined = joined
        self.slots = self.present = slots

    def renew(self):
        return []

    def node_of(self, actor):
        return actor


@pytest.fixture
def make(smoke, tmp_path):
    def make(slots, joined=True):
        store = RunFolder(tmp_path / "run")
        store.create()
        rows = {}
        job_queue = JobQueue(smoke, store, rows, "data", Progress(), stages(smoke, store, rows))
        return JobQueueSearcher(job_queue, Nodes(slots, joined))

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
    assert searcher.job_queue.deaths == {(trial, "node"): 1}


@pytest.mark.parametrize("gone", [True, False])
@pytest.mark.parametrize(
    ("error", "otherwise"), [(None, "worker"), (ActorUnavailableError("no route", None), "link")]
)
def test_whether_the_node_is_lost_too_is_seen_a_little_later(make, gone, error, otherwise):
    searcher = make(1)
    searcher.deaths["a"] = worker_death(error)
    trial = lost(searcher, "here")
    assert searcher.deaths == {}
    searcher.look()
    assert searcher.job_queue.deaths == {}
    ((at, node, job, death),) = searcher.doubtful
    if gone:
        searcher.nodes.alive = ()
    else:
        searcher.doubtful = [(at - NOTICE_LOSS, node, job, death)]
    searcher.look()
    assert searcher.job_queue.deaths == {(trial, "node" if gone else otherwise): 1}
    assert searcher.job_queue.next() is job


@pytest.mark.parametrize("error", [None, ActorUnavailableError("too busy", None)])
def test_on_this_machine_alone_it_is_the_trials_fault(make, error):
    searcher = make(1, joined=False)
    searcher.deaths["a"] = worker_death(error)
    trial = lost(searcher, None)
    assert searcher.job_queue.deaths == {(trial, "worker"): 1}


@pytest.mark.parametrize(
    ("error", "what"),
    [
        (None, "worker"),
        (RayActorError(error_msg="The actor is dead because its node has died."), "node"),
    ],
)
def test_of_a_worker_of_which_no_node_is_known_ray_alone_knows_what_was_lost(make, error, what):
    """As of one whose node was lost before the trial began."""
    searcher = make(1)
    searcher.deaths["a"] = worker_death(error)
    trial = lost(searcher, None)
    assert searcher.job_queue.deaths == {(trial, what): 1}


def test_an_error_that_a_worker_raised_is_in_no_doubt(make):
    searcher = make(1)
    searcher.deaths["a"] = WorkerDeath("OSError: disk full", raised=True)
    trial = lost(searcher, "here")
    assert searcher.doubtful == []
    assert searcher.job_queue.deaths == {(trial, "worker"): 1}


DIED = """The actor died unexpectedly before finishing this task.
\tclass_name: A
\tactor_id: 0d455c7341472d379789525301000000
The actor is dead because its worker process has died. Worker exit type: SYSTEM_ERROR Worker exit \
detail: Worker unexpectedly exits with a connection error code 2. End of file. Some common causes \
include: (1) the process was killed by the OOM killer due to high memory usage, (2) ..."""
"""Of Ray 2.60."""


@pytest.mark.parametrize(
    ("error", "death"),
    [
        (None, WorkerDeath()),
        (ActorUnavailableError("x", None), WorkerDeath("it could not be reached", "link")),
        (
            RayActorError(error_msg="The actor is dead because its node has died. Why\nelse"),
            WorkerDeath("its node has died", "node"),
        ),
        (
            RayActorError(error_msg=DIED),
            WorkerDeath(
                "Worker unexpectedly exits with a connection error code 2. End of file. It may "
                "have been killed for want of memory."
            ),
        ),
        (
            RayActorError(error_msg=f"{DETAIL}Worker exits\n  with code 3." + 300 * "x"),
            WorkerDeath(("Worker exits with code 3." + 300 * "x")[:LONGEST]),
        ),
        (
            RayActorError(error_msg="Traceback\n  at\nImportError: no x\n", actor_init_failed=True),
            WorkerDeath("ImportError: no x"),
        ),
        (
            RayTaskError("train", "Traceback ...", OSError("disk full\nsee the manual")),
            WorkerDeath("OSError: disk full", raised=True),
        ),
    ],
)
def test_why_a_worker_died(error, death):
    assert worker_death(error) == death
