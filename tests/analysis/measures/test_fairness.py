"""What the arms cost, what they are compared with, and unequal tuning, against numbers by hand."""

import json
from dataclasses import replace
from typing import Any

import numpy as np
import polars as pl
import pytest
from scipy import stats

from analysis.data.run import Run
from analysis.measures.costs import COSTS, costs, multiples
from analysis.measures.fairness import against, fairness
from analysis.measures.measure import Measures
from analysis.verdict.schema import Fairness, Tuning

CURVE = pl.DataFrame(
    {
        "replicate": [0, 0, 0, 1, 1, 1],
        "members": [1, 2, 3] * 2,
        "cll": [0.50, 0.40, 0.36, 0.60, 0.42, 0.38],
    }
)


def changed(run: Run, arm: str, **sections: dict[str, Any]) -> Run:
    """Return the run with other values in the specs of one role."""

    def edit(row: dict[str, Any]) -> str:
        spec = json.loads(row["spec"])
        for section, values in sections.items() if row["role"] == arm else ():
            spec[section] |= values
        return json.dumps(spec)

    specs = [edit(row) for row in run.trials.select("role", "spec").to_dicts()]
    return replace(run, trials=run.trials.with_columns(spec=pl.Series(specs)))


def entry(found: Fairness, part: str, arm: str) -> Any:
    (one,) = [row for row in getattr(found, part) if row.arm == arm]
    return one


def with_search(run: Run, counts: dict[str, tuple[int, int]], planned: dict[str, int]) -> Run:
    """Return the run with (complete, diverged) search trials of each method."""
    confirm = run.trials.filter(pl.col("stage") == "confirm")
    base = confirm.head(1)
    rows = [confirm]
    for method, numbers in counts.items():
        for status, number in zip(("complete", "diverged"), numbers, strict=True):
            one = base.with_columns(
                stage=pl.lit("search"), method=pl.lit(method), status=pl.lit(status)
            )
            rows += [one] * number
    assert run.plan is not None
    tuning = {method: {"trials": trials} for method, trials in planned.items()}
    return replace(run, trials=pl.concat(rows), plan=replace(run.plan, tuning=tuning))


# --- cost


def test_costs_are_the_rows_and_a_deep_ensemble_pays_for_its_own_members(
    run: Run, measures: Measures
) -> None:
    spent = {row["arm"]: row for row in costs(run.trials, measures).to_dicts()}

    # make_run: 54,000 FLOPs per member and example, 20 epochs, 1.2 s per member, 10,000 bytes
    assert spent["single"]["train_flops"] == 54_000
    assert spent["deep_ensemble-4"]["train_flops"] == 4 * 54_000
    assert spent["deep_ensemble-4"]["train_seconds"] == pytest.approx(4.8)
    assert spent["deep_ensemble-4"]["epochs"] == 20


def test_a_part_of_the_pool_costs_its_part(run: Run, measures: Measures) -> None:
    size = pl.when(pl.col("role") == "deep_ensemble").then(3).otherwise("members")
    part = replace(measures, replicates=measures.replicates.with_columns(members=size))

    times = {row["arm"]: row for row in multiples(costs(run.trials, part)).to_dicts()}

    assert times["deep_ensemble-4"]["infer_flops"] == pytest.approx(3)
    assert times["single"] == {"arm": "single", **dict.fromkeys(COSTS, 1.0)}


def test_total_compute_is_flops_times_epochs_times_examples(run: Run, measures: Measures) -> None:
    known = changed(run, "single", dataset={"train_size": 300})
    more = known.trials.with_columns(
        epochs=pl.when(pl.col("role") == "negative_control").then(50).otherwise("epochs")
    )

    found = fairness(replace(known, trials=more), measures)

    total = entry(found, "costs", "single").total_train_flops
    assert (total.value, total.multiple) == (54_000 * 20 * 300, 1.0)


def test_without_a_number_of_examples_the_multiple_is_known_and_the_total_is_not(
    run: Run, measures: Measures
) -> None:
    more = run.trials.with_columns(
        epochs=pl.when(pl.col("role") == "negative_control").then(50).otherwise("epochs")
    )

    found = fairness(replace(run, trials=more), measures)

    total = entry(found, "costs", "negative_control").total_train_flops
    assert (total.value, total.multiple) == (None, pytest.approx(4 * 50 / 20))


def test_no_multiple_without_a_single_model(run: Run, measures: Measures) -> None:
    others = replace(measures, replicates=measures.replicates.filter(pl.col("arm") != "single"))

    found = fairness(run, others)

    assert {row.parameters.multiple for row in found.costs} == {None}
    assert found.epoch_matched == ()


# --- epoch-matched


def test_arms_trained_alike_are_matched(run: Run, measures: Measures) -> None:
    found = fairness(run, measures).epoch_matched

    assert {row.arm for row in found} >= {"negative_control", "positive_control"}
    assert not {"single", "deep_ensemble-4"} & {row.arm for row in found}
    assert all(row.matched and row.differences == () for row in found)


def test_other_epochs_batches_and_shares_are_named(run: Run, measures: Measures) -> None:
    odd = changed(run, "negative_control", params={"batch": "split"}, training={"batch_size": 64})
    odd = changed(odd, "single", training={"batch_size": 32})
    more = odd.trials.with_columns(
        epochs=pl.when(pl.col("role") == "negative_control").then(50).otherwise("epochs")
    )

    found = fairness(replace(odd, trials=more), measures)

    control = entry(found, "epoch_matched", "negative_control")
    assert control.matched is False
    assert control.differences == (
        "50 epochs, the single model 20",
        "batches of 64, the single model 32",
        "each member sees 1/4 of every batch, the single model all",
    )


def test_repeated_examples_are_no_match(run: Run, measures: Measures) -> None:
    odd = changed(run, "negative_control", params={"batch_repetition": 4})
    control = entry(fairness(odd, measures), "epoch_matched", "negative_control")
    said = "each member sees 4 times all of every batch, the single model all"
    assert control.differences == (said,)


# --- compute-matched


def test_between_whole_numbers_each_replicate_is_interpolated() -> None:
    found = against("x", "train", np.array([0.40, 0.42]), CURVE, 1.5, 0.95)

    # Deep Ensemble of 1.5: (.5 + .4) / 2 = .45 and (.6 + .42) / 2 = .51
    assert found.deep_ensemble == pytest.approx(0.48)
    assert found.difference == pytest.approx(0.41 - 0.48)
    low, high = stats.ttest_ind([0.40, 0.42], [0.45, 0.51], equal_var=False).confidence_interval()
    assert (found.low + found.high) / 2 == pytest.approx((low + high) / 2)
    few = stats.t.ppf(0.975, 1) * (0.02**2 / 4 + 0.06**2 / 4) ** 0.5  # As if one arm alone varied.
    assert (high - low) / 2 < (found.high - found.low) / 2 <= few * (1 + 1e-9)
    assert found.finding == "open"
    assert (found.compared, found.note) == (1.5, None)


@pytest.mark.parametrize(
    ("losses", "finding"), [([0.10, 0.11, 0.10], "better"), ([0.90, 0.91, 0.92], "worse")]
)
def test_an_interval_beside_zero_is_a_finding(losses: list[float], finding: str) -> None:
    assert against("x", "train", np.array(losses), CURVE, 3, 0.95).finding == finding


@pytest.mark.parametrize(
    ("members", "compared", "note"),
    [(4.2, 3.0, "more than the pool of 3 members"), (0.5, 1.0, "less than one single model")],
)
def test_nothing_is_extrapolated(members: float, compared: float, note: str) -> None:
    found = against("x", "train", np.array([0.4, 0.5]), CURVE, members, 0.95)

    assert found.compared == compared
    assert note in found.note
    assert found.deep_ensemble == pytest.approx({3.0: 0.37, 1.0: 0.55}[compared])


def test_rounding_is_no_extrapolation() -> None:
    assert against("x", "train", np.array([0.4, 0.5]), CURVE, 3 + 1e-12, 0.95).note is None


def test_equal_seeds_have_no_width() -> None:
    flat = CURVE.with_columns(cll=0.5)

    found = against("x", "train", np.array([0.4, 0.4]), flat, 2, 0.95)

    assert found.low == found.high == pytest.approx(-0.1)


def test_one_seed_is_no_comparison() -> None:
    assert against("x", "train", np.array([0.4]), CURVE, 2, 0.95).finding is None
    assert against("x", "train", np.array([0.4, 0.5]), CURVE[:3], 2, 0.95).finding is None


def test_at_whole_numbers_the_curve_is_the_anchor_itself(run: Run, measures: Measures) -> None:
    found = fairness(run, measures)

    anchor = measures.replicates.filter(pl.col("arm") == "deep_ensemble-4")["cll"]
    kinds = [row for row in found.compute_matched if row.arm == "positive_control"]
    assert [row.kind for row in kinds] == ["train", "infer"]
    for row in kinds:
        assert row.members == row.compared == 4
        assert row.deep_ensemble == pytest.approx(anchor.to_numpy().mean())


# --- tuning

EQUAL = {"single": (20, 0), "batchensemble": (18, 2)}


def test_equal_budgets_are_equal(run: Run, measures: Measures) -> None:
    found = fairness(with_search(run, EQUAL, dict.fromkeys(EQUAL, 20)), measures)

    assert found.warnings == ()
    assert found.equal is True
    assert found.tuning[0] == Tuning(
        method="batchensemble", planned=20, done=20, complete=18, tuned=True
    )
    assert found.notes == (
        "mc_dropout was not tuned: one configuration was given.",
        "The deep ensemble was not tuned: its members are the tuned single model.",
    )


@pytest.mark.parametrize(
    ("counts", "planned", "line"),
    [
        (
            {"single": (10, 0), "be": (20, 0)},
            {"single": 10, "be": 20},
            "budgets differ: be 20, single 10",
        ),
        ({"single": (9, 0), "be": (10, 0)}, {"single": 10, "be": 10}, "single did 9 of its 10"),
        ({"single": (10, 0), "be": (4, 6)}, {"single": 10, "be": 10}, "only 4 of 10 search"),
        ({"single": (1, 0), "be": (20, 0)}, {"single": 1, "be": 20}, "single model was not tuned"),
        ({"be": (20, 0)}, {"be": 20}, "single model was not tuned, but be was"),
    ],
)
def test_unequal_budgets_are_violations(
    run: Run, measures: Measures, counts: Any, planned: Any, line: str
) -> None:
    found = fairness(with_search(run, counts, planned), measures)

    assert found.equal is False
    assert len(found.warnings) == 1
    assert line in found.warnings[0]


def test_a_deep_ensemble_of_other_networks_is_a_violation(run: Run, measures: Measures) -> None:
    odd = changed(run, "deep_ensemble", training={"lr": 0.2}, backbone={"width": 32})

    warnings = fairness(odd, measures).warnings

    assert [line for line in warnings if "backbone and training differ" in line]


def test_other_data_is_a_violation(run: Run, measures: Measures) -> None:
    other = pl.when(pl.col("role") == "single").then(pl.lit("other")).otherwise("data")

    found = fairness(replace(run, trials=run.trials.with_columns(data=other)), measures)

    assert "confirmed trials were run on 2 different data sets" in found.warnings


def test_where_nothing_is_known_nothing_is_claimed(run: Run, measures: Measures) -> None:
    unknown = ["spec", "train_seconds", "epochs", *("parameters", "stored_bytes")]
    unknown += ["train_flops", "infer_flops", "data"]
    bare = run.trials.filter(pl.col("stage") == "confirm").with_columns(
        pl.lit(None, run.trials.schema[name]).alias(name) for name in unknown
    )

    found = fairness(replace(run, trials=bare, plan=None), measures)

    assert found.equal is None
    assert found.warnings == found.tuning == found.epoch_matched == ()
    assert found.compute_matched == ()
    assert {row.train_flops.multiple for row in found.costs} == {None}
    assert "cannot be checked" in found.notes[0]
