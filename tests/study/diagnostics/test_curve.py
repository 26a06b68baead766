"""The learning curve of a trial, and that looking at a training leaves it as it is."""

import math

import polars as pl
import pyarrow.parquet as pq
import pytest
import torch

from study import backbones, parquet_format
from study.diagnostics import curve
from study.plugins import load_plugin, names
from study.run_folder.store import CURVE, RunFolder
from study.spec import Execution
from study.training.batches import Splits
from study.training.fit import lr_factor
from study.trials import trial

METHODS = names("study.methods")

BE = {"members": 3, "init": "normal", "init_std": 0.5}


def ran(specs, data, folder, **options):
    store = RunFolder(folder)
    store.create()
    trial.run_trials(
        specs, data, store, fingerprint=data.fingerprint, execution=Execution(**options)
    )
    return store


def curve_of(store, spec):
    return pl.from_arrow(pq.read_table(store.folder(spec.trial) / CURVE))


@pytest.mark.parametrize("method", METHODS)
def test_a_watched_training_is_the_same_as_one_that_is_not(
    make_spec, data, tmp_path, monkeypatch, method
):
    params = load_plugin("study.methods", method).EXAMPLES[0]
    mlp = {"name": "mlp", "width": 16, "dropout": 0.2, "norm": "batch"}
    backbone = backbones.parameters(mlp).model_dump()
    spec = make_spec(method, params, {"epochs": 4}, stage="search", backbone=backbone)
    watched = ran([spec], data, tmp_path / "watched")
    monkeypatch.setattr(curve.Curve, "record", lambda *_: None)
    plain = ran([spec], data, tmp_path / "plain")
    assert curve_of(watched, spec)["val_nll"].null_count() == 0
    assert len(curve_of(plain, spec)) == 0
    theirs = [pq.read_table(s.folder(spec.trial) / "val.parquet") for s in (watched, plain)]
    assert theirs[0].equals(theirs[1])


def test_a_curve_has_every_epoch_and_ends_where_the_trial_does(make_spec, data, tmp_path):
    spec = make_spec("batch_ensemble", BE, stage="search")
    store = ran([spec], data, tmp_path)
    found, row = curve_of(store, spec), store.row(spec.trial)
    assert found["epoch"].to_list() == list(range(1, spec.training.epochs + 1))
    assert found["part"].null_count() == len(found)
    last = found.row(-1, named=True)
    assert last["val_nll"] == pytest.approx(row.val_nll, abs=1e-6)
    assert last["val_members_nll"] == pytest.approx(row.val_nll + row.val_gain, abs=1e-6)


def test_the_learning_rate_is_that_of_the_schedule(make_spec, data, tmp_path):
    training = {"epochs": 4, "schedule": "cosine", "lr": 0.1, "warmup": 0.0}
    spec = make_spec(stage="search", training=training)
    size = min(spec.training.batch_size, len(data.train[1]))
    steps = len(data.train[1]) // size
    found = curve_of(ran([spec], data, tmp_path), spec)
    expected = [
        0.1 * lr_factor((epoch + (steps - 1) / steps) / 4, "cosine", 0.0) for epoch in range(4)
    ]
    assert found["lr"].to_list() == pytest.approx(expected)


def test_members_trained_one_by_one_have_a_curve_each(make_spec, data, tmp_path):
    spec = make_spec("deep_ensemble", {"members": 3}, stage="search")
    together = ran([spec], data, tmp_path / "together")
    apart = ran([spec], data, tmp_path / "apart", stack=1)
    each, one = curve_of(apart, spec), curve_of(together, spec)
    assert each["part"].to_list() == [0] * 2 + [1] * 2 + [2] * 2
    members = each.group_by("epoch").agg(pl.col("val_members_nll", "loss").mean()).sort("epoch")
    for column in ("val_members_nll", "loss"):
        assert members[column].to_list() == pytest.approx(one[column].to_list(), rel=1e-4)
    assert (one["val_nll"] < one["val_members_nll"]).all()


def test_replicates_trained_as_one_have_their_own_curves(make_spec, data, tmp_path):
    specs = [make_spec(stage="search", replicate=n, seed=n) for n in range(3)]
    store, alone = ran(specs, data, tmp_path / "one"), ran([specs[1]], data, tmp_path / "alone")
    as_one, expected = curve_of(store, specs[1]), curve_of(alone, specs[1])
    for column in ("val_nll", "loss", "lr"):
        assert as_one[column].to_list() == pytest.approx(expected[column].to_list(), rel=1e-4)
    assert len({curve_of(store, spec)["loss"][-1] for spec in specs}) == 3


def test_a_long_training_is_looked_at_ten_times(make_spec, data, tmp_path):
    spec = make_spec(stage="search", training={"epochs": 40})
    found = curve_of(ran([spec], data, tmp_path), spec)
    assert found["loss"].null_count() == 0
    assert found["val_nll"].count() == 10
    assert found["val_nll"][-1] is not None


def test_what_is_not_finite_is_null(tmp_path):
    store = RunFolder(tmp_path)
    store.create()
    store.write_curve("a1", [parquet_format.CurveRow(1, None, 0.1, 2.0, math.inf, math.nan)])
    table = pq.read_table(store.folder("a1") / CURVE)
    assert table.schema.equals(parquet_format.CURVE, check_metadata=True)
    assert table.to_pylist()[0]["val_nll"] is table.to_pylist()[0]["val_members_nll"] is None


def test_random_numbers_drawn_while_looking_are_given_back(data):
    class Noisy(torch.nn.Module):
        members = 1

        def forward(self, x):
            return torch.rand(1, len(x), data.classes)

    found = curve.Curve(1, Splits(data, torch.device("cpu")).watched)
    torch.manual_seed(1)
    expected = torch.rand(3)
    torch.manual_seed(1)
    found.record(curve.EpochDone(1, 1.0, 0.1), Noisy())
    assert found.rows[0].val_nll is not None
    assert torch.equal(torch.rand(3), expected)
