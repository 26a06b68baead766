"""No arm is judged with hyperparameters that are worse than the single network's."""

import json
from dataclasses import replace

from study.stages.hyperparameter_exchange import exchange_jobs, exchanged, with_values_of
from study.stages.plan import Arm
from tests.study.stages.anchoring import arm, nll, other_values, rows_of
from tests.study.stages.test_sequence import finished, plan_of


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
