"""One trial from spec to committed files."""

import gc
import math
import time
import weakref
from dataclasses import replace

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from study import backbones, parquet_format
from study.diagnostics.cost import Flops
from study.diagnostics.objectives import log_ensemble, nll, objectives
from study.diagnostics.weight_trajectory import weight_cosine
from study.methods import batch_ensemble, single
from study.run_folder.paths import StoreError
from study.run_folder.store import CURVE, GEOMETRY, ROW, RunFolder
from study.spec import Execution
from study.trials import trial
from study.trials.trial import build, refusal, run_trials

BE = {"members": 3, "init": "normal", "init_std": 0.5}


@pytest.fixture
def store(tmp_path):
    store = RunFolder(tmp_path / "run")
    store.create()
    return store


def run(spec, data, store, **options):
    return run_trials([spec], data, store, fingerprint=data.fingerprint, **options)[0]


def test_a_confirm_trial_leaves_test_shift_and_ood(make_spec, data, store):
    spec = make_spec("batch_ensemble", BE)
    row = run(spec, data, store, name="mine")
    files = {p.name for p in store.folder(spec.trial).iterdir()}
    assert files == {
        ROW, GEOMETRY, CURVE, "test.parquet", "shift.parquet", "ood.parquet",
        "collapsed_test.parquet", "collapsed_shift.parquet",
        "mean_weights_test.parquet", "mean_weights_shift.parquet",
    }  # fmt: skip
    assert row.status == "complete"
    assert (row.members, row.name, row.epochs) == (3, "mine", 2)
    assert store.row(spec.trial).spec == spec.to_json()


def test_a_search_trial_keeps_val_alone(make_spec, data, store):
    spec = make_spec(stage="search")
    row = run(spec, data, store)
    assert {p.name for p in store.folder(spec.trial).iterdir()} == {ROW, CURVE, "val.parquet"}
    assert math.isfinite(row.val_nll + row.val_shift_nll)
    assert row.val_gain == 0


def test_predictions_have_the_published_schema_and_order(make_spec, data, store):
    spec = make_spec("batch_ensemble", BE)
    run(spec, data, store, execution=Execution(precision="float32"))
    for split, rows in (("test", len(data.test[1])), ("shift", len(data.shift.labels))):
        table = pq.read_table(store.folder(spec.trial) / f"{split}.parquet")
        published = parquet_format.predictions(10, "float32")
        assert table.schema.equals(published)
        assert table.schema.metadata == published.metadata
        np.testing.assert_array_equal(table["member"], np.repeat(np.arange(3), rows))
        for m in range(3):
            part = table.slice(m * rows, rows)
            labels = data.test[1] if split == "test" else data.shift.labels
            np.testing.assert_array_equal(part["label"], labels)
            if split == "shift":
                for key in ("example", "condition", "severity"):
                    np.testing.assert_array_equal(part[key], getattr(data.shift, key))
    ood = pq.read_table(store.folder(spec.trial) / "ood.parquet")
    assert ood["label"].null_count == len(ood) == 3 * 50
    assert set(ood["condition"].to_pylist()) == {"photo_patches"}


@pytest.mark.parametrize("stage", ["search", "confirm"])
def test_the_test_set_has_no_part_in_what_is_known_before_it_is_opened(
    make_spec, data, tmp_path, stage
):
    shift = replace(data.shift, images=np.zeros_like(data.shift.images))
    blank = replace(data, test=(np.zeros_like(data.test[0]), data.test[1]), shift=shift, ood={})
    backbone = backbones.parameters({"name": "mlp", "width": 16, "norm": "batch"}).model_dump()
    spec = make_spec("batch_ensemble", BE | {"norm": "member"}, backbone=backbone, stage=stage)
    found = []
    for dataset in (data, blank):
        own = RunFolder(tmp_path / dataset.fingerprint)
        row = run(spec, dataset, own)
        values = [
            getattr(row, key) for key in ("val_nll", "val_shift_nll", "val_gain", "val_accuracy")
        ]
        file = own.folder(spec.trial) / GEOMETRY
        geometry = pq.read_table(file).to_pylist() if file.exists() else []
        # Evidence alone is looked for in test images.
        found.append((values, [r for r in geometry if not r["quantity"].startswith("evidence")]))
    assert found[0] == found[1]
    assert all(value is not None for value in found[0][0])


def test_stored_logits_are_the_models(make_spec, data, store):
    spec = make_spec(stage="search")
    row = run(spec, data, store, execution=Execution(precision="float32"))
    table = pq.read_table(store.folder(spec.trial) / "val.parquet")
    logits = torch.tensor(np.stack(table["logits"].to_numpy()))
    assert nll(logits[None], torch.tensor(data.val[1])) == pytest.approx(row.val_nll)


def test_half_precision_gives_way_to_overflow(make_spec, data, store):
    from study.trials.predictions import clean_table

    logits = torch.full((1, 4, 3), 1e5)
    table = clean_table(logits, np.zeros(4, dtype=np.int64), "float16")
    assert table.schema.field("logits").type.value_type == parquet_format.pa.float32()


@pytest.mark.parametrize("several", [False, True])
def test_the_same_specs_are_read_not_run(make_spec, data, store, several):
    specs, epochs = stacked(make_spec)[: 3 if several else 1], []
    options = {"fingerprint": data.fingerprint, "on_epoch": epochs.append}
    run_trials(specs, data, store, **options)
    assert epochs == [1, 2]
    first = [store.row(spec.trial) for spec in specs]
    assert run_trials(specs, data, store, **options) == first
    assert epochs == [1, 2]


def test_a_store_that_fails_is_no_fault_of_the_trial(make_spec, data, tmp_path):
    class Failing(RunFolder):
        def write_predictions(self, *content):
            raise StoreError(5, "the store does not answer")

    spec, store = make_spec(), Failing(tmp_path / "run")
    with pytest.raises(StoreError):
        run(spec, data, store)
    assert store.row(spec.trial) is None


def test_a_trial_is_the_same_bit_for_bit(make_spec, data, store, tmp_path):
    spec = make_spec("batch_ensemble", BE)
    other = RunFolder(tmp_path / "other")
    run(spec, data, store)
    torch.rand(3)
    run(spec, data, other)
    for name in ("test", "shift", "ood", "collapsed_test", "mean_weights_test", "geometry"):
        a, b = (pq.read_table(s.folder(spec.trial) / f"{name}.parquet") for s in (store, other))
        assert a.equals(b)


def test_divergence_is_a_status(make_spec, data, store):
    row = run(make_spec(training={"lr": 1e30}), data, store)
    assert row.status == "diverged"
    assert "epoch 1" in row.reason
    assert row.val_nll is None


def test_an_exception_is_a_status_with_its_reason(make_spec, data, store):
    broken = replace(data, ood={"bad": np.zeros((2, 1, 3, 3), np.uint8)})
    row = run(make_spec(), broken, store)
    assert row.status == "failed"
    assert row.reason.startswith("RuntimeError")


def test_a_trial_without_its_row_is_not_there(make_spec, data, store):
    spec = make_spec()
    run(spec, data, store)
    (store.folder(spec.trial) / ROW).unlink()
    assert store.row(spec.trial) is None
    assert store.rows() == {}


def test_objectives_by_hand():
    # Two members say (3/4, 1/4) and (1/4, 3/4): the ensemble says 1/2, whatever the label.
    logits = torch.tensor([[[3.0, 1.0]], [[1.0, 3.0]]]).log()
    found = objectives(logits, torch.tensor([0]))
    assert found.val_nll == pytest.approx(math.log(2))
    members = -(math.log(0.75) + math.log(0.25)) / 2
    assert found.val_gain == pytest.approx(members - math.log(2), abs=1e-6)


def test_log_ensemble_averages_probabilities():
    logits = torch.randn(5, 7, 3, dtype=torch.float64)
    torch.testing.assert_close(log_ensemble(logits).exp(), logits.softmax(-1).mean(0))


def test_geometry_follows_the_members_from_start_to_end(make_spec, data, store):
    spec = make_spec("batch_ensemble", BE)
    row = run(spec, data, store)
    table = pq.read_table(store.folder(spec.trial) / GEOMETRY)
    assert table.schema.equals(parquet_format.GEOMETRY)
    assert table.schema.metadata == parquet_format.GEOMETRY.metadata
    rows = table.to_pylist()
    assert {r["quantity"] for r in rows} == set(parquet_format.QUANTITIES)
    whole = {(r["quantity"], r["epoch"]): r["value"] for r in rows if r["layer"] is None is r["i"]}
    assert [epoch for name, epoch in whole if name == "spread"] == [0, 1, 2]
    assert whole["cosine", 0] == pytest.approx(row.cosine_init)
    assert whole["cosine", 2] == pytest.approx(row.cosine)
    assert {r["layer"] for r in rows} == {None, "0", "1"}
    pairs = [r for r in rows if r["i"] is not None]
    assert [(r["i"], r["j"]) for r in pairs] == [(0, 1), (0, 2), (1, 2)]
    mean = sum(r["value"] for r in pairs) / 3
    assert whole["barrier", 2] == pytest.approx(mean)


@pytest.mark.parametrize(
    ("method", "params", "found"),
    [
        ("single", {}, None),
        ("mc_dropout", {"members": 3}, {"cka"}),
        ("deep_ensemble", {"members": 2}, set(parquet_format.QUANTITIES)),
    ],
)
def test_geometry_of_other_methods(make_spec, data, store, method, params, found):
    spec = make_spec(method, params, dropout=0.2)
    assert run(spec, data, store).status == "complete"
    folder = store.folder(spec.trial)
    assert not list(folder.glob("mean_weights_*"))
    if found is None:
        assert not (folder / GEOMETRY).exists()
        return
    rows = pq.read_table(folder / GEOMETRY).to_pylist()
    assert {r["quantity"] for r in rows} == found
    assert {r["epoch"] for r in rows} <= {0, 1, 2}


def test_mean_weights_of_copies_are_each_copy(make_spec, data, store):
    spec = make_spec("batch_ensemble", {"init": "ones", "bias": "shared", "members": 3})
    run(spec, data, store, execution=Execution(precision="float32"))
    ensemble, mean = (
        np.stack(pq.read_table(store.folder(spec.trial) / f"{name}.parquet")["logits"].to_numpy())
        for name in ("test", "mean_weights_test")
    )
    assert len(mean) == len(data.test[1])
    np.testing.assert_allclose(ensemble[: len(mean)], mean, rtol=1e-4, atol=1e-5)


def test_training_time_leaves_the_geometry_out(make_spec, data, store, monkeypatch):
    from study.diagnostics import weight_trajectory

    def slowly(method, epoch):
        time.sleep(0.3)
        return []

    monkeypatch.setattr(weight_trajectory, "weight_rows", slowly)
    row = run(make_spec("batch_ensemble", BE), data, store)
    assert row.seconds - row.train_seconds > 0.9


def test_cosine_of_copies_is_one_and_a_single_has_none(make_spec, data):
    ones = build(make_spec("batch_ensemble", {"init": "ones"}), data.shape, data.classes)
    assert weight_cosine(ones) == pytest.approx(1)
    single = build(make_spec(), data.shape, data.classes)
    assert weight_cosine(single) is None


def stacked(make_spec, **training):
    return [make_spec("batch_ensemble", BE, training, seed=s, replicate=s) for s in range(3)]


def predictions(store, spec):
    files = sorted(store.folder(spec.trial).glob("*.parquet"))
    return {f.name: pq.read_table(f) for f in files if f.name not in (ROW, GEOMETRY, CURVE)}


def test_replicates_together_are_what_they_are_alone(make_spec, data, store, tmp_path):
    specs = stacked(make_spec)
    options = {"fingerprint": data.fingerprint, "execution": Execution(precision="float32")}
    rows = run_trials(specs, data, store, **options)
    alone = RunFolder(tmp_path / "alone")
    for spec, row in zip(specs, rows, strict=True):
        assert row.stack == tuple(s.trial for s in specs)
        (expected,) = run_trials([spec], data, alone, **options)
        assert expected.stack is None
        for key in ("val_nll", "val_shift_nll", "val_gain", "cosine", "cosine_init"):
            assert getattr(row, key) == pytest.approx(getattr(expected, key), rel=1e-3)
        assert row.epochs == expected.epochs
        assert row.train_flops == expected.train_flops
        own, other = predictions(store, spec), predictions(alone, spec)
        assert own.keys() == other.keys()
        for name, table in own.items():
            logits = [
                t["logits"].combine_chunks().flatten().to_numpy() for t in (table, other[name])
            ]
            np.testing.assert_allclose(*logits, rtol=1e-3, atol=1e-4)


def test_replicates_together_share_the_time_that_they_took(make_spec, data, store):
    start = time.perf_counter()
    rows = run_trials(stacked(make_spec), data, store, fingerprint=data.fingerprint)
    whole = time.perf_counter() - start
    assert 0 < sum(row.train_seconds for row in rows) < sum(row.seconds for row in rows)
    assert sum(row.seconds for row in rows) < whole


def test_a_missing_replicate_is_what_it_was_beside_the_others(make_spec, data, store):
    specs = stacked(make_spec)
    run_trials(specs, data, store, fingerprint=data.fingerprint)
    before, kept = predictions(store, specs[1]), store.row(specs[0].trial)
    store.discard(specs[1].trial)
    run_trials(specs, data, store, fingerprint=data.fingerprint)
    assert predictions(store, specs[1]) == before
    assert store.row(specs[0].trial) == kept


def test_only_the_replicate_that_diverges_has_diverged(make_spec, data, store, monkeypatch):
    def build_one_broken(spec, *shape):
        method = build(spec, *shape)
        if spec.seed == 1:
            with torch.no_grad():
                next(method.parameters()).fill_(float("nan"))
        return method

    monkeypatch.setattr(trial, "build", build_one_broken)
    rows = run_trials(stacked(make_spec), data, store, fingerprint=data.fingerprint)
    assert [row.status for row in rows] == ["complete", "diverged", "complete"]
    assert all(len(row.stack) == 3 for row in rows)


def test_configurations_together_are_what_they_are_alone(make_spec, data, store, tmp_path):
    trainings = [{"lr": 0.1}, {"lr": 1e30}, {"lr": 0.02, "weight_decay": 0.1, "momentum": 0.0}]
    starts = [BE, BE, BE | {"init": "sign", "init_std": None, "negative_share": 0.5}]
    specs = [
        make_spec("batch_ensemble", params, training, stage="search", seed=seed)
        for seed, (params, training) in enumerate(zip(starts, trainings, strict=True))
    ]
    options = {"fingerprint": data.fingerprint, "execution": Execution(precision="float32")}
    rows = run_trials(specs, data, store, **options)
    alone = RunFolder(tmp_path / "alone")
    for spec, row in zip(specs, rows, strict=True):
        (expected,) = run_trials([spec], data, alone, **options)
        assert row.stack == tuple(s.trial for s in specs)
        for key in ("status", "reason", "epochs", "members", "parameters", "train_flops"):
            assert getattr(row, key) == getattr(expected, key)
        if row.status == "complete":
            assert row.val_nll == pytest.approx(expected.val_nll, rel=1e-3)
            for own, other in zip(store.curve(spec.trial), alone.curve(spec.trial), strict=True):
                assert own[2:] == pytest.approx(other[2:], rel=1e-3)
    assert [row.status for row in rows] == ["complete", "diverged", "complete"]


@pytest.mark.parametrize("room", [13, 5])
def test_out_of_memory_is_tried_again_in_halves(make_spec, data, store, monkeypatch, room):
    class Tight(single.Ensemble):
        def training_forward(self, x, y_B):
            if len(x) > room:
                raise torch.OutOfMemoryError("CUDA out of memory")
            return super().training_forward(x, y_B)

    monkeypatch.setattr(trial, "build", lambda spec, *shape: Tight(*made(spec, *shape)))
    monkeypatch.setattr(trial, "flops", lambda *_: Flops(0, 0))
    row = run(make_spec("single", {}, {"batch_size": 25}), data, store)
    if room == 13:
        assert (row.status, row.pieces) == ("complete", 2)
    else:
        assert row.status == "failed"
        assert "out of memory" in row.reason


def test_out_of_memory_in_a_prediction_is_no_failure(make_spec, data, store, monkeypatch):
    class Tight(single.Ensemble):
        def forward(self, x):
            if len(x) > 30:
                raise torch.OutOfMemoryError("CUDA out of memory")
            return super().forward(x)

    monkeypatch.setattr(trial, "build", lambda spec, *shape: Tight(*made(spec, *shape)))
    row = run(make_spec(), data, store)
    assert (row.status, row.pieces) == ("complete", 1)


def test_memory_is_given_back_once_the_failed_attempt_is_gone(make_spec, data, store, monkeypatch):
    class Tight(single.Ensemble):
        def training_forward(self, x, y_B):
            if len(x) > 13:
                raise torch.OutOfMemoryError("CUDA out of memory")
            return super().training_forward(x, y_B)

    built, left = [], []

    def tight(spec, *shape):
        built.append(weakref.ref(method := Tight(*made(spec, *shape))))
        return method

    monkeypatch.setattr(trial, "build", tight)
    monkeypatch.setattr(trial, "flops", lambda *_: Flops(0, 0))
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: left.append([m() for m in built]))
    gc.disable()  # It is gone without that cycles are looked for.
    try:
        row = run(make_spec("single", {}, {"batch_size": 25}), data, store)
    finally:
        gc.enable()
    assert (row.status, row.pieces, left) == ("complete", 2, [[None]])


def test_out_of_memory_members_are_trained_in_turn_before_batches_are_halved(
    make_spec, data, store, monkeypatch
):
    class Tight(batch_ensemble.Ensemble):
        stackable = True

        def training_forward(self, x, y_B):
            raise torch.OutOfMemoryError("CUDA out of memory")

    def tight(spec, shape, classes):
        return Tight(batch_ensemble.Params(**spec.params), *made(spec, shape, classes)[1:])

    monkeypatch.setattr(trial, "build", tight)
    monkeypatch.setattr(trial, "flops", lambda *_: Flops(0, 0))
    row = run(make_spec("batch_ensemble", BE), data, store)
    assert (row.status, row.pieces) == ("complete", 3)


def test_with_low_memory_members_are_trained_in_turn(make_spec, data, store, tmp_path):
    rows = []
    for low_memory in (False, True):
        place = RunFolder(tmp_path / str(low_memory))
        place.create()
        specs = [make_spec("batch_ensemble", BE, seed=seed, replicate=seed) for seed in (1, 2)]
        how = Execution(precision="float32", low_memory=low_memory)
        rows += run_trials(specs, data, place, fingerprint=data.fingerprint, execution=how)
    assert [row.pieces for row in rows] == [1, 1, 3, 3]
    assert [row.stack is None for row in rows] == [False, False, True, True]
    losses = [row.val_nll for row in rows]
    assert losses[2:] == pytest.approx(losses[:2], rel=1e-4)


def made(spec, shape, classes):
    return single.Params(), lambda: backbones.build(spec.backbone, shape, classes), spec.seed


BITS = {"search": "given", "bits_first": 8, "bits_middle": 8, "bits_last": 8, "bits_step": 0}


@pytest.mark.parametrize(
    ("method", "params", "why"),
    [
        ("film_ensemble", {"members": 2}, "StudyError: film_ensemble needs batch or layer norm"),
        ("quantised_ensemble", {"members": 8, **BITS}, "exceeds the method's own limit by"),
        ("quantised_ensemble", {"members": 64, **BITS}, "StudyError: params.budget must be at"),
        ("snapshot_ensemble", {"members": 3}, "StudyError: training.epochs must be at least the 3"),
        ("batch_ensemble", BE, None),
    ],
)
def test_what_a_method_refuses_is_known_before_it_is_trained(
    method, params, why, make_spec, data, store
):
    spec = make_spec(method, params)
    found, row = refusal(spec, data.shape, data.classes), run(spec, data, store)
    assert (found is None) == (why is None) == (row.status == "complete")
    if found is not None:
        assert row.reason.startswith(why)
        assert row.reason.endswith(found)
