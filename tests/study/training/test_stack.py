"""Methods trained as one have what each has alone: same start, same batches, same weights."""

import pytest
import torch
from torch import nn

from study import backbones
from study.methods import build as build_method
from study.spec import Regularisation, Training
from study.training.batches import DeviceImages, channel_statistics
from study.training.fit import DivergenceError, fit
from study.training.prediction import predict
from study.training.stack import alike, best_size, joined
from study.trials.trial import build

NORMAL = {"init": "normal", "init_std": 0.5}
SIGN = {"init": "sign", "negative_share": 0.5}
MLP = {"name": "mlp", "width": 16, "depth": 2, "dropout": 0.2}
SEEDS = [1, 2, 5]

CASES = {
    "single": ("single", {}, {}),
    "single, batch norm": ("single", {}, {"norm": "batch"}),
    "single, fixed head": ("single", {}, {"head": "equiangular"}),
    "dropout": ("mc_dropout", {"members": 3}, {}),
    "signs": ("batch_ensemble", SIGN, {}),
    "own random biases, decay": (
        "batch_ensemble",
        NORMAL | {"bias": "random", "fast_decay": "same", "fast_lr_multiplier": 2.0},
        {},
    ),
    "shared biases, decay to one": (
        "batch_ensemble",
        NORMAL | {"bias": "shared", "fast_decay": "toward_one"},
        {},
    ),
    "split batch": ("batch_ensemble", NORMAL | {"batch": "split"}, {}),
    "inputs alone": ("batch_ensemble", NORMAL | {"adapt": "r", "layers": "first"}, {}),
    "outputs alone": ("batch_ensemble", NORMAL | {"adapt": "s", "layers": "no_last"}, {}),
    "rank 2": ("batch_ensemble", NORMAL | {"rank": 2, "bias": "shared"}, {}),
    "rank 2, additive": ("batch_ensemble", NORMAL | {"rank": 2, "form": "additive"}, {}),
    "full rank": ("batch_ensemble", NORMAL | {"rank": "full"}, {}),
    "frozen, norms": (
        "batch_ensemble",
        NORMAL | {"shared_lr_multiplier": 0.0},
        {"norm": "batch"},
    ),
    "frozen": ("batch_ensemble", NORMAL | {"shared_lr_multiplier": 0.0}, {}),
    "shared norms": ("batch_ensemble", NORMAL, {"norm": "batch"}),
    "member norms": ("batch_ensemble", NORMAL | {"norm": "member"}, {"norm": "batch"}),
}


def prepared(data):
    pixels = DeviceImages(data.train[0], *channel_statistics(data.train[0]), torch.device("cpu"))
    return pixels, torch.tensor(data.train[1])


def specs(make_spec, case, **training):
    method, params, options = CASES[case]
    params = {"members": 3} | params if method == "batch_ensemble" else params
    backbone = backbones.parameters(MLP | options).model_dump()
    training = {"epochs": 3, "augment": "crop", "weight_decay": 0.01} | training
    return [make_spec(method, params, training, backbone=backbone, seed=s) for s in SEEDS]


def compared(all_specs, data, regularisation):
    """Return logits of methods trained as one, and of the same trained alone."""
    pixels, labels = prepared(data)
    training = all_specs[0].training
    together = [build(spec, data.shape, data.classes) for spec in all_specs]
    ((one, seed),) = joined([(m, s.seed) for m, s in zip(together, all_specs, strict=True)])
    fit(one, pixels, labels, training, regularisation, seed)
    alone = [build(spec, data.shape, data.classes) for spec in all_specs]
    for method, spec in zip(alone, all_specs, strict=True):
        fit(method, pixels, labels, training, regularisation, spec.seed)
    return ([predict(m, pixels) for m in methods] for methods in (together, alone))


@pytest.mark.parametrize("case", CASES)
def test_every_seed_is_what_it_is_alone(make_spec, data, case):
    together, alone = compared(specs(make_spec, case), data, Regularisation())
    assert not torch.allclose(together[0], together[1])
    for own, expected in zip(together, alone, strict=True):
        torch.testing.assert_close(own, expected, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(
    "name", ["jensen_shannon", "cosine", "negative_correlation", "function_space", "hsic", "dice"]
)
def test_every_seed_has_its_own_diversity_term(make_spec, data, name):
    regularisation = Regularisation(name=name, weight=0.1)
    together, alone = compared(specs(make_spec, "signs"), data, regularisation)
    for own, expected in zip(together, alone, strict=True):
        torch.testing.assert_close(own, expected, rtol=1e-3, atol=1e-4)


def test_an_adaptive_optimiser(make_spec, data):
    all_specs = specs(make_spec, "signs", optimizer="adamw", lr=1e-3, warmup=0.1)
    together, alone = compared(all_specs, data, Regularisation())
    for own, expected in zip(together, alone, strict=True):
        torch.testing.assert_close(own, expected, rtol=1e-3, atol=1e-4)


SGD = [
    {"lr": 0.1, "weight_decay": 1e-2, "momentum": 0.9},
    {"lr": 1e30, "weight_decay": 0.0, "momentum": 0.0},
    {"lr": 0.03, "weight_decay": 0.1, "momentum": 0.0},
    {"lr": 0.2, "weight_decay": 0.0, "momentum": 0.5},
]
ADAMW = [
    {"optimizer": "adamw", "lr": lr, "weight_decay": decay}
    for lr, decay in [(1e-3, 1.0), (1e30, 0.0), (1e-2, 0.1), (3e-3, 0.0)]
]
FAST = [
    NORMAL | {"fast_lr_multiplier": 3.0, "fast_decay": "same", "bias": "random"},
    NORMAL,
    SIGN | {"fast_lr_multiplier": 0.0, "fast_decay": "none", "bias": "same"},
    {"init": "ones", "fast_decay": "same"},
]


@pytest.mark.parametrize("trainings", [SGD, ADAMW], ids=["sgd", "adamw"])
@pytest.mark.parametrize("method", ["single", "mc_dropout", "batch_ensemble"])
def test_every_network_has_its_own_rates(make_spec, data, method, trainings):
    params = FAST if method == "batch_ensemble" else [{}] * 4
    rates = [0.2, 0.1, 0.4, 0.05]
    all_specs = [
        make_spec(
            method,
            own,
            {"epochs": 3, "warmup": 0.1} | training,
            backbone=backbones.parameters(MLP | {"dropout": rate}).model_dump(),
            seed=seed,
        )
        for seed, (own, training, rate) in enumerate(zip(params, trainings, rates, strict=True))
    ]
    assert len({alike(spec) for spec in all_specs}) == 1
    pixels, labels = prepared(data)
    together = [build(spec, data.shape, data.classes) for spec in all_specs]
    parts = [(m, s.seed) for m, s in zip(together, all_specs, strict=True)]
    ((one, _),) = joined(parts, trainings=[spec.training for spec in all_specs])
    fit(one, pixels, labels, all_specs[0].training, Regularisation(), 0)
    for number, (own, spec) in enumerate(zip(together, all_specs, strict=True)):
        alone = build(spec, data.shape, data.classes)
        if number == 1:
            with pytest.raises(DivergenceError):
                fit(alone, pixels, labels, spec.training, Regularisation(), spec.seed)
            continue
        fit(alone, pixels, labels, spec.training, Regularisation(), spec.seed)
        found, expected = predict(own, pixels), predict(alone, pixels)
        torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(
    ("training", "params"),
    [
        ({"batch_size": 16}, {}),
        ({"schedule": "step"}, {}),
        ({"optimizer": "adamw"}, {}),
        ({}, {"bias": "shared"}),
        ({}, {"fast_decay": "toward_one"}),
        ({}, {"layers": "first"}),
        ({}, {"batch": "split"}),
    ],
)
def test_what_shapes_the_networks_or_their_training_must_be_alike(make_spec, training, params):
    first = make_spec("batch_ensemble", NORMAL, {"lr": 0.1})
    assert alike(first) == alike(make_spec("batch_ensemble", NORMAL, {"lr": 0.2}))
    assert alike(first) != alike(make_spec("batch_ensemble", NORMAL | params, training))


@pytest.mark.parametrize(
    ("method", "params", "backbone"),
    [
        ("single", {}, {"name": "cnn"}),
        ("single", {}, {"name": "mlp", "norm": "layer"}),
        ("single", {}, {"name": "mlp", "head": "rotated"}),
        ("batch_ensemble", NORMAL | {"warm_start": 0.5}, {"name": "mlp"}),
        ("batch_ensemble", NORMAL, {"name": "cnn"}),
        ("mimo", {"members": 2}, {"name": "mlp"}),
        ("snapshot_ensemble", {"members": 2}, {"name": "mlp"}),
    ],
)
def test_what_cannot_be_stacked_is_left_alone(make_spec, data, method, params, backbone):
    options = backbones.parameters(backbone).model_dump()
    spec = make_spec(method, params, backbone=options)
    assert best_size(build(spec, data.shape, data.classes)) == 1


def test_as_many_as_stay_in_cache(make_spec, data):
    def size(width):
        options = backbones.parameters({"name": "mlp", "width": width}).model_dump()
        return best_size(build(make_spec("single", backbone=options), data.shape, data.classes))

    assert [size(width) for width in (16, 512, 1024)] == [10, 3, 1]


def test_on_a_gpu_memory_is_the_limit_and_the_number_of_networks(make_spec, data):
    def size(width, most=None):
        options = backbones.parameters({"name": "mlp", "width": width}).model_dump()
        method = build(make_spec("single", backbone=options), data.shape, data.classes)
        return best_size(method, most, device="cuda")

    assert [size(width) for width in (16, 1024, 2048)] == [32, 32, 15]
    assert size(16, most=4) == 4


def test_stacks_follow_one_another(make_spec, data):
    options = backbones.parameters({"name": "mlp", "width": 512}).model_dump()
    specs = [make_spec("single", backbone=options, seed=s) for s in range(4)]
    parts = [(build(spec, data.shape, data.classes), spec.seed) for spec in specs]
    first, second = joined(parts)
    assert first[0].members == 3
    assert second == parts[3]


class Network(nn.Module):
    """A perceptron whose middle layer may be changed."""

    stackable = True

    def __init__(self, change):
        super().__init__()
        self.layers = nn.Sequential(nn.Flatten(), nn.Linear(64, 8), nn.ReLU(), nn.Linear(8, 8))
        self.head = nn.Linear(8, 10)
        change(self)

    def forward(self, x):
        return self.head(self.layers(x))


class OtherLinear(nn.Linear):
    """Does more than a linear layer."""


def changed(change):
    return [build_method("single", {}, lambda: Network(change), seed) for seed in (1, 2)]


def test_what_is_frozen_stays_so(data):
    def freeze(network):
        network.layers[1].requires_grad_(False)

    pixels, labels = prepared(data)
    training = Training(epochs=2, lr=0.1, batch_size=25, weight_decay=0.1)
    together, alone = changed(freeze), changed(freeze)
    ((one, _),) = joined([(m, s) for s, m in enumerate(together)])
    fit(one, pixels, labels, training, Regularisation(), 0)
    for seed, method in enumerate(alone):
        fit(method, pixels, labels, training, Regularisation(), seed)
    for own, expected in zip(together, alone, strict=True):
        for name, tensor in expected.state_dict().items():
            torch.testing.assert_close(own.state_dict()[name], tensor, rtol=1e-3, atol=1e-5)


def tie(network):
    network.layers.append(nn.Linear(8, 8))
    network.layers[4].weight = network.layers[3].weight


REFUSED = {
    "a subclass": lambda n: n.layers.__setitem__(3, OtherLinear(8, 8)),
    "tied weights": tie,
    "noise": lambda n: n.layers.append(nn.RReLU()),
    "a norm without scale": lambda n: n.layers.append(nn.BatchNorm1d(8, affine=False)),
    "a norm without statistics": lambda n: n.layers.append(
        nn.BatchNorm1d(8, track_running_stats=False)
    ),
    "a parameter of its own": lambda n: n.register_parameter("own", nn.Parameter(torch.ones(1))),
    "no word of it": lambda n: setattr(n, "__class__", type("Other", (Network,), {})),
}


@pytest.mark.parametrize("change", REFUSED)
def test_what_a_stack_would_get_wrong_is_refused(change):
    assert best_size(changed(lambda network: None)[0]) > 1
    assert best_size(changed(REFUSED[change])[0]) == 1
