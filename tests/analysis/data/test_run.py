"""Every mistake in a file gets one line that names file, rule, value and remedy."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from analysis.data.predictions import predictions, refuse_other_rows
from analysis.data.protocol import PlannedArm, Protocol
from analysis.data.run import Run, load
from study import parquet_format
from study.errors import StudyError
from tests.analysis.make_run import SINGLE, Arm, Data, make_run, table, trial_row, write_trial

ARM = Arm("candidate", "batchensemble", members=3, diversity=0.5)
DATA = Data(test=20, shift=5, ood=8, classes=4, severities=2)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_trial(tmp_path, ARM, DATA, 0)
    return tmp_path


def trial_of(folder: Path) -> Path:
    return next((folder / "trials").iterdir())


def read(folder: Path, split: str = "test") -> object:
    run = load(folder)
    return predictions(run, run.trials["trial"][0], split)


def change(folder: Path, edit: Callable[[pa.Table], pa.Table], split: str = "test") -> None:
    file = trial_of(folder) / f"{split}.parquet"
    pq.write_table(edit(pq.read_table(file)), file)


def put(column: str, at: int, value: object) -> Callable[[pa.Table], pa.Table]:
    """Return an edit that changes one value."""

    def edit(rows: pa.Table) -> pa.Table:
        values = rows[column].to_pylist()
        values[at] = value
        where = rows.schema.get_field_index(column)
        new = pa.array(values, rows.schema.field(column).type)
        return rows.set_column(where, rows.schema.field(column).with_nullable(True), new)

    return edit


def test_predictions_are_the_stored_ones(folder: Path) -> None:
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(3, 10, 4)).astype(np.float32)
    keys = {name: key[:10] for name, key in DATA.keys("shift").items()}
    pq.write_table(table(logits, keys), trial_of(folder) / "shift.parquet")
    found = read(folder, "shift")
    np.testing.assert_array_equal(found.logits, logits)
    np.testing.assert_array_equal(found.labels, keys["label"])
    np.testing.assert_array_equal(found.example, keys["example"])
    np.testing.assert_array_equal(found.severity, keys["severity"])
    assert [found.conditions[c] for c in found.condition] == keys["condition"].tolist()


def test_nothing_is_copied_beyond_the_cast(folder: Path) -> None:
    assert read(folder).logits.base is not None


def test_missing_values_have_their_marks(folder: Path) -> None:
    ood = read(folder, "ood")
    assert set(ood.labels) == {-1}
    assert ood.conditions == ("letters",)
    assert set(ood.severity) == {0}
    test = read(folder)
    assert set(test.condition) == {-1}
    assert test.conditions == ()


def test_half_precision_is_read(folder: Path) -> None:
    full = read(folder).logits
    change(folder, lambda t: t.cast(parquet_format.predictions(4, "float16")))
    np.testing.assert_allclose(read(folder).logits, full, rtol=1e-3)


def test_an_uncommitted_trial_is_ignored(folder: Path) -> None:
    other = write_trial(folder, ARM, DATA, 1)
    (other / "trial.parquet").unlink()
    assert load(folder).trials.height == 1


def test_trials_keep_the_schema(folder: Path) -> None:
    write_trial(folder, SINGLE, DATA, 0)
    trials = load(folder).trials
    assert trials.columns == parquet_format.TRIAL.names
    assert trials["trial"].to_list() == sorted(trials["trial"])


def drop_version(rows: pa.Table) -> pa.Table:
    return rows.replace_schema_metadata({})


def later_version(rows: pa.Table) -> pa.Table:
    return rows.replace_schema_metadata({parquet_format.VERSION_KEY: b"99"})


def reorder(rows: pa.Table) -> pa.Table:
    """Swap two examples of member 1 alone."""
    order = np.arange(60)
    order[[20, 21]] = 21, 20
    return rows.take(pa.array(order))


def one_row_short(rows: pa.Table) -> pa.Table:
    return rows.slice(0, 59)


def twice(rows: pa.Table) -> pa.Table:
    """Give every member the same example twice."""
    return rows.filter(pc.field("example") < 10).take(
        pa.array(np.tile(np.r_[np.arange(10), 0], 3) + np.repeat([0, 10, 20], 11))
    )


BROKEN = {
    "no version": (drop_version, "no key 'schema_version'"),
    "later version": (later_version, "version must be 4 or 5, but is 99"),
    "missing column": (lambda t: t.drop(["label"]), "missing: label, unknown: none"),
    "unknown column": (lambda t: t.append_column("x", t["member"]), "unknown: x"),
    "wrong type": (
        lambda t: t.set_column(1, "example", t["example"].cast(pa.int64())),
        "column example must be int32, but is int64",
    ),
    "float64 logits": (
        lambda t: t.set_column(5, "logits", t["logits"].cast(pa.list_(pa.float64(), 4))),
        "column logits must be a list of float16 or float32",
    ),
    "null example": (put("example", 3, None), "column example must have no null, but has 1"),
    "members from 1": (
        lambda t: t.set_column(0, t.field("member"), pc.add(t["member"], 1).cast(pa.int16())),
        "members must be 0 to M-1 in order, but are 1, 2, 3",
    ),
    "members mixed": (
        lambda t: t.take(pa.array(np.arange(60).reshape(3, 20).T.ravel())),
        "members must be 0 to M-1 in order, but are 0, 1, 2, 0",
    ),
    "unequal rows": (
        one_row_short,
        "every member must have as many rows, but they have 20, 20, 19",
    ),
    "fewer members": (lambda t: t.slice(0, 40), "the trial's 3 members, but holds 2"),
    "empty": (lambda t: t.slice(0, 0), "must have rows, but is empty"),
    "other order": (reorder, "column example of member 1 differs from member 0's"),
    "other label": (put("label", 21, 3), "column label of member 1 differs"),
    "duplicate": (twice, "example 0 stands 2 times"),
    "NaN": (put("logits", 7, [0.0, float("nan"), 0.0, 0.0]), "but 1 are NaN or infinite"),
    "infinite": (put("logits", 7, [0.0, float("-inf"), 0.0, 1.0]), "but 1 are NaN or infinite"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_file_is_refused(folder: Path, name: str) -> None:
    read(folder)
    edit, message = BROKEN[name]
    change(folder, lambda t: edit(put("label", 1, 2)(t)) if name == "other label" else edit(t))
    with pytest.raises(StudyError) as error:
        read(folder)
    assert message in str(error.value)
    assert "test.parquet" in str(error.value)
    assert "; " in str(error.value)


@pytest.mark.parametrize(
    ("label", "message"),
    [
        (4, "labels must be 0 to 3, but one is 4"),
        (-1, "labels must be 0 to 3, but one is -1"),
        (None, "labels may be null only out of distribution, but 3 are"),
    ],
)
def test_labels_are_classes(folder: Path, label: int | None, message: str) -> None:
    def edit(rows: pa.Table) -> pa.Table:
        for member in range(3):
            rows = put("label", 20 * member, label)(rows)
        return rows

    change(folder, edit)
    with pytest.raises(StudyError, match=message):
        read(folder)


@pytest.mark.parametrize("name", ["trial", "test"])
def test_a_cut_file_is_refused(folder: Path, name: str) -> None:
    file = trial_of(folder) / f"{name}.parquet"
    file.write_bytes(file.read_bytes()[:-30])
    with pytest.raises(StudyError, match=rf"{name}.parquet: must be whole Parquet.*; delete"):
        read(folder)


def test_damage_inside_a_file_is_refused(folder: Path) -> None:
    file = trial_of(folder) / "test.parquet"
    content = bytearray(file.read_bytes())
    content[4:400] = b"\xff" * 396
    file.write_bytes(content)
    with pytest.raises(StudyError, match=r"test.parquet: must be whole Parquet"):
        read(folder)


def test_a_missing_file_is_refused(folder: Path) -> None:
    (trial_of(folder) / "test.parquet").unlink()
    with pytest.raises(StudyError, match=r"test.parquet: the file must exist"):
        read(folder)


def test_an_empty_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(StudyError, match=r"must hold trials/<trial>/trial.parquet"):
        load(tmp_path)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"role": "boss"}, "role must be one of candidate, .* but is 'boss'"),
        (
            {"stage": "final"},
            "stage must be one of search, rescore, anchor, pilot, confirm, but is 'final'",
        ),
        ({"status": "done"}, "status must be one of complete, .* but is 'done'"),
        ({"trial": "another"}, "trial must be the folder's name, but is 'another'"),
    ],
)
def test_a_wrong_row_is_refused(folder: Path, values: dict[str, str], message: str) -> None:
    row = trial_row(ARM, 0, **values)
    pq.write_table(row, trial_of(folder) / "trial.parquet")
    with pytest.raises(StudyError, match=message):
        load(folder)


def test_a_row_of_another_type_is_refused(folder: Path) -> None:
    row = trial_row(ARM, 0)
    at = row.schema.get_field_index("members")
    row = row.set_column(at, "members", pa.array(["three"]))
    pq.write_table(row, trial_of(folder) / "trial.parquet")
    with pytest.raises(StudyError, match=r"must have the types of study/parquet_format.py"):
        load(folder)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "plan.json: must be JSON"),
        ("[]", "must be a JSON object"),
        ('{"study": "x"}', "protocol must be there, but is missing; restore the file"),
    ],
)
def test_a_broken_plan_is_refused(folder: Path, text: str, message: str) -> None:
    (folder / "plan.json").write_text(text)
    with pytest.raises(StudyError, match=message):
        load(folder)


def test_a_plan_is_read(tmp_path: Path) -> None:
    folder = make_run(tmp_path, arms=[SINGLE], seeds=1, data=DATA)
    content = json.loads((folder / "plan.json").read_text())
    plan = load(folder).plan
    assert plan is not None
    arm = PlannedArm("single", "single", SINGLE.spec(0, "confirm")["configuration"], None, 1)
    assert plan.arms == (replace(arm, reason="anchor"),)
    assert plan.hash == plan.content_hash == content["hash"]
    assert (plan.study, plan.declared) == ("simulated", content["declared"])
    assert plan.protocol == Protocol(seeds=1)
    assert plan.tuning == content["tuning"]


def test_a_plan_of_an_earlier_version_is_read(tmp_path: Path) -> None:
    folder = make_run(tmp_path, arms=[SINGLE], seeds=1, data=DATA)
    content = json.loads((folder / "plan.json").read_text())
    for key in ("declared", "tuning"):
        del content[key]
    for key in ("reason", "stratum"):
        del content["arms"][0][key]
    (folder / "plan.json").write_text(json.dumps(content))
    plan = load(folder).plan
    assert plan is not None
    assert (plan.tuning, plan.revised, plan.arms[0].reason) == (None, 0, None)
    assert plan.content_hash != plan.hash  # The arms are part of it.


def test_trials_on_other_rows_are_refused(folder: Path) -> None:
    same, relabelled = read(folder).fingerprints(), read(folder, "shift").fingerprints()
    refuse_other_rows([("a.parquet", same), ("b.parquet", same)])
    with pytest.raises(StudyError, match=r"b.parquet: labels .* differ from a.parquet"):
        refuse_other_rows(
            [("a.parquet", same), ("b.parquet", same | {"labels": relabelled["labels"]})]
        )


def test_an_unknown_trial_is_refused(run: Run) -> None:
    with pytest.raises(StudyError, match=r"does-not-exist.*must exist"):
        predictions(run, "does-not-exist", "test")
