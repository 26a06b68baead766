"""Stage 0: the number of seeds follows the spread that is seen beforehand, and nothing else does."""

from dataclasses import replace
from pathlib import Path
from statistics import stdev
from typing import get_args

import numpy as np
import pytest
import yaml

from analysis import metrics
from analysis.data.predictions import predictions
from analysis.data.run import load
from analysis.stats.power import Aim, Pair, Replicates, Spread, power_all, seeds_needed
from study.commands import power
from study.errors import StudyError
from study.parquet_format import TRIAL
from study.run_folder.store import RunFolder
from study.space.load import load_study
from study.space.settings import Endpoint
from study.stages import pilot
from study.stages.analysis_interface import CALIBRATED
from study.stages.matched_anchors import as_deep_ensemble, pool_seeds, single_seeds
from study.stages.pilot import (
    LEAST,
    MOST,
    Seen,
    deviation,
    pilot_jobs,
    seeds_declared,
    seeds_for,
)
from study.stages.plan import Arm, declare, read
from study.stages.single_network import as_single
from tests.study.conftest import some_row

SMOKE = Path(__file__).parents[3] / "search_spaces" / "smoke.yaml"
ENDPOINTS = ["nll", "shift_nll", "gain"]


def group(role, stage, sd, mean=0.0, n=40, configuration="any", status="complete"):
    """Return rows whose sample means and SDs are exactly these, on every column."""
    z = np.linspace(-1, 1, n)
    made = []
    for replicate, value in enumerate((z / z.std(ddof=1) * sd + mean).tolist()):
        gain = 0.0 if role == "single" else 1.0 - value
        values = {"val_nll": value, "val_shift_nll": value, "val_gain": gain}
        trial = f"{stage} {role} {configuration} {replicate}"
        also = {"stage": stage, "configuration": configuration, "status": status, "trial": trial}
        made.append(some_row(role=role, replicate=replicate, **values, **also))
    return made


def rows(single_sd, deep_sd, gap=1.0, status="complete"):
    """Return the pilot's rows."""
    single = group("single", "pilot", single_sd, gap, status=status)
    return single + group("deep_ensemble", "pilot", deep_sd, status=status)


@pytest.fixture
def study(smoke):
    update = {"seeds": "auto", "endpoints": ENDPOINTS}
    return smoke.model_copy(update={"protocol": smoke.protocol.model_copy(update=update)})


@pytest.fixture
def arms(make_spec):
    return arms_of(make_spec, 1)


def arms_of(make_spec, candidates):
    single = make_spec().alone()
    own = [make_spec(training={"lr": 0.1 + 0.01 * i}) for i in range(candidates)]
    return [
        Arm(spec=single, role="single", reason="anchor"),
        Arm(spec=as_deep_ensemble(single, 2), role="positive_control", reason="control"),
        *(Arm(spec=spec.alone(), role="candidate", reason="validation") for spec in own),
    ]


def seeds_of(study, arms, found):
    pilots = {row.trial for row in found if row.stage == "pilot"}
    seen = Seen.of(study, arms, pilots, {row.trial: row for row in found}, None, power)
    return seeds_for(study, arms, seen, power)


def spreads(single, arm, deep):
    performance = [Spread(single, arm, deep)] * 2
    return [*performance, Spread(0.0, arm, deep, two_sided=False)]


def test_seeds_are_the_fewest_with_the_power_that_is_asked_for(study, arms):
    seeds, why = seeds_of(study, arms, rows(0.4, 0.3))

    # The gain of a single network does not vary, so the larger of the anchors' is the ensemble's.
    seen = [*spreads(0.4, 0.4, 0.3)[:2], Spread(0.0, 0.3, 0.3, two_sided=False)]

    def reached(n):
        tuned = Replicates(n, single_seeds(study, 1, n), n)
        own = Replicates(n, 2 * n, pool_seeds(n))
        return power_all(seen, "escape", 0.5, tuned) * power_all(seen, "escape", 0.5, own)

    assert reached(seeds) >= 0.8
    assert reached(seeds - 1) < 0.8
    assert f"{seeds} seeds give power 0.8" in why


def test_without_matched_anchors_there_is_one_pair_of_equal_seeds(study, arms):
    tuned = study.protocol.model_copy(update={"anchors": "tuned"})
    seeds, _ = seeds_of(study.model_copy(update={"protocol": tuned}), arms, rows(0.4, 0.3))

    seen = [*spreads(0.4, 0.4, 0.3)[:2], Spread(0.0, 0.3, 0.3, two_sided=False)]
    pair = Pair(seen, lambda n: Replicates(n, n, n))
    assert seeds == seeds_needed([pair], Aim()) < seeds_of(study, arms, rows(0.4, 0.3))[0]


def test_what_varies_more_needs_more_seeds(study, arms):
    candidate = arms[-1].spec
    matched = as_single(candidate, arms[0].spec).configuration
    pilots = rows(0.4, 0.3)
    plain = seeds_of(study, arms, pilots)[0]
    rescored = group("candidate", "rescore", 0.6, n=10, configuration=candidate.configuration)
    tried = group("single", "anchor", 0.6, n=10, configuration=matched)
    calm = group("candidate", "rescore", 0.1, n=10, configuration=candidate.configuration)
    other = group("candidate", "rescore", 9.0, n=10, configuration="no candidate")

    assert seeds_of(study, arms, pilots + rescored)[0] > plain
    assert seeds_of(study, arms, pilots + tried)[0] > plain
    assert seeds_of(study, arms, pilots + calm)[0] < plain
    assert seeds_of(study, arms, pilots + other)[0] == plain


def test_every_contender_asks_for_seeds(study, arms, make_spec):
    pilots = rows(0.4, 0.3)
    plain = seeds_of(study, arms, pilots)[0]
    spec = make_spec("single", {}).model_copy(update={"training": arms[0].spec.training})
    spec = spec.model_copy(update={"backbone": spec.backbone | {"dropout": 0.3}}).alone()
    close = Arm(spec=spec, role="matched_single", reason="contender")

    def beside(gap):
        tried = group("single", "anchor", 0.4, gap, n=10, configuration=spec.configuration)
        return seeds_of(study, [*arms, close], pilots + tried)

    assert plain < beside(1.0)[0] < beside(0.7)[0]
    assert seeds_of(study, [*arms, close], pilots)[0] == plain
    most, why = beside(-0.1)
    assert most == MOST
    assert "not better than a contender on nll" in why


def test_a_deviation_of_few_runs_is_pooled_or_not_used():
    many, few = [[0.0, 1, 2, 3, 4], [0.0, 2, 4, 6, 8]], [[0.0, 1.0], [0.0, 3.0], [5.0]]
    assert deviation(many, 7.0) == stdev(many[1])
    assert deviation(few, 7.0) == 7.0  # Two degrees of freedom.
    assert deviation(few * 3, 7.0) == pytest.approx(((0.5 + 4.5) / 2) ** 0.5)
    assert deviation([], 7.0) == 7.0


def test_more_candidates_need_more_seeds(study, make_spec):
    one, eight = (seeds_of(study, arms_of(make_spec, many), rows(0.4, 0.3))[0] for many in (1, 8))
    assert eight > one


def test_seeds_are_bounded(study, arms):
    assert seeds_of(study, arms, rows(1e-3, 1e-3))[0] == LEAST
    assert seeds_of(study, arms, rows(5.0, 5.0))[0] == MOST


def test_anchors_in_the_wrong_order_take_the_most_and_say_so(study, arms):
    seeds, why = seeds_of(study, arms, rows(0.1, 0.1, gap=-1.0))

    assert seeds == MOST
    assert "not better" in why


def test_failed_runs_do_not_pass_for_a_spread(study, arms):
    with pytest.raises(StudyError, match=r"protocol.seeds=auto needs at least 2 complete"):
        seeds_of(study, arms, rows(0.1, 0.1, status="diverged"))


def test_calibrated_nll_is_that_of_the_stored_predictions(finished_study):
    store = RunFolder(finished_study.out)
    trials = [t for t, row in store.rows().items() if row.stage == "anchor"][:3]
    found, run = power.calibrated_nll(store, trials), load(store.root)
    for trial in trials:
        stored = predictions(run, trial, "val")
        logq = metrics.ensemble(metrics.log_softmax(stored.logits))
        assert found[trial] == metrics.cll(logq, stored.labels)
        assert found[trial] != store.rows()[trial].val_nll
        assert power.chance_nll(store, trial) == pytest.approx(np.log(10))


def test_the_pilot_is_seen_by_calibrated_nll(finished_study, smoke):
    store = RunFolder(finished_study.out)
    anchors = [row for row in store.rows().values() if row.stage == "anchor"]
    # Any runs with predictions will do for those of a Deep Ensemble.
    pilots = {
        row.trial: replace(row, stage="pilot", role=("single", "deep_ensemble")[i % 2])
        for i, row in enumerate(anchors)
    }
    seen = Seen.of(smoke, read(store).arms, set(pilots), pilots, store, power)
    found = power.calibrated_nll(store, pilots)
    assert sorted(seen.single["cll"] + seen.deep_ensemble["cll"]) == sorted(found.values())


@pytest.mark.parametrize("anchors", ["matched", "tuned"])
def test_a_plan_that_is_there_keeps_its_number(study, arms, tmp_path, anchors):
    changed = study.protocol.model_copy(update={"anchors": anchors})
    study = study.model_copy(update={"protocol": changed})
    store = RunFolder(tmp_path)
    store.create()

    def arms_of(seeds):
        return [arm.model_copy(update={"seeds": 2 * seeds}) for arm in arms]

    assert seeds_declared(study, arms_of, store) is None
    declare(study, arms_of(17), {}, 17, "as planned before", store)
    assert seeds_declared(study, arms_of, store) == (17, "as planned before")
    assert seeds_declared(study, lambda seeds: arms_of(seeds)[:-1], store) is None
    wider = study.protocol.model_copy(update={"delta": 0.4})
    assert seeds_declared(study.model_copy(update={"protocol": wider}), arms_of, store) is None


def test_jobs_have_seeds_of_their_own(study, make_spec):
    arms = [
        Arm(spec=make_spec().alone(), role="single", reason="anchor"),
        Arm(
            spec=make_spec("deep_ensemble", {"members": 2}).alone(),
            role="positive_control",
            reason="control",
        ),
    ]

    jobs = pilot_jobs(study, arms)

    assert len(jobs) == 2 * study.budget.pilot_seeds
    assert len({job.spec.seed for job in jobs}) == len(jobs)
    assert {job.spec.stage for job in jobs} == {"pilot"}
    assert jobs[0].spec.role == "deep_ensemble"


def test_every_endpoint_that_can_be_declared_is_seen_in_a_row(study):
    assert {*pilot.SEEN_AS, CALIBRATED} == set(get_args(Endpoint))
    assert set(pilot.SEEN_AS.values()) <= set(TRIAL.names)


def test_without_a_number_seeds_are_open(tmp_path):
    file = tmp_path / "s.yaml"
    content = yaml.safe_load(SMOKE.read_text())
    content.setdefault("protocol", {}).pop("seeds", None)
    file.write_text(yaml.safe_dump(content))

    assert load_study([file]).protocol.seeds == "auto"
