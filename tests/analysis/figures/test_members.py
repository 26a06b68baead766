"""The members' geometry reaches the frame and the figures as it was stored."""

import shutil
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from analysis.data.geometry import geometry
from analysis.data.run import Run, load
from analysis.figures.context import FigureContext, figure_context
from analysis.figures.members import evidence_figure, landscape_figure, trajectory_figure
from analysis.measures.measure import measure
from analysis.verdict.judge import judge
from study import parquet_format
from study.errors import StudyError
from tests.analysis.make_run import (
    DEEP_ENSEMBLE,
    NEGATIVE,
    POSITIVE,
    SINGLE,
    Arm,
    Data,
    geometry_rows,
    make_run,
)

SMALL = Data(test=60, shift=20, ood=20, severities=2)
SPREAD = Arm("candidate", NEGATIVE.method, name="be-sign", diversity=0.9)
CLOSE = Arm("candidate", NEGATIVE.method, name="be-normal", diversity=0.05, failed={1: "diverged"})
DROPOUT = Arm("comparison", "mc_dropout", diversity=0.1)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    arms = (SINGLE, DEEP_ENSEMBLE, POSITIVE, NEGATIVE, SPREAD, CLOSE, DROPOUT)
    return make_run(tmp_path_factory.mktemp("geometry") / "run", arms, 3, SMALL, search=4)


@pytest.fixture(scope="module")
def run(folder: Path) -> Run:
    return load(folder)


def context_of(run: Run) -> FigureContext:
    measures = measure(run)
    return figure_context(run, measures, judge(measures, run.plan))


@pytest.fixture(scope="module")
def context(run: Run) -> FigureContext:
    return context_of(run)


@pytest.fixture
def copy(folder: Path, tmp_path: Path) -> Path:
    shutil.copytree(folder, tmp_path / "run")
    return tmp_path / "run"


def drawn(chart: Any, key: str) -> list[dict[str, Any]]:
    (rows,) = [d for d in chart.to_dict()["datasets"].values() if key in d[0]]
    return rows  # type: ignore[no-any-return]


def test_the_frame_holds_what_was_stored(run: Run) -> None:
    frame = geometry(run)

    own = frame.filter((pl.col("arm") == SPREAD.key) & (pl.col("replicate") == 2))
    stored = pl.DataFrame(geometry_rows(SPREAD, 2), infer_schema_length=None)
    for name in ("quantity", "epoch", "layer", "i", "j", "value"):
        assert own[name].to_list() == stored[name].to_list()
    assert own["role"].unique().to_list() == ["candidate"]


def test_a_pool_is_an_arm_of_its_size_and_a_failed_run_has_none(run: Run) -> None:
    seen = dict(geometry(run).group_by("arm").agg(pl.col("replicate").unique()).iter_rows())

    assert set(seen) == {
        *("deep_ensemble-4", "positive_control", "negative_control"),
        *(arm.key for arm in (SPREAD, CLOSE, DROPOUT)),
    }
    assert sorted(seen[CLOSE.key]) == [0, 2]


def test_a_run_without_such_files_has_an_empty_frame_and_no_figure(copy: Path) -> None:
    for file in copy.glob("trials/*/geometry.parquet"):
        file.unlink()
    run = load(copy)

    assert geometry(run).is_empty()
    assert geometry(run).columns[:3] == ["arm", "role", "replicate"]
    context = context_of(run)
    assert trajectory_figure(context) is None
    assert landscape_figure(context) is None
    assert evidence_figure(context) is None


def rewrite(file: Path, how: str) -> None:
    table = pq.read_table(file, partitioning=None)
    if how == "cut":
        file.write_bytes(file.read_bytes()[:-40])
    elif how == "version":
        pq.write_table(table.replace_schema_metadata({parquet_format.VERSION_KEY: b"9"}), file)
    elif how == "column":
        pq.write_table(table.drop_columns(["layer"]), file)
    else:
        table = table.set_column(5, "value", table["value"].cast(pa.float32()))
        pq.write_table(table, file)


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("cut", "geometry.parquet: must be whole Parquet, but is cut short or damaged"),
        ("version", "geometry.parquet: schema version must be 4 or 5, but is 9"),
        ("column", "geometry.parquet: columns must be those of GEOMETRY"),
        ("type", "value: float; "),
    ],
)
def test_a_damaged_file_is_one_line(copy: Path, how: str, message: str) -> None:
    rewrite(sorted(copy.glob("trials/*/geometry.parquet"))[0], how)

    with pytest.raises(StudyError, match=message) as error:
        geometry(load(copy))

    assert "\n" not in str(error.value)


def test_the_trajectory_goes_from_start_to_end(context: FigureContext) -> None:
    figure = trajectory_figure(context)
    assert figure is not None
    rows = pl.DataFrame(drawn(figure.chart, "epoch"))

    cosine = rows.filter(pl.col("panel").str.starts_with("Cosine"))
    path = cosine.filter(pl.col("arm") == SPREAD.key).sort("epoch")
    assert path["epoch"].to_list() == [0, 10, 20]
    # 1 - .9 (1 - .1 t), less .001 on average over replicates 0 to 2.
    assert path["mean"].to_list() == pytest.approx([0.099, 0.144, 0.189])
    deep = cosine.filter(pl.col("arm") == "deep_ensemble-4")
    assert deep["epoch"].to_list() == [0, 20]
    assert set(cosine["arm"]) == {SPREAD.key, CLOSE.key, "deep_ensemble-4", "negative_control"}
    assert (
        "start at a cosine of 0.10 and end at 0.19; those of 1 of 2 configurations" in figure.claim
    )


def test_tags_at_the_ends_do_not_touch(context: FigureContext) -> None:
    figure = trajectory_figure(context)
    assert figure is not None
    for _, panel in pl.DataFrame(drawn(figure.chart, "epoch")).filter("end").group_by("panel"):
        heights = panel["at"].sort()
        assert heights.null_count() == 0
        assert heights.diff().drop_nulls().min() > 0.02 * heights.max()  # type: ignore[operator]


def test_evidence_stands_between_chance_and_a_member_with_itself(context: FigureContext) -> None:
    figure = evidence_figure(context)
    assert figure is not None
    rows = pl.DataFrame(drawn(figure.chart, "chance")).filter(pl.col("arm") == SPREAD.key)
    found = {
        row["panel"][:12]: (row["chance"], row["mean"], row["same"]) for row in rows.to_dicts()
    }
    # 1 - .9 of the level.
    assert found["Shared units"] == pytest.approx((0.02, 0.01, 0.1))
    assert found["Shared pixel"] == pytest.approx((0.08, 0.04, 0.4))
    assert figure.claim.startswith("In 1 of 2 configurations two members rely on the same pixels")


def test_the_landscape_counts_who_shares_a_basin(run: Run, context: FigureContext) -> None:
    figure = landscape_figure(context)
    assert figure is not None
    rows = pl.DataFrame(drawn(figure.chart, "mark"), infer_schema_length=None)

    means = {(row["arm"], row["panel"][:7]): row["mean"] for row in rows.to_dicts()}
    assert means[SPREAD.key, "Barrier"] == pytest.approx(0.45)
    assert means[DROPOUT.key, "Similar"] == pytest.approx(0.95)
    assert (DROPOUT.key, "Barrier") not in means
    assert rows["mark"].drop_nulls().len() == 0, "the simulated singles have no val_nll"
    assert figure.claim == "What lies between two members"

    known = run.trials.with_columns(val_nll=pl.lit(1.0))
    figure = landscape_figure(context_of(Run(run.folder, known, run.plan)))
    assert figure is not None
    assert figure.claim == (
        "In 1 of 2 configurations no loss barrier separates the members; in the Deep Ensemble it "
        "is 0.50 nats"
    )
    rows = pl.DataFrame(drawn(figure.chart, "mark"), infer_schema_length=None)
    assert rows["mark"].drop_nulls().to_list() == pytest.approx([0.05])
