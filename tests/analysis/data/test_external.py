"""Predictions of any origin are a run like any other, without what only a study knows."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from analysis.data.external import load_predictions
from analysis.data.predictions import predictions
from analysis.measures.measure import measure
from analysis.report.__main__ import main
from analysis.verdict.judge import judge
from study import parquet_format
from tests.analysis.make_predictions import ARMS, make_predictions
from tests.analysis.make_run import Data
from tests.analysis.report.test_report import Page, payload

DATA = Data(test=120, shift=30, ood=20, classes=5, severities=2)
FOUR = {name: ARMS[name] for name in ("single", "deep_ensemble", "escaping", "negative_control")}
ALL = ("test", "shift", "ood")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("given") / "my predictions"
    return make_predictions(place, FOUR, seeds=4, data=DATA, splits=ALL)


@pytest.fixture
def one(tmp_path: Path) -> Path:
    """A folder of one seed, to rewrite."""
    return make_predictions(tmp_path / "one", FOUR, seeds=1, data=DATA, splits=ALL)


def test_arms_are_folders_and_seeds_their_folders(folder: Path) -> None:
    run = load_predictions(folder)

    assert run.trials.columns == parquet_format.TRIAL.names
    roles = dict(run.trials.select("configuration", "role").unique().iter_rows())
    assert roles == {
        "single": "single",
        "deep_ensemble": "deep_ensemble",
        "negative_control": "negative_control",
        "escaping": "candidate",
    }
    assert set(run.trials["seed"]) == {0, 1, 2, 3}
    assert run.members["escaping/2"] == 4


def test_what_only_a_study_knows_is_null(folder: Path) -> None:
    trials = load_predictions(folder).trials

    known = {"trial", "configuration", "name", "method", "role", "stage", "replicate", "seed"}
    known |= {"members", "status"}
    for column in set(trials.columns) - known:
        assert trials[column].null_count() == len(trials), column


def test_seeds_may_be_any_integers(one: Path) -> None:
    for arm in FOUR:
        (one / arm / "0").rename(one / arm / "-20261231235959")
    run = load_predictions(one)

    assert set(run.trials["seed"]) == {-20261231235959}
    assert set(run.trials["replicate"]) == {0}
    assert predictions(run, "single/-20261231235959", "test").logits.shape == (1, 120, 5)


def shuffled(rows: pl.DataFrame) -> pa.Table:
    return rows.sample(fraction=1, shuffle=True, seed=1).to_arrow()


def by_pandas(rows: pl.DataFrame) -> pa.Table:
    """Return what pandas writes: objects, doubles for integers with gaps, an index besides."""
    columns = {name: rows[name].to_list() for name in rows.columns if name != "logits"}
    columns["logits"] = [list(map(float, values)) for values in rows["logits"].to_list()]
    columns["__index_level_0__"] = list(range(len(rows)))
    table = pa.table(columns)
    at = table.schema.get_field_index("example")
    return table.set_column(at, "example", table["example"].cast(pa.float64()))


def by_arrow(rows: pl.DataFrame) -> pa.Table:
    """Return large lists in many chunks, unsigned integers, a dictionary of text."""
    table = rows.with_columns(pl.col("member").cast(pl.UInt8)).to_arrow()
    at = table.schema.get_field_index("logits")
    lists = table["logits"].cast(pa.large_list(pa.float64()))
    table = table.set_column(at, "logits", lists)
    if "condition" in table.column_names:
        at = table.schema.get_field_index("condition")
        table = table.set_column(at, "condition", table["condition"].dictionary_encode())
    return pa.concat_tables([table[:37], table[37:41], table[41:]])


def as_log_probabilities(rows: pl.DataFrame) -> pa.Table:
    """Return log-probabilities, which are logits too."""
    logits = rows["logits"].to_numpy().astype(np.float64)
    logits = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    return rows.with_columns(logits=logits.astype(np.float32)).to_arrow()


FORMS: dict[str, tuple[Callable[[pl.DataFrame], pa.Table], float]] = {
    "rows in any order": (shuffled, 0),
    "pandas": (by_pandas, 0),
    "arrow": (by_arrow, 0),
    "half precision": (
        lambda rows: rows.to_arrow().set_column(
            rows.columns.index("logits"),
            "logits",
            rows["logits"].to_arrow().cast(pa.list_(pa.float16(), 5)),
        ),
        2e-3,
    ),
    "categories": (
        lambda rows: rows.with_columns(pl.col(pl.String).cast(pl.Categorical)).to_arrow(),
        0,
    ),
    "what tells nothing besides": (
        lambda rows: rows.with_columns(
            condition=rows["condition"] if "condition" in rows.columns else pl.lit("clean"),
            severity=rows["severity"] if "severity" in rows.columns else pl.lit(0),
            label=rows["label"] if "label" in rows.columns else pl.lit(None),
        ).to_arrow(),
        0,
    ),
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("split", ALL)
def test_every_form_is_read_alike(split: str, form: str, one: Path) -> None:
    run, trial = load_predictions(one), "escaping/0"
    before = predictions(run, trial, split)
    write, tolerance = FORMS[form]
    file = one / trial / f"{split}.parquet"
    pq.write_table(write(pl.read_parquet(file)), file, row_group_size=50)

    after = predictions(load_predictions(one), trial, split)

    np.testing.assert_allclose(after.logits, before.logits, rtol=tolerance, atol=tolerance)
    assert after.logits.dtype == np.float32
    assert after.conditions == before.conditions
    assert after.fingerprints() == before.fingerprints()
    np.testing.assert_array_equal(after.severity, before.severity)


def test_rows_lie_by_condition_severity_and_example(one: Path) -> None:
    found = predictions(load_predictions(one), "escaping/0", "shift")

    keys = np.stack([found.condition, found.severity, found.example])
    order = np.lexsort(keys[::-1])
    np.testing.assert_array_equal(order, np.arange(len(order)))


def test_log_probabilities_are_logits(folder: Path, tmp_path: Path) -> None:
    make_predictions(tmp_path / "logp", FOUR, seeds=4, data=DATA)
    make_predictions(tmp_path / "raw", FOUR, seeds=4, data=DATA)
    for file in (tmp_path / "logp").rglob("*.parquet"):
        pq.write_table(as_log_probabilities(pl.read_parquet(file)), file)
    found = []
    for name in ("raw", "logp"):
        run = load_predictions(tmp_path / name)
        found.append(
            measure(run).replicates.select("nll", "cll", "gain", "brier", "ece").to_numpy()
        )

    np.testing.assert_allclose(found[1], found[0], rtol=1e-4, atol=1e-6)


def test_the_first_members_of_a_pool_are_the_ensemble(tmp_path: Path) -> None:
    arms = FOUR | {"deep_ensemble": (6, 1.0), "pair": (2, 0.5)}
    folder = make_predictions(tmp_path / "pool", arms, seeds=2, data=DATA)
    rows = measure(load_predictions(folder)).replicates
    file = folder / "deep_ensemble" / "1" / "test.parquet"
    kept = pl.read_parquet(file).filter(pl.col("member") < 2)
    alone = tmp_path / "alone"
    make_predictions(alone, {"single": (1, 0.0), "pair": (2, 0.5)}, seeds=2, data=DATA)
    for seed in (0, 1):
        place = alone / "deep_ensemble" / str(seed)
        place.mkdir(parents=True)
        kept.write_parquet(place / "test.parquet")
    by_hand = measure(load_predictions(alone)).replicates

    assert set(rows["arm"]) >= {"deep_ensemble-2", "deep_ensemble-4"}
    pool = rows.filter(pl.col("arm") == "deep_ensemble-2", pl.col("replicate") == 1)
    other = by_hand.filter(pl.col("arm") == "deep_ensemble-2", pl.col("replicate") == 1)
    assert pool["nll"].item() == other["nll"].item()


def test_without_a_shift_set_two_endpoints_are_left(tmp_path: Path) -> None:
    run = load_predictions(make_predictions(tmp_path / "p", FOUR, seeds=2, data=DATA))
    verdict = judge(measure(run), run.plan)

    assert verdict.protocol.endpoints == ("cll", "gain")
    assert "no shift.parquet was given, so shifted NLL is no endpoint" in verdict.reasons


def page_of(folder: Path, out: Path) -> tuple[dict[str, object], str, str]:
    assert main(["--predictions", str(folder), "--out", str(out / "page.html")]) == 0
    html = (out / "page.html").read_text()
    return json.loads((out / "verdict.json").read_text()), html, " ".join(Page(html).text.split())


def test_the_page_leaves_out_what_it_cannot_know(folder: Path, tmp_path: Path) -> None:
    verdict, html, text = page_of(folder, tmp_path)

    assert set(payload(html)["figures"]) & {"cost", "history", "coverage", "geometry"} == set()
    assert {"recovery", "severity", "members"} <= set(payload(html)["figures"])
    for absent in ("FLOPs", "Params", "Train s", "Trained with", "tuning budget", "Compute"):
        assert absent not in text
    for absent in ("Full specifications", "Excluded trials", "Costs are"):
        assert absent not in text
    assert verdict["plan"] is None
    assert verdict["exploratory"] is True
    assert "nothing was declared before the predictions were seen" in text
    assert "4 seeds" in text


@pytest.mark.parametrize("suffix", ["json", "yaml"])
def test_a_protocol_beside_the_predictions_is_kept(suffix: str, one: Path, tmp_path: Path) -> None:
    declared = {"delta": 0.3, "alpha": 0.04, "endpoints": ["nll", "gain"], "seeds": 5}
    (one / f"protocol.{suffix}").write_text(json.dumps(declared))
    verdict, _, text = page_of(one, tmp_path)

    protocol = verdict["protocol"]
    assert isinstance(protocol, dict)
    assert (protocol["delta"], protocol["alpha"]) == (0.3, 0.04)
    assert protocol["endpoints"] == ["nll", "gain"]
    assert verdict["exploratory"] is False
    assert f"othing proves that protocol.{suffix} was written before the test set was seen" in text
    assert "the study is not finished: 4 of 20 runs are there" in text


def test_two_sources_exclude_each_other(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as error:
        main(["--predictions", str(folder), "--runs", str(folder)])
    assert error.value.code == 2
    assert "not allowed with" in capsys.readouterr().err
