"""The validation enters where a run does, counts what it says, and can fail."""

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from analysis import metrics
from analysis.data.run import Run
from analysis.measures.columns import METRICS
from analysis.measures.measure import Measures
from analysis.measures.over_examples import MeasuredCovariances
from analysis.stats import contrasts
from analysis.validation import __main__ as validation_main
from analysis.validation import table
from analysis.validation.gaussian import SPREADS, gaussian_study, one_endpoint, three_endpoints
from analysis.validation.matched import (
    BETTER_TRAINED,
    NULL,
    Truth,
    at,
    both,
    matched,
    matched_study,
)
from analysis.validation.planted import from_predictions, search
from analysis.validation.populations import ENDPOINTS, Members, Planted, generated, of_run, planted
from analysis.validation.questions import Question, Row, run
from analysis.validation.simulate import (
    Blend,
    Design,
    Examples,
    Gaussian,
    Pipeline,
    Units,
    draw_study,
    judged,
    tally,
    with_examples,
)
from analysis.validation.stress import gate, stress
from analysis.verdict.arms import PlacedArm
from analysis.verdict.judge import judge
from study.errors import StudyError
from study.stages.matched_anchors import pool_seeds
from study.thresholds import DELTA

RECOVERIES = [(0.7, 0.8, 0.9), (0.0, 0.0, 0.0), (0.4, 0.3, 0.4), (-0.8, -0.7, 0.0)]


@pytest.fixture(scope="module")
def members() -> Members:
    return generated(np.random.default_rng(1), members=30, examples=120)


@pytest.fixture(scope="module")
def truths(members: Members) -> Planted:
    return planted(members, 25, np.random.default_rng(2))


def design(recoveries: Any = RECOVERIES, seeds: int = 8, controls: bool = True) -> Design:
    spreads = [SPREADS[name] for name in ("test", "shift", "gain")]
    return gaussian_study(spreads, recoveries, seeds, ENDPOINTS, controls=controls)


def as_measures(losses: Any, arms: Sequence[PlacedArm]) -> Measures:
    """Return the frames that a run folder with these losses would give."""
    roles = {"single": "single", "deep_ensemble-4": "deep_ensemble"}
    roles |= {arm.arm: arm.role for arm in arms}
    rows = []
    for arm, role in roles.items():
        columns = {key: losses[arm, key] * (-1 if key == "gain" else 1) for key in ENDPOINTS}
        for replicate in range(len(columns["cll"])):
            row = dict.fromkeys(METRICS) | {k: float(v[replicate]) for k, v in columns.items()}
            row |= {"arm": arm, "role": role, "method": "m", "configuration": arm, "name": arm}
            row |= {"trial": f"{arm}/{replicate}", "replicate": replicate}
            rows.append(row | {"members": 1 if arm == "single" else 4})
    types = dict.fromkeys(("arm", "role", "method", "configuration", "name", "trial"), pl.String)
    types |= {"replicate": pl.Int32, "members": pl.Int16} | dict.fromkeys(METRICS, pl.Float64)
    nothing = dict.fromkeys(("trial", "arm", "stage", "status", "reason"), pl.String)
    empty = pl.DataFrame()
    frame = pl.DataFrame(rows, schema=types)
    return Measures(frame, empty, empty, empty, pl.DataFrame(schema=nothing))


@pytest.mark.parametrize("seed", range(4))
def test_a_drawn_study_is_judged_as_a_measured_one(seed: int) -> None:
    rng, asked = np.random.default_rng(seed), design()
    drawn = draw_study(asked, rng, [arm.draw(rng, asked.seeds) for arm in asked.arms])
    found, light = judge(as_measures(drawn.losses, drawn.arms), None), judged(drawn)
    verdicts = Counter(arm.verdict for arm in found.arms if arm.role == "candidate")
    assert light["any_escapes"] == bool(verdicts["escapes"])
    assert light["some_escape"] == (found.verdict == "some configuration escapes")
    assert light["assessed"] == all(gate.open for gate in found.gates)
    first = found.by_arm()["candidate0"]
    assert light["first_escapes"] == (first.verdict == "escapes")


def test_a_candidate_lies_where_it_is_said_to_between_either_pair() -> None:
    truth = Truth((2.5, 0.5, 1.0), (0.25, -1.0, 0.5), own_gap=0.4)
    asked, rng = matched_study([truth], 20_000), np.random.default_rng(8)
    drawn = draw_study(asked, rng, [arm.draw(rng, asked.seeds) for arm in asked.arms])
    arm = drawn.arms[-1]
    assert (arm.role, arm.own is None) == ("candidate", False)
    for anchors, recoveries in zip(arm.anchors, (truth.tuned, truth.own), strict=True):
        for key, expected in zip(ENDPOINTS, recoveries, strict=True):
            names = (anchors.single, arm.arm, anchors.deep_ensemble)
            single, own, deep = (drawn.losses[name, key].mean() for name in names)
            assert (single - own) / (single - deep) == pytest.approx(expected, abs=0.05)
    own = asked.own[0].single.draw(rng, 5)
    assert not own[:, 2].any()  # A single network has no gain, whatever it is trained with.


@pytest.mark.parametrize("seeds", [4, 5, 9, 10, 21])
def test_seeds_of_unequal_arms_are_those_of_a_study(seeds: int) -> None:
    asked, rng = matched_study([NULL] * 8, seeds), np.random.default_rng(9)
    drawn = draw_study(asked, rng, [arm.draw(rng, seeds) for arm in asked.arms])
    own = drawn.arms[-1].own
    assert own is not None
    assert drawn.counts["candidate0"] == seeds
    assert drawn.counts[own.single] == 2 * seeds
    assert drawn.counts[own.deep_ensemble] == pool_seeds(seeds)
    assert (drawn.counts["single"] - 1) ** 2 < 8 * seeds**2 <= drawn.counts["single"] ** 2


@pytest.mark.parametrize(
    ("truth", "price", "escapes", "some"),
    [(both(1.0), 0.3, 1, 1), (both(1.0), 1.5, 1, 0), (BETTER_TRAINED, 0.3, 0, 0)],
)
def test_the_whole_rule_is_simulated(truth: Truth, price: float, escapes: int, some: int) -> None:
    asked = replace(matched_study([truth] * 2, 20), price=price)
    found = tally(asked, 20, np.random.default_rng(10))
    for event, expected in (("first_escapes", escapes), ("some_escape", some)):
        assert found[event].mean() == pytest.approx(expected, abs=0.1)


@pytest.mark.parametrize(("sd", "holds"), [(0.1, 1.0), (6.0, 0.0)])
def test_other_examples_may_take_an_escape_back(sd: float, holds: float) -> None:
    asked, rng = matched_study([both(1.0)], 20), np.random.default_rng(11)
    drawn = draw_study(asked, rng, [arm.draw(rng, asked.seeds) for arm in asked.arms])
    moved = with_examples(drawn, Examples(100, sd), rng)
    assert isinstance(moved.examples, MeasuredCovariances)
    known = moved.examples.values("candidate0")
    assert known is not None
    for key in ENDPOINTS:
        sign = -1 if key == "gain" else 1
        means = sign * known.values[key].mean(1)
        assert means == pytest.approx(moved.losses["candidate0", key], abs=1e-5)
    found = tally(replace(asked, examples=Examples(100, sd)), 10, rng)
    assert found["first_escapes"].mean() == pytest.approx(holds, abs=0.1)


def test_luck_with_the_examples_is_no_escape_however_many_are_tried() -> None:
    """Of thirty candidates at the margin some are lucky with 200 examples, in most studies."""
    asked = replace(matched_study([at(DELTA, 2.5, 0)] * 30, 20), examples=Examples(200, 3.0))
    found = tally(asked, 25, np.random.default_rng(12))
    assert found["some_escape"].mean() <= 0.12
    blind = replace(asked, examples=None)
    rng, lucky = np.random.default_rng(12), 0
    for _ in range(25):
        drawn = draw_study(blind, rng, [arm.draw(rng, asked.seeds) for arm in asked.arms])
        moved = with_examples(drawn, Examples(200, 3.0), rng)
        lucky += judged(replace(moved, examples=None))["some_escape"] > 0
    assert lucky > 12


@pytest.mark.parametrize("errors", ["normal", "t3", "lognormal"])
def test_replicates_have_their_mean_and_spread(errors: Any) -> None:
    population = Gaussian((0.5, -1.0), (2.0, 0.5), 0.5, errors)
    drawn = population.draw(np.random.default_rng(3), 200_000)
    assert drawn.mean(0) == pytest.approx([-0.5, 1.0], abs=0.03)
    assert drawn.std(0) == pytest.approx([2.0, 0.5], rel=0.15 if errors == "t3" else 0.04)
    assert np.corrcoef(drawn.T)[0, 1] == pytest.approx(0.5, abs=0.1)


def test_failed_runs_are_left_out_or_written_as_the_worst() -> None:
    plain = design([(0.9, 0.9, 0.9)], controls=False)
    parts = (plain.endpoints, plain.single, plain.deep, plain.arms, plain.seeds)
    rng = np.random.default_rng(4)
    assert tally(plain, 20, rng)["first_escapes"].mean() > 0.9
    assert Design(*parts, diverged=1.0).run(rng)["first_escapes"] == 0
    assert Design(*parts, diverged=0.3).run(rng)["first_escapes"] == 0
    found = tally(Design(*parts, diverged=0.5, worst=5.0), 20, rng)
    assert found["first_escapes"].mean() == 0


def test_a_search_without_effect_sees_one() -> None:
    """The best of 50 means of one run is about 2.25 standard deviations too good."""
    asked = design([(0.0, 0.0, 0.0)], controls=False)
    found = tally(Pipeline(asked, 50, 1, asked.arms[0], (0.0, -1.0)), 150, np.random.default_rng(5))
    assert found["apparent"].mean() == pytest.approx(2.25 * 0.25, abs=0.05)
    assert found["any_escapes"].mean() < 0.03


def test_units_are_measured_as_the_study_measures(members: Members) -> None:
    chosen = np.array([3, 7, 11])
    logp = members.test[chosen]
    found = members.unit(chosen)
    assert found[2] == pytest.approx(-metrics.gain(logp, members.labels))
    two_halves = np.array([3, 7, 11, 3, 7, 11])
    assert members.losses(two_halves) == pytest.approx(members.losses(chosen))
    weighted = members.losses(chosen, np.array([1.0, 0.0, 0.0]))
    assert weighted == pytest.approx(members.unit(chosen[:1]))
    far = replace(members, test=members.test * 500)  # Of probabilities as small as floats can be.
    weighted = far.losses(chosen, np.array([0.0, 0.0, 1.0]))
    assert weighted == pytest.approx(far.unit(chosen[2:]))


def test_planted_truths_are_known(truths: Planted) -> None:
    deep = truths.deep
    assert truths.recovery(truths.singles) == pytest.approx([0, 0, 0])
    assert truths.recovery(truths.copies) == pytest.approx([0, 0, 0], abs=1e-12)
    assert truths.recovery(deep[4]) == pytest.approx([1, 1, 1])
    assert np.all(truths.recovery(deep[2]) < truths.recovery(deep[3]))
    assert truths.share_for(1.0) == 1
    for recovery in (0.1, 0.25, 0.5):
        least = truths.recovery(truths.mixed(truths.share_for(recovery))).min()
        assert recovery - 0.002 < least <= recovery
    blend = truths.blend(3, 0.25)
    assert blend is not None
    drawn = Units(blend.draw(np.random.default_rng(6), 40_000))
    assert truths.recovery(drawn).min() == pytest.approx(0.25, abs=0.02)
    assert truths.blend(2, 0.99) is None


def test_a_unit_that_is_drawn_twice_is_no_copy(truths: Planted) -> None:
    """Else the gate of copied replicates refuses every endpoint, and nothing is ever wrong."""
    for truth, verdict in ((truths.singles, "tracks"), (truths.deep[4], "escapes")):
        asked = Design(ENDPOINTS, truths.singles, truths.deep[4], (truth,), 60)
        found = tally(asked, 20, np.random.default_rng(8))
        assert found["assessed"].mean() == 1
        assert found[f"first_{verdict}"].mean() > 0.5
    assert (truths.singles.draw(np.random.default_rng(9), 20)[:, 2] == 0).all()


def test_a_blend_takes_whole_runs() -> None:
    ones, twos = Units(np.ones((3, 2))), Units(np.full((3, 2), 2.0))
    drawn = Blend(0.25, ones, twos).draw(np.random.default_rng(7), 4000)
    assert np.array_equal(drawn[:, 0], drawn[:, 1])
    assert (drawn[:, 0] == 1).mean() == pytest.approx(0.25, abs=0.03)


@pytest.mark.slow
def test_every_scenario_of_the_plan_is_there(truths: Planted) -> None:
    cells = [*one_endpoint(), *three_endpoints(), *matched(), *stress(), *gate()]
    cells += [*from_predictions(truths, (0.25,)), *search(truths)]
    names = [(c.scenario, c.setting, c.study.seeds, c.arms) for c in cells]
    assert len(set(names)) == len(names)  # a cell's random numbers follow from its name
    assert {c.study.seeds for c in cells if c.scenario.startswith("one endpoint")} == {
        5,
        10,
        20,
        30,
    }
    assert {c.arms for c in cells} == {1, 8, 30}
    for cell in cells:
        (row, *_) = run(cell, 2, 0)
        assert row.studies <= 2


@pytest.mark.slow
def test_the_quick_form_holds_its_promise(tmp_path: Path, capsys: Any) -> None:
    files = tmp_path / "table.json", tmp_path / "table.md"
    out = [word for file in files for word in ("--out", str(file))]
    arguments = ["--quick", "--replications", "40", "--workers", "1", *out]
    assert validation_main.main(arguments) == 0
    assert "0 of " in capsys.readouterr().out
    rows = json.loads(files[0].read_text())["rows"]
    assert {row["kind"] for row in rows} == {"size", "power", "shown"}
    assert all(row["low"] <= row["value"] <= row["high"] for row in rows)
    assert files[1].read_text().count("| wrong |") == sum(row["kind"] == "size" for row in rows)


def test_the_same_seed_gives_the_same_rows() -> None:
    cell = next(one_endpoint())
    assert run(cell, 50, 3) == run(cell, 50, 3)
    assert run(cell, 50, 3) != run(cell, 50, 4)


def test_tests_that_reject_too_often_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """Were every t-statistic 30 % too large, the validation would say so."""
    exact = contrasts.stdtr
    cells = [c for c in one_endpoint() if c.quick and "R = 0.25" in c.setting]
    assert not any(row.fails for cell in cells for row in run(cell, 1500, 0))
    monkeypatch.setattr(contrasts, "stdtr", lambda df, t: exact(df, 1.3 * t))
    rows = [row for cell in cells for row in run(cell, 1500, 0)]
    assert any(row.fails and row.event == "escapes" for row in rows)
    assert table.Table(rows, {}).fails


@pytest.mark.parametrize(
    ("kind", "value", "pilot", "formula", "bound", "mark"),
    [
        ("size", 0.055, None, None, False, "ok"),
        ("size", 0.064, None, None, False, "FAILS"),
        ("power", 0.70, 0.73, 0.72, False, "ok"),
        ("power", 0.60, 0.73, 0.60, False, "off plan"),
        ("power", 0.90, None, 0.72, True, "ok"),
        ("power", 0.60, None, 0.72, True, "off plan"),
        ("shown", 0.60, 0.1, 0.1, False, ""),
    ],
)
def test_marks(kind: Any, value: float, pilot: Any, formula: Any, bound: bool, mark: str) -> None:
    ends = value - 0.005, value + 0.005
    row = Row("s", "x", 10, 1, "escapes", kind, 4000, value, *ends, pilot, formula, bound)
    assert row.mark == mark
    few = Row("s", "x", 10, 1, "escapes", "size", 50, 0.08, 0.02, 0.19, None, None, False)
    assert few.mark == "ok"  # nothing is shown by fifty studies


def test_an_event_that_never_was_has_no_value() -> None:
    cells = [c for c in gate() if "worse than single" in c.setting]
    cell = cells[0]
    asked = type(cell)("s", "x", cell.design, (Question("escapes_if_assessed", "shown"),))
    (row,) = run(asked, 5, 0)
    assert (row.studies, row.low, row.high) == (0, 0.0, 1.0)


def test_members_of_a_real_folder(run: Run) -> None:
    found = of_run(run)
    assert found.test.shape[0] == found.shift.shape[0] == 24
    truth = planted(found, 10, np.random.default_rng(8))
    assert np.all(truth.deep[4].mean < truth.singles.mean)


def test_mistakes_are_one_line(tmp_path: Path, run: Run, capsys: Any) -> None:
    assert validation_main.main(["--replications", "1"]) == 2
    assert "--replications must be at least 2, but is 1" in capsys.readouterr().err
    assert validation_main.main(["--runs", str(tmp_path)]) == 2
    assert capsys.readouterr().err.count("\n") == 1
    none = run.trials.filter(pl.col("role") != "deep_ensemble")
    with pytest.raises(StudyError, match="at least 12 confirmed members of Deep Ensembles"):
        of_run(Run(run.folder, none, None))
