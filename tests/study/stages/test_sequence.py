"""Which configurations reach the confirm stage."""

import math
import random
from collections import Counter
from dataclasses import replace
from types import SimpleNamespace

from study.commands import power
from study.jobs import Job
from study.run_folder.store import RunFolder
from study.space.domain import Domain
from study.spec import TrialSpec
from study.stages.plan import declare
from study.stages.sequence import stages
from study.stages.stage import FixedStage
from tests.study.conftest import row_of


def made_up(job, pruned):
    """Return a made-up row of a job; what is pruned has no results."""
    value = random.Random(job.spec.configuration + job.spec.stage)
    if pruned:
        reason = "exceeds its limit by 0.5"
        return row_of(job.spec, job.name, status="pruned", reason=reason, excess=0.5)
    names = ("val_nll", "val_shift_nll", "val_gain", "val_accuracy")
    return row_of(job.spec, job.name, **{name: value.random() for name in names})


def finished(
    study, folder, prune, better=lambda job: {}, analysis=power, refusal=lambda spec: None
):
    """Return every row of a study whose trials of the names ``prune`` exceed a limit.

    What ``better`` returns of a job replaces the made-up results.
    """
    store, rows = RunFolder(folder), {}
    store.create()

    def loss(_, trials):  # Rows that are made up have no predictions to calibrate.
        return {trial: rows[trial].val_nll for trial in trials}

    asked = SimpleNamespace(
        calibrated_nll=loss,
        chance_nll=lambda store, trial: math.inf,
        seeds_needed=analysis.seeds_needed,
    )
    for stage in stages(study, store, rows, analysis=asked, refusal=refusal):
        while stage.remaining:
            job = stage.next()
            row = replace(made_up(job, job.name in prune), **better(job))
            rows[row.trial] = row
            stage.end(row)
    return rows.values()


def plan_of(folder):
    return RunFolder(folder).read_json(RunFolder(folder).plan)


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


def test_no_two_trials_have_the_same_seed(smoke, tmp_path):
    """Nor have those of two roles where the fresh Deep Ensemble is as large as the pool."""
    (space,) = smoke.candidates
    pairs = space.search | {"params.members": (Domain(choice=(2,)),)}
    of_pairs = smoke.model_copy(
        update={"candidates": (space.model_copy(update={"search": pairs}),)}
    )
    rows = finished(of_pairs, tmp_path, ())
    specs = [TrialSpec.model_validate_json(row.spec) for row in rows]
    deep = {spec.role: spec for spec in specs if spec.method == "deep_ensemble"}
    assert deep["deep_ensemble"].configuration == deep["positive_control"].configuration
    assert {spec.stage for spec in specs} == {"search", "rescore", "anchor", "confirm"}
    assert len({spec.seed for spec in specs}) == len(specs)


class OtherPower:
    """That of a later version, whose formula asks for more seeds."""

    @staticmethod
    def seeds_needed(pairs, aim):
        return 2 * power.seeds_needed(pairs, aim)


def test_the_pilot_sets_the_seeds_and_another_version_leaves_them(smoke, tmp_path):
    update = {"seeds": "auto", "endpoints": ["nll", "shift_nll", "gain"]}
    study = smoke.model_copy(update={"protocol": smoke.protocol.model_copy(update=update)})

    def anchored(job):
        """Return a gap of 1 and a deviation of about 0.5 over seeds."""
        deep = job.spec.method == "deep_ensemble"
        loss = random.Random(job.spec.trial).gauss(0.0 if deep else 1.0, 0.5)
        return {"val_nll": loss, "val_shift_nll": loss, "val_gain": 1.0 - loss if deep else 0.0}

    rows = finished(study, tmp_path, (), anchored)
    plan = plan_of(tmp_path)
    assert 10 < plan["seeds"] < 60
    assert plan["seeds_because"].startswith(f"{plan['seeds']} seeds give power 0.8")
    seeds = Counter(r.role for r in rows if r.stage == "confirm")
    assert seeds["deep_ensemble"] == plan["seeds"] < seeds["single"]
    assert Counter(r.stage for r in rows)["pilot"] == 2 * study.budget.pilot_seeds

    finished(study, tmp_path, (), anchored, OtherPower)
    assert plan_of(tmp_path) == plan
    finished(study, tmp_path / "other", (), anchored, OtherPower)
    assert plan_of(tmp_path / "other")["seeds"] > plan["seeds"]


def test_what_the_search_found_is_judged_on_fresh_seeds_alone(smoke, tmp_path):
    """The better in the search, the worse on fresh seeds: what is worst in the search wins."""
    budget = smoke.budget.model_copy(update={"rescore": 3, "rescore_seeds": 2})
    protocol = smoke.protocol.model_copy(update={"anchors": "tuned"})
    study = smoke.model_copy(update={"budget": budget, "protocol": protocol})

    def reversed_by_luck(job):
        loss = random.Random(job.spec.configuration).random()
        return {"val_nll": loss if job.spec.stage == "search" else 1 - 0.5 * loss}

    rows = finished(study, tmp_path, (), reversed_by_luck)
    seeds = Counter(r.configuration for r in rows if r.stage == "rescore")
    assert set(seeds.values()) == {2}
    singles = [r for r in rows if r.stage == "search" and r.method == "single"]
    finalists = sorted(singles, key=lambda row: row.val_nll)[:3]
    (single, pool, control) = (
        next(a for a in plan_of(tmp_path)["arms"] if a["role"] == role)
        for role in ("single", "deep_ensemble", "positive_control")
    )
    assert single["configuration"] == finalists[-1].configuration
    for deep in (pool, control):
        own = {"method": "deep_ensemble", "params": {"members": deep["members"]}}
        assert deep["spec"] == single["spec"] | own


def test_the_pool_suffices_for_every_arm(smoke, tmp_path):
    finished(smoke, tmp_path, ())
    arms = plan_of(tmp_path)["arms"]
    (pool,) = (arm["members"] for arm in arms if arm["role"] == "deep_ensemble")
    judged = {arm["members"] for arm in arms if arm["role"] not in ("single", "deep_ensemble")}
    assert min(judged) < pool == max(judged)


def test_the_negative_control_is_no_candidate_however_good_it_is(smoke, tmp_path):
    controls = set()

    def best(job):
        if job.name == "identical members":
            controls.add(job.spec.configuration)
        known = job.spec.configuration in controls
        return {"val_nll": -1.0, "val_gain": 9.0} if known else {}

    long = smoke.protocol.model_copy(update={"shortlist": 8})
    finished(smoke.model_copy(update={"protocol": long}), tmp_path, (), best)
    arms = plan_of(tmp_path)["arms"]
    candidates = {arm["configuration"] for arm in arms if arm["role"] == "candidate"}
    assert controls
    assert not controls & candidates
    (negative,) = (arm for arm in arms if arm["role"] == "negative_control")
    assert negative["name"] == "identical members"
    assert negative["spec"]["params"]["init"] == "ones"


def test_a_trial_that_was_committed_is_not_run_again_though_optuna_was_not_told(smoke, tmp_path):
    store, rows = RunFolder(tmp_path), {}
    store.create()
    search = next(stages(smoke, store, rows))
    done = search.next()
    rows[done.spec.trial] = made_up(done, False)  # Then the driver died.
    again = next(stages(smoke, store, rows))
    assert again.next().spec.trial != done.spec.trial
    assert again.remaining == again.total - 1


def test_a_plan_that_is_declared_anew_says_so(smoke, tmp_path):
    store = RunFolder(tmp_path)
    store.create()
    first = declare(smoke, [], {}, 3, "as asked for", store)
    assert declare(smoke, [], {}, 3, "as asked for", store) == first
    for delta in (0.4, 0.1):
        protocol = smoke.protocol.model_copy(update={"delta": delta})
        other = smoke.model_copy(update={"protocol": protocol})
        declare(other, [], {}, 3, "as asked for", store)
    revisions = plan_of(tmp_path)["revisions"]
    assert [r["protocol"]["delta"] for r in revisions] == [0.25, 0.4]
    assert revisions[0]["hash"] == first.hash


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
    stage = FixedStage("confirm", jobs, {}, lambda spec: 2 if spec.training.lr == 0.1 else 1)
    assert (stage.total, stage.remaining) == (6, 6)
    together = [[(0.1, 0), (0.1, 1)], [(0.2, 0)], [(0.2, 1)], [(0.1, 2)], [(0.2, 2)]]
    assert drawn(stage) == together


def test_what_is_there_changes_no_job_but_those_that_are_complete(make_spec):
    jobs = jobs_of(make_spec, (0.1,), 4)
    rows = {jobs[n].spec.trial: {} for n in (0, 2, 3)}
    stage = FixedStage("confirm", jobs, rows, lambda spec: 2)
    assert stage.remaining == 1
    assert drawn(stage) == [[(0.1, 0), (0.1, 1)]]


def test_the_positive_control_is_no_deep_ensemble_of_one(smoke, tmp_path):
    """Though most candidates may have one member: it could not escape, and withhold everything."""
    (space,) = smoke.candidates
    alone = space.search | {"params.members": (Domain(choice=(1,)),)}
    update = {"candidates": (space.model_copy(update={"search": alone}),)}
    protocol = smoke.protocol.model_copy(update={"shortlist": 5, "per_stratum": 3})
    rows = finished(smoke.model_copy(update=update | {"protocol": protocol}), tmp_path, ())
    specs = [TrialSpec.model_validate_json(row.spec) for row in rows if row.stage == "confirm"]
    sizes = Counter(spec.members for spec in {s.configuration: s for s in specs}.values())
    assert sizes[1] > sizes[2]
    assert all(spec.members > 1 for spec in specs if spec.role == "positive_control")
