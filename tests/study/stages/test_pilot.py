"""Stage 0: the number of seeds follows the anchors' spread, and nothing else does."""

from pathlib import Path
from typing import get_args

import numpy as np
import pytest
import yaml

from analysis.stats.power import Spread, power_all, seeds_needed
from study.commands import run_study
from study.errors import StudyError
from study.schema import TRIAL
from study.space.load import load_study
from study.space.study import Endpoint
from study.stages import pilot
from study.stages.pilot import LEAST, MOST, pilot_jobs, seeds_for
from study.stages.plan import Arm
from tests.study.conftest import some_row

SMOKE = Path(__file__).parents[3] / "search_spaces" / "smoke.yaml"


def rows(single_sd, deep_sd, gap=1.0, n=40, status="complete"):
    """Return pilot rows whose sample means and SDs are exactly these, on every column."""
    made = []
    for role, mean, sd in (("single", gap, single_sd), ("deep_ensemble", 0.0, deep_sd)):
        z = np.linspace(-1, 1, n)
        z = z / z.std(ddof=1) * sd + mean
        for replicate, value in enumerate(z.tolist()):
            gain = 0.0 if role == "single" else gap - value
            values = {"val_nll": value, "val_shift_nll": value, "val_gain": gain}
            made.append(some_row(role=role, replicate=replicate, status=status, **values))
    return made


@pytest.fixture
def study(smoke):
    return smoke.model_copy(
        update={"protocol": smoke.protocol.model_copy(update={"seeds": "auto", "shortlist": 1})}
    )


def test_seeds_are_the_fewest_with_the_power_that_is_asked_for(study):
    seeds, why = seeds_for(study, rows(0.4, 0.3), run_study.seeds_needed)

    performance = [Spread(0.4, 0.4, 0.3)] * sum(e != "gain" for e in study.protocol.endpoints)
    gain = [Spread(0.0, 0.3, 0.3, two_sided=False)]
    assert seeds == seeds_needed([*performance, *gain], "escape", 0.5)
    assert power_all([*performance, *gain], "escape", 0.5, seeds) >= 0.8
    assert power_all([*performance, *gain], "escape", 0.5, seeds - 1) < 0.8
    assert f"{seeds} seeds give power 0.8" in why


def test_more_candidates_need_more_seeds(study):
    many = study.model_copy(update={"protocol": study.protocol.model_copy(update={"shortlist": 8})})
    assert (
        seeds_for(many, rows(0.4, 0.3), run_study.seeds_needed)[0]
        > seeds_for(study, rows(0.4, 0.3), run_study.seeds_needed)[0]
    )


def test_seeds_are_bounded(study):
    assert seeds_for(study, rows(1e-3, 1e-3), run_study.seeds_needed)[0] == LEAST
    assert seeds_for(study, rows(5.0, 5.0), run_study.seeds_needed)[0] == MOST


def test_anchors_in_the_wrong_order_take_the_most_and_say_so(study):
    seeds, why = seeds_for(study, rows(0.1, 0.1, gap=-1.0), run_study.seeds_needed)

    assert seeds == MOST
    assert "not better" in why


def test_failed_runs_do_not_pass_for_a_spread(study):
    with pytest.raises(StudyError, match=r"protocol.seeds=auto needs at least 2 complete"):
        seeds_for(study, rows(0.1, 0.1, status="diverged"), run_study.seeds_needed)


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
    assert set(pilot.SEEN_AS) == set(get_args(Endpoint))
    assert set(pilot.SEEN_AS.values()) <= set(TRIAL.names)


def test_without_a_number_seeds_are_open(tmp_path):
    file = tmp_path / "s.yaml"
    content = yaml.safe_load(SMOKE.read_text())
    content.setdefault("protocol", {}).pop("seeds", None)
    file.write_text(yaml.safe_dump(content))

    assert load_study([file]).protocol.seeds == "auto"
