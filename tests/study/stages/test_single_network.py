"""No arm is held against a single network that is trained worse than it could be."""

from statistics import fmean

import pytest

from study.errors import StudyError
from study.stages.plan import Tried
from study.stages.single_network import anchor_jobs, candidates_for_single, contenders, tried
from tests.study.conftest import row_of
from tests.study.stages.anchoring import arm, nll, other_values, rows_of
from tests.study.stages.test_sequence import finished, plan_of


def test_the_values_of_every_arm_are_tried_once(single, make_spec):
    arms = [arm(make_spec, lr=0.3), arm(make_spec, 5, lr=0.3), arm(make_spec)]
    found = candidates_for_single([single, other_values(single, lr=0.2)], arms)
    assert [one.spec.training.lr for one in found] == [single.training.lr, 0.2, 0.3]
    assert {one.spec.method for one in found} == {"single"}
    assert found[2].source.startswith("values of batch_ensemble")
    assert found[0].source == "its own search"


def test_the_anchor_is_the_best_on_average_over_seeds_that_chose_nothing(smoke, single, make_spec):
    candidates = candidates_for_single([single], [arm(make_spec, lr=0.3)])
    jobs = anchor_jobs(smoke, candidates)
    assert len(jobs) == 2 * smoke.budget.anchor_seeds
    assert len({job.spec.seed for job in jobs}) == len(jobs)
    # The luckiest run is of the other one.
    rows = rows_of(jobs, {single.training.lr: (0.1, 1.5), 0.3: (0.4, 0.5)})
    searched = single.trial_of("single", "search", 0, 0)
    rows[searched.trial] = row_of(searched, val_nll=0.0)
    best, second = tried(candidates, rows, nll(rows))
    assert best.configuration == candidates[1].spec.configuration
    own = [(0.4, 0.5)[i % 2] for i in range(smoke.budget.anchor_seeds)]
    assert best.mean == pytest.approx(fmean(own))
    assert (best.seeds, second.seeds) == (smoke.budget.anchor_seeds,) * 2
    assert 0 < best.se < second.se


def test_what_does_not_train_is_no_anchor(smoke, single):
    candidates = candidates_for_single([single, other_values(single, lr=9.0)], [])
    jobs = anchor_jobs(smoke, candidates)
    rows = {job.spec.trial: row_of(job.spec, status="diverged", reason="NaN") for job in jobs}
    with pytest.raises(StudyError, match="none of the 2 configurations of the single network"):
        tried(candidates, rows, nll(rows))
    rows |= rows_of(jobs[: len(jobs) // 2], {single.training.lr: (1.0, 2.0)})
    assert [one.configuration for one in tried(candidates, rows, nll(rows))] == [
        single.configuration
    ]


def judged(configuration, mean, se=0.01, seeds=5):
    return Tried(configuration=configuration, source="", seeds=seeds, mean=mean, se=se)


def test_contenders_are_those_that_validation_cannot_tell_from_the_best():
    best = judged("best", 0.5)
    near, far = judged("near", 0.5 + 0.0282), judged("far", 0.5 + 0.0284)  # 2 sqrt(2) 0.01
    vague, broken = judged("vague", 0.6, 0.05), judged("broken", 0.5, seeds=4)
    assert contenders([best, near, far, vague, broken]) == ["near", "vague"]
    assert contenders([best]) == []


def test_enqueued_values_that_suit_a_single_network_become_the_anchor(smoke, tmp_path):
    """What is better trained, not more diverse, makes the anchor better as well."""

    def suits(job):
        return {"val_nll": 0.0 if job.spec.training.lr == 0.1 else 0.9}

    finished(smoke, tmp_path, (), suits)
    plan = plan_of(tmp_path)
    by_role = {a["role"]: a for a in plan["arms"]}
    assert by_role["single"]["spec"]["training"]["lr"] == 0.1
    assert by_role["deep_ensemble"]["spec"]["training"]["lr"] == 0.1
    assert plan["tried"][0]["source"] == "values of random signs"
    assert plan["tried"][0]["mean"] == 0.0
    enqueued = next(a for a in plan["arms"] if a["name"] == "random signs")
    assert enqueued["matched"]["single"] == by_role["single"]["configuration"]
