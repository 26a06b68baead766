"""One trial's numbers: against the metrics on whole arrays, by hand, and on degenerate input."""

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from analysis import metrics
from analysis.data.predictions import predictions
from analysis.data.run import Run, load
from analysis.measures import metrics_per_split
from analysis.measures.columns import METRICS
from analysis.measures.measure import Measures, measure
from analysis.measures.trial import Task, measure_trial
from tests.analysis.make_run import DEEP_ENSEMBLE, SINGLE, Arm, Data, make_run, table

ARM = Arm("candidate", "batchensemble", members=3, diversity=0.6)
ARMS = [SINGLE, DEEP_ENSEMBLE, ARM]
DATA = Data(test=53, shift=31, ood=40, classes=4, severities=2)
SPLITS = ("test", "shift", "ood")


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Run:
    folder = make_run(tmp_path_factory.mktemp("small"), ARMS, seeds=2, data=DATA)
    for file in folder.glob("trials/*/shift.parquet"):
        uneven(file)
    for file in folder.glob("trials/*/collapsed_shift.parquet"):
        uneven(file)
    return load(folder)


def uneven(file: Path) -> None:
    """Give the cells different sizes: every second example of one, and all of it in another."""
    rows = pq.read_table(file)
    severity, example = rows["severity"].to_numpy(), rows["example"].to_numpy()
    cut = (severity == 2) & (example % 2 == 0)
    cut |= (severity == 1) & (example == 30) & (np.array(rows["condition"]) == "rotation")
    pq.write_table(rows.filter(pa.array(~cut)), file)


@pytest.fixture(scope="module")
def found(small: Run) -> Measures:
    return measure(small)


def trial_of(found: Measures, arm: str) -> str:
    return str(found.replicates.filter(pl.col("arm") == arm)["trial"][0])


def test_blocks_change_nothing(small: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    trial = small.trials.filter(pl.col("method") == "batchensemble")["trial"][0]
    task = Task(trial, 3, (2, 3), SPLITS, curve=True)
    whole = measure_trial(small, task)
    monkeypatch.setattr(metrics_per_split, "BLOCK", 60)
    parts = measure_trial(small, task)
    for size in ("2", "3"):
        a, b = (m.scalars["sizes"][size]["values"] for m in (whole, parts))
        assert a == pytest.approx(b, rel=1e-12)
    assert whole.scalars["fingerprints"] == parts.scalars["fingerprints"]
    assert np.array_equal(whole.examples[3].values["nll"], parts.examples[3].values["nll"])


def test_columns_are_the_metrics_on_whole_arrays(small: Run, found: Measures) -> None:
    row = found.replicates.filter(pl.col("arm") == ARM.key).row(0, named=True)
    test = predictions(small, row["trial"], "test")
    y = test.labels
    logp = metrics.log_softmax(test.logits.astype(float))
    logq = metrics.ensemble(logp)
    choice = logp.argmax(-1)
    wrong = choice != y
    parts = metrics.brier_decomposition(logq, y)
    unsure, missed = -logq.max(-1), logq.argmax(-1) != y
    expected = {
        "brier_reliability": parts.reliability,
        "brier_resolution": parts.resolution,
        "adaptive_ece": metrics.adaptive_ece(logq, y),
        "classwise_ece": metrics.classwise_ece(logq, y),
        "aleatoric_entropy": metrics.aleatoric_entropy(logp).mean(),
        "mutual_information": metrics.mutual_information(logp).mean(),
        "normalised_disagreement": metrics.normalised_disagreement(choice, y, 4),
        "kl": metrics.pairwise_kl(logp),
        "js": metrics.pairwise_js(logp),
        "error_correlation": metrics.error_correlation(wrong),
        "q_statistic": metrics.q_statistic(wrong),
        "double_fault": metrics.double_fault(wrong),
        "member_nll": metrics.member_nll(logp, y),
        "member_accuracy": np.mean([metrics.accuracy(p, y) for p in logp]),
        "aurc": metrics.aurc(unsure, missed),
        "augrc": metrics.augrc(unsure, missed),
        "cll": metrics.cll(logq, y),
    }
    assert {name: row[name] for name in expected} == pytest.approx(expected, rel=1e-9)


def test_detection_is_the_mean_over_sets(small: Run, found: Measures, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    trial = trial_of(found, ARM.key)
    shutil.copytree(small.folder / "trials" / trial, folder / "trials" / trial)
    file = folder / "trials" / trial / "ood.parquet"
    ood = pq.read_table(file)
    names = np.where(ood["example"].to_numpy() < 25, "far", "near").tolist()
    pq.write_table(ood.set_column(3, ood.field("condition"), pa.array(names)), file)
    row = measure(load(folder)).replicates.row(0, named=True)
    test, out = (predictions(small, trial, split) for split in ("test", "ood"))
    inside, outside = (metrics.log_softmax(d.logits.astype(float)) for d in (test, out))
    scores = {
        "entropy": lambda logp: metrics.predictive_entropy(metrics.ensemble(logp)),
        "msp": lambda logp: 1 - np.exp(metrics.ensemble(logp)).max(-1),
        "mi": metrics.mutual_information,
    }
    measures = {"auroc": metrics.auroc, "aupr": metrics.aupr, "fpr95": metrics.fpr95}
    for score, by in scores.items():
        sets = by(outside)[:25], by(outside)[25:]
        for name, of in measures.items():
            expected = np.mean([of(by(inside), own) for own in sets])
            assert row[f"ood_{name}_{score}"] == pytest.approx(expected), (name, score)


def test_shifted_measures_are_means_over_uneven_cells(small: Run, found: Measures) -> None:
    row = found.replicates.filter(pl.col("arm") == ARM.key).row(0, named=True)
    shift = predictions(small, row["trial"], "shift")
    logp = metrics.log_softmax(shift.logits.astype(float))
    cells = [
        (shift.condition == c) & (shift.severity == s)
        for c in np.unique(shift.condition)
        for s in (1, 2)
    ]
    assert len({cell.sum() for cell in cells}) == 3
    for name, of in {
        "nll": lambda p, y: metrics.nll(metrics.ensemble(p), y),
        "gain": metrics.gain,
        "mutual_information": lambda p, _: metrics.mutual_information(p).mean(),
        "disagreement": lambda p, _: metrics.disagreement(p.argmax(-1), 4),
    }.items():
        expected = np.mean([of(logp[:, cell], shift.labels[cell]) for cell in cells])
        assert row[f"shift_{name}"] == pytest.approx(expected, rel=1e-5), name


def test_examples_add_up_to_the_measures(found: Measures) -> None:
    for (arm,), own in found.replicates.sort("replicate").group_by("arm", maintain_order=True):
        values = found.examples(str(arm))
        assert values is not None
        assert values.replicates == own["replicate"].to_list()
        assert set(values.values) == {"cll", "nll", "gain", "shift_nll", "shift_gain"}
        for key, each in values.values.items():
            weights = values.weights[key]
            assert each.dtype == weights.dtype == np.float32
            assert each.shape == (2, len(weights))
            mean = each.sum(1, dtype=np.float64) / weights.sum(dtype=np.float64)
            assert mean == pytest.approx(own[key].to_numpy(), rel=1e-6, abs=1e-9), (arm, key)
        assert values.weights["shift_nll"].sum() == pytest.approx(1, rel=1e-6)
        assert [len(values.weights[key]) for key in ("cll", "shift_gain")] == [53, 31]


def test_examples_have_one_order_whatever_the_file_has(small: Run, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    shutil.copytree(small.folder / "trials", folder / "trials")
    order = np.random.default_rng(0).permutation(53)
    for file in folder.glob("trials/*/*test.parquet"):
        rows = pq.read_table(file)
        members = rows.num_rows // 53
        pq.write_table(rows.take((np.arange(members)[:, None] * 53 + order).ravel()), file)
    before, after = (measure(load(f)).examples("single") for f in (small.folder, folder))
    assert before is not None
    assert after is not None
    np.testing.assert_array_equal(before.values["nll"], after.values["nll"])


def test_an_example_may_stand_under_several_conditions(tmp_path: Path) -> None:
    folder = make_run(tmp_path, [SINGLE], seeds=1, data=DATA)
    file = next(folder.glob("trials/*/test.parquet"))
    rows = pq.read_table(file)
    example, condition = np.arange(53) // 2, np.where(np.arange(53) % 2, "a", "b").tolist()
    for name, values in (("example", example), ("condition", condition)):
        at = rows.schema.get_field_index(name)
        rows = rows.set_column(at, rows.schema.field(name), pa.array(values, rows[name].type))
    pq.write_table(rows, file)
    found = measure(load(folder))
    values = found.examples("single")
    assert values is not None
    assert values.values["nll"].mean() == pytest.approx(found.replicates["nll"][0], rel=1e-6)


def test_the_curve_is_the_pool_as_it_grows(small: Run, found: Measures) -> None:
    assert found.curve.columns == ["arm", "replicate", "members", "cll", "nll"]
    assert found.curve["members"].to_list() == [1, 2, 3, 4] * 2
    assert set(found.curve["arm"]) == {"deep_ensemble"}
    test = predictions(small, trial_of(found, "deep_ensemble-3"), "test")
    logp = metrics.log_softmax(test.logits.astype(float))
    own = found.curve.filter(pl.col("replicate") == 0)
    for size in range(1, 5):
        logq = metrics.ensemble(logp[:size])
        assert own["nll"][size - 1] == pytest.approx(metrics.nll(logq, test.labels), rel=1e-12)
        cll = metrics.cll(logq, test.labels)
        assert own["cll"][size - 1] == pytest.approx(cll, rel=1e-9)
    three = found.replicates.filter(pl.col("arm") == "deep_ensemble-3")
    at = found.curve.filter(pl.col("members") == 3)
    assert at["cll"].to_list() == three["cll"].to_list()


def test_corruption_errors_are_relative_to_the_single_model(found: Measures) -> None:
    error = found.severities.with_columns(error=1 - pl.col("accuracy"))
    sums = error.group_by("arm", "replicate", "condition").agg(pl.col("error").sum())
    single = sums.filter(pl.col("arm") == "single").group_by("condition")
    reference = single.agg(base=pl.col("error").mean())
    ratio = sums.join(reference, on="condition").with_columns(r=pl.col("error") / pl.col("base"))
    expected = ratio.group_by("arm", "replicate").agg(expected=pl.col("r").mean())
    both = found.replicates.join(expected, on=["arm", "replicate"])
    assert both["mce"].to_list() == pytest.approx(both["expected"].to_list())
    assert both.filter(pl.col("arm") == "single")["mce"].mean() == pytest.approx(1)


# --- degenerate input


def rewrite(folder: Path, logits_of: Callable[[np.ndarray, dict], np.ndarray]) -> None:
    """Replace every trial's logits by what is made of them and the rows' keys."""
    for file in folder.glob("trials/*/*.parquet"):
        if file.stem.endswith(("test", "shift", "ood")):
            rows = pq.read_table(file)
            members = rows["member"][-1].as_py() + 1
            classes = rows.schema.field("logits").type.list_size
            flat = rows["logits"].combine_chunks().flatten().to_numpy()
            n = rows.num_rows // members
            names = ("label", "example", "condition", "severity")
            keys = {name: np.array(rows[name].to_pylist()[:n], object) for name in names}
            new = logits_of(flat.reshape(members, n, classes).copy(), keys)
            pq.write_table(table(new, keys), file)


def certain(logits: np.ndarray, keys: dict) -> np.ndarray:
    """Every member is right and sure."""
    right = np.array([0 if label is None else label for label in keys["label"]])
    return 80.0 * (np.arange(logits.shape[-1]) == right[:, None]) + 0 * logits


DEGENERATE: dict[str, tuple[Data, Callable[[np.ndarray, dict], np.ndarray]]] = {
    "all equal": (DATA, lambda logits, _: 0 * logits),
    "identical members": (DATA, lambda logits, _: np.repeat(logits[:1], len(logits), 0)),
    "no errors": (DATA, certain),
    "only errors": (DATA, lambda logits, keys: -certain(logits, keys)),
    "huge logits": (DATA, lambda logits, _: np.sign(logits) * 1e9),
    "one example": (
        Data(test=1, shift=1, ood=1, classes=3, severities=1),
        lambda logits, _: logits,
    ),
    "one class": (
        Data(test=9, shift=5, ood=4, classes=1, severities=1),
        lambda logits, _: logits,
    ),
}


@pytest.mark.parametrize("name", DEGENERATE)
def test_degenerate_input_gives_numbers_or_nulls(tmp_path: Path, name: str) -> None:
    data, logits_of = DEGENERATE[name]
    folder = make_run(tmp_path, ARMS, seeds=2, data=data)
    rewrite(folder, logits_of)
    found = measure(load(folder))
    for frame in (own for own in vars(found).values() if isinstance(own, pl.DataFrame)):
        finite = frame.select(pl.col(pl.Float64).is_finite().all(ignore_nulls=True))
        assert all(finite.row(0) if finite.width else [])
    for arm in found.replicates["arm"].unique():
        values = found.examples(arm)
        assert values is not None
        assert all(np.isfinite(own).all() for own in values.values.values())
    always = ("nll", "brier", "accuracy", "gain", "shift_nll", "shift_gain", "ood_auroc_entropy")
    assert found.replicates.select(always).null_count().sum_horizontal().item() == 0
    assert found.replicates.columns[-len(METRICS) :] == list(METRICS)


def test_what_equal_members_say_is_zero(tmp_path: Path) -> None:
    folder = make_run(tmp_path, ARMS, seeds=2, data=DATA)
    rewrite(folder, DEGENERATE["identical members"][1])
    found = measure(load(folder)).replicates
    zero = ("gain", "mutual_information", "shift_gain", "shift_mutual_information")
    assert found.select(pl.col(zero).abs().max()).row(0) == pytest.approx([0] * 4, abs=1e-12)
    several = found.filter(pl.col("members") > 1)
    for name in ("disagreement", "normalised_disagreement", "js", "shift_disagreement"):
        assert several[name].to_list() == pytest.approx([0] * several.height, abs=1e-12), name
