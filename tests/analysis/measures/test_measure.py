"""Frames of measures from real folders: by hand, and against the metrics they are made of."""

import math
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from analysis import metrics
from analysis.data.predictions import predictions
from analysis.data.run import Run, load
from analysis.measures import measure as module
from analysis.measures.columns import METRICS
from analysis.measures.measure import Measures, measure
from analysis.measures.selection import UNDECLARED
from study import parquet_format
from study.errors import StudyError
from tests.analysis.make_run import (
    DEEP_ENSEMBLE,
    POSITIVE,
    SINGLE,
    Arm,
    Data,
    make_run,
    table,
    trial_row,
)

SMALL = Data(test=30, shift=10, ood=10, severities=2)


def test_columns_are_the_contract(measures: Measures) -> None:
    keys = ["arm", "role", "method", "configuration", "name", "trial", "replicate", "members"]
    assert measures.replicates.columns == keys + list(METRICS)
    assert all(measures.replicates[name].dtype == pl.Float64 for name in METRICS)
    assert measures.severities.columns == [
        *("arm", "replicate", "condition", "severity", "nll", "accuracy", "ece")
    ]
    assert measures.reliability.columns == [
        *("arm", "replicate", "bin", "count", "confidence", "accuracy")
    ]
    assert measures.pairs.columns == ["arm", "i", "j", "disagreement"]
    assert measures.excluded.columns == ["trial", "arm", "stage", "status", "reason"]


def frames(found: Measures) -> dict[str, pl.DataFrame]:
    return {name: own for name, own in vars(found).items() if isinstance(own, pl.DataFrame)}


def assert_finite(found: Measures) -> None:
    for frame in frames(found).values():
        finite = frame.select(pl.col(pl.Float64).is_finite().all(ignore_nulls=True))
        assert all(finite.row(0) if finite.width else [])


def test_nothing_is_nan_or_infinite(measures: Measures) -> None:
    assert_finite(measures)


def test_undefined_is_null(measures: Measures) -> None:
    single = measures.replicates.filter(pl.col("arm") == "single")
    for name in ("disagreement", "kl", "ood_auroc_mi", "cosine", "collapsed_nll"):
        assert single[name].null_count() == single.height
    assert set(single["gain"]) == {0.0}
    assert set(single["mutual_information"]) == {0.0}
    defined = measures.replicates.filter(pl.col("method") == "batchensemble")
    there = [name for name in METRICS if not name.startswith("mean_weights")]
    assert defined.select(there).null_count().row(0) == (0,) * len(there)


def test_rows_are_the_metrics_of_the_files(run: Run, measures: Measures) -> None:
    row = measures.replicates.filter(pl.col("role") == "candidate").row(3, named=True)
    test, shift, ood = (predictions(run, row["trial"], s) for s in ("test", "shift", "ood"))
    logp = metrics.log_softmax(test.logits.astype(float))
    logq = metrics.ensemble(logp)
    assert row["nll"] == metrics.nll(logq, test.labels)
    assert row["brier"] == metrics.brier(logq, test.labels)
    moved = metrics.log_softmax(shift.logits.astype(float))
    # equal cells: the mean over cells is the mean over rows
    assert row["shift_nll"] == pytest.approx(
        metrics.nll(metrics.ensemble(moved), shift.labels), rel=1e-5
    )
    assert row["shift_gain"] == pytest.approx(metrics.gain(moved, shift.labels), rel=1e-5)
    outside = metrics.log_softmax(ood.logits.astype(float))
    assert row["ood_auroc_mi"] == metrics.auroc(
        metrics.mutual_information(logp), metrics.mutual_information(outside)
    )
    cell = (shift.condition == 1) & (shift.severity == 2)
    mean = metrics.ensemble(moved[:, cell])
    found = measures.severities.filter(
        pl.col("arm") == row["arm"],
        pl.col("replicate") == row["replicate"],
        pl.col("condition") == shift.conditions[1],
        pl.col("severity") == 2,
    ).row(0, named=True)
    assert found["nll"] == pytest.approx(metrics.nll(mean, shift.labels[cell]), rel=1e-5)
    assert found["accuracy"] == pytest.approx(metrics.accuracy(mean, shift.labels[cell]))
    assert found["ece"] == pytest.approx(metrics.ece(mean, shift.labels[cell]), rel=1e-4)


def test_frames_are_complete(measures: Measures) -> None:
    arms = measures.replicates["arm"].n_unique()
    assert measures.replicates.height == arms * 6
    assert measures.severities.height == arms * 6 * 6
    assert measures.reliability.height == arms * 6 * 15
    assert measures.pairs.height == (arms - 1) * 6
    assert (measures.pairs["i"] < measures.pairs["j"]).all()
    counts = measures.reliability.group_by("arm", "replicate").agg(pl.col("count").sum())
    assert set(counts["count"]) == {800}


def write(folder: Path, arm: Arm, logits: np.ndarray, labels: list[int]) -> None:
    row = trial_row(arm, 0)
    here = folder / "trials" / row["trial"][0].as_py()
    here.mkdir(parents=True)
    n = len(labels)
    empty = np.full(n, None)
    keys = {
        "label": np.array(labels),
        "example": np.arange(n),
        "condition": empty,
        "severity": empty,
    }
    pq.write_table(table(np.asarray(logits, np.float32), keys), here / "test.parquet")
    pq.write_table(row, here / "trial.parquet")


def test_by_hand(tmp_path: Path) -> None:
    """Two members on one example of class 0: odds 3:1 and 1:1, so p = 3/4, 1/2, mean 5/8."""
    arm = Arm("candidate", "batchensemble", members=2)
    write(tmp_path, arm, [[[math.log(3), 0.0]], [[0.0, 0.0]]], [0])
    row = measure(load(tmp_path)).replicates.row(0, named=True)
    assert row["arm"] == arm.key
    assert row["nll"] == pytest.approx(math.log(8 / 5))
    assert row["member_nll"] == pytest.approx((math.log(4 / 3) + math.log(2)) / 2)
    assert row["gain"] == pytest.approx(row["member_nll"] - row["nll"])
    assert row["brier"] == pytest.approx(2 * (3 / 8) ** 2)
    assert row["ece"] == pytest.approx(3 / 8)
    assert row["accuracy"] == 1
    assert row["disagreement"] == 0
    entropy = -(5 / 8 * math.log(5 / 8) + 3 / 8 * math.log(3 / 8))
    member = -(3 / 4 * math.log(3 / 4) + 1 / 4 * math.log(1 / 4)), math.log(2)
    assert row["predictive_entropy"] == pytest.approx(entropy)
    assert row["mutual_information"] == pytest.approx(entropy - sum(member) / 2)
    # KL(a||b) + KL(b||a) = sum (a - b) log(a / b) = 1/4 log 3/2 + (-1/4) log 1/2 = 1/4 log 3
    assert row["kl"] == pytest.approx(math.log(3) / 8, rel=1e-6)
    assert row["cll"] is None  # no other example to calibrate on
    assert row["shift_nll"] is None


def test_members_with_different_tasks_are_not_compared(tmp_path: Path) -> None:
    arm = Arm("candidate", "split_ensemble", members=1)
    write(tmp_path, arm, [[[math.log(3), 0.0]]], [0])
    file = next(tmp_path.glob("trials/*/trial.parquet"))
    before = measure(load(tmp_path)).replicates.row(0, named=True)
    row = pq.read_table(file, partitioning=None).to_pylist()[0] | {"comparable": False}
    pq.write_table(pa.Table.from_pylist([row], schema=parquet_format.TRIAL), file)
    after = measure(load(tmp_path)).replicates.row(0, named=True)
    assert (before["gain"], after["gain"], after["disagreement"]) == (0, None, None)
    assert after["nll"] == before["nll"]


def test_a_pool_gives_each_size_that_is_needed(tmp_path: Path) -> None:
    arms = [
        SINGLE,
        replace(DEEP_ENSEMBLE, members=5),
        Arm("candidate", "batchensemble", members=2),
        Arm("candidate", "batchensemble", members=4, name="other"),
        Arm("comparison", "mc_dropout", members=8),
        Arm("negative_control", "single", members=1),
    ]
    run = load(make_run(tmp_path, arms, seeds=1, data=SMALL))
    found = measure(run)
    pools = found.replicates.filter(pl.col("role") == "deep_ensemble")
    assert pools["arm"].to_list() == ["deep_ensemble-2", "deep_ensemble-4"]
    assert pools["members"].to_list() == [2, 4]
    logits = predictions(run, pools["trial"][0], "test").logits[:2].astype(float)
    labels = predictions(run, pools["trial"][0], "test").labels
    first_two = metrics.ensemble(metrics.log_softmax(logits))
    assert pools["nll"][0] == pytest.approx(metrics.nll(first_two, labels))
    assert found.pairs.filter(pl.col("arm") == "deep_ensemble-4").height == 6


def test_anchors_alone_use_the_whole_pool(tmp_path: Path) -> None:
    run = load(make_run(tmp_path, [SINGLE, DEEP_ENSEMBLE], seeds=1, data=SMALL))
    assert measure(run).replicates["arm"].to_list() == ["deep_ensemble-4", "single"]


def test_what_is_not_complete_is_listed(tmp_path: Path) -> None:
    arm = Arm("candidate", "batchensemble", failed={1: "diverged"})
    pool = replace(DEEP_ENSEMBLE, failed={0: "failed"})
    found = measure(load(make_run(tmp_path, [pool, arm], seeds=2, data=SMALL, search=10)))
    confirm = found.excluded.filter(pl.col("stage") == "confirm")
    assert confirm.select("arm", "status").rows() == [
        (arm.key, "diverged"),
        ("deep_ensemble", "failed"),
    ]
    assert found.excluded.filter(pl.col("stage") == "search")["status"].to_list() == ["pruned"]
    assert found.replicates.filter(pl.col("arm") == arm.key)["replicate"].to_list() == [0]


def test_trials_before_the_confirm_stage_are_not_measured(tmp_path: Path) -> None:
    folder = make_run(tmp_path, [SINGLE], seeds=2, data=SMALL, search=3)
    for stage in ("rescore", "pilot"):
        row = trial_row(SINGLE, 0, stage)
        here = folder / "trials" / row["trial"][0].as_py()
        here.mkdir()
        pq.write_table(row, here / "trial.parquet")
    found = measure(load(folder))
    assert found.replicates.select("arm", "replicate").rows() == [("single", 0), ("single", 1)]


def test_what_the_plan_does_not_declare_is_not_measured(tmp_path: Path) -> None:
    old = replace(SINGLE, method="older_single")
    make_run(tmp_path, [old], seeds=1, data=SMALL)
    found = measure(load(make_run(tmp_path, [SINGLE], seeds=1, data=SMALL)))
    assert found.replicates["method"].to_list() == ["single"]
    row = found.excluded.row(0, named=True)
    assert (row["status"], row["reason"]) == ("complete", UNDECLARED)
    assert row["arm"] == old.spec(0, "confirm")["configuration"]


def test_two_configurations_of_one_anchor_are_refused(tmp_path: Path) -> None:
    arms = [SINGLE, replace(SINGLE, method="older_single")]
    run = load(make_run(tmp_path, arms, seeds=1, data=SMALL, declare=False))
    with pytest.raises(StudyError, match="single must be one configuration, but is both"):
        measure(run)


def test_two_trials_of_one_replicate_are_refused(tmp_path: Path) -> None:
    run = load(make_run(tmp_path, [SINGLE], seeds=2, data=SMALL))
    twins = replace(run, trials=run.trials.with_columns(replicate=pl.lit(0, pl.Int32)))
    with pytest.raises(StudyError, match="must have one trial of replicate 0, but has"):
        measure(twins)


def test_a_split_is_there_for_all_or_for_none(tmp_path: Path) -> None:
    run = load(make_run(tmp_path, [SINGLE], seeds=2, data=SMALL))
    files = sorted(tmp_path.glob("trials/*/ood.parquet"))
    files[0].unlink()
    with pytest.raises(StudyError, match=r"ood.parquet: must exist, .* others have it"):
        measure(run)
    files[1].unlink()
    found = measure(run).replicates
    assert found["ood_auroc_entropy"].null_count() == 2
    assert found["shift_nll"].null_count() == 0
    next(tmp_path.glob("trials/*/test.parquet")).unlink()
    with pytest.raises(StudyError, match=r"test.parquet: must exist, as the trial is complete"):
        measure(run)


def test_trials_on_other_data_are_refused(tmp_path: Path) -> None:
    make_run(tmp_path, [SINGLE], seeds=1, data=SMALL)
    other = replace(SMALL, seed=1)
    run = load(make_run(tmp_path, [SINGLE, POSITIVE][1:], seeds=1, data=other, declare=False))
    with pytest.raises(StudyError, match=r"test.parquet: labels of a split must be the same"):
        measure(replace(run, plan=None))


def test_no_confirmed_trial_gives_empty_frames(tmp_path: Path) -> None:
    found = measure(load(make_run(tmp_path, [SINGLE], seeds=0, search=3)))
    assert found.replicates.height == 0
    assert found.replicates.columns[-1] == "collapsed_shift_nll"


@pytest.mark.slow
def test_processes_change_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = load(make_run(tmp_path, [SINGLE, DEEP_ENSEMBLE], seeds=2, data=SMALL))
    monkeypatch.setattr(module, "WORTH_A_PROCESS", 1e-6)
    alone = frames(measure(run))
    shutil.rmtree(tmp_path / "features")
    for name, frame in frames(measure(run, workers=2)).items():
        assert frame.equals(alone[name])
