"""Learning curves and the Pareto front show what the trials were."""

import json
from dataclasses import replace
from pathlib import Path

import altair as alt
import numpy as np
import optuna
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from analysis.data.curves import curves
from analysis.data.run import Run, load
from analysis.figures import all_figures
from analysis.figures.context import Figure, figure_context
from analysis.figures.curves import convergence, curves_figure
from analysis.figures.pareto import front
from analysis.measures.measure import Measures
from analysis.verdict.judge import judge
from study import parquet_format
from study.errors import StudyError


def looks(*losses: float | None) -> pl.DataFrame:
    n = len(losses)
    columns = {"trial": "t", "epoch": range(1, n + 1), "val_nll": losses}
    return pl.DataFrame(columns, schema_overrides={"val_nll": pl.Float64})


@pytest.mark.parametrize(
    ("losses", "state"),
    [
        ([2.0, 1.0, 0.5, 0.4], "improving"),
        ([2.0, 1.0, 0.5, 0.495], "level"),
        ([2.0, 0.4, 0.5, 0.5], "past"),
        ([2.0, 0.49, 0.495, 0.495], "level"),
        ([None, 1.0, None, 0.5], "improving"),
    ],
)
def test_a_training_is_called_by_what_its_last_quarter_did(
    losses: list[float | None], state: str
) -> None:
    assert convergence(looks(*losses)).rows() == [("t", state)]


def test_one_look_is_no_convergence() -> None:
    assert convergence(looks(1.0)).is_empty()
    assert convergence(looks(None, 1.0)).is_empty()


def test_the_front_is_optunas() -> None:
    rng = np.random.default_rng(0)
    for _ in range(20):
        values = rng.integers(0, 6, (40, 3)).astype(float)
        theirs = optuna.create_study(directions=["minimize", "minimize", "maximize"])
        for row in values:
            theirs.add_trial(optuna.trial.create_trial(values=row.tolist()))
        expected = {trial.number for trial in theirs.best_trials}
        assert set(np.flatnonzero(front(values)).tolist()) == expected


@pytest.fixture(scope="module")
def drawn(run: Run, measures: Measures) -> dict[str, Figure]:
    context = figure_context(run, measures, judge(measures, run.plan))
    return {figure.key: figure for figure in all_figures.draw(context)}


def rows(figure: Figure) -> pl.DataFrame:
    sets = figure.chart.to_dict()["datasets"]
    return pl.DataFrame(max(sets.values(), key=len), infer_schema_length=None)


def test_the_best_the_median_and_the_worst_trial_are_drawn(
    run: Run, drawn: dict[str, Figure]
) -> None:
    searched = run.trials.filter(pl.col("stage") == "search", pl.col("status") == "complete")
    shown = rows(drawn["curves"])
    for (method,), own in searched.group_by("method"):
        ends = own["val_nll"].sort().to_list()
        found = shown.filter(pl.col("method") == method).unique("trial")
        expected = {ends[0], ends[len(ends) // 2], ends[-1]}
        assert sorted(found["end"].to_list()) == pytest.approx(sorted(expected), rel=1e-4)
    whole = shown.filter(pl.col("metric") == "loss").group_by("trial").len()
    assert set(whole["len"]) == {8}


def test_the_claim_counts_the_trials_of_the_leading_method(drawn: dict[str, Figure]) -> None:
    assert drawn["curves"].claim.startswith("Most trials of BatchEnsemble were still improving")


def test_every_complete_trial_of_the_search_is_in_the_pareto_figure(
    run: Run, drawn: dict[str, Figure]
) -> None:
    whole = run.trials.filter(
        pl.col("stage") == "search", pl.col("status") == "complete", pl.col("method") != "single"
    )
    assert set(rows(drawn["pareto"])["trial"]) == set(whole["trial"])


def test_members_trained_one_by_one_are_averaged(tmp_path: Path, study: Path) -> None:
    run = load(study)
    trial = run.trials.filter(pl.col("status") == "complete")["trial"][0]
    file = study / "trials" / trial / "curve.parquet"
    before = file.read_bytes() if file.exists() else None
    parts = [
        parquet_format.CurveRow(1, part, 0.1, 1.0 + part, 2.0 + part, 2.0 + part) for part in (0, 1)
    ]
    try:
        table = pa.Table.from_pylist([row._asdict() for row in parts], schema=parquet_format.CURVE)
        pq.write_table(table, file)
        own = curves(run).filter(pl.col("trial") == trial)
    finally:
        file.unlink() if before is None else file.write_bytes(before)
    assert own.rows() == [(trial, 1, 0.1, 1.5, 2.5, 2.5)]


def test_a_file_with_other_columns_is_one_line(study: Path) -> None:
    run = load(study)
    trial = run.trials.filter(pl.col("stage") == "search", pl.col("status") == "complete")["trial"]
    file = study / "trials" / trial[0] / "curve.parquet"
    before = file.read_bytes()
    other = pa.table({"epoch": [1]}).replace_schema_metadata(
        {parquet_format.VERSION_KEY: str(parquet_format.VERSION)}
    )
    try:
        pq.write_table(other, file)
        with pytest.raises(StudyError, match=r"columns must be those of CURVE"):
            curves(run)
    finally:
        file.write_bytes(before)


def test_a_run_without_curves_has_no_such_figure(run: Run, measures: Measures) -> None:
    context = figure_context(run, measures, judge(measures, run.plan))
    blank = {figure.key for figure in all_figures.draw(context)} - {"curves"}
    none = replace(context, curves=context.curves.clear())
    assert {figure.key for figure in all_figures.draw(none)} == blank


def test_a_long_training_is_thinned_to_what_can_be_seen(
    run: Run, measures: Measures, drawn: dict[str, Figure]
) -> None:
    """Altair refuses more than 5,000 rows, which 200 epochs of a few methods exceed."""
    context = figure_context(run, measures, judge(measures, run.plan))
    trials = rows(drawn["curves"])["trial"].unique().to_list()
    epochs = range(1, 1001)
    long = pl.concat(
        pl.DataFrame(
            {
                "trial": trial,
                "epoch": pl.Series(epochs, dtype=pl.Int32),
                "lr": 0.1,
                "loss": 1.0,
                "val_nll": [0.3 if epoch % 63 == 1 else None for epoch in epochs],
                "val_members_nll": 0.3,
            }
        )
        for trial in trials
    )
    figure = curves_figure(replace(context, curves=long))
    assert figure is not None
    shown = rows(figure).filter(pl.col("metric") == "val_nll").drop_nulls("value")
    assert len(shown) == 16 * len(trials)
    assert len(rows(figure)) < 3 * 120 * len(trials)


def test_no_figure_has_too_many_rows_for_its_page() -> None:
    many = pl.DataFrame({"at": range(6000)})
    chart = alt.layer(alt.Chart(many).mark_point().encode(x="at:Q"))
    spec = Figure("any", "Search", "", "", chart).spec()
    assert len(next(iter(spec["datasets"].values()))) == 6000


def test_the_chart_holds_no_nan(drawn: dict[str, Figure]) -> None:
    for key in ("curves", "pareto"):
        json.dumps(drawn[key].chart.to_dict(), allow_nan=False)
