"""The training loop, its schedule and the identities between methods that it must keep."""

import math

import numpy as np
import pytest
import torch

from study import backbones
from study.batches import Pixels, channel_statistics
from study.methods._stack import joined
from study.methods.deep_ensemble import member_seed
from study.schema import StudyError
from study.spec import Regularisation
from study.train import DivergenceError, fit, lr_factor, passes_of, predict
from study.trial import build


def pixels(data, images):
    return Pixels(images, *channel_statistics(data.train[0]), torch.device("cpu"))


def trained(spec, data, regularisation=None):
    method = build(spec, data.shape, data.classes)
    labels = torch.tensor(data.train[1])
    chosen = regularisation or spec.regulariser
    parts = [(part, spec.seed if seed is None else seed) for part, seed in method.parts()]
    for part, seed in joined(parts):
        fit(part, pixels(data, data.train[0]), labels, spec.training, chosen, seed)
    return method


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
@pytest.mark.parametrize(
    "backbone",
    [
        {"name": "mlp", "width": 16, "depth": 2, "dropout": 0.2},
        {"name": "mlp", "width": 16, "depth": 2, "dropout": 0.2, "norm": "batch"},
        {"name": "cnn", "channels": [4, 8], "hidden": 8, "dropout": 0.2},
    ],
    ids=["stacked", "stacked norms", "one by one"],
)
def test_a_deep_ensemble_is_its_singles(make_spec, data, backbone, optimizer):
    full = backbones.parameters(backbone).model_dump()
    lr = 0.1 if optimizer == "sgd" else 1e-3
    training = {"epochs": 3, "augment": "crop", "weight_decay": 0.01, "warmup": 0.1}
    training |= {"optimizer": optimizer, "lr": lr, "label_smoothing": 0.1}
    spec = make_spec("deep_ensemble", {"members": 3}, training, backbone=full)
    parts = build(spec, data.shape, data.classes).parts()
    assert len(joined(parts)) == (3 if backbone["name"] == "cnn" else 1)
    logits = predict(trained(spec, data), pixels(data, data.test[0]))
    # Before a norm a bias has no gradient but rounding, which Adam scales up to steps.
    rounding = 5e-3 if optimizer == "adamw" and "norm" in backbone else 1e-4
    for m in range(3):
        own = make_spec("single", training=training, backbone=full, seed=member_seed(1, m))
        alone = predict(trained(own, data), pixels(data, data.test[0]))
        torch.testing.assert_close(logits[m], alone[0], rtol=1e-3, atol=rounding)


def test_a_larger_pool_begins_with_the_smaller_ensemble(make_spec, data):
    x = pixels(data, data.test[0])
    two = predict(trained(make_spec("deep_ensemble", {"members": 2}), data), x)
    three = predict(trained(make_spec("deep_ensemble", {"members": 3}), data), x)
    assert torch.equal(three[:2], two)


def test_same_seed_same_numbers_whatever_ran_before(make_spec, data):
    spec = make_spec("mc_dropout", {"members": 3}, dropout=0.3)
    x = pixels(data, data.test[0])
    first = predict(trained(spec, data), x)
    torch.rand(17)
    assert torch.equal(predict(trained(spec, data), x), first)
    other = make_spec("mc_dropout", {"members": 3}, dropout=0.3, seed=2)
    assert not torch.equal(predict(trained(other, data), x), first)


def test_predictions_do_not_depend_on_the_batch(make_spec, data):
    method = trained(make_spec("mc_dropout", {"members": 3}, dropout=0.3), data)
    x = pixels(data, data.test[0])
    whole, parts = predict(method, x, 10**6), predict(method, x, 30)
    torch.testing.assert_close(parts, whole)


def test_mc_dropout_without_dropped_units_is_the_network(make_spec, data):
    method = build(make_spec("mc_dropout", {"members": 3}, dropout=0.3), data.shape, data.classes)
    x = pixels(data, data.test[0]).batch(torch.arange(5))
    method.eval()
    masked = method(x)
    assert not torch.equal(masked[0], masked[1])
    for module in method.modules():
        if hasattr(module, "mask"):
            module.mask = torch.ones(3, 1, *module.mask.shape[2:])
    single = build(make_spec("single", dropout=0.3), data.shape, data.classes).eval()
    torch.testing.assert_close(method(x), single(x).expand(3, -1, -1))


def test_training_learns_the_digits(make_spec, data):
    method = trained(make_spec(training={"epochs": 40, "lr": 0.2}), data)
    right = predict(method, pixels(data, data.test[0]))[0].argmax(-1) == torch.tensor(data.test[1])
    assert right.double().mean().item() > 0.8


def test_divergence_is_raised(make_spec, data):
    with pytest.raises(DivergenceError, match="epoch 1"):
        trained(make_spec(training={"lr": 1e30}), data)


@pytest.mark.parametrize("method", ["single", "deep_ensemble"])
def test_diversity_needs_members_trained_jointly(make_spec, data, method):
    params = {"members": 2} if method == "deep_ensemble" else {}
    with pytest.raises(StudyError, match="compares members that are trained jointly"):
        trained(make_spec(method, params), data, Regularisation(name="jensen_shannon", weight=1.0))


def test_schedules():
    assert [round(lr_factor(p, "step", 0.0), 6) for p in (0, 0.3, 0.34, 0.67, 0.99)] == [
        1,
        1,
        0.1,
        0.01,
        0.01,
    ]
    assert lr_factor(0.1, "cosine", 0.2) == pytest.approx(0.5)
    assert lr_factor(0.2, "cosine", 0.2) == pytest.approx(1)
    assert lr_factor(0.6, "cosine", 0.2) == pytest.approx(0.5)


def test_channel_statistics_are_the_means_and_deviations():
    images = np.random.default_rng(0).integers(0, 256, (20, 3, 5, 4), dtype=np.uint8)
    mean, std = channel_statistics(images)
    np.testing.assert_allclose(mean, images.mean((0, 2, 3)), rtol=1e-5)
    np.testing.assert_allclose(std, images.std((0, 2, 3)), rtol=1e-5)


def test_augmentation_is_a_shift_by_zeros_or_a_mirror():
    images = np.random.default_rng(0).integers(1, 256, (1, 1, 8, 8), dtype=np.uint8)
    p = Pixels(images, torch.zeros(1), torch.ones(1), torch.device("cpu"))
    padded = np.pad(images[0, 0], 1)
    allowed = {
        (window[:, ::-1] if mirror else window).astype(float).tobytes()
        for y in range(3)
        for x in range(3)
        for mirror in (False, True)
        for window in [padded[y : y + 8, x : x + 8]]
    }
    generator = torch.Generator().manual_seed(0)
    seen = {
        image.double().numpy().tobytes()
        for image in p.augmented(torch.zeros(400, dtype=torch.long), True, generator)[:, 0]
    }
    assert seen == allowed


def test_every_image_of_a_batch_has_its_own_crop():
    images = np.tile(np.arange(64, dtype=np.uint8).reshape(1, 1, 8, 8), (50, 1, 1, 1))
    p = Pixels(images, torch.zeros(1), torch.ones(1), torch.device("cpu"))
    crops = p.augmented(torch.arange(50), False, torch.Generator().manual_seed(0))
    assert len({c.numpy().tobytes() for c in crops}) > 5
    assert math.isfinite(crops.sum().item())


@pytest.mark.parametrize("method", ["single", "batch_ensemble", "rank1_bnn"])
def test_a_step_in_pieces_is_the_step(make_spec, data, method, monkeypatch):
    monkeypatch.setattr(torch, "randn_like", torch.zeros_like)  # The draws of rank1_bnn.
    params = {"batch_ensemble": {"members": 2, "init": "normal", "init_std": 0.5}}
    params["rank1_bnn"] = {"members": 2, "negative_share": 0.5}
    spec = make_spec(method, params.get(method), {"weight_decay": 0.01})
    x, labels = pixels(data, data.train[0]), torch.tensor(data.train[1])
    logits = []
    for pieces in (1, 3):
        own = build(spec, data.shape, data.classes)
        fit(own, x, labels, spec.training, spec.regulariser, 1, pieces=pieces)
        logits.append(predict(own, x))
    torch.testing.assert_close(*logits, rtol=1e-4, atol=1e-5)


TURNS = [
    {"backbone": {"name": "mlp", "width": 16, "depth": 2}},
    {"backbone": {"name": "mlp", "width": 16, "depth": 2, "norm": "batch"}, "norm": "member"},
    {"backbone": {"name": "resnet18", "width": 4}, "norm": "member", "bias": "random"},
    {"backbone": {"name": "vit", "patch": 4, "width": 8, "depth": 1, "heads": 2}, "rank": 2},
    {"backbone": {"name": "mlp", "width": 16, "head": "rotated"}, "warm_start": 0.4},
    {"backbone": {"name": "mlp", "width": 16}, "batch": "split", "bias": "shared"},
    {
        "backbone": {"name": "cnn", "channels": [4, 8]},
        "norm": "member",
        "shared_lr_multiplier": 0.0,
    },
]


@pytest.mark.parametrize("case", TURNS, ids=lambda case: case["backbone"]["name"])
def test_members_one_after_another_are_members_at_once(make_spec, data, case):
    own = {key: value for key, value in case.items() if key != "backbone"}
    backbone = backbones.parameters(case["backbone"]).model_dump()
    params = {"members": 3, "init": "normal", "init_std": 0.5} | own
    training = {"weight_decay": 0.1, "lr": 0.01}
    spec = make_spec("batch_ensemble", params, training, backbone=backbone)
    x, labels = pixels(data, data.train[0]), torch.tensor(data.train[1])
    states = []
    for one_by_one in (False, True):
        method = build(spec, data.shape, data.classes)
        fit(method, x, labels, spec.training, spec.regulariser, 1, one_by_one=one_by_one)
        states.append(method.state_dict() | {"logits": predict(method, x)})
    assert len(passes_of(method, spec.regulariser)) == 3
    assert not torch.equal(states[0]["logits"][0], states[0]["logits"][1])
    counts = {key for key in states[0] if "num_batches" in key}
    for key in states[0].keys() - counts:
        torch.testing.assert_close(states[1][key], states[0][key], rtol=2e-3, atol=2e-4)


@pytest.mark.parametrize(
    ("params", "term"), [({"norm": "shared"}, "none"), ({"norm": "member"}, "hsic")]
)
def test_members_that_need_each_other_are_passed_at_once(make_spec, data, params, term):
    backbone = backbones.parameters({"name": "mlp", "norm": "batch"}).model_dump()
    params = {"members": 2, "init": "normal", "init_std": 0.5} | params
    method = build(make_spec("batch_ensemble", params, backbone=backbone), data.shape, 10)
    weight = None if term == "none" else 1.0
    assert len(passes_of(method, Regularisation(name=term, weight=weight))) == 1
