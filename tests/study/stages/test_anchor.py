"""The stage ends when neither the anchor nor an arm can be had better."""

import json
from dataclasses import replace
from types import SimpleNamespace

from study.commands.run_study import as_begun
from study.run_folder.store import RunFolder
from study.spec import TrialSpec
from study.stages.anchor import validation_losses
from study.stages.sequence import stages
from study.stages.single_network import (
    anchor_jobs,
    candidates_for_single,
    contenders,
    robust_first,
    tried,
)
from tests.study.stages.anchoring import other_values, rows_of
from tests.study.stages.test_sequence import finished, plan_of


def analysis_of(calibrated, chance=2.3):
    """Return what knows calibrated NLL: that of ``calibrated``."""
    return SimpleNamespace(
        calibrated_nll=lambda _, trials: {t: calibrated[t] for t in trials},
        chance_nll=lambda _, trial: chance,
    )


def test_the_anchor_is_chosen_by_calibrated_nll_where_that_decides(smoke, single):
    """An over-confident network may be the better one, once its temperature is right."""
    candidates = candidates_for_single([single, other_values(single, lr=0.2)], [])
    jobs = anchor_jobs(smoke, candidates)
    rows = rows_of(jobs, {single.training.lr: (0.5, 0.6), 0.2: (0.8, 0.9)})
    calibrated = {t: 0.1 * row.val_nll if row.val_nll > 0.7 else row.val_nll
                  for t, row in rows.items()}  # fmt: skip
    analysis = analysis_of(calibrated)
    assert "cll" in smoke.protocol.endpoints
    losses = validation_losses(smoke, rows, None, analysis)
    assert tried(candidates, rows, losses)[0].configuration == candidates[1].spec.configuration
    raw = smoke.protocol.model_copy(update={"endpoints": ("nll", "gain")})
    losses = validation_losses(smoke.model_copy(update={"protocol": raw}), rows, None, analysis)
    assert tried(candidates, rows, losses)[0].configuration == single.configuration


def test_a_run_that_is_no_better_than_chance_makes_no_contender(smoke, single):
    """By its mean and error, validation could not tell a network with such runs from the best."""
    candidates = candidates_for_single([single, other_values(single, lr=0.2)], [])
    jobs = anchor_jobs(smoke, candidates)
    rows = rows_of(jobs, {single.training.lr: (0.5, 0.6), 0.2: (0.8, 0.9)})
    calibrated = {trial: row.val_nll for trial, row in rows.items()}
    exploded = max(calibrated, key=calibrated.get)
    analysis = analysis_of(calibrated | {exploded: 1e12})
    choice = tried(candidates, rows, validation_losses(smoke, rows, None, analysis))
    seeds = smoke.budget.anchor_seeds
    assert [one.seeds for one in choice] == [seeds, seeds - 1]
    assert contenders(choice) == []
    # Where no run is any better, as after one epoch, all count.
    assert validation_losses(smoke, rows, None, analysis_of(calibrated, chance=0.1)) == calibrated
    analysis = analysis_of(calibrated | {exploded: 1e12}, chance=1e13)
    choice = tried(candidates, rows, validation_losses(smoke, rows, None, analysis))
    assert contenders(choice) == [candidates[1].spec.configuration]


def test_of_single_networks_that_tie_the_best_under_validation_shift_is_held_against(smoke, single):
    """Not one that is behind on clean data, however good it is under shift."""
    others = [other_values(single, lr=lr) for lr in (0.2, 0.25)]
    candidates = candidates_for_single([single, *others], [])
    losses = {single.training.lr: (0.50, 0.60), 0.2: (0.51, 0.61), 0.25: (1.0, 1.1)}
    under_shift = {single.training.lr: 2.0, 0.2: 1.5, 0.25: 1.0}
    rows = {
        trial: replace(row, val_shift_nll=under_shift[json.loads(row.spec)["training"]["lr"]])
        for trial, row in rows_of(anchor_jobs(smoke, candidates), losses).items()
    }
    counted = {trial: row.val_nll for trial, row in rows.items()}
    choice = tried(candidates, rows, counted)
    assert choice[0].configuration == single.configuration
    found = robust_first(choice, rows, counted)
    assert [one.configuration for one in found] == [
        others[0].configuration, single.configuration, others[1].configuration
    ]  # fmt: skip
    assert [one.shift_nll for one in found] == [1.5, 2.0, None]
    assert "shift_nll" not in found[2].model_dump()
    assert {one.configuration: one.mean for one in found} == {
        one.configuration: one.mean for one in choice
    }
    unknown = {trial: replace(row, val_shift_nll=None) for trial, row in rows.items()}
    assert robust_first(choice, unknown, counted) == list(choice)
    # Neither a lead that is no larger than its error, nor a run that does not count, decides.
    of_other = [trial for trial, row in rows.items() if row.val_shift_nll == 1.5]
    vague = {of_other[0]: replace(rows[of_other[0]], val_shift_nll=2.9)}
    assert robust_first(choice, rows | vague, counted)[0].configuration == single.configuration
    without = {trial: loss for trial, loss in counted.items() if trial != of_other[0]}
    assert robust_first(choice, rows | vague, without)[0].configuration != single.configuration


def test_the_tuned_single_network_of_a_study_is_the_robust_one(smoke, tmp_path):
    """The best on clean data becomes a contender; in older folders it stays the tuned one."""

    def suits(job):
        best = abs(job.spec.training.lr - 0.1) < 0.02
        anchor = job.spec.stage == "anchor" and job.spec.method == "single"
        loss = 0.5 + 1e-4 * job.spec.replicate + (0.0 if best else 1e-5 if anchor else 0.1)
        return {"val_nll": loss, "val_gain": 0.1, "val_shift_nll": 2.0 if best else 1.0}

    chosen = {}
    for anchors in ("robust", "contended"):
        protocol = smoke.protocol.model_copy(update={"anchors": anchors})
        study = smoke.model_copy(update={"protocol": protocol})
        finished(study, tmp_path / anchors, (), suits)
        plan = plan_of(tmp_path / anchors)
        (single,) = [arm for arm in plan["arms"] if arm["role"] == "single"]
        chosen[anchors] = single["configuration"]
        assert plan["tried"][0]["configuration"] == single["configuration"]
        close = [arm["configuration"] for arm in plan["arms"] if arm["reason"] == "contender"]
        assert close
        assert single["configuration"] not in close
        if anchors == "robust":
            assert plan["tried"][0]["shift_nll"] == 1.0
            best = min(plan["tried"], key=lambda one: one["mean"])
            assert best["configuration"] in close
        else:
            assert "shift_nll" not in plan["tried"][0]
    assert chosen["robust"] != chosen["contended"]


def test_a_folder_keeps_the_anchors_that_it_was_begun_with(smoke, tmp_path):
    assert smoke.protocol.anchors == "robust"
    store = RunFolder(tmp_path)
    store.create()
    protocol = smoke.protocol.model_copy(update={"anchors": "contended"})
    before = smoke.model_copy(update={"protocol": protocol})
    store.write_json(store.study, before.model_dump(mode="json", by_alias=True))
    assert as_begun(smoke, store) == before


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
