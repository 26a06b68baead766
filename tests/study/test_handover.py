"""Who gets a free worker, and whose fault a lost worker is."""

from types import SimpleNamespace

import pytest

from study.agenda import Agenda
from study.handover import DOUBT, AgendaSearcher, OldestWithoutWorker
from study.progress import Progress
from study.store import Store


class Nodes:
    """As many slots as asked for, and nodes of which some were lost."""

    joined, grows, lost = True, False, ()

    def __init__(self, slots):
        self.slots = self.present = slots

    def renew(self):
        return []

    def was_lost(self, address, at):
        return address in self.lost


@pytest.fixture
def make(smoke, tmp_path):
    def make(slots):
        store = Store(tmp_path / "run")
        store.create()
        return AgendaSearcher(Agenda(smoke, store, {}, "data", Progress()), Nodes(slots))

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


def lost(searcher, tmp_path, text):
    """Have a worker be lost, with what Ray said of it; return the job's first trial."""
    searcher.suggest("a")
    trial = searcher.jobs["a"].spec.trial
    (tmp_path / "error.txt").write_text(text)
    searcher.started["a"] = SimpleNamespace(error_file=str(tmp_path / "error.txt"))
    searcher.on_trial_complete("a", error=True)
    return trial


KILLED = "The actor died unexpectedly.\n\tip: 10.0.0.7\nThe worker process has died."


def test_a_worker_lost_with_its_node_is_no_fault_of_the_trial(make, tmp_path):
    searcher = make(1)
    trial = lost(searcher, tmp_path, "The actor died because its node has died.")
    assert searcher.agenda.deaths == {(trial, True): 1}


@pytest.mark.parametrize("gone", [True, False])
def test_whether_the_node_is_lost_too_is_seen_a_little_later(make, tmp_path, monkeypatch, gone):
    searcher = make(1)
    trial = lost(searcher, tmp_path, KILLED)
    searcher.look()
    assert searcher.agenda.deaths == {}
    searcher.nodes.lost = ("10.0.0.7",) if gone else ()
    ((at, address, job),) = searcher.doubtful
    assert address == "10.0.0.7"
    searcher.doubtful = [(at - DOUBT, address, job)]
    searcher.look()
    assert searcher.agenda.deaths == {(trial, gone): 1}
    assert searcher.agenda.next() is job


def test_on_this_machine_alone_it_is_the_trials_fault(make, tmp_path):
    searcher = make(1)
    searcher.nodes.joined = False
    trial = lost(searcher, tmp_path, KILLED)
    assert searcher.agenda.deaths == {(trial, False): 1}
