"""Verdicts on planted truths: by hand from literal numbers, and end to end from real folders."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from scipy import stats

from analysis.data.protocol import Plan, plan_of
from analysis.data.run import load
from analysis.measures.columns import METRICS
from analysis.measures.measure import Measures, measure
from analysis.measures.selection import UNDECLARED
from analysis.verdict import wording
from analysis.verdict.doubts import doubts
from analysis.verdict.judge import judge
from analysis.verdict.schema import ALL_TRACK, INCONCLUSIVE, SOME_ESCAPES
from analysis.verdict.schema import Arm as Judged
from study.errors import StudyError
from tests.analysis.make_run import (
    DEEP_ENSEMBLE,
    NEGATIVE,
    POSITIVE,
    PROTOCOL,
    SINGLE,
    Arm,
    Data,
    make_run,
    plan,
    plan_hash,
)

ENDPOINTS = ("cll", "shift_nll", "gain")
GAP = {"cll": 0.10, "shift_nll": 0.50, "gain": 0.08}
NOISE = 0.1
"""Standard deviation over seeds, in units of the gap."""

Truth = dict[str, tuple[float, float, float]]


def rows(
    arm: str, recovery: tuple[float, float, float], seeds: int = 10, noise: float = NOISE
) -> list[dict[str, Any]]:
    """Return replicates with exactly these mean recoveries: the noise is made to sum to 0."""
    role = arm.removesuffix("-4").rstrip("0123456789")
    role = role if role in ("single", "deep_ensemble") or "control" in role else "candidate"
    role = "comparison" if arm.startswith("other") else role
    rng = np.random.default_rng(sum(map(ord, arm)))
    found = []
    errors = {e: rng.normal(size=seeds) for e in ENDPOINTS}
    for replicate in range(seeds):
        row: dict[str, Any] = dict.fromkeys(METRICS)
        for endpoint, r in zip(ENDPOINTS, recovery, strict=True):
            error = errors[endpoint]
            z = (error - error.mean()) / error.std(ddof=1) * noise if seeds > 1 else error
            quiet = endpoint == "gain" and r == 0  # members that are equal
            moved = (r + (0 if quiet else z[replicate])) * GAP[endpoint]
            row[endpoint] = moved if endpoint == "gain" else 1 - moved
        row |= {
            "arm": arm,
            "role": role,
            "method": "batchensemble",
            "configuration": arm,
            "name": arm,
            "trial": f"{arm}/{replicate}",
            "replicate": replicate,
            "members": 1 if arm == "single" else 4,
        }
        found.append(row)
    return found


ANCHORS: Truth = {
    "single": (0, 0, 0),
    "deep_ensemble-4": (1, 1, 1),
    "positive_control": (1, 1, 1),
    "negative_control": (0, 0, 0),
}


def measured(arms: Truth, **options: Any) -> Measures:
    """Return measures of anchors, controls (unless given) and these arms."""
    keys = ("arm", "role", "method", "configuration", "name", "trial")
    types = dict.fromkeys(keys, pl.String) | {"replicate": pl.Int32, "members": pl.Int16}
    types |= dict.fromkeys(METRICS, pl.Float64)
    data = [row for arm, r in (ANCHORS | arms).items() if r for row in rows(arm, r, **options)]
    empty = pl.DataFrame()
    nothing = dict.fromkeys(("trial", "arm", "stage", "status", "reason"), pl.String)
    return Measures(
        pl.DataFrame(data, schema=types), empty, empty, empty, pl.DataFrame(schema=nothing)
    )


def content(found: Measures, **changes: Any) -> dict[str, Any]:
    """Return the JSON of the plan that declares exactly what was measured."""
    arms = found.replicates.unique("arm", maintain_order=True).to_dicts()
    keys = ("configuration", "role", "method", "name", "members")
    made: dict[str, Any] = {
        "study": "literal",
        "protocol": PROTOCOL | {"seeds": 10},
        "arms": [{key: arm[key] for key in keys} for arm in arms],
        "seeds": 10,
    }
    return made | {"hash": plan_hash(made)} | changes


def declared(found: Measures, **changes: Any) -> Plan:
    return plan_of(content(found, **changes))


def verdict_of(recovery: tuple[float, float, float], **options: Any) -> Judged:
    found = measured({"candidate1": recovery}, **options)
    return judge(found, None).arms[0]


@pytest.mark.parametrize(
    ("recovery", "verdict", "label"),
    [
        ((0.5, 0.6, 0.7), "escapes", None),
        ((1.0, 1.0, 1.0), "escapes", None),
        ((0.0, 0.0, 0.0), "tracks", None),
        ((0.1, -0.1, -3.0), "tracks", None),
        ((-0.6, -0.5, 0.0), "worse", None),
        ((-0.6, -0.5, 2.0), "worse", None),
        ((0.0, 0.0, 0.8), "inconclusive", "diverse but not better"),
        ((0.0, -0.9, 0.8), "inconclusive", "diverse but not better"),
        ((0.8, 0.8, 0.0), "inconclusive", "better but not diverse"),
        ((0.8, 0.0, 0.8), "inconclusive", "better in part"),
        ((0.8, 0.0, 0.0), "inconclusive", "better in part"),
        ((-0.9, 0.0, 0.0), "inconclusive", "worse in part"),
        ((0.25, 0.25, 0.25), "inconclusive", "nothing shown"),
        ((0.25, 0.0, 0.0), "inconclusive", "nothing shown"),
    ],
)
def test_verdict_of_one_arm(
    recovery: tuple[float, float, float], verdict: str, label: str | None
) -> None:
    arm = verdict_of(recovery)
    assert (arm.verdict, arm.label) == (verdict, label)
    for key, expected in zip(ENDPOINTS, recovery, strict=True):
        effect = arm.endpoints[key]
        assert effect.recovery == pytest.approx(expected, abs=1e-12)
        assert effect.low_wide <= effect.low <= effect.recovery + 1e-12
        assert effect.recovery <= effect.high + 1e-12 <= effect.high_wide + 2e-12
    assert arm.least[1] == ENDPOINTS[int(np.argmin(recovery))] or len(set(recovery)) < 3
    assert (arm.detail is None) == (verdict != "inconclusive")


@pytest.mark.parametrize(
    ("bound", "test", "p"),
    [
        ("low", "p_escape", 0.05),
        ("high", "p_track", 0.05),
        ("low_wide", "p_escape", 0.025),
        ("high_wide", "p_track", 0.025),
    ],
)
def test_the_bounds_of_recovery_are_where_the_tests_turn(bound: str, test: str, p: float) -> None:
    """With the bound as its margin a test is at the level of the interval's side."""
    found = measured({"candidate1": (0.5, 0.6, 0.7)})
    delta = getattr(judge(found, None).arms[0].endpoints["cll"], bound)
    plan = declared(found, protocol=PROTOCOL | {"seeds": 10, "delta": delta})
    arm = judge(found, plan).arms[0]
    assert getattr(arm.endpoints["cll"], test) == pytest.approx(p, rel=1e-6)


def test_one_effect_by_hand() -> None:
    """Recovery 1/2, SD 1/10, n = 10: T(1/4) = 1/4, Var = (9/16 + 1 + 1/16) / 1000."""
    effect = verdict_of((0.5, 0.5, 0.5)).endpoints["cll"]
    parts = np.array([0.75**2, 1, 0.25**2]) * NOISE**2 / 10
    shares = parts / parts.sum()
    mean, square = np.dot(shares, shares / 9), np.dot(shares, (shares / 9) ** 2)
    df = 1 / (mean + 24 * (square - mean**2))
    assert effect.p_escape == pytest.approx(stats.t.sf(0.25 / parts.sum() ** 0.5, df))
    assert effect.single == pytest.approx(1)
    assert effect.deep_ensemble == pytest.approx(0.9)
    assert effect.mean == pytest.approx(0.95)
    assert effect.sd == pytest.approx(0.01)
    quantiles = stats.t.ppf(0.95, df) + stats.t.ppf(0.8, df)
    assert effect.detectable == pytest.approx(0.25 + quantiles * parts.sum() ** 0.5)


def test_like_a_deep_ensemble_is_marked() -> None:
    assert verdict_of((1.0, 1.0, 1.0)).de_like is True
    assert verdict_of((0.7, 1.0, 1.0)).de_like is False


def test_some_escape() -> None:
    found = judge(measured({"candidate1": (0.7, 0.8, 0.9), "candidate2": (0, 0, 0)}), None)
    assert found.verdict == SOME_ESCAPES
    assert found.counts.escapes == 1
    assert found.counts.tracks == 1
    assert "1 of 2 configurations escapes single-model behaviour" in found.sentence
    assert "\u201ccandidate1\u201d, covers 70 % of the way" in found.sentence
    (beneath,) = wording.details(found)
    assert "calibrated NLL against the tuned baselines, recovery 0.70" in beneath
    assert "after Holm" in beneath


def test_all_track() -> None:
    found = judge(measured({"candidate1": (0.05, 0, 0), "candidate2": (0, 0, 0.1)}), None)
    assert found.verdict == ALL_TRACK
    assert "All 2 tested configurations behave like a single network" in found.sentence
    assert any("not about every configuration" in line for line in wording.details(found))


def test_one_open_arm_leaves_it_open() -> None:
    found = judge(measured({"candidate1": (0, 0, 0), "candidate2": (0, 0, 0.8)}), None)
    assert found.verdict == INCONCLUSIVE
    assert found.sentence.removeprefix("Exploratory: ") == (
        "No configuration is shown to escape single-model behaviour. "
        "Of 2 configurations, 1 behaves like a single network and 1 is undecided."
    )


@pytest.mark.parametrize(
    ("control", "recovery", "line"),
    [
        ("positive_control", (0, 0, 0), "the positive control tracks a single model"),
        ("positive_control", (1, 1, 0.25), "the positive control is not shown to escape"),
        ("negative_control", (0.8, 0.8, 0.8), "the negative control escapes, which it must not"),
        # What identical members can do, as their gain is 0 whatever goes wrong.
        (
            "negative_control",
            (0.8, 0, 0),
            "the negative control is above 0.25 on calibrated NLL, though nothing but identical",
        ),
        ("negative_control", (0, 0.8, 0), "the negative control is above 0.25 on shifted NLL"),
        ("negative_control", (-0.8, -0.8, 0), "the negative control is worse than a single model"),
    ],
)
@pytest.mark.parametrize("candidate", [(0.8, 0.8, 0.8), (0, 0, 0)])
def test_a_control_that_misbehaves_withholds_the_verdict(
    control: str, recovery: Any, line: str, candidate: Any
) -> None:
    found = judge(measured({control: recovery, "candidate1": candidate}), None)
    assert found.verdict == INCONCLUSIVE
    assert found.reasons[0].startswith(line)
    assert found.sentence.startswith(f"Exploratory: No verdict: {line}")
    assert getattr(found.controls, control.removesuffix("_control")).ok is False
    assert line in found.sentence


def test_the_negative_control_must_track_for_all_to_track() -> None:
    arms: Truth = {"negative_control": (0.2, 0, 0)}
    tracking = judge(measured(arms | {"candidate1": (0, 0, 0)}), None)
    assert tracking.verdict == INCONCLUSIVE
    assert any("negative control is not shown to track" in line for line in tracking.reasons)
    escaping = judge(measured(arms | {"candidate1": (0.8, 0.8, 0.8)}), None)
    assert escaping.verdict == SOME_ESCAPES


@pytest.mark.parametrize("control", ["positive_control", "negative_control"])
def test_a_missing_control_is_said(control: str) -> None:
    missing: Any = {control: None}
    found = judge(measured(missing | {"candidate1": (0, 0, 0)}), None)
    assert found.verdict == INCONCLUSIVE
    assert found.reasons[-1] == f"no {control.replace('_', ' ')} was run"
    escaping = judge(measured(missing | {"candidate1": (1, 1, 1)}), None)
    assert escaping.verdict == SOME_ESCAPES
    assert escaping.reasons == (f"no {control.replace('_', ' ')} was run",)


def test_holm_is_over_candidates_alone() -> None:
    """A recovery that passes alone at .05 but not times eight."""
    alone: Truth = {"candidate1": (0.36, 0.8, 0.8)}
    many = alone | {f"candidate{i}": (0.0, 0.0, 0.0) for i in range(2, 9)}
    others = alone | {f"other{i}": (0.0, 0.0, 0.0) for i in range(2, 9)}
    first = {n: judge(measured(arms), None) for n, arms in enumerate((alone, many, others))}
    arms = {n: next(a for a in f.arms if a.arm == "candidate1") for n, f in first.items()}
    assert 0.05 / 8 < arms[0].p_escape < 0.05
    assert arms[0].verdict == "escapes"
    assert arms[1].verdict == "inconclusive"
    assert arms[1].label == "not after Holm"
    of_examples = {n: any("test examples" in text for _, text in doubts(first[n])) for n in (0, 1)}
    assert of_examples == {0: True, 1: False}
    assert arms[1].p_holm == pytest.approx(8 * arms[0].p_escape)
    assert first[1].verdict == INCONCLUSIVE
    assert arms[2].verdict == "escapes"


def test_comparisons_do_not_decide() -> None:
    found = judge(measured({"candidate1": (0, 0, 0), "other1": (1, 1, 1)}), None)
    assert found.verdict == ALL_TRACK
    comparison = next(arm for arm in found.arms if arm.role == "comparison")
    assert comparison.verdict == "escapes"


def test_the_margin_moves_the_verdicts() -> None:
    found = judge(measured({"candidate1": (0.3, 0.3, 0.3)}, noise=0.02), None)
    table = {row.delta: row for row in found.sensitivity}
    assert table[0.15].escapes == ("candidate1",)
    assert table[0.25].verdict == found.verdict == SOME_ESCAPES
    assert table[0.35].tracks == ("candidate1",)
    assert table[0.35].verdict == ALL_TRACK


def exclude(found: Measures, arm: str, status: str = "diverged", reason: str = "nan") -> Measures:
    row = {"trial": "t", "arm": arm, "stage": "confirm", "status": status, "reason": reason}
    added = pl.DataFrame([row], schema=found.excluded.schema)
    return replace(found, excluded=pl.concat([found.excluded, added]))


def test_a_failed_run_makes_its_arm_inconclusive() -> None:
    found = exclude(measured({"candidate1": (1, 1, 1), "candidate2": (0, 0, 0)}), "candidate1")
    arm = next(a for a in judge(found, None).arms if a.arm == "candidate1")
    assert (arm.verdict, arm.label) == ("inconclusive", "1 of 11 runs failed")
    assert arm.failed == 1
    assert arm.endpoints["cll"].recovery == pytest.approx(1)


@pytest.mark.parametrize(
    ("anchor", "arm"), [("single", "single"), ("deep_ensemble", "deep_ensemble-4")]
)
def test_a_failed_anchor_leaves_nothing_to_assess(anchor: str, arm: str) -> None:
    found = judge(exclude(measured({"candidate1": (1, 1, 1)}), anchor), None)
    assert found.verdict == INCONCLUSIVE
    assert {a.label for a in found.arms} == {"not assessable"}
    assert found.arms[0].detail == f"baseline {arm}: 1 of 11 runs failed"
    assert all(gate.gap_shown and not gate.open for gate in found.gates)
    assert found.arms[0].endpoints["cll"].recovery == pytest.approx(1)


def test_missing_runs_are_not_judged() -> None:
    found = measured({"candidate1": (1, 1, 1)})
    short = replace(
        found,
        replicates=found.replicates.filter(
            (pl.col("arm") != "candidate1") | (pl.col("replicate") < 7)
        ),
    )
    judged = judge(short, declared(found))
    assert judged.arms[0].label == "runs missing"
    assert judged.arms[0].detail == "3 of 10 runs are missing"
    assert judged.arms[0].endpoints["cll"].recovery > 0.8  # provisional
    assert judged.verdict == INCONCLUSIVE
    assert judged.reasons == ("the study is not finished: 47 of 50 runs are there",)
    assert {row.verdict for row in judged.sensitivity} == {INCONCLUSIVE}


@pytest.mark.parametrize("anchor", ["single", "deep_ensemble-4"])
def test_a_missing_anchor_is_a_line(anchor: str) -> None:
    absent: Any = {anchor: None}
    found = judge(measured(absent | {"candidate1": (1, 1, 1)}), None)
    assert found.verdict == INCONCLUSIVE
    assert f"baseline {anchor}: " in found.arms[0].detail


def test_a_pool_that_is_too_small_is_a_line() -> None:
    found = measured({"candidate1": (1, 1, 1)})
    larger = pl.when(pl.col("arm") == "candidate1").then(8).otherwise("members")
    found = replace(found, replicates=found.replicates.with_columns(members=larger.cast(pl.Int16)))
    judged = judge(found, None)
    assert judged.arms[0].detail == "baseline deep_ensemble-8: its pool has fewer members"
    assert judged.arms[0].reference == "deep_ensemble-8"


def test_one_seed_is_a_line() -> None:
    found = judge(measured({"candidate1": (1, 1, 1)}, seeds=1), None)
    assert found.arms[0].label == "too few seeds"
    assert "a verdict needs at least 5 runs, but there are 1" in found.arms[0].detail


@pytest.mark.parametrize("arm", ["single", "deep_ensemble-4", "candidate1"])
def test_equal_replicates_are_a_line(arm: str) -> None:
    found = measured({"candidate1": (0.5, 0.5, 0.5)})
    same = pl.when(pl.col("arm") == arm).then(pl.col("cll").first().over("arm")).otherwise("cll")
    found = replace(found, replicates=found.replicates.with_columns(cll=same))
    judged = judge(found, None)
    assert judged.arms[0].label == "not assessable"
    assert "gave the same calibrated NLL: were seeds used?" in judged.arms[0].detail


def test_no_gap_between_the_anchors_is_not_assessable() -> None:
    found = judge(measured({"deep_ensemble-4": (0.0, 1, 1), "candidate1": (0, 0, 0)}), None)
    gate = next(g for g in found.gates if g.endpoint == "cll")
    assert gate.open is False
    assert gate.reason == "calibrated NLL: the Deep Ensemble is not shown to be better than single"
    assert found.arms[0].label == "not assessable"
    assert found.verdict == INCONCLUSIVE
    assert [g.open for g in found.gates] == [False, True, True]


def test_a_gap_is_measured_by_its_standard_error_and_not_by_what_seeds_deviate() -> None:
    many = judge(measured({"candidate1": (1, 1, 1)}, noise=1.2, seeds=80), None)
    few = judge(measured({"candidate1": (1, 1, 1)}, noise=1.2, seeds=5), None)
    for found, shown in ((many, True), (few, False)):
        gate = found.gates[0]
        assert gate.ratio == pytest.approx(1 / 1.2)
        assert (gate.open, gate.p < 0.025) == (shown, shown)
    assert many.arms[0].verdict == "escapes"
    assert few.arms[0].label == "not assessable"


def test_an_endpoint_that_was_not_measured_is_a_line() -> None:
    found = measured({"candidate1": (1, 1, 1)})
    none = found.replicates.with_columns(shift_nll=pl.lit(None, pl.Float64))
    judged = judge(replace(found, replicates=none), None)
    assert "shifted NLL was not measured in 10 of 10 runs" in judged.arms[0].detail


def test_a_control_of_one_member_is_placed_beside_the_candidates_ensemble() -> None:
    found = measured({"candidate1": (0, 0, 0)})
    alone = pl.when(pl.col("arm") == "negative_control").then(1).otherwise("members")
    found = replace(found, replicates=found.replicates.with_columns(members=alone.cast(pl.Int16)))
    judged = judge(found, None)
    control = next(a for a in judged.arms if a.role == "negative_control")
    assert control.reference == "deep_ensemble-4"
    assert judged.verdict == ALL_TRACK


def test_no_data_at_all_is_a_line() -> None:
    found = measured({})
    judged = judge(replace(found, replicates=found.replicates.clear()), None)
    assert judged.verdict == INCONCLUSIVE
    assert "no candidate was confirmed" in judged.sentence


def test_only_a_plan_that_was_kept_confirms() -> None:
    found = measured({"candidate1": (0, 0, 0)})
    kept = content(found)
    confirmed = judge(found, plan_of(kept))
    assert confirmed.exploratory is False
    assert confirmed.plan is not None
    assert confirmed.plan.hash == kept["hash"]
    assert judge(found, None).exploratory_reasons == (
        "nothing was declared before the test set was opened (no plan.json)",
    )
    assert judge(found, None).sentence.startswith("Exploratory: ")
    assert ("no", judge(found, None).exploratory_reasons[0]) in doubts(judge(found, None))
    moved = plan_of(kept | {"protocol": kept["protocol"] | {"delta": 0.3}})
    assert "was changed after it was declared" in judge(found, moved).exploratory_reasons[0]
    revised = plan_of(kept | {"revisions": [{"hash": "x"}]})
    assert "declared anew 1 time after" in judge(found, revised).exploratory_reasons[0]
    fewer = plan_of(content(found) | {"seeds": 8, "protocol": kept["protocol"] | {"seeds": 8}})
    assert any(
        "more than were declared: seeds that are added after a look" in why
        for why in judge(found, fewer).exploratory_reasons
    )


def test_only_declared_arms_are_judged() -> None:
    found = measured({"candidate1": (0, 0, 0), "candidate2": (1, 1, 1)})
    kept = declared(measured({"candidate1": (0, 0, 0)}))
    judged = judge(exclude(found, "candidate2", "complete", UNDECLARED), kept)
    assert [a.arm for a in judged.arms if a.role == "candidate"] == ["candidate1"]
    assert judged.verdict == ALL_TRACK
    assert judged.counts.undeclared_runs == 1
    assert judged.reasons == ("1 run is of no arm of the plan and not judged",)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"delta": 1.5}, "delta must be less than 1, but is 1.5; .* correct"),
        ({"alpha": "5 %"}, "alpha must be a valid number, but is '5 %'"),
        ({"endpoints": ["ece"]}, "endpoints must be among cll, .*, but is \\['ece'\\]"),
        ({"endpoints": ["gain"]}, "endpoints must .* with one of performance, but is \\['gain'\\]"),
    ],
)
def test_a_protocol_that_cannot_be_used_is_refused(change: Any, message: str) -> None:
    kept = content(measured({"candidate1": (0, 0, 0)}))
    with pytest.raises(StudyError, match=message):
        plan_of(kept | {"protocol": kept["protocol"] | change})


def test_the_same_study_gives_the_same_text() -> None:
    found = measured({"candidate1": (0.4, 0.3, 0.5), "candidate2": (0, 0, 0.1)})
    shuffled = replace(found, replicates=found.replicates.sample(fraction=1, shuffle=True, seed=3))
    kept = declared(found)
    text = judge(found, kept).model_dump_json()
    assert judge(shuffled, kept).model_dump_json() == text
    assert judge(found, kept).model_dump_json() == text


# --- end to end, from folders


def test_the_default_study_end_to_end(measures: Measures, run: Any) -> None:
    found = judge(measures, run.plan)
    arms = {arm.name or arm.role: arm.verdict for arm in found.arms}
    assert found.verdict == SOME_ESCAPES
    assert arms["be-sign"] == "escapes"
    assert arms["be-normal"] == "tracks"
    assert arms["be-wild"] == "worse"
    assert found.controls.positive.verdict == "escapes"
    assert found.controls.negative.verdict == "tracks"
    assert not found.exploratory


def test_planted_singles_and_deep_ensembles(tmp_path: Path) -> None:
    """Candidates that are single models under another name never escape; a Deep Ensemble does."""
    nulls = [Arm("candidate", "batchensemble", name=f"null{i}") for i in range(3)]
    deep = Arm("candidate", "deep_ensemble", name="planted", diversity=1.0)
    arms = [SINGLE, DEEP_ENSEMBLE, POSITIVE, NEGATIVE, *nulls, deep]
    data = Data(test=1000, shift=200, ood=10, severities=2)
    folder = make_run(tmp_path, arms, seeds=10, data=data)
    run = load(folder)
    found = judge(measure(run), run.plan)
    verdicts = {arm.name: arm.verdict for arm in found.arms}
    assert {verdicts[f"null{i}"] for i in range(3)} == {"tracks"}
    assert verdicts["planted"] == "escapes"
    assert next(a for a in found.arms if a.name == "planted").de_like

    all_null = plan([SINGLE, DEEP_ENSEMBLE, POSITIVE, NEGATIVE, *nulls], 10)
    (folder / "plan.json").write_text(json.dumps(all_null))
    without = load(folder)
    again = judge(measure(without), without.plan)
    assert again.verdict == ALL_TRACK
    assert again.counts.undeclared_runs == 10


def test_planted_mixtures_are_ordered(tmp_path: Path) -> None:
    shares = (0.0, 0.3, 0.6, 0.9)
    mixed = [Arm("candidate", "batchensemble", name=str(d), diversity=d) for d in shares]
    data = Data(test=300, shift=40, ood=10, severities=2)
    arms = [SINGLE, DEEP_ENSEMBLE, *mixed]
    run = load(make_run(tmp_path, arms, seeds=6, data=data))
    found = {arm.name: arm for arm in judge(measure(run), run.plan).arms}
    for endpoint in ENDPOINTS:
        recoveries = [found[str(d)].endpoints[endpoint].recovery for d in shares]
        assert recoveries == sorted(recoveries)
        assert abs(recoveries[0]) < 0.25
        assert recoveries[-1] > 0.75


def test_diverged_runs_end_to_end(tmp_path: Path) -> None:
    arm = Arm("candidate", "batchensemble", diversity=0.9, failed={0: "diverged", 2: "failed"})
    arms = [SINGLE, DEEP_ENSEMBLE, POSITIVE, NEGATIVE, arm]
    data = Data(test=200, shift=40, ood=10, severities=2)
    run = load(make_run(tmp_path, arms, seeds=5, data=data))
    found = judge(measure(run), run.plan)
    assert found.arms[0].label == "2 of 5 runs failed"
    assert found.counts.failed_runs == 2
    assert "No configuration is shown to escape" in found.sentence
    assert "The tested configuration is undecided" in found.sentence


@pytest.mark.parametrize(("seeds", "verdict"), [(4, "inconclusive"), (5, "escapes")])
def test_nothing_is_judged_on_fewer_than_five_seeds_however_large_it_is(seeds, verdict):
    arm = judge(measured({"candidate1": (9.0, 9.0, 9.0)}, seeds=seeds, noise=0.01), None).arms[0]
    assert arm.verdict == verdict
    assert arm.label == ("too few seeds" if seeds < 5 else None)


def short_of(found: Measures, *arms: str) -> Measures:
    """Return measures in which these arms lack their last run."""
    late = pl.col("arm").is_in(arms) & (pl.col("replicate") == 9)
    return replace(found, replicates=found.replicates.filter(~late))


@pytest.mark.parametrize("late", ["candidate2", "positive_control"])
def test_an_unfinished_study_announces_nothing(late: str) -> None:
    """Not what escapes, not at what price, not what would escape but for a control."""
    found = measured({"candidate1": (1, 1, 1), "candidate2": (0, 0, 0)})
    cost = dict.fromkeys(("parameters", "stored_bytes", "infer_flops"), 1.0)
    arms = found.replicates["arm"].unique().to_list()
    spent = pl.DataFrame([{"arm": arm, **cost} for arm in arms]).with_columns(
        parameters=pl.when(pl.col("arm") == "candidate1").then(9.0).otherwise(1.0)
    )
    judged = judge(short_of(found, late), declared(found), spent)
    assert (judged.unfinished, judged.withheld, judged.stands) == (True, False, False)
    assert wording.headline(judged) == (
        "No verdict yet: the study is not finished: 59 of 60 runs are there.",
    )


def test_comparisons_that_are_several_need_more_seeds_by_holm() -> None:
    arms: Truth = {"candidate1": (0.5, 0.5, 0.5), "other1": (0.5, 0.5, 0.5)}
    many: Truth = {f"other{i}": (0.5, 0.5, 0.5) for i in range(2, 8)}
    few, more = (
        judge(measured(of, noise=0.2), None).by_arm()["other1"].needed for of in (arms, arms | many)
    )
    assert few is not None
    assert more is not None
    assert few.escape < more.escape  # type: ignore[operator]
    assert few.track == more.track


def test_at_a_stricter_level_what_is_judged_has_a_bounded_interval() -> None:
    """Also where the gap is just shown: then the endpoint is closed rather than unbounded."""
    found = measured({"candidate1": (0.1, 0.1, 0.1)}, noise=1.0)
    plan = declared(found, protocol=PROTOCOL | {"seeds": 10, "alpha": 0.01})
    judged = judge(found, plan)
    assert judged.protocol.gate_level == 0.005
    for gate in judged.gates:
        assert gate.gap_shown == (gate.p is not None and gate.p < 0.005)
    for arm in judged.arms:
        for effect in arm.endpoints.values():
            assert None not in (effect.low, effect.high, effect.low_wide, effect.high_wide)


def test_one_run_too_many_of_a_pool_is_one_run() -> None:
    """Though it makes Deep Ensembles of several sizes."""
    found = measured({"candidate1": (1, 1, 1)}, seeds=11)
    pair = found.replicates.filter(pl.col("arm") == "deep_ensemble-4").with_columns(
        arm=pl.lit("deep_ensemble-2"), members=pl.lit(2, pl.Int16)
    )
    rest = found.replicates.filter(
        (pl.col("replicate") < 10) | pl.col("arm").str.starts_with("deep_ensemble")
    )
    plan = declared(replace(found, replicates=rest))
    both = replace(found, replicates=pl.concat([rest, pair]))
    (why,) = judge(both, plan).exploratory_reasons
    assert why.startswith("1 run of deep_ensemble is more than was declared")
