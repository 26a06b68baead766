"""The training loop, its schedule and the identities between methods that it must keep."""

import math
import weakref
from functools import partial

import numpy as np
import pytest
import torch

from study import backbones
from study.conformance import Subject, inputs
from study.errors import StudyError
from study.methods import single
from study.methods.deep_ensemble import member_seed
from study.plugins import load_plugin, names
from study.spec import Regularisation
from study.training.batches import DeviceImages, Splits, channel_statistics
from study.training.fit import AtATime, DivergenceError, fit, forwards_of, lr_factor
from study.training.prediction import predict
from study.training.stack import joined
from study.trials.trial import build


def pixels(data, images):
    return DeviceImages(images, *channel_statistics(data.train[0]), torch.device("cpu"))


def trained(spec, data, regularisation=None):
    method = build(spec, data.shape, data.classes)
    labels = torch.tensor(data.train[1])
    chosen = regularisation or spec.regulariser
    parts = [
        (part, spec.seed if seed is None else seed) for part, seed in method.independent_members()
    ]
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
    parts = build(spec, data.shape, data.classes).independent_members()
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


@pytest.mark.parametrize("schedule", ["constant", "cosine"])
def test_sgd_is_nesterov_descent_on_smoothed_labels(make_spec, data, schedule):
    """On copies of one image every batch is the same, so that each step can be written out."""
    training = {"epochs": 2, "batch_size": 2, "lr": 0.1, "momentum": 0.9, "weight_decay": 0.01}
    training |= {"label_smoothing": 0.2, "schedule": schedule}
    spec = make_spec(training=training)
    x, labels = pixels(data, np.repeat(data.train[0][:1], 4, 0)), torch.full((4,), 3)
    method, own = (build(spec, data.shape, data.classes) for _ in range(2))
    fit(method, x, labels, spec.training, spec.regulariser, seed=1)

    targets = torch.full((10,), 0.2 / 10)
    targets[3] += 0.8
    velocity = [torch.zeros_like(p) for p in own.parameters()]
    for step in range(4):
        loss = -(targets * own(x.batch(torch.arange(1)))[0, 0].log_softmax(0)).sum()
        gradients = torch.autograd.grad(loss, list(own.parameters()))
        lr = 0.1 if schedule == "constant" else 0.05 * (1 + math.cos(math.pi * step / 4))
        for p, v, gradient in zip(own.parameters(), velocity, gradients, strict=True):
            g = gradient + 0.01 * p.detach()
            v.mul_(0.9).add_(g)
            p.data -= lr * (g + 0.9 * v)
    for found, expected in zip(method.parameters(), own.parameters(), strict=True):
        torch.testing.assert_close(found, expected)


def test_the_first_step_of_adamw_is_its_formula(make_spec, data):
    """It goes ``lr`` far along every gradient's sign, and decays apart from that."""
    training = {"epochs": 1, "batch_size": 100, "lr": 0.01, "optimizer": "adamw"}
    spec = make_spec(training=training | {"weight_decay": 0.1, "schedule": "constant"})
    x, labels = pixels(data, data.train[0]), torch.tensor(data.train[1])
    method, own = (build(spec, data.shape, data.classes) for _ in range(2))
    fit(method, x, labels, spec.training, spec.regulariser, seed=1)
    loss = torch.nn.functional.cross_entropy(own(x.batch(torch.arange(100)))[0], labels)
    gradients = torch.autograd.grad(loss, list(own.parameters()))
    for found, start, g in zip(method.parameters(), own.parameters(), gradients, strict=True):
        sign = torch.where(g.abs() > 1e-5, g.sign(), torch.nan)  # Elsewhere rounding decides.
        step = (found - start * (1 - 0.01 * 0.1)) / -0.01
        known = ~sign.isnan()
        torch.testing.assert_close(step[known], sign[known], atol=0.01, rtol=0)


class Small(single.Ensemble):
    """A network on a device without room for more than some images, in evaluation."""

    def __init__(self, spec, data, room):
        torch.manual_seed(spec.seed)
        network = partial(backbones.build, spec.backbone, data.shape, data.classes)
        super().__init__(single.Params(), network, spec.seed)
        self.room, self.sizes, self.held = room, [], []

    def forward(self, x):
        self.sizes.append(len(x))
        self.held.append(weakref.ref(x))
        if len(x) > self.room:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return super().forward(x)


def test_out_of_memory_a_prediction_is_made_in_halves(make_spec, data, monkeypatch):
    x, spec, held = pixels(data, data.test[0][:100]), make_spec(), []
    small = Small(spec, data, 13)
    let_go = lambda: held.append([ref() for ref in small.held])  # noqa: E731
    monkeypatch.setattr(torch.cuda, "empty_cache", let_go)
    found = predict(small, x)
    assert small.sizes == [100, 50, 25, *[12] * 8, 4]
    assert held == [[None] * failed for failed in (1, 2, 3)]
    torch.testing.assert_close(found, predict(Small(spec, data, 100), x))
    with pytest.raises(torch.OutOfMemoryError):
        predict(Small(spec, data, 0), x)


def test_half_precision_changes_the_numbers_a_little(make_spec, data):
    x = pixels(data, data.test[0])
    exact, rough = (
        predict(trained(make_spec(training={"precision": precision}), data), x)
        for precision in ("float32", "bfloat16")
    )
    assert not torch.equal(exact, rough)
    torch.testing.assert_close(rough, exact, atol=0.1, rtol=0)


@pytest.mark.parametrize("name", names("study.methods"))
def test_every_methods_loss_is_linear_in_the_smoothing(name):
    (part, _), *_ = (
        Subject(name, load_plugin("study.methods", name).EXAMPLES[0], "cnn")
        .trained()
        .independent_members()
    )
    outputs = part.training_forward(inputs(), torch.arange(8) % 5)
    part.loss(*outputs, 0.0)  # Takes what belongs to this batch alone.
    none, some, more = (part.loss(*outputs, smoothing).item() for smoothing in (0.0, 0.2, 0.4))
    assert abs(some - none) > 1e-3
    assert more - some == pytest.approx(some - none, rel=1e-3)


def test_a_phase_may_have_a_schedule_of_its_own(make_spec, data):
    logits = [
        predict(
            trained(make_spec("snapshot_ensemble", {"members": 2}, {"schedule": schedule}), data),
            pixels(data, data.test[0]),
        )
        for schedule in ("constant", "cosine")
    ]
    assert torch.equal(*logits)


def test_channel_statistics_are_the_means_and_deviations():
    images = np.random.default_rng(0).integers(0, 256, (20, 3, 5, 4), dtype=np.uint8)
    mean, std = channel_statistics(images)
    np.testing.assert_allclose(mean, images.mean((0, 2, 3)), rtol=1e-5)
    np.testing.assert_allclose(std, images.std((0, 2, 3)), rtol=1e-5)


def test_images_are_normalised_by_those_of_the_training_set(data):
    splits = Splits(data, torch.device("cpu"))
    train, labels = splits.train
    x = train.batch(torch.arange(len(labels)))
    assert x.mean().item() == pytest.approx(0, abs=1e-5)
    assert x.std(correction=0).item() == pytest.approx(1, abs=1e-5)
    mean, std = data.train[0].mean(), data.train[0].std()
    expected = torch.tensor((data.test[0] - mean) / std, dtype=torch.float32)
    found = splits.pixels(data.test[0]).batch(torch.arange(len(expected)))
    torch.testing.assert_close(found, expected)


def test_augmentation_is_a_shift_by_zeros_or_a_mirror():
    images = np.random.default_rng(0).integers(1, 256, (1, 1, 8, 8), dtype=np.uint8)
    p = DeviceImages(images, torch.zeros(1), torch.ones(1), torch.device("cpu"))
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
        for image in p.augmented(
            torch.zeros(400, dtype=torch.long), p.draw_crops([400], True, generator)
        )[:, 0]
    }
    assert seen == allowed


@pytest.mark.parametrize(
    ("augment", "sides"), [("none", {"left"}), ("crop", {"left"}), ("crop_flip", {"left", "right"})]
)
def test_training_mirrors_images_only_where_that_is_asked_for(make_spec, data, augment, sides):
    images = np.zeros((40, 1, 8, 8), np.uint8)
    images[..., :3] = 255
    x = DeviceImages(images, torch.zeros(1), torch.full((1,), 255.0), torch.device("cpu"))
    spec = make_spec(training={"epochs": 1, "batch_size": 20, "augment": augment})
    method = build(spec, data.shape, data.classes)
    forward, seen = method.training_forward, set()

    def noted(batch, labels):
        bright = batch[..., :4].sum((1, 2, 3)) > batch[..., 4:].sum((1, 2, 3))
        seen.update("left" if left else "right" for left in bright)
        return forward(batch, labels)

    method.training_forward = noted
    fit(method, x, torch.arange(40) % 10, spec.training, spec.regulariser, seed=1)
    assert seen == sides


def test_every_image_of_a_batch_has_its_own_crop():
    images = np.tile(np.arange(64, dtype=np.uint8).reshape(1, 1, 8, 8), (50, 1, 1, 1))
    p = DeviceImages(images, torch.zeros(1), torch.ones(1), torch.device("cpu"))
    drawn = p.draw_crops([50], False, torch.Generator().manual_seed(0))
    crops = p.augmented(torch.arange(50), drawn)
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
    for accumulation_steps in (1, 3):
        own = build(spec, data.shape, data.classes)
        at_a_time = AtATime(accumulation_steps=accumulation_steps)
        fit(own, x, labels, spec.training, spec.regulariser, 1, at_a_time=at_a_time)
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
    for sequential_members in (False, True):
        method = build(spec, data.shape, data.classes)
        at_a_time = AtATime(sequential_members=sequential_members)
        fit(method, x, labels, spec.training, spec.regulariser, 1, at_a_time=at_a_time)
        states.append(method.state_dict() | {"logits": predict(method, x)})
    assert len(forwards_of(method, spec.regulariser)) == 3
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
    assert len(forwards_of(method, Regularisation(name=term, weight=weight))) == 1
