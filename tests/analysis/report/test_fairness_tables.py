"""What the page says of fairness: numbers in short, claims that equal compute bears out."""

from typing import Any

import pytest

from analysis.data.run import Run
from analysis.figures.context import FigureContext
from analysis.figures.context import figure_context as context_of
from analysis.measures.fairness import fairness
from analysis.measures.measure import Measures
from analysis.report.fairness_tables import _sound, tables, warning
from analysis.text.numbers import size, times
from analysis.verdict.judge import judge
from analysis.verdict.schema import ComputeMatched, Fairness, Verdict


def with_fairness(verdict: Verdict, fair: Fairness, **changes: Any) -> Verdict:
    return verdict.model_copy(update={"fairness": fair.model_copy(update=changes)})


@pytest.fixture(scope="module")
def verdict(run: Run, measures: Measures) -> Verdict:
    return with_fairness(judge(measures, run.plan), fairness(run, measures))


@pytest.fixture(scope="module")
def context(run: Run, measures: Measures, verdict: Verdict) -> FigureContext:
    return context_of(run, measures, verdict)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "–"), (0, "0"), (7, "7"), (0.0412, "0.04"), (12.34, "12.3"), (999, "999"),
        (999.9, "1.00\u00a0k"), (12_345, "12.3\u00a0k"), (7.45e9, "7.45\u00a0G"), (2e15, "2\u00a0P"),
    ],
)  # fmt: skip
def test_sizes_have_three_digits(value: float | None, text: str) -> None:
    assert size(value) == text


def test_multiples() -> None:
    assert [times(v) for v in (None, 1.0, 4.472, 24.04)] == ["", "1×", "4.47×", "24.0×"]


def test_tables_hold_every_arm_once(context: FigureContext, verdict: Verdict) -> None:
    page: Any = tables(context, verdict)

    assert page is not None
    every = context.arms["arm"].to_list()
    assert [row["arm"] for row in page["costs"]["rows"]] == every
    between = [arm for arm in every if arm != "single" and not arm.startswith("deep_ensemble-")]
    assert [row["arm"] for row in page["compute"]["rows"]] == between
    for table in (page["costs"], page["compute"]):
        assert {len(row["cells"]) for row in table["rows"]} == {len(table["columns"])}


def test_the_single_model_is_once_itself(context: FigureContext, verdict: Verdict) -> None:
    page: Any = tables(context, verdict)
    assert page is not None

    (single,) = [row for row in page["costs"]["rows"] if row["arm"] == "single"]

    assert {cell["range"] for cell in single["cells"]} <= {"1×", ""}


def test_arms_that_differ_are_listed_with_their_number(
    context: FigureContext, verdict: Verdict
) -> None:
    fair = verdict.fairness
    assert fair is not None
    odd = {"matched": False, "differences": ("50 epochs, the single model 20",)}
    changed = tuple(
        entry.model_copy(update=odd if "control" in entry.arm else {})
        for entry in fair.epoch_matched
    )

    page: Any = tables(context, with_fairness(verdict, fair, epoch_matched=changed))

    assert page is not None
    assert page["epochs"]["odd"] == ["+, −: 50 epochs, the single model 20"]
    assert f"{len(changed) - 2} of {len(changed)} saw the same data" in page["epochs"]["heading"]


@pytest.mark.parametrize(
    ("members", "compared", "finding", "sound"),
    [
        (3.0, 3.0, "better", True),
        (9.0, 8.0, "worse", True),  # worse than a cheaper Deep Ensemble
        (9.0, 8.0, "better", False),
        (0.5, 1.0, "better", True),  # better than a costlier single model
        (0.5, 1.0, "worse", False),
        (9.0, 8.0, "open", False),
    ],
)
def test_a_finding_at_the_pools_end_counts_only_a_fortiori(
    members: float, compared: float, finding: str, sound: bool
) -> None:
    note = None if members == compared else "clipped"

    entry = ComputeMatched.model_validate(
        {"arm": "x", "kind": "train", "members": members, "compared": compared}
        | {"finding": finding, "note": note}
    )

    assert _sound(entry) is sound


def test_a_violation_is_a_banner(verdict: Verdict) -> None:
    fair = verdict.fairness
    assert fair is not None

    assert warning(fair.model_copy(update={"warnings": ()})) is None
    bad = fair.model_copy(update={"warnings": ("a", "b")})
    assert warning(bad) == "Not on equal terms: a; b."


def test_nothing_known_is_no_section(context: FigureContext, verdict: Verdict) -> None:
    fair = verdict.fairness
    assert fair is not None

    assert tables(context, with_fairness(verdict, fair, costs=(), tuning=())) is None
