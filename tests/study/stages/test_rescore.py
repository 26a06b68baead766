"""What runs again, and what is said where none of it is complete."""

import pytest

from study.errors import StudyError
from study.stages.rescore import ranked, rescore_jobs
from tests.study.conftest import row_of


def complete(spec, loss):
    return row_of(spec, val_nll=loss, val_shift_nll=loss, val_gain=0.0)


def test_the_best_on_fresh_seeds_is_the_best(smoke, make_spec):
    specs = [make_spec(training={"lr": lr}, stage="search") for lr in (0.1, 0.2)]
    rows = {spec.trial: complete(spec, n) for n, spec in enumerate(specs)}
    finalists = [spec.configuration for spec in specs]
    jobs = rescore_jobs(smoke, finalists, rows)
    assert len({job.spec.seed for job in jobs}) == 2 * smoke.budget.rescore_seeds
    rows |= {
        job.spec.trial: complete(job.spec, -finalists.index(job.spec.configuration)) for job in jobs
    }
    assert ranked(smoke, "single", finalists, rows) == finalists[::-1]


def test_the_reason_is_that_of_the_stage_in_which_all_failed(smoke, make_spec):
    spec = make_spec(stage="search")
    rows = {spec.trial: complete(spec, 1.0)}
    (job, *_) = rescore_jobs(smoke, [spec.configuration], rows)
    rows[job.spec.trial] = row_of(job.spec, status="failed", reason="no memory")
    with pytest.raises(StudyError, match=r"none of the 1 rescore trials .*often failed: no memory"):
        ranked(smoke, "single", [spec.configuration], rows)
    rows = {spec.trial: row_of(spec, status="diverged", reason="NaN")}
    with pytest.raises(StudyError, match=r"none of the 1 search trials .*often diverged: NaN"):
        ranked(smoke, "single", [], rows)
