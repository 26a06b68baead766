"""Which configurations reach the confirm stage."""

import random

from study.stages import stages
from study.store import Store


def made_up(job, pruned):
    """Return a made-up row of a job; what is pruned has no results."""
    value = random.Random(job.spec.configuration + job.spec.stage)
    names = ("val_nll", "val_shift_nll", "val_gain", "val_accuracy")
    row = {name: None if pruned else value.random() for name in names}
    return row | {
        "trial": job.spec.trial,
        "configuration": job.spec.configuration,
        "method": job.spec.method,
        "stage": job.spec.stage,
        "members": job.spec.params.get("members", 1),
        "spec": job.spec.to_json(),
        "status": "pruned" if pruned else "complete",
        "reason": "exceeds its limit by 0.5" if pruned else None,
        "excess": 0.5 if pruned else None,
    }


def finished(study, folder, prune):
    """Return every row of a study whose trials of the names ``prune`` exceed a limit."""
    store, rows = Store(folder), {}
    store.create()
    for stage in stages(study, store, rows):
        while stage.remaining:
            job = stage.next()
            row = made_up(job, job.name in prune)
            rows[row["trial"]] = row
            stage.end(row)
    return rows.values()


def arms(rows):
    return {r["configuration"] for r in rows if r["stage"] == "confirm"}


def test_an_enqueued_configuration_beyond_its_limit_is_not_confirmed(smoke, tmp_path):
    within = finished(smoke, tmp_path / "a", ())
    beyond = finished(smoke, tmp_path / "b", ("random signs",))
    pruned = {r["configuration"] for r in beyond if r["status"] == "pruned"}
    assert len(pruned) == 1
    assert pruned <= arms(within)
    assert not pruned & arms(beyond)
    assert not pruned & {r["configuration"] for r in beyond if r["stage"] == "rescore"}
