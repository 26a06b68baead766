"""E³ against the formulas it stands for, and against independent layers."""

import copy
from itertools import pairwise
from statistics import NormalDist

import pytest
import torch
from pydantic import ValidationError
from torch import nn
from torch.nn import functional as F

from study import backbones, datasets
from study.conformance import BATCH, CLASSES, Subject, inputs
from study.datasets import digits
from study.diagnostics.cost import counter
from study.errors import StudyError
from study.layers.members import recording_head_inputs
from study.methods import build
from study.methods.e3 import ExpertLayer, Params, importance, load, replaceable
from study.plugins import names
from study.spec import Regularisation, Training
from study.training.batches import DeviceImages, channel_statistics
from study.training.fit import fit
from study.training.prediction import predict

LABELS = torch.arange(BATCH) % CLASSES


def mlp(**params):
    options = backbones.parameters({"name": "mlp", "width": 12, **params})
    return lambda: backbones.build(options, (3, 16, 16), CLASSES)


def layer(**params):
    torch.manual_seed(0)
    params = Params(**params)
    return ExpertLayer([nn.Linear(6, 4) for _ in range(params.experts)], params)


def step(method, lr=0.1):
    logits, labels = method.training_forward(inputs(), LABELS)
    method.loss(logits, labels, 0.0).backward()
    for parameter in method.parameters():
        parameter.data -= lr * parameter.grad
        parameter.grad = None


def flops(network, x):
    with torch.no_grad(), counter() as counted:
        network.eval()(x)
    return counted.get_total_flops()


def scores(method, expert_layer):
    """Return the layer's scores (M, N, E/M) for one member."""
    seen = []
    hook = expert_layer.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    method(inputs())
    hook.remove()
    return seen[0].unsqueeze(0) @ expert_layer.router.mT


@pytest.mark.parametrize("layers", ["last", "all"])
@pytest.mark.parametrize("backbone", names("study.backbones"))
def test_one_expert_for_each_member_is_independent_layers(backbone, layers):
    params = {"members": 3, "experts": 3, "layers": layers, "expert_init": "independent"}
    subject = Subject("e3", params, backbone)
    torch.manual_seed(0)
    drawn = [subject.plain().eval() for _ in range(3)]
    chosen = replaceable(drawn[0])[-1 if layers == "last" else 0 :]
    for logits, other in zip(subject.make(seed=0).eval()(inputs()), drawn, strict=True):
        member = copy.deepcopy(drawn[0])
        for name in chosen:
            member.set_submodule(name, other.get_submodule(name))
        torch.testing.assert_close(logits, member(inputs()), rtol=1e-4, atol=1e-5)


def test_which_layers_hold_experts():
    plain = {name: Subject("e3", {}, name).plain() for name in names("study.backbones")}
    assert replaceable(plain["mlp"]) == ["layers.1", "layers.4"]
    assert replaceable(plain["cnn"]) == ["hidden"]
    assert replaceable(plain["vit"]) == ["blocks.0.1.branch", "blocks.1.1.branch"]
    assert replaceable(plain["resnet18"]) == replaceable(plain["wide_resnet"]) == ["head"]
    with pytest.raises(StudyError, match="needs a linear layer to replace by experts"):
        replaceable(nn.Sequential(nn.Conv2d(1, 1, 1)))


@pytest.mark.parametrize("top_k", [1, 2, 3])
def test_rows_are_mapped_by_the_weighted_best_experts_of_their_member(top_k):
    sparse = layer(members=2, experts=6, top_k=top_k).eval()
    x = torch.randn(2 * 5, 7, 6)
    out = sparse(x).unflatten(0, (2, 5))
    for m, rows in enumerate(x.unflatten(0, (2, 5))):
        gates = (rows @ sparse.router[m].T).softmax(-1)
        kept = gates * (gates >= gates.topk(top_k).values[..., -1:])
        experts = torch.stack([e(rows) for e in sparse.experts[3 * m : 3 * m + 3]], dim=-1)
        torch.testing.assert_close(out[m], (experts * kept.unsqueeze(-2)).sum(-1))


def test_gradients_are_those_of_the_dense_formula():
    sparse = layer(members=1, experts=3, top_k=2, noise=0.0)
    x = torch.randn(9, 6)
    parameters = list(sparse.parameters())
    found = torch.autograd.grad(sparse(x).square().sum(), parameters)
    gates = (x @ sparse.router[0].T).softmax(-1)
    kept = gates * (gates >= gates.topk(2).values[:, -1:])
    experts = torch.stack([e(x) for e in sparse.experts], dim=-1)
    dense = (experts * kept.unsqueeze(1)).sum(-1)
    torch.testing.assert_close(found, torch.autograd.grad(dense.square().sum(), parameters))


def test_all_experts_called_on_all_rows_give_the_same():
    sparse = layer(members=2, experts=6, top_k=2)
    rows = torch.randn(2, 9, 6, requires_grad=True)
    gates, chosen = sparse.route(rows)
    wanted = [rows, *sparse.parameters()]
    found = []
    for apply in (sparse._apply_chosen, sparse._apply_all):
        y = apply(rows, gates, chosen)
        found.append([y, *torch.autograd.grad(y.square().sum(), wanted, retain_graph=True)])
    for chosen_alone, of_all in zip(*found, strict=True):
        torch.testing.assert_close(of_all, chosen_alone)


def test_members_do_not_meet_in_an_expert():
    sparse = layer(members=2, experts=6, top_k=3)
    sparse(torch.randn(2 * 5, 6)).unflatten(0, (2, 5))[1].sum().backward()
    used = [bool(e.weight.grad.any()) for e in sparse.experts]
    assert used == [False] * 3 + [True] * 3


def test_an_expert_without_rows_has_a_gradient_of_zero():
    sparse = layer(members=1, experts=3)
    x = torch.ones(4, 6)  # All alike, so that all take the same expert.
    sparse(x).sum().backward()
    assert sorted(bool(e.weight.grad.any()) for e in sparse.experts) == [False, False, True]


def test_noise_has_the_std_asked_for_over_a_members_experts_in_training_alone():
    sparse = layer(members=2, experts=4, top_k=2, noise=0.6)
    sparse.router.data.zero_()
    x = torch.randn(2, 20_000, 6)
    gates, chosen = sparse.route(x)
    by_expert = gates.gather(2, chosen.argsort(-1)).log()
    difference = by_expert[..., 0] - by_expert[..., 1]  # Of two independent draws.
    assert difference.std().item() == pytest.approx(2**0.5 * 0.6 / 2, rel=0.02)
    assert torch.equal(sparse.eval().route(x)[0], torch.full((2, 20_000, 2), 0.5))


def test_importance_by_hand():
    skewed, even = [[0.8, 0.2], [0.6, 0.4]], [[0.3, 0.7], [0.7, 0.3]]
    # Sums 1.4 and 0.6: variance 0.16 around 1; the even member has none.
    assert importance(torch.tensor([skewed, even])).item() == pytest.approx(0.08)


def test_load_by_hand():
    scores, noisy = torch.tensor([[[1.0, 0.0, 0.5]]]), torch.tensor([[[1.5, 0.2, 0.4]]])
    for top_k, threshold in ((1, 1.5), (2, 0.4), (3, 0.2)):
        chances = [NormalDist(threshold, 0.5).cdf(score) for score in (1.0, 0.0, 0.5)]
        mean = sum(chances) / 3
        variance = sum((c - mean) ** 2 for c in chances) / 3
        found = load(scores, noisy, top_k, 0.5).item()
        assert found == pytest.approx(variance / mean**2, rel=1e-4)


def test_load_is_of_the_mean_chance_over_rows():
    scores = torch.tensor([[[1.0, 0.0], [0.0, 1.0]]])
    assert load(scores, scores, 1, 0.1).item() == pytest.approx(0, abs=1e-6)
    assert load(scores[:, :1], scores[:, :1], 1, 0.1).item() == pytest.approx(1)


@pytest.mark.parametrize("noise", [0.0, 0.8])
def test_balance_is_importance_without_noise_and_load_with_it(noise):
    sparse, rows = layer(members=2, experts=6, top_k=2, noise=noise), torch.randn(2, 9, 6)
    torch.manual_seed(1)
    sparse.route(rows)
    torch.manual_seed(1)
    clean, std = rows @ sparse.router.mT, noise / 3
    expected = importance(clean.softmax(-1))
    if noise:
        expected = expected + load(clean, clean + std * torch.randn(2, 9, 3), 2, std)
    torch.testing.assert_close(sparse.balance, expected)


def test_collapsed_routers_have_the_greatest_importance_loss():
    one_of_four = torch.eye(4)[:1].expand(10, 4).unsqueeze(0)
    assert importance(one_of_four).item() == pytest.approx(3)  # E/M - 1


def test_auxiliary_losses_join_once_and_in_training_alone():
    params = {"members": 2, "experts": 4, "layers": "all", "auxiliary": 0.3, "noise": 0.0}
    method = build("e3", params, mlp(), 0)
    logits, labels = method.training_forward(inputs(), LABELS)
    plain = F.cross_entropy(logits.flatten(0, 1), labels.flatten())
    balance = sum(expert_layer.balance for expert_layer in method.expert_layers())
    assert len(list(method.expert_layers())) == 2
    torch.testing.assert_close(method.loss(logits, labels, 0.0), plain + 0.3 * balance)
    torch.testing.assert_close(method.loss(logits, labels, 0.0), plain)
    method.eval()(inputs())
    torch.testing.assert_close(method.loss(logits, labels, 0.0), plain)


def test_auxiliary_losses_train_the_router():
    method = build("e3", {"members": 1, "experts": 4, "auxiliary": 100.0}, mlp(), 0)
    (expert_layer,) = method.expert_layers()
    expert_layer.router.data[0, 0] += 1.0  # Nearly all rows take the first expert.

    def balance():
        return importance(scores(method, expert_layer).softmax(-1)).item()

    before = balance()
    for _ in range(20):
        step(method, lr=1e-3)
    assert balance() < before / 2


def test_one_shared_start_without_noise_makes_twins_for_ever():
    method = build("e3", {"members": 3, "experts": 3, "layers": "all", "noise": 0.0}, mlp(), 0)
    for _ in range(3):
        logits = method(inputs())
        torch.testing.assert_close(logits, logits[:1].expand_as(logits))
        step(method)
    weights = next(method.effective_weights())
    torch.testing.assert_close(weights, weights[:1].expand_as(weights))


def test_shared_experts_differ_at_the_start_by_their_routers_alone():
    method = build("e3", {"members": 2, "experts": 6, "noise": 0.0}, mlp(), 0)
    first, second = method(inputs())
    assert not torch.allclose(first, second)
    for expert_layer in method.expert_layers():
        expert_layer.router.data[1] = expert_layer.router.data[0]
    first, second = method(inputs())
    torch.testing.assert_close(first, second)


def test_independent_experts_differ_at_the_start():
    method = build("e3", {"experts": 4, "expert_init": "independent"}, mlp(), 0)
    (expert_layer,) = method.expert_layers()
    for one, other in pairwise(expert_layer.experts):
        assert not torch.equal(one.weight, other.weight)


def test_one_of_four_experts_costs_one_and_the_router():
    method = build("e3", {"members": 1, "experts": 4}, mlp(), 0)
    router = 2 * len(inputs()) * 12 * 4
    assert flops(method, inputs()) == flops(mlp()(), inputs()) + router


def test_members_share_the_computation_before_the_first_expert_layer():
    params = {"members": 4, "experts": 8, "top_k": 2}
    method = build("e3", params, mlp(), 0)
    first, experts, router, head = 3 * 16 * 16 * 12, 2 * 12 * 12, 12 * 2, 12 * CLASSES
    expected = 2 * BATCH * (first + 4 * (experts + router + head))
    assert flops(method, inputs()) == expected


def test_members_share_the_attention_before_the_first_expert_layer():
    subject = Subject("e3", {"members": 3, "experts": 3}, "vit")
    plain = subject.plain()
    head = 2 * BATCH * 12 * CLASSES
    block, router = 2 * BATCH * 5 * (2 * 12 * 24), 2 * BATCH * 5 * 12
    shared = flops(plain, inputs()) - block - head
    assert flops(subject.make(), inputs()) == shared + 3 * (block + router + head)


@pytest.mark.parametrize("backbone", names("study.backbones"))
def test_features_are_every_members_own(backbone):
    method = Subject("e3", {"members": 2, "experts": 4}, backbone).make()
    with recording_head_inputs(method) as features:
        method(inputs())
    assert len(features[-1]) == 2 * BATCH


def test_trains_in_bfloat16():
    method = build("e3", {"experts": 4, "top_k": 2}, mlp(), 0)
    with torch.autocast("cpu", torch.bfloat16):
        logits, labels = method.training_forward(inputs(), LABELS)
    method.loss(logits.float(), labels, 0.0).backward()
    assert all(bool(p.grad.isfinite().all()) for p in method.parameters())


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"members": 3, "experts": 8}, "multiple of members=3, but is 8; the nearest is 9"),
        ({"members": 4, "experts": 1}, "multiple of members=4, but is 1; the nearest is 4"),
        (
            {"experts": 4, "top_k": 3},
            "at most the 2 experts of a member, but is 3; the nearest is 2",
        ),
    ],
)
def test_impossible_groups_are_refused(params, message):
    with pytest.raises(ValidationError, match=message):
        Params(**params)


@pytest.mark.slow
@pytest.mark.parametrize("params", [{}, {"layers": "all", "top_k": 2, "auxiliary": 0.05}], ids=str)
def test_learns_the_digits(params):
    options = digits.Options(train_size=300, shift_size=20, ood_size=50, split_seed=5)
    data = datasets.load(options.model_dump(), None)
    mlp = backbones.parameters({"name": "mlp", "width": 128, "dropout": 0.1})
    method = build("e3", params, lambda: backbones.build(mlp, data.shape, data.classes), 1)

    def pixels(images):
        return DeviceImages(images, *channel_statistics(data.train[0]), torch.device("cpu"))

    training = Training(lr=0.1, epochs=40, batch_size=32, weight_decay=1e-3)
    fit(method, pixels(data.train[0]), torch.tensor(data.train[1]), training, Regularisation(), 1)
    ensemble = predict(method, pixels(data.test[0])).softmax(-1).mean(0)
    assert (ensemble.argmax(-1) == torch.tensor(data.test[1])).double().mean().item() >= 0.93
