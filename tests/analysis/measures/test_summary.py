"""Every measure of every arm is told, and none is made up."""

from typing import Any

import polars as pl
import pytest

from analysis.data.run import Run
from analysis.figures.context import FigureContext
from analysis.figures.context import figure_context as context_of
from analysis.measures.columns import METRICS
from analysis.measures.measure import Measures
from analysis.measures.summary import summarise_measures
from analysis.report.measures_table import table
from analysis.verdict.judge import judge
from analysis.verdict.schema import Mean


@pytest.fixture(scope="module")
def context(run: Run, measures: Measures) -> FigureContext:
    return context_of(run, measures, judge(measures, run.plan))


def test_means_and_deviations_are_those_over_seeds(measures: Measures) -> None:
    found = summarise_measures(measures)

    own = measures.replicates.filter(pl.col("arm") == "single")
    mean = found["single"]["nll"]
    assert mean.mean == pytest.approx(own["nll"].mean())
    assert mean.sd == pytest.approx(own["nll"].std())
    assert mean.n == len(own)


def test_what_is_undefined_is_left_out(measures: Measures) -> None:
    found = summarise_measures(measures)

    assert "disagreement" not in found["single"]
    assert "disagreement" in found["deep_ensemble-4"]
    assert all(set(values) <= set(METRICS) for values in found.values())


def test_one_run_has_no_deviation() -> None:
    frame = pl.DataFrame([{"arm": "x", "replicate": 0, "nll": 0.5}])
    rest: Any = (pl.DataFrame(),) * 4

    assert summarise_measures(Measures(frame, *rest)) == {
        "x": {"nll": Mean(mean=0.5, sd=None, n=1)}
    }


def test_table_has_an_arm_per_column_and_a_measure_per_row(
    context: FigureContext, measures: Measures
) -> None:
    page = table(context, summarise_measures(measures))

    assert page is not None
    assert [tag for tag, _ in page.columns] == context.arms["tag"].to_list()
    rows = {row.name: row for row in page.rows}
    assert "chance_nll" not in rows
    assert list(rows) == [name for name in METRICS if name in rows]
    assert rows["disagreement"].about.endswith("0 to 1; higher is more diverse")
    assert rows["q_statistic"].about.endswith("lower is more diverse")
    single = context.arms["arm"].to_list().index("single")
    mean = measures.replicates.filter(pl.col("arm") == "single")["nll"].mean()
    assert float(rows["nll"].cells[single][0]) == pytest.approx(mean, rel=5e-4)
    assert rows["disagreement"].cells[single] is None


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.5, "0.5000"), (0.00012344, "0.0001234"), (4e-5, "0"), (-4e-5, "0"), (9.99996, "10.00"),
        (-1.23456, "\u22121.235"), (123456.7, "123457"),
    ],
)  # fmt: skip
def test_numbers_have_four_digits_and_no_exponent(
    context: FigureContext, value: float, text: str
) -> None:
    page = table(context, {"single": {"nll": Mean(mean=value, sd=None, n=1)}})

    assert page is not None
    assert page.rows[0].cells == [(text, "")]


def test_there_is_no_table_of_nothing(context: FigureContext) -> None:
    assert table(context, {}) is None
