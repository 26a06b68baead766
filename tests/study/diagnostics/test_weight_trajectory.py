"""Where members lie in parameter space, against closed forms and cases by hand."""

import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from study.diagnostics.weight_trajectory import (
    POINTS,
    WEIGHTS,
    Trajectory,
    mean_cosine,
    products,
    sign_disagreement,
    spread,
    weight_cosine,
    weight_rows,
    when,
)
from study.methods import build


def square(side=900):
    return nn.Sequential(nn.Linear(side, side))


def two_layers():
    return nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3))


def be(network=two_layers, **params):
    return build("batch_ensemble", params, network, 0)


def whole(method):
    return {r.quantity: r.value for r in weight_rows(method, 0) if r.layer is None}


@pytest.mark.parametrize("std", [0.1, 0.5])
def test_normal_members_start_at_the_closed_forms(std):
    found = whole(be(square, members=4, init="normal", init_std=std))
    assert found["cosine"] == pytest.approx(1 / (1 + std**2) ** 2, abs=0.04)
    # ‖W_m‖² has mean q = (1 + std²)² in units of ‖W‖² and W_i · W_j mean 1.
    q, m = (1 + std**2) ** 2, 4
    deviation, mean = (q - 1) * (1 - 1 / m), 1 + (q - 1) / m
    assert found["spread"] == pytest.approx(math.sqrt(deviation / mean), rel=0.1)
    assert found["cosine_deviation"] == pytest.approx(-1 / 3, abs=0.01)


@pytest.mark.parametrize("p", [0.1, 0.5])
def test_signed_members_start_at_the_closed_forms(p):
    found = whole(be(square, members=4, init="sign", negative_share=p))
    cosine = (1 - 2 * p) ** 4
    assert found["cosine"] == pytest.approx(cosine, abs=0.05)
    # The weights of two members differ in sign alone.
    assert found["sign_disagreement"] == pytest.approx((1 - cosine) / 2, abs=0.025)


@pytest.mark.parametrize("members", [2, 3, 5])
def test_identical_members_do_not_deviate_at_all(members):
    found = whole(be(members=members, init="ones"))
    assert found["cosine"] == pytest.approx(1)
    assert (found["spread"], found["sign_disagreement"]) == (0, 0)
    assert found["cosine_deviation"] is None


def test_every_quantity_by_hand():
    # W̄ = (2, 0), so the deviations are ±(1, 2), of length √5; one sign of two differs.
    inner = products(torch.tensor([[3.0, 2.0], [1.0, -2.0]]))
    assert mean_cosine(inner.weights_MM) == pytest.approx(-1 / math.sqrt(13 * 5))
    assert mean_cosine(inner.deviations_MM) == pytest.approx(-1)
    assert spread(inner) == pytest.approx(math.sqrt(5) / 2)
    assert sign_disagreement(inner) == pytest.approx(0.5)


def test_a_weight_of_zero_has_half_of_each_sign():
    assert sign_disagreement(products(torch.tensor([[0.0, 1.0], [1.0, 1.0]]))) == 0.25


def test_layers_add_up_to_the_vector_of_all_weights():
    a, b = torch.randn(3, 40), torch.randn(3, 7)
    apart, joint = products(a) + products(b), products(torch.cat([a, b], dim=1))
    for name, quantity in WEIGHTS.items():
        assert quantity(apart) == pytest.approx(quantity(joint), rel=1e-5), name
    expected = F.cosine_similarity(*torch.cat([a, b], dim=1)[:2], dim=0).item()
    pair = products(torch.cat([a, b], dim=1)[:2])
    assert mean_cosine(pair.weights_MM) == pytest.approx(expected, rel=1e-4)


def test_layers_are_numbered_in_order():
    method = be(members=2, init="normal", init_std=0.5, layers="last")
    rows = [r for r in weight_rows(method, 3) if r.quantity == "spread"]
    assert [r.layer for r in rows] == [None, "0", "1"]
    assert rows[1].value == 0 < rows[0].value < rows[2].value
    assert {r.epoch for r in rows} == {3}


def test_what_is_not_defined_is_not_there():
    assert weight_rows(build("single", {}, two_layers, 0), 0) == []
    assert weight_cosine(build("single", {}, two_layers, 0)) is None
    with_dropout = lambda: nn.Sequential(nn.Linear(4, 4), nn.Dropout(0.5))  # noqa: E731
    dropout = build("mc_dropout", {"members": 2}, with_dropout, 0)
    assert weight_rows(dropout, 0) == []
    assert weight_cosine(dropout) is None


@pytest.mark.parametrize(("epochs", "expected"), [(1, {0, 1}), (2, {0, 1, 2})])
def test_short_trainings_are_followed_at_every_epoch(epochs, expected):
    assert when(epochs) == expected


def test_long_trainings_are_followed_at_even_steps():
    assert sorted(when(40)) == [0, 5, 10, 15, 20, 25, 30, 35, 40]
    assert len(when(75)) == POINTS + 1
    assert {0, 75} < when(75)


def test_a_trajectory_records_what_is_due_once():
    path = Trajectory(be(members=2, init="normal", init_std=0.5), {0, 2})
    for epoch in (0, 1, 2, 2):
        path.record(epoch)
    cosines = [r.epoch for r in path.rows if r.quantity == "cosine" and r.layer is None]
    assert cosines == [0, 2]
    assert path.seconds > 0
