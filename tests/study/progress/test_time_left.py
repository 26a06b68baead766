"""How long is still to go: hand-computed cases, and a study whose times are known."""

import heapq

import pytest

from study.cluster.job_queue import JobQueue
from study.jobs import Job, PlannedJob
from study.progress import table
from study.progress.time_left import Pace, last_end, lengths
from study.run_folder.store import RunFolder
from study.space.load import load_study
from study.stages.sequence import stages
from tests.study.conftest import SMOKE, row_of

BE = SMOKE.with_name("be.yaml")


def row(spec, seconds, train_seconds, **more):
    known = {"seconds": seconds, "train_seconds": train_seconds, "val_nll": 1.0}
    return row_of(spec, **(known | more))


def test_nothing_is_known_at_first(make_spec):
    assert Pace().seconds("search", "single", make_spec()) is None


def test_what_is_loaded_once_does_not_count(make_spec):
    pace = Pace()
    for seed, seconds in enumerate([9.0, 2.5, 1.5]):
        pace.add(row(make_spec(stage="search", seed=seed), seconds, 1.0 + seed / 10))
    assert pace.seconds("search", "single") == pytest.approx(1.1 + 1.4)


def test_own_configuration_then_that_of_an_earlier_stage_then_the_method(make_spec):
    pace = Pace()
    slow, quick = make_spec(stage="search"), make_spec(stage="search", training={"epochs": 1})
    pace.add(row(slow, 4.0, 4.0))
    pace.add(row(quick, 1.0, 1.0))
    assert pace.seconds("search", "single", quick) == 1.0
    assert pace.seconds("confirm", "single", slow) == 4.0
    assert pace.seconds("search", "single", make_spec(training={"lr": 0.3})) == 2.5
    assert pace.seconds("confirm", "mc_dropout") is None
    pace.add(row(make_spec(training={"epochs": 1}), 3.0, 3.0))
    assert pace.seconds("confirm", "single", quick) == 3.0
    assert pace.seconds("confirm", "single", slow) == 4.0


def test_a_deep_ensemble_is_as_many_single_networks(make_spec):
    pace = Pace()
    pace.add(row(make_spec(stage="search"), 2.0, 2.0))
    deep = make_spec("deep_ensemble", {"members": 5})
    assert pace.seconds("confirm", "deep_ensemble", deep) == 10.0
    job = PlannedJob("deep_ensemble", Job(deep, None, (deep, deep)))
    assert list(lengths(pace, "confirm", [job])) == [30.0]


@pytest.mark.parametrize(
    ("running", "waiting", "slots", "end"),
    [
        ([], [], 2, 0.0),
        ([3.0], [], 2, 3.0),
        ([], [1.0, 1.0, 1.0], 2, 2.0),
        ([5.0, 1.0], [1.0, 1.0], 2, 5.0),
        ([5.0, 1.0], [4.0, 2.0], 2, 7.0),
    ],
)
def test_the_last_end(running, waiting, slots, end):
    assert last_end(running, waiting, slots) == end


EACH = {"single": 3.0, "mc_dropout": 3.5, "batch_ensemble": 8.0}
"""Seconds of training of a trial with four members."""


def true_seconds(spec):
    members = spec.params.get("members", 4)
    each = members * EACH["single"] if spec.method == "deep_ensemble" else EACH[spec.method]
    if spec.method == "batch_ensemble":
        each *= members / 4
    return each, 4.0 if spec.stage == "confirm" else 0.3


@pytest.fixture
def clock(monkeypatch):
    now = [100.0]
    monkeypatch.setattr(table.time, "monotonic", lambda: now[0])
    return now


@pytest.fixture
def known_times(tmp_path, clock, capsys):
    """Run a study of known times on two slots; return each stage's (share, left, really left)."""
    study = load_study([BE], ["budget.trials=20", "budget.generation=10", "protocol.seeds=6"])
    store = RunFolder(tmp_path / "run")
    store.create()
    watched, rows = table.Progress(), {}
    watched.slots = 2
    job_queue = JobQueue(study, store, rows, "data", watched, stages(study, store, rows))
    busy, seen, cold = [], {}, 2

    def hand_out():
        nonlocal cold
        while len(busy) < 2 and (job := job_queue.next()) is not None:
            length = 0.1 + sum(sum(true_seconds(spec)) for spec in job.specs)
            length += 20.0 if cold else 0.0
            heapq.heappush(busy, (clock[0] + length, job.spec.trial, job, 20.0 if cold else 0.0))
            cold = max(0, cold - 1)

    hand_out()
    while busy:
        clock[0], _, job, late = heapq.heappop(busy)
        for number, spec in enumerate(job.specs):
            training, besides = true_seconds(spec)
            result = {"val_nll": 1 + number / 10, "val_shift_nll": 1.0, "val_gain": 0.1}
            taken = training + besides + (late if number == 0 else 0.0)
            store.commit(row(spec, taken, training, **result))
        stage = job_queue.stage
        job_queue.end(job)
        if job_queue.stage is stage and stage is not None:
            share = 1 - stage.remaining / stage.total
            seen.setdefault((stage.name, stage.total), []).append(
                (share, watched.seconds_left(), clock[0])
            )
        else:
            seen.setdefault((stage.name, stage.total), []).append((1.0, 0.0, clock[0]))
        hand_out()
    watched.close()
    watched.summary()
    return {
        name: [(share, left, rows[-1][2] - at) for share, left, at in rows]
        for name, rows in seen.items()
    }


def test_the_time_left_is_about_right_after_a_tenth_of_a_stage(known_times, capsys):
    names = [name for name, _ in known_times]
    assert names == ["search", "rescore", "anchor", "anchor", "confirm"]
    for stage, rows in known_times.items():
        for share, left, really in rows:
            if 0.1 <= share < 0.8:
                assert left == pytest.approx(really, rel=0.3), (stage, share)
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == len(set(lines))
    assert [line for line in lines if "60/60 done" in line and " left" in line] == []
    assert any(line.startswith("confirm  batch_ensemble") for line in lines)
    table = lines[lines.index(next(line for line in lines if line.startswith("stage "))) : -1]
    assert len(table) == 14
    assert max(map(len, table)) <= 80


def test_a_slow_table_is_drawn_less_often(smoke, tmp_path, monkeypatch):
    clock, drawn = [0.0], []
    monkeypatch.setattr(table.time, "monotonic", lambda: clock[0])
    store = RunFolder(tmp_path / "run")
    store.create()
    watched = table.Progress()
    JobQueue(smoke, store, {}, "data", watched, stages(smoke, store, {}))

    class Slow:
        def update(self, table, refresh):
            drawn.append(clock[0])
            clock[0] += 1.0

        def stop(self):
            pass

    watched.live = Slow()
    while clock[0] < 100:
        clock[0] += 0.1
        watched.show()
    assert len(drawn) == 5
