"""What tests of anchors share: arms with other hyperparameters, and rows as if they had run."""

from study.stages.plan import Arm
from tests.study.conftest import row_of


def other_values(spec, **values):
    return spec.model_copy(update={"training": spec.training.model_copy(update=values)})


def arm(make_spec, members=3, params=(), **values):
    spec = make_spec("batch_ensemble", {"members": members, **dict(params)}).alone()
    return Arm(spec=other_values(spec, **values), role="candidate", reason="validation")


def nll(rows):
    """Return the loss by trial, of complete ones."""
    return {trial: row.val_nll for trial, row in rows.items() if row.status == "complete"}


def rows_of(jobs, losses):
    """Return complete rows whose losses are those of their learning rate, then of the replicate."""
    found = {}
    for job in jobs:
        own = losses[job.spec.training.lr]
        found[job.spec.trial] = row_of(job.spec, val_nll=own[job.spec.replicate % len(own)])
    return found
