"""What figures show is what was measured: detection, the growing Deep Ensemble, the drawer."""

import json
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from analysis.data.run import Run, load
from analysis.figures import all_figures
from analysis.figures.context import Figure, FigureContext, figure_context
from analysis.figures.deep_ensemble_equivalent import BEYOND
from analysis.measures.measure import Measures, measure
from analysis.measures.summary import summarise_measures
from analysis.report.arm_details import details, names
from analysis.verdict.judge import judge
from analysis.verdict.schema import Verdict
from tests.analysis.make_run import Data, make_run

SMALL = Data(test=80, shift=20, ood=40, severities=2)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return load(make_run(tmp_path_factory.mktemp("figures") / "run", seeds=4, data=SMALL))


@pytest.fixture(scope="module")
def measures(run: Run) -> Measures:
    return measure(run)


@pytest.fixture(scope="module")
def verdict(run: Run, measures: Measures) -> Verdict:
    return judge(measures, run.plan).model_copy(update={"measures": summarise_measures(measures)})


@pytest.fixture(scope="module")
def context(run: Run, measures: Measures, verdict: Verdict) -> FigureContext:
    return figure_context(run, measures, verdict)


@pytest.fixture(scope="module")
def drawn(context: FigureContext) -> dict[str, Figure]:
    return {figure.key: figure for figure in all_figures.draw(context)}


def rows(figure: Figure) -> pl.DataFrame:
    sets = figure.chart.to_dict()["datasets"]
    return pl.DataFrame(max(sets.values(), key=len), infer_schema_length=None)


def test_every_chart_holds_to_the_schema_of_vega_lite(drawn: dict[str, Figure]) -> None:
    assert len(drawn) > 10
    for figure in drawn.values():
        assert figure.chart.to_dict(validate=True)


def test_scores_are_shares_and_their_roc_has_the_area_that_was_measured(
    measures: Measures,
) -> None:
    whole = measures.scores.filter(pl.col("kind") != "roc")
    sums = whole.group_by("arm", "replicate", "kind").agg(pl.col("share").sum())["share"]
    np.testing.assert_allclose(sums.to_numpy(), 1)
    known = measures.replicates.select("arm", "replicate", "ood_auroc_entropy")
    roc = measures.scores.filter(pl.col("kind") == "roc").sort("at")
    areas = roc.group_by("arm", "replicate").agg("at", "share").join(known, on=["arm", "replicate"])
    assert len(areas) == len(known)
    for at, share, area in areas.select("at", "share", "ood_auroc_entropy").iter_rows():
        assert np.trapezoid(share, at) == pytest.approx(area, abs=0.02)
        assert (np.diff(share) >= -1e-12).all()


def test_the_claim_on_detection_is_the_best_arms_mean(
    drawn: dict[str, Figure], context: FigureContext
) -> None:
    means = context.measures.replicates.group_by("arm").agg(pl.col("ood_auroc_entropy").mean())
    seen = rows(drawn["roc"])["arm"].unique().to_list()
    best = means.filter(pl.col("arm").is_in(seen))["ood_auroc_entropy"].to_numpy().max()
    assert f"{best:.3f}" in drawn["roc"].claim


def test_a_growing_ensemble_is_drawn_with_every_arm_where_it_meets_it(
    drawn: dict[str, Figure], context: FigureContext, verdict: Verdict
) -> None:
    found = {row["arm"]: row for row in rows(drawn["growth"]).iter_rows(named=True)}
    largest = context.measures.curve["members"].to_numpy().max()
    for arm in verdict.arms:
        assert arm.equivalent is not None
        worth = arm.equivalent.members
        row = found[arm.arm]
        assert row["at"] == pytest.approx(largest + BEYOND if worth is None else worth, rel=1e-4)
        assert row["beyond"] == (worth is None)


def test_a_shift_is_drawn_as_difference_and_as_it_is(drawn: dict[str, Figure]) -> None:
    found = rows(drawn["severity"])
    names = [name for name, _ in drawn["severity"].choices]
    assert set(found["metric"]) == set(names)
    keys = ["panel", "arm", "severity"]
    itself = found.filter(pl.col("metric") == "nll_itself").select(*keys, itself="value")
    both = found.filter(pl.col("metric") == "nll").join(itself, on=keys)
    single = both.filter(pl.col("arm") == "single").select("panel", "severity", at="itself")
    gap = both.join(single, on=["panel", "severity"])
    difference = (gap["itself"] - gap["at"]).to_numpy()
    np.testing.assert_allclose(gap["value"].to_numpy(), difference, atol=1e-4)


def test_the_drawer_has_every_parameter_and_measure(
    context: FigureContext, run: Run, verdict: Verdict
) -> None:
    found = details(context, run, verdict)
    assert set(found) == set(context.arms["arm"])
    lead = context.lead()["arm"]
    text = json.dumps(found[lead])
    assert "init_std" in text
    known = {
        name for name, said in zip(names(verdict), found[lead]["measures"], strict=True) if said
    }
    assert known == set(verdict.measures[lead])
    trials = run.trials.filter(pl.col("configuration") == lead)["trial"].to_list()
    assert any(f"--replay {trial}" in text for trial in trials)


def test_of_given_predictions_there_is_nothing_to_run_again(
    context: FigureContext, run: Run, verdict: Verdict
) -> None:
    given = Run(Path(run.folder), run.trials, run.plan, given=True)
    assert all(not about["texts"] for about in details(context, given, verdict).values())
