"""Which configurations reach the confirm stage."""

import random

from study.search import Job
from study.stages import Fixed, stages
from study.store import Store
from tests.study.conftest import row_of


def made_up(job, pruned):
    """Return a made-up row of a job; what is pruned has no results."""
    value = random.Random(job.spec.configuration + job.spec.stage)
    if pruned:
        reason = "exceeds its limit by 0.5"
        return row_of(job.spec, job.name, status="pruned", reason=reason, excess=0.5)
    names = ("val_nll", "val_shift_nll", "val_gain", "val_accuracy")
    return row_of(job.spec, job.name, **{name: value.random() for name in names})


def finished(study, folder, prune):
    """Return every row of a study whose trials of the names ``prune`` exceed a limit."""
    store, rows = Store(folder), {}
    store.create()
    for stage in stages(study, store, rows):
        while stage.remaining:
            job = stage.next()
            row = made_up(job, job.name in prune)
            rows[row.trial] = row
            stage.end(row)
    return rows.values()


def arms(rows):
    return {r.configuration for r in rows if r.stage == "confirm"}


def test_an_enqueued_configuration_beyond_its_limit_is_not_confirmed(smoke, tmp_path):
    within = finished(smoke, tmp_path / "a", ())
    beyond = finished(smoke, tmp_path / "b", ("random signs",))
    pruned = {r.configuration for r in beyond if r.status == "pruned"}
    assert len(pruned) == 1
    assert pruned <= arms(within)
    assert not pruned & arms(beyond)
    assert not pruned & {r.configuration for r in beyond if r.stage == "rescore"}


def jobs_of(make_spec, arms, replicates):
    specs = [
        make_spec("single", training={"lr": lr}, replicate=n, seed=100 * n + m)
        for n in range(replicates)
        for m, lr in enumerate(arms)
    ]
    return [Job(spec) for spec in specs]


def drawn(stage):
    found = []
    while (job := stage.next()) is not None:
        found.append([(spec.training.lr, spec.replicate) for spec in job.specs])
    return found


def test_replicates_of_an_arm_make_up_a_job_in_the_order_of_the_first(make_spec):
    jobs = jobs_of(make_spec, (0.1, 0.2), 3)
    stage = Fixed("confirm", jobs, {}, lambda spec: 2 if spec.training.lr == 0.1 else 1)
    assert (stage.total, stage.remaining) == (6, 6)
    together = [[(0.1, 0), (0.1, 1)], [(0.2, 0)], [(0.2, 1)], [(0.1, 2)], [(0.2, 2)]]
    assert drawn(stage) == together


def test_what_is_there_changes_no_job_but_those_that_are_complete(make_spec):
    jobs = jobs_of(make_spec, (0.1,), 4)
    rows = {jobs[n].spec.trial: {} for n in (0, 2, 3)}
    stage = Fixed("confirm", jobs, rows, lambda spec: 2)
    assert stage.remaining == 1
    assert drawn(stage) == [[(0.1, 0), (0.1, 1)]]
