"""Trials on a card: nothing is left on the CPU, whatever the method, backbone and term."""

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from study import backbones
from study.conformance import Subject
from study.datasets import Dataset, Shifted
from study.errors import StudyError
from study.methods import deep_ensemble, single
from study.plugins import load_plugin, names
from study.regularisers import REGULARISERS
from study.run_folder.store import GEOMETRY, RunFolder
from study.spec import Execution, Regularisation, Training, TrialSpec
from study.trials.rehearsal import one_step
from study.trials.trial import run_trials
from tests.pretend_card import MixedDevicesError, pretend_card, without_onednn

METHODS = names("study.methods")
QUICK = [(method, load_plugin("study.methods", method).EXAMPLES[0], "cnn") for method in METHODS]
RESIDUAL = ("resnet18", "wide_resnet")
"""Backbones of the same layers, which take seconds each: a method's examples have them in turn."""
ALL = [
    (method, params, backbone)
    for first, method in enumerate(METHODS)
    for number, params in enumerate(load_plugin("study.methods", method).EXAMPLES)
    for backbone in names("study.backbones")
    if backbone not in RESIDUAL or backbone == RESIDUAL[(first + number) % 2]
]
LONGER = ("quantised_ensemble", "snapshot_ensemble", "swag")
"""Methods that need three epochs in some of their examples."""
BE = {"members": 2, "init": "normal", "init_std": 0.5}


@pytest.fixture(scope="module")
def noise():
    """Images of noise, few but of every split."""
    rng = np.random.default_rng(0)

    def images(count):
        return rng.integers(0, 256, (count, 3, 16, 16), dtype=np.uint8)

    def labelled(count):
        return images(count), rng.integers(0, 5, count)

    def shifted(count):
        numbers, severity = np.arange(count, dtype=np.int32), np.ones(count, np.int8)
        return Shifted(*labelled(count), numbers, np.array(["fog"] * count), severity)

    splits = labelled(24), labelled(12), labelled(10)
    return Dataset(*splits, shifted(10), shifted(10), 5, {"noise": images(6)})


@pytest.fixture
def store(tmp_path):
    store = RunFolder(tmp_path / "run")
    store.create()
    return store


def spec_of(method, params, backbone, dropout=0.1, epochs=2, stage="confirm", seed=1, **fields):
    """Return a trial of few steps; ``precision`` and ``augment`` are of its training."""
    training = {name: fields.pop(name) for name in ("precision", "augment") if name in fields}
    small = load_plugin("study.backbones", backbone).EXAMPLE | {"dropout": dropout}
    return TrialSpec(
        method=method,
        params=load_plugin("study.methods", method).Params(**params).model_dump(),
        backbone=backbones.parameters({"name": backbone} | small).model_dump(),
        dataset={"name": "noise"},
        training=Training(epochs=epochs, batch_size=12, lr=0.05, **training),
        regulariser=Regularisation(**fields),
        role="candidate",
        stage=stage,
        replicate=seed,
        seed=seed,
    )


def on_card(data, store, *specs, **options):
    """Return the rows of trials that are run where torch sees a card."""
    with pretend_card():
        return run_trials(specs, data, store, fingerprint="noise", **options)


def check(row):
    assert (row.status, row.reason) == ("complete", None)
    assert row.device == "a card that is none"


@pytest.mark.parametrize(("method", "params", "backbone"), QUICK, ids=str)
def test_a_whole_trial_stays_on_the_card(method, params, backbone, noise, store):
    spec = spec_of(method, params, backbone, epochs=4, augment="crop_flip", precision="bfloat16")
    (row,) = on_card(noise, store, spec)
    check(row)


@pytest.mark.slow  # The mathematics of every pair is in test_conformance.py.
@pytest.mark.parametrize(("method", "params", "backbone"), ALL, ids=str)
def test_every_method_on_every_backbone(method, params, backbone, noise, store):
    try:
        Subject(method, params, backbone).make()
    except StudyError:
        return
    epochs = 4 if method in LONGER else 2
    # Nothing but the casts, which no backbone has of its own, differs with float32.
    for precision in ("bfloat16", "float32") if backbone == "cnn" else ("bfloat16",):
        spec = spec_of(
            method, params, backbone, epochs=epochs, augment="crop_flip", precision=precision
        )
        check(on_card(noise, store, spec)[0])


@pytest.mark.parametrize("name", REGULARISERS)
def test_every_regulariser(name, noise, store):
    spec = spec_of("batch_ensemble", BE, "mlp", stage="search", name=name, weight=0.1)
    check(on_card(noise, store, spec)[0])


def test_replicates_and_members_are_stacked(noise, store, caplog):
    rows = on_card(noise, store, *(spec_of("batch_ensemble", BE, "mlp", seed=s) for s in (1, 2)))
    for row in rows:
        check(row)
        assert len(row.stack) == 2
    check(on_card(noise, store, spec_of("deep_ensemble", {"members": 2}, "mlp"))[0])
    assert not caplog.records


def test_members_one_after_another(noise, store):
    spec = spec_of("batch_ensemble", BE | {"norm": "member"}, "cnn", stage="search")
    check(on_card(noise, store, spec, execution=Execution(low_memory=True))[0])


def test_the_numbers_are_those_of_the_cpu(noise, store, tmp_path):
    spec = spec_of("batch_ensemble", BE, "mlp", dropout=0.0)
    other = RunFolder(tmp_path / "cpu")
    other.create()
    check(on_card(noise, store, spec)[0])
    with without_onednn():
        run_trials([spec], noise, other, fingerprint="noise")
    for name in ("test.parquet", "mean_weights_shift.parquet", GEOMETRY):
        first, second = (pq.read_table(s.folder(spec.trial) / name) for s in (store, other))
        assert first.equals(second), name


def test_the_dry_runs_steps(smoke, data):
    space = smoke.space("batch_ensemble")
    point = {"training.lr": 0.1}
    with pretend_card():
        _, excess, seconds = one_step(space, point, data, 16)
    assert excess == 0
    assert seconds > 0


@pytest.mark.parametrize("where", ["in training", "in prediction", "in a control"])
def test_a_tensor_that_is_left_on_the_cpu_is_found(where, noise, store, monkeypatch):
    def scaled(logits):
        return logits * torch.ones(5)

    if where == "in training":
        loss = single.Ensemble.loss
        monkeypatch.setattr(
            single.Ensemble, "loss", lambda self, z, y, s: loss(self, scaled(z), y, s)
        )
    elif where == "in prediction":
        forward = single.Ensemble.forward
        monkeypatch.setattr(
            single.Ensemble,
            "forward",
            lambda self, x: forward(self, x) if self.training else scaled(forward(self, x)),
        )
    else:
        monkeypatch.setattr(
            deep_ensemble.Ensemble, "member_network", lambda self, m: torch.nn.Linear(3, 5)
        )
    method, params = (
        ("deep_ensemble", {"members": 2}) if where == "in a control" else ("single", {})
    )
    (row,) = on_card(noise, store, spec_of(method, params, "mlp"))
    assert row.status == "failed"
    assert MixedDevicesError.__name__ in row.reason
