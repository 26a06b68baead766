"""No arm is held against a single network that is trained worse than it could be."""

import json
from dataclasses import replace
from statistics import fmean
from types import SimpleNamespace

import pytest

from study.commands.run_study import as_begun
from study.errors import StudyError
from study.run_folder.store import RunFolder
from study.spec import TrialSpec
from study.stages.anchors import (
    MORE,
    anchor_jobs,
    candidates_for_single,
    contenders,
    exchange_jobs,
    exchanged,
    pool_seeds,
    tried,
    validation_losses,
    with_contenders,
    with_matched,
    with_values_of,
)
from study.stages.plan import Arm, Tried
from study.stages.sequence import stages
from tests.study.conftest import row_of
from tests.study.stages.test_sequence import finished, plan_of


@pytest.fixture
def single(make_spec):
    return make_spec().alone()


def other_values(spec, **values):
    return spec.model_copy(update={"training": spec.training.model_copy(update=values)})


def arm(make_spec, members=3, params=(), **values):
    spec = make_spec("batch_ensemble", {"members": members, **dict(params)}).alone()
    return Arm(spec=other_values(spec, **values), role="candidate", reason="validation")


def test_the_values_of_every_arm_are_tried_once(single, make_spec):
    arms = [arm(make_spec, lr=0.3), arm(make_spec, 5, lr=0.3), arm(make_spec)]
    found = candidates_for_single([single, other_values(single, lr=0.2)], arms)
    assert [one.spec.training.lr for one in found] == [single.training.lr, 0.2, 0.3]
    assert {one.spec.method for one in found} == {"single"}
    assert found[2].source.startswith("values of batch_ensemble")
    assert found[0].source == "its own search"


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


def test_arms_of_the_same_values_share_anchors_as_large_as_the_largest(single, make_spec):
    arms = [arm(make_spec, 2, lr=0.3), arm(make_spec, 6, lr=0.3), arm(make_spec, 4)]
    pool = single.model_copy(update={"method": "deep_ensemble", "params": {"members": 6}})
    judged, trained = with_matched(arms, single, pool, 20)
    assert [(t.role, t.spec.members, t.spec.training.lr, t.seeds) for t in trained] == [
        ("matched_single", 1, 0.3, 40),
        ("matched_deep_ensemble", 6, 0.3, 10),
    ]
    assert judged[0].matched == judged[1].matched
    assert judged[0].matched.single == trained[0].spec.configuration
    assert judged[0].matched.deep_ensemble == trained[1].spec.configuration
    # Its values are the tuned network's.
    assert judged[2].matched.single == single.configuration
    assert judged[2].matched.deep_ensemble == pool.configuration


def test_what_a_single_network_cannot_have_is_dropped_and_said(single, make_spec):
    one = arm(make_spec, params={"batch": "split"}, lr=0.3)
    regularised = one.spec.regulariser.model_copy(update={"name": "adp", "weight": 0.1})
    one = one.model_copy(update={"spec": one.spec.model_copy(update={"regulariser": regularised})})
    (judged,), (own, pool) = with_matched([one], single, single, 20)
    assert judged.matched.dropped == ("regulariser adp", "batches split among members")
    assert own.spec.regulariser.name == pool.spec.regulariser.name == "none"
    assert own.spec.training == pool.spec.training == one.spec.training


def test_values_with_which_a_run_failed_are_not_taken_over(smoke, single, make_spec):
    """Nor is an arm kept on values with which it failed, where the others train."""
    one = arm(make_spec, lr=0.3)

    def kept(failed):
        jobs = exchange_jobs(smoke, [one], single)
        rows = rows_of(jobs, {0.3: (0.5, 0.6), single.training.lr: (0.1, 0.2)})
        lost = next(
            t for t, row in rows.items() if json.loads(row.spec)["training"]["lr"] == failed
        )
        rows[lost] = replace(rows[lost], status="diverged", val_nll=None)
        ((found,), _) = exchanged(smoke, [one], single, rows, nll(rows))
        return found.spec.training.lr

    assert kept(single.training.lr) == 0.3
    assert kept(0.3) == single.training.lr


def judged(configuration, mean, se=0.01, seeds=5):
    return Tried(configuration=configuration, source="", seeds=seeds, mean=mean, se=se)


def test_contenders_are_those_that_validation_cannot_tell_from_the_best():
    best = judged("best", 0.5)
    near, far = judged("near", 0.5 + 0.0282), judged("far", 0.5 + 0.0284)  # 2 sqrt(2) 0.01
    vague, broken = judged("vague", 0.6, 0.05), judged("broken", 0.5, seeds=4)
    assert contenders([best, near, far, vague, broken]) == ["near", "vague"]
    assert contenders([best]) == []


def test_a_contender_has_the_seeds_of_a_matched_single_network_and_no_ensemble(single, make_spec):
    _, matched = with_matched([arm(make_spec, lr=0.3)], single, single, 20)
    shared, new = matched[0].spec, other_values(single, lr=0.7)
    found = with_contenders(matched, [shared, new], 20)
    assert [(a.role, a.reason, a.spec.training.lr) for a in found] == [
        ("matched_single", "contender", 0.3),
        ("matched_deep_ensemble", "matched", 0.3),
        ("matched_single", "contender", 0.7),
    ]
    assert found[2].seeds == MORE * 20 == found[0].seeds


def test_the_anchor_is_chosen_by_calibrated_nll_where_that_decides(smoke, single):
    """An over-confident network may be the better one, once its temperature is right."""
    candidates = candidates_for_single([single, other_values(single, lr=0.2)], [])
    jobs = anchor_jobs(smoke, candidates)
    rows = rows_of(jobs, {single.training.lr: (0.5, 0.6), 0.2: (0.8, 0.9)})
    calibrated = {t: 0.1 * row.val_nll if row.val_nll > 0.7 else row.val_nll
                  for t, row in rows.items()}  # fmt: skip
    analysis = SimpleNamespace(calibrated_nll=lambda _, trials: {t: calibrated[t] for t in trials})
    assert "cll" in smoke.protocol.endpoints
    losses = validation_losses(smoke, rows, None, analysis)
    assert tried(candidates, rows, losses)[0].configuration == candidates[1].spec.configuration
    raw = smoke.protocol.model_copy(update={"endpoints": ("nll", "gain")})
    losses = validation_losses(smoke.model_copy(update={"protocol": raw}), rows, None, analysis)
    assert tried(candidates, rows, losses)[0].configuration == single.configuration


@pytest.mark.parametrize(("seeds", "fewer"), [(2, 2), (5, 5), (8, 5), (20, 10)])
def test_a_matched_pool_has_half_the_seeds_but_no_less_than_five(seeds, fewer):
    assert pool_seeds(seeds) == fewer


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


def test_the_shared_single_network_has_the_root_of_the_arms_as_many_seeds(smoke, tmp_path):
    rows = finished(smoke, tmp_path, ())
    plan = plan_of(tmp_path)
    judged = [a for a in plan["arms"] if a["role"] in ("candidate", "comparison")]
    assert len(judged) == 3
    confirm = [r for r in rows if r.stage == "confirm" and r.role == "single"]
    assert len(confirm) == 6 == -(-3 * 3**0.5 // 1)


def test_a_study_that_was_begun_before_there_were_contenders_goes_on_without(smoke, tmp_path):
    """By NLL, in one round, with the negative control trained as the single network is."""

    def suits(job):
        dropout = job.spec.backbone["dropout"]
        better = job.spec.stage == "anchor" and dropout > 0 and job.spec.training.lr == 0.1
        return {"val_nll": -1.0 if better else abs(job.spec.training.lr - 0.1), "val_gain": 0.1}

    protocol = smoke.protocol.model_copy(update={"anchors": "matched"})
    before = smoke.model_copy(update={"protocol": protocol})
    rows = finished(before, tmp_path, (), suits)
    plan = plan_of(tmp_path)
    assert plan["protocol"]["anchors"] == "matched"
    assert "contender" not in {arm["reason"] for arm in plan["arms"]}
    by_role = {arm["role"]: arm for arm in plan["arms"]}
    backbone = by_role["single"]["spec"]["backbone"]
    assert by_role["negative_control"]["spec"]["backbone"] == backbone
    store = RunFolder(tmp_path)
    store.write_json(store.study, before.model_dump(mode="json", by_alias=True))
    again = as_begun(smoke, store)
    assert again == before
    known = {row.trial: row for row in rows}
    asked = SimpleNamespace(calibrated_nll=None, seeds_needed=None)
    assert not any(stage.remaining for stage in stages(again, store, known, analysis=asked))
    assert not plan_of(tmp_path)["revisions"]
    tuned = smoke.protocol.model_copy(update={"anchors": "tuned"})
    other = smoke.model_copy(update={"protocol": tuned})
    assert as_begun(other, store) == other  # Asked for.


def test_a_study_against_the_tuned_anchors_alone_is_as_before_there_were_others(smoke, tmp_path):
    protocol = smoke.protocol.model_copy(update={"anchors": "tuned"})
    rows = finished(smoke.model_copy(update={"protocol": protocol}), tmp_path, ())
    assert {r.stage for r in rows} == {"search", "rescore", "confirm"}
    plan = plan_of(tmp_path)
    assert not {"matched", "seeds"} & {key for one in plan["arms"] for key in one}
    assert not {"anchors", "single_seeds"} & plan["protocol"].keys()
    best = min((r for r in rows if r.stage == "rescore" and r.method == "single"),
               key=lambda r: r.val_nll)  # fmt: skip
    single = next(a for a in plan["arms"] if a["role"] == "single")
    assert single["configuration"] == best.configuration
    assert TrialSpec.model_validate_json(best.spec).alone().model_dump() == json.loads(
        json.dumps(single["spec"])
    )


def test_every_arm_is_tried_with_the_values_of_the_single_network(smoke, tmp_path):
    """A method that missed the good values in its search is judged with these."""

    def suits(job):
        chosen_here = job.spec.stage == "search" and job.spec.method != "single"
        good = job.spec.training.lr if not chosen_here else 0.5
        worse = job.spec.backbone["dropout"]
        return {"val_nll": abs(good - 0.2) + worse, "val_gain": 0.1}

    finished(smoke, tmp_path, (), suits)
    plan = plan_of(tmp_path)
    single = next(a for a in plan["arms"] if a["role"] == "single")
    judged = [a for a in plan["arms"] if a["role"] in ("candidate", "comparison")]
    for one in judged:
        assert one["spec"]["training"] == single["spec"]["training"]
        if one["role"] == "candidate":  # MC Dropout keeps its own rate.
            assert one["matched"]["single"] == single["configuration"]
    assert "random signs, trained as the single network" in {a["name"] for a in judged}
    by_source = {t["source"]: t for t in plan["exchanged"]}
    own, moved = (
        by_source["random signs"],
        by_source["random signs with the single network's values"],
    )
    assert own["mean"] > moved["mean"]
    assert own["seeds"] == moved["seeds"] == 5


def test_values_that_an_arm_has_only_by_the_exchange_are_tried_as_a_single_network(smoke, tmp_path):
    """MC Dropout's own rate beside the single network's values may be the best single network."""

    def suits(job):
        dropout = job.spec.backbone["dropout"]
        better = job.spec.stage == "anchor" and dropout > 0 and job.spec.training.lr == 0.1
        return {"val_nll": -1.0 if better else abs(job.spec.training.lr - 0.1), "val_gain": 0.1}

    finished(smoke, tmp_path, (), suits)
    plan = plan_of(tmp_path)
    single = next(a for a in plan["arms"] if a["role"] == "single")
    assert single["spec"]["training"]["lr"] == 0.1
    assert single["spec"]["backbone"]["dropout"] > 0
    assert plan["tried"][0]["source"].startswith("values of mc_dropout")
    tried_ = [one["configuration"] for one in plan["tried"]]
    assert len(set(tried_)) == len(tried_)
    for one in plan["arms"]:
        if one["role"] in ("candidate", "comparison"):
            assert one["matched"]["single"] in tried_
    # Members that draw masks of their own are no null, even if they are identical.
    negative = next(a for a in plan["arms"] if a["role"] == "negative_control")
    assert negative["spec"]["backbone"] == single["spec"]["backbone"] | {"dropout": 0.0}
    own = next(a for a in plan["arms"] if a["configuration"] == negative["matched"]["single"])
    assert own["role"] == "matched_single"
    assert own["spec"]["backbone"] == negative["spec"]["backbone"]


def test_a_design_that_fixes_the_values_is_left_as_it_is(smoke, tmp_path):
    protocol = smoke.protocol.model_copy(update={"exchange": False})
    rows = finished(smoke.model_copy(update={"protocol": protocol}), tmp_path, ())
    plan = plan_of(tmp_path)
    assert plan["exchanged"] == []
    assert plan["protocol"]["exchange"] is False
    assert {r.method for r in rows if r.stage == "anchor"} == {"single"}
    shortlisted = {r.configuration for r in rows if r.stage in ("search", "rescore")}
    judged = {a["configuration"] for a in plan["arms"] if a["role"] in ("candidate", "comparison")}
    assert judged <= shortlisted
    finished(smoke, tmp_path / "other", ())
    assert "exchange" not in plan_of(tmp_path / "other")["protocol"]


def test_an_arm_keeps_the_values_that_suit_it_better(smoke, tmp_path):
    def suits(job):
        lr = job.spec.training.lr
        return {"val_nll": lr if job.spec.method == "single" else -lr, "val_gain": 0.1}

    rows = finished(smoke, tmp_path, (), suits)
    plan = plan_of(tmp_path)
    lowest = min(r.val_nll for r in rows if r.method == "single")
    single = next(a for a in plan["arms"] if a["role"] == "single")
    assert single["spec"]["training"]["lr"] == lowest
    judged = [a for a in plan["arms"] if a["role"] == "candidate"]
    assert all(a["spec"]["training"]["lr"] > lowest for a in judged if a["name"] != "random signs")


def test_what_a_method_has_a_range_of_its_own_for_stays(smoke, single, make_spec):
    """MC Dropout without the dropout that its space gives it would be a single network."""
    spec = make_spec("mc_dropout", {"members": 2}).alone()
    spec = spec.model_copy(update={"backbone": spec.backbone | {"dropout": 0.2}})
    one = Arm(spec=other_values(spec, lr=0.3), role="comparison", reason="comparison")
    tuned = other_values(single, lr=0.11)
    found = with_values_of(smoke, one, tuned).spec
    assert found.training == tuned.training
    assert found.backbone["dropout"] == 0.2
    assert found.backbone | {"dropout": 0.0} == tuned.backbone | {"dropout": 0.0}
    assert with_values_of(smoke, one.model_copy(update={"spec": found}), tuned).spec == found


def test_values_that_a_method_refuses_are_not_run_but_named(smoke, tmp_path):
    """An arm whose method cannot be built with them keeps its own, and fails no trial."""
    asked = []

    def refusal(spec):
        asked.append(spec)
        return "params.budget must be at least 1" if spec.method == "batch_ensemble" else None

    rows = finished(smoke, tmp_path, (), refusal=refusal)
    plan = plan_of(tmp_path)
    assert {spec.stage for spec in asked} == {"anchor"}
    assert not [r for r in rows if r.stage == "anchor" and r.method == "batch_ensemble"]
    shortlisted = {r.configuration for r in rows if r.stage in ("search", "rescore")}
    candidates = [a for a in plan["arms"] if a["role"] == "candidate"]
    assert candidates
    assert {a["configuration"] for a in candidates} <= shortlisted
    refused = [t for t in plan["exchanged"] if "not run" in t["source"]]
    assert len(refused) == len({t["configuration"] for t in refused}) == len(candidates)
    assert {(t["seeds"], t["mean"]) for t in refused} == {(0, None)}
    assert refused[0]["source"].endswith("refuses them (params.budget must be at least 1)")
    assert any(r.stage == "anchor" and r.method == "mc_dropout" for r in rows)
