"""The picture across studies has a row for each, and says how many escape."""

from pathlib import Path

import polars as pl
import pytest

from analysis.data.run import load
from analysis.figures.studies import studies_figure
from analysis.measures.measure import measure
from analysis.verdict.judge import judge
from analysis.verdict.schema import Verdict
from tests.analysis.make_run import DEEP_ENSEMBLE, POSITIVE, SINGLE, Arm, Data, make_run

SMALL = Data(test=400, shift=60, ood=20, severities=2)


def judged(folder: Path, *arms: Arm) -> Verdict:
    run = load(make_run(folder, (SINGLE, DEEP_ENSEMBLE, *arms), seeds=8, data=SMALL))
    return judge(measure(run), run.plan)


def rows(verdicts: dict[str, Verdict]) -> pl.DataFrame:
    figure = studies_figure(verdicts)
    assert figure is not None
    sets = figure.chart.to_dict()["datasets"]
    return pl.DataFrame(max(sets.values(), key=len), infer_schema_length=None)


@pytest.fixture(scope="module")
def verdicts(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Verdict]:
    folder = tmp_path_factory.mktemp("studies")
    good = Arm("candidate", "batchensemble", name="good", diversity=0.95)
    bad = Arm("candidate", "batchensemble", name="bad", init_std=0.9, diversity=0.0)
    return {
        "first": judged(folder / "a", good, bad, POSITIVE),
        "second": judged(folder / "b", bad, POSITIVE),
    }


def test_every_study_has_one_named_row_with_its_best(verdicts: dict[str, Verdict]) -> None:
    shown = rows(verdicts)
    named = shown.drop_nulls("name")
    assert named["name"].to_list() == ["first · good", "second · bad"]
    for name, arm in (("first", "good"), ("second", "bad")):
        best = next(a for a in verdicts[name].arms if a.name == arm)
        assert best.telling is not None
        row = named.filter(pl.col("arm") == name).row(0, named=True)
        _, _, effect = best.telling
        found = [row[key] for key in ("estimate", "low", "high")]
        assert found == pytest.approx([effect.recovery, effect.low, effect.high], rel=1e-4)
    others = shown.filter(pl.col("name").is_null())
    assert others["label"].to_list() == ["first · bad"]
    assert (others["low"] == others["high"]).all()


def test_the_claim_counts_what_escapes(verdicts: dict[str, Verdict]) -> None:
    figure = studies_figure(verdicts)
    assert figure is not None
    assert figure.claim == "In 1 of 2 studies a configuration escapes: first"


def test_a_study_without_candidates_has_a_row_that_says_so(
    verdicts: dict[str, Verdict], tmp_path: Path
) -> None:
    shown = rows(verdicts | {"third": judged(tmp_path / "c", POSITIVE)})
    assert shown["name"].to_list()[-1] == "third · nothing judged yet"
