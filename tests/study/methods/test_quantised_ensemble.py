"""Quantised ensembles: what is stored, how many bytes that is, and what it predicts."""

import pytest
import torch
from torch import nn

from study import datasets
from study.datasets import digits
from study.diagnostics.cost import size
from study.errors import StudyError
from study.layers.quantised import quantised_layers
from study.methods import build, deep_ensemble
from study.methods.quantised_ensemble import Params, member_bits
from study.spec import Regularisation, Training
from study.training.batches import DeviceImages, channel_statistics
from study.training.fit import fit
from study.training.prediction import predict

NAME = "quantised_ensemble"
WAYS = {
    "given": {"bits_first": 8, "bits_middle": 6, "bits_last": 8, "bits_step": 0},
    "differentiable": {"size_weight": 0.1, "bits_lr_multiplier": 10.0},
    "barrier": {"barrier_weight": 0.1, "one_hot_weight": 0.1, "bits_lr_multiplier": 10.0},
}


def given(first=8, middle=6, last=8, step=0, **more):
    bits = {"bits_first": first, "bits_middle": middle, "bits_last": last, "bits_step": step}
    return {"search": "given"} | bits | more


def network():
    layers = [nn.Linear(64, 64), nn.BatchNorm1d(64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU()]
    return nn.Sequential(nn.Flatten(), *layers, nn.Linear(64, 10))


def quantised(**params):
    method = build(NAME, params, network, 0)
    for own, _ in method.independent_members():
        for phase in own.phases():
            phase.begin()
    return method.eval()


def tensors(state):
    return sum(t.nbytes for t in state.values())


def test_bits_differ_by_layer_and_member():
    params = Params(**given(8, 4, 6, step=1))
    assert member_bits(params, 0, 4) == [8, 6, 6, 8]
    assert member_bits(params, 1, 4) == [6, 3, 3, 4]
    assert member_bits(params, 2, 1) == [8]
    assert member_bits(params, 3, 2) == [6, 4]


@pytest.mark.parametrize("granularity", ["channel", "tensor"])
@pytest.mark.parametrize("step", [0, 1])
def test_the_excess_is_that_of_the_stored_bytes(granularity, step):
    method = quantised(**given(8, 4, 6, step), members=3, budget=0.9, granularity=granularity)
    one = tensors(network().state_dict())
    stored = size(method).stored_bytes
    assert method.excess() == stored / (0.9 * one) - 1
    scales = 64 + 64 + 10 if granularity == "channel" else 3
    levels = [(8, 4, 6)] * 3 if step == 0 else [(8, 6, 8), (6, 3, 4), (8, 6, 8)]
    packed = sum((4096 * a + 4096 * b + 640 * c) // 8 for a, b, c in levels)
    assert stored == packed + 3 * (4 * scales + 3 + 4 * (64 + 64 + 10 + 4 * 64))


@pytest.mark.parametrize("search", ["differentiable", "barrier"])
@pytest.mark.parametrize(("members", "budget"), [(4, 1.0), (8, 1.0), (2, 0.5)])
def test_searched_bits_fit_into_the_budget(search, members, budget):
    ways = {"search": search} | WAYS[search]
    method = quantised(**ways, members=members, budget=budget, granularity="tensor")
    assert method.excess() <= 0
    assert method.stored_bytes() <= budget * tensors(network().state_dict())


def test_the_excess_is_unknown_until_the_bits_are_found():
    assert build(NAME, {"search": "barrier"} | WAYS["barrier"], network, 0).excess() is None


@pytest.mark.parametrize("members", [2, 4, 7])
def test_the_ensemble_is_no_larger_than_one_network(members):
    method = quantised(search="barrier", members=members, **WAYS["barrier"], granularity="tensor")
    assert method.stored_bytes() <= tensors(network().state_dict())


def test_members_apply_as_many_values_as_their_bits_allow():
    method = quantised(**given(8, 3, 2), members=2)
    for m in range(2):
        member = method.member_network(m)
        last = [layer for layer in member.modules() if isinstance(layer, nn.Linear)][-1]
        assert all(len(row.unique()) <= 3 for row in last.weight)
        wrapped = quantised_layers(method.singles[m])[-1]
        assert torch.equal(last.weight, wrapped.applied)


def test_until_the_fine_tuning_members_are_those_of_a_deep_ensemble():
    x = torch.randn(3, 64)
    ours = build(NAME, given(members=3), network, 4).eval()
    plain = build("deep_ensemble", {"members": 3}, network, 4).eval()
    assert torch.equal(ours(x), plain(x))
    assert [seed for _, seed in ours.independent_members()] == [
        deep_ensemble.member_seed(4, m) for m in range(3)
    ]


def test_a_budget_that_no_bits_can_meet_is_refused_with_the_nearest_that_can():
    params = given(2, 2, 2, members=8)
    with pytest.raises(
        StudyError, match=r"params\.budget must be at least (\S+), what 8"
    ) as caught:
        build(NAME, params | {"budget": 0.5}, network, 0)
    least = float(str(caught.value).split("at least ")[1].split(",")[0])
    assert build(NAME, params | {"budget": least}, network, 0).excess() <= 0
    with pytest.raises(StudyError):
        build(NAME, params | {"budget": least - 2e-4}, network, 0)


@pytest.mark.parametrize(
    ("params", "name"),
    [
        ({"search": "given", "bits_first": None}, "bits_first"),
        (given() | {"size_weight": 1.0}, "size_weight"),
        ({"search": "barrier"} | WAYS["differentiable"], "size_weight"),
        ({"search": "differentiable"} | WAYS["differentiable"] | {"bits_step": 0}, "bits_step"),
    ],
)
def test_parameters_of_another_search_are_refused(params, name):
    with pytest.raises(ValueError, match=f"{name} must be given exactly when search is"):
        Params(**params)


def accuracy(name, params):
    data = datasets.load(digits.Options().model_dump(), None)
    training = Training(lr=0.1, weight_decay=3e-4, epochs=40, batch_size=32)
    statistics = channel_statistics(data.train[0])
    train, val = (
        DeviceImages(x, *statistics, torch.device("cpu")) for x in (data.train[0], data.val[0])
    )
    mlp = lambda: nn.Sequential(  # noqa: E731
        nn.Flatten(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10)
    )
    method, labels = build(name, params, mlp, 0), torch.tensor(data.train[1])
    for part, seed in method.independent_members():
        fit(part, train, labels, training, Regularisation(), seed)
    mean = predict(method, val).softmax(-1).mean(0)
    stored, one = method.stored_bytes(), tensors(mlp().state_dict())
    return (mean.argmax(-1) == torch.tensor(data.val[1])).double().mean().item(), stored, one


@pytest.mark.slow
def test_on_digits_each_search_is_accurate_within_the_bytes_of_one_network():
    plain, _, _ = accuracy("deep_ensemble", {"members": 4})
    eight, _, _ = accuracy(NAME, given(8, 8, 8, members=4, budget=2.0))
    print("deep ensemble", plain, "8 bits", eight)
    assert eight == pytest.approx(plain, abs=0.01)
    for search, own in WAYS.items():
        reached, stored, one = accuracy(NAME, {"members": 4, "search": search} | own)
        print(search, reached, stored, one)
        assert reached >= 0.93
        assert stored <= one
