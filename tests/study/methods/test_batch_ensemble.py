"""BatchEnsemble against the formulas it stands for."""

import math

import pytest
import torch
from pydantic import ValidationError
from torch import nn
from torch.nn import functional as F

from study.conformance import Subject
from study.errors import StudyError
from study.layers.norms import MemberBatchNorm
from study.layers.perturbed import MemberLayer
from study.methods import build
from study.methods.batch_ensemble import Params
from study.spec import Training


def mlp():
    return nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 5), nn.ReLU(), nn.Linear(5, 3))


def cnn():
    return nn.Sequential(
        nn.Conv2d(2, 4, 3, stride=2, padding=1),
        nn.BatchNorm2d(4),
        nn.ReLU(),
        nn.Conv2d(4, 4, 3, padding=1, bias=False),
        nn.Flatten(),
        nn.Linear(64, 3),
    )


def inputs(network, batch=7):
    generator = torch.Generator().manual_seed(1)
    shape = (6,) if network is mlp else (2, 8, 8)
    return torch.randn(batch, *shape, generator=generator)


def plain(network, seed=0):
    torch.manual_seed(seed)
    return network()


def ensemble(network=mlp, seed=0, **params):
    return build("batch_ensemble", params, network, seed)


PERTURBED = [
    {"init": "normal", "init_std": 0.5},
    {"init": "sign", "negative_share": 0.5, "bias": "random"},
    {"init": "normal", "init_std": 0.3, "fast_decay": "toward_one"},
    {"init": "normal", "init_std": 0.5, "adapt": "r", "layers": "no_last"},
    {"init": "normal", "init_std": 0.5, "rank": 4},
    {"init": "normal", "init_std": 0.5, "rank": "full", "bias": "random"},
    {"init": "tabm_sign", "negative_share": 0.5, "layers": "first"},
]


@pytest.mark.parametrize("network", [mlp, cnn])
@pytest.mark.parametrize("bias", ["shared", "same"])
def test_ones_are_the_plain_backbone(network, bias):
    method = ensemble(network, init="ones", bias=bias).eval()
    x = inputs(network)
    expected = plain(network).eval()(x)
    for member in method(x):
        torch.testing.assert_close(member, expected)


@pytest.mark.parametrize("network", [mlp, cnn])
@pytest.mark.parametrize("params", PERTURBED, ids=lambda p: "-".join(map(str, p.values())))
def test_a_member_is_the_network_with_its_effective_weights(network, params):
    method = ensemble(network, members=3, **params).eval()
    x = inputs(network)
    logits = method(x)
    weights = list(method.effective_weights())
    biases = [
        m.bias
        for m in method.network.modules()
        if isinstance(m, nn.Linear | nn.Conv2d | MemberLayer)
    ]
    for m in range(3):
        alone = plain(network).eval()
        layers = [c for c in alone.modules() if isinstance(c, nn.Linear | nn.Conv2d)]
        for layer, weight, bias in zip(layers, weights, biases, strict=True):
            layer.weight.data = weight[m].view_as(layer.weight)
            if bias is not None:
                layer.bias.data = (bias if bias.dim() == 1 else bias[m]).detach()
        torch.testing.assert_close(logits[m], alone(x))


def test_gradients_are_those_of_the_plain_formula():
    method = ensemble(lambda: nn.Sequential(nn.Linear(6, 3)), init="normal", init_std=0.5)
    layer = method.network[0]
    x = inputs(mlp)
    w, b = (t.detach().clone().requires_grad_() for t in (layer.weight, layer.bias))
    r, s = (layer.fast[k].detach().clone().requires_grad_() for k in "rs")
    expected = torch.stack([F.linear(x * r[m], w) * s[m] + b[m] for m in range(method.members)])
    direction = torch.randn_like(expected)
    (expected * direction).sum().backward()
    (method(x) * direction).sum().backward()
    own = {"w": layer.weight, "b": layer.bias, "r": layer.fast["r"], "s": layer.fast["s"]}
    for name, reference in {"w": w, "b": b, "r": r, "s": s}.items():
        torch.testing.assert_close(own[name].grad, reference.grad)


@pytest.mark.parametrize(("std", "expected"), [(0.5, 1 / 1.25**2), (0.1, 1 / 1.01**2)])
def test_cosine_of_normal_members_at_start_is_the_closed_form(std, expected):
    big = lambda: nn.Sequential(nn.Linear(400, 400))  # noqa: E731
    weights = next(ensemble(big, members=2, init="normal", init_std=std).effective_weights())
    cosine = F.cosine_similarity(weights[0], weights[1], dim=0).item()
    assert cosine == pytest.approx(expected, abs=0.08)


def test_cosine_of_signed_members_at_start_is_the_closed_form():
    big = lambda: nn.Sequential(nn.Linear(900, 900))  # noqa: E731
    method = ensemble(big, members=2, init="sign", negative_share=0.2)
    weights = next(method.effective_weights())
    cosine = F.cosine_similarity(weights[0], weights[1], dim=0).item()
    assert cosine == pytest.approx((1 - 2 * 0.2) ** 4, abs=0.06)


def test_as_many_signs_are_negative_as_asked_for():
    big = lambda: nn.Sequential(nn.Linear(900, 900))  # noqa: E731
    (layer,) = ensemble(big, init="sign", negative_share=0.2).member_layers()
    for signs in layer.fast.values():
        assert (signs < 0).double().mean().item() == pytest.approx(0.2, abs=0.03)


@pytest.mark.parametrize("rank", [2, 8, "full"])
def test_spread_of_the_residual_form_does_not_depend_on_rank(rank):
    big = lambda: nn.Sequential(nn.Linear(300, 300))  # noqa: E731
    layer = ensemble(big, rank=rank, init="normal", init_std=0.3).network[0]
    assert layer.perturbation().std().item() == pytest.approx(0.3, rel=0.05)
    assert layer.perturbation().mean().item() == pytest.approx(1, abs=0.02)


@pytest.mark.parametrize("rank", [1, 2, 8])
def test_spread_of_the_additive_form_does_not_depend_on_rank(rank):
    big = lambda: nn.Sequential(nn.Linear(300, 300))  # noqa: E731
    layer = ensemble(big, rank=rank, form="additive", init="normal", init_std=0.3).network[0]
    expected = 0.3 * layer.weight.std().item()
    assert layer.difference().std().item() == pytest.approx(expected, rel=0.1)


@pytest.mark.parametrize("adapt", ["r", "s", "rs"])
def test_only_the_fast_weights_that_are_asked_for_exist(adapt):
    layers = ensemble(mlp, init="ones", adapt=adapt).member_layers()
    assert [tuple(layer.fast) for layer in layers] == [tuple(adapt)] * 3


def test_tabm_randomises_only_the_first_r():
    method = ensemble(mlp, init="tabm_sign", negative_share=0.5)
    first, *rest = [m for m in method.network if isinstance(m, MemberLayer)]
    assert set(first.fast["r"].unique().tolist()) == {-1.0, 1.0}
    for value in (first.fast["s"], *(v for layer in rest for v in layer.fast.values())):
        assert bool((value == 1).all())


def test_identical_members_stay_identical_in_training():
    method = ensemble(mlp, init="ones", bias="shared")
    optimizer = torch.optim.SGD(method.param_groups(Training(lr=0.1)))
    x, y = inputs(mlp, 12), torch.arange(12) % 3
    for _ in range(5):
        logits, labels = method.training_forward(x, y)
        optimizer.zero_grad()
        method.loss(logits, labels, 0.0).backward()
        optimizer.step()
    torch.testing.assert_close(method(x), method(x)[:1].expand(4, -1, -1), rtol=0, atol=0)


def test_split_gives_each_member_its_own_examples():
    method = ensemble(mlp, members=3, init="normal", init_std=0.5, batch="split")
    x, y = inputs(mlp, 7), torch.arange(7)
    logits, labels = method.training_forward(x, y)
    assert labels.tolist() == [[0, 1], [2, 3], [4, 5]]
    everything = method(x)
    for m in range(3):
        torch.testing.assert_close(logits[m], everything[m, 2 * m : 2 * m + 2])


def test_split_refuses_a_batch_smaller_than_the_ensemble():
    method = ensemble(mlp, members=4, init="ones", batch="split")
    with pytest.raises(StudyError, match="a batch of 3 has 4 members"):
        method.training_forward(inputs(mlp, 3), torch.zeros(3, dtype=torch.long))


@pytest.mark.parametrize(("rule", "decay"), [("none", 0.0), ("same", 0.01), ("toward_one", 0.01)])
def test_decay_and_rate_reach_exactly_the_fast_weights(rule, decay):
    method = ensemble(mlp, init="normal", init_std=0.5, fast_decay=rule, fast_lr_multiplier=3.0)
    shared, fast = method.param_groups(Training(lr=0.2, weight_decay=0.01))
    names = {id(p): name for name, p in method.named_parameters()}
    assert {names[id(p)].split(".")[-1] for p in fast["params"]} == {"r", "s"}
    assert len(fast["params"]) == 6
    assert (fast["lr"], fast["weight_decay"]) == (pytest.approx(0.6), decay)
    assert (shared["lr"], shared["weight_decay"]) == (0.2, 0.01)
    assert len(shared["params"]) + 6 == len(list(method.parameters()))


def test_decay_toward_one_has_one_as_its_fixed_point():
    method = ensemble(mlp, init="normal", init_std=0.5, fast_decay="toward_one")
    group = method.param_groups(Training(lr=0.5, weight_decay=1.0))[1]
    optimizer = torch.optim.SGD([group])
    for parameter in group["params"]:
        parameter.grad = torch.zeros_like(parameter)
    for _ in range(40):
        optimizer.step()
    for layer in (m for m in method.network if isinstance(m, MemberLayer)):
        torch.testing.assert_close(layer.scale("r"), torch.ones_like(layer.scale("r")))


@pytest.mark.parametrize("params", PERTURBED, ids=lambda p: "-".join(map(str, p.values())))
def test_collapsed_control_averages_the_own_weights(params):
    method = ensemble(cnn, members=3, **params).eval()
    one = method.collapsed().eval()
    assert one.members == 1
    for own, averaged in zip(method.member_layers(), one.member_layers(), strict=True):
        for name in own.fast:
            torch.testing.assert_close(averaged.fast[name][0], own.fast[name].mean(0))
    assert one(inputs(cnn)).shape == (1, 7, 3)
    assert method(inputs(cnn)).shape == (3, 7, 3)


def test_member_norm_is_each_members_own_batch_norm():
    method = ensemble(cnn, members=3, init="normal", init_std=0.5, norm="member").train()
    conv, norm = method.network[0], method.network[1]
    x = inputs(cnn).expand(3, -1, -1, -1, -1).flatten(0, 1)
    hidden = conv(x)
    expected = torch.cat([nn.BatchNorm2d(4)(part) for part in hidden.chunk(3)])
    torch.testing.assert_close(norm(hidden), expected)
    assert method.eval().collapsed()(inputs(cnn)).shape == (1, 7, 3)


@pytest.mark.parametrize("bias", ["shared", "same"])
@pytest.mark.parametrize("rank", [1, 4, "full"])
@pytest.mark.parametrize("norm", ["shared", "member"])
@pytest.mark.parametrize("backbone", ["cnn", "resnet18"])
def test_a_members_plain_network_gives_its_logits(backbone, norm, rank, bias):
    params = {"members": 3, "init": "normal", "init_std": 0.5}
    method = Subject(
        "batch_ensemble", params | {"rank": rank, "bias": bias, "norm": norm}, backbone
    ).make()
    x = torch.randn(6, 3, 16, 16, generator=torch.Generator().manual_seed(1))
    method.train()(x)  # Statistics that differ from their start, and by member if they are its own.
    logits = method.eval()(x)
    for m in range(3):
        network = method.member_network(m).eval()
        assert not [k for k in network.modules() if isinstance(k, MemberLayer | MemberBatchNorm)]
        torch.testing.assert_close(network(x), logits[m], rtol=1e-4, atol=1e-5)


def test_member_norm_keeps_the_statistics_of_a_trained_norm():
    norm = nn.BatchNorm1d(3)
    norm.running_mean.fill_(5)
    norm.running_var.fill_(4)
    own, x = MemberBatchNorm(norm, 2).eval(), torch.randn(8, 3)
    torch.testing.assert_close(own(x), norm.eval()(x))


def test_member_norm_needs_batch_normalisation():
    with pytest.raises(StudyError, match=r"params\.norm=member needs batch normalisation"):
        ensemble(mlp, init="ones", norm="member")


def test_own_weights_cost_what_the_paper_says():
    network = lambda: nn.Sequential(  # noqa: E731
        nn.Linear(784, 64), nn.Linear(64, 32), nn.Linear(32, 16), nn.Linear(16, 10)
    )
    method = ensemble(network, members=4, init="ones", bias="shared")
    own = sum(p.numel() for layer in method.member_layers() for p in layer.fast.values())
    assert own == 4 * (784 + 64 + 64 + 32 + 32 + 16 + 16 + 10)


@pytest.mark.parametrize(
    ("params", "message"),
    [
        (
            {"init": "normal", "init_std": None},
            "init_std must be given exactly when init is normal",
        ),
        ({"init": "ones", "init_std": 0.5}, "init_std must be given exactly when"),
        (
            {"init": "sign", "negative_share": None},
            "negative_share must be given exactly when init is sign or tabm_sign",
        ),
        ({"init": "ones", "rank": 2}, "rank=2 must have init=normal"),
        ({"init": "ones", "members": 0}, "greater than or equal to 1"),
        ({"init": "ones", "memebrs": 4}, "Extra inputs are not permitted"),
    ],
)
def test_params_say_what_is_wrong(params, message):
    with pytest.raises(ValidationError, match=message):
        Params(**params)


def test_random_biases_follow_the_fan_in():
    wide = lambda: nn.Sequential(nn.Linear(400, 500))  # noqa: E731
    bias = ensemble(wide, init="ones", bias="random").network[0].bias
    assert bias.shape == (4, 500)
    assert bias.abs().max().item() <= 1 / math.sqrt(400)
    assert bias.std().item() == pytest.approx(1 / math.sqrt(3 * 400), rel=0.05)


@pytest.mark.parametrize(
    ("params", "law"),
    [
        ({"members": 2}, ("normal", 0.5, None)),
        ({"init": "sign"}, ("sign", None, 0.5)),
        ({"init": "tabm_sign"}, ("tabm_sign", None, 0.5)),
        ({"init": "ones"}, ("ones", None, None)),
        ({"init": "normal", "init_std": 0.1}, ("normal", 0.1, None)),
    ],
)
def test_a_start_that_is_only_named_is_as_published(params, law):
    found = Params(**params)
    assert (found.init, found.init_std, found.negative_share) == law
