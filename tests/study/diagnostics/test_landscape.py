"""Members as networks: barriers, means and similarity of features, against cases by hand."""

import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from study.datasets import evenly
from study.diagnostics.landscape import (
    Probe,
    barrier,
    cka,
    features,
    line,
    loss,
    mean_network,
    member_networks,
    mix,
    network_rows,
)
from study.layers.members import repeat_for_members, update_batch_norm
from study.methods import build
from study.parquet_format import GeometryRow


def mlp():
    return nn.Sequential(nn.Flatten(), nn.Linear(12, 8), nn.ReLU(), nn.Linear(8, 3))


def normed():
    return nn.Sequential(nn.Conv2d(3, 4, 2), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(4, 3))


def masked():
    layers = nn.Linear(12, 8), nn.ReLU(), nn.Dropout(0.5), nn.Linear(8, 3)
    return nn.Sequential(nn.Flatten(), *layers)


def noise(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.fixture
def probe():
    return Probe(noise(30, 3, 2, 2), noise(20, 3, 2, 2, seed=1), torch.arange(20) % 3)


def be(network, **params):
    return build("batch_ensemble", {"members": 3} | params, network, 0)


NORMAL = {"init": "normal", "init_std": 0.5}


@pytest.mark.parametrize("network", [mlp, normed])
def test_no_barrier_lies_between_a_member_and_itself(network, probe):
    own = member_networks(be(network, **NORMAL))[0]
    losses = line(own, own, probe)
    assert bool((losses == losses[0]).all())
    assert barrier(losses) == 0


def test_a_barrier_by_hand():
    # The chord from 1 to 3 is 2 half way: the loss there is 2.5 above it.
    assert barrier(torch.tensor([1.0, 4.5, 3.0])) == pytest.approx(2.5)
    assert barrier(torch.tensor([1.0, 0.5, 3.0])) == 0


def test_a_line_is_the_loss_of_mixed_weights(probe):
    torch.manual_seed(0)
    one, other = mlp(), mlp()
    losses = line(one, other, probe)
    assert losses.shape == (11,)
    for alpha in (0.0, 0.3, 1.0):
        mixed = {
            k: torch.lerp(v, other.state_dict()[k], alpha) for k, v in one.state_dict().items()
        }
        logits = torch.func.functional_call(one, mixed, probe.val)
        expected = F.cross_entropy(logits, probe.y_N).item()
        assert losses[round(10 * alpha)].item() == pytest.approx(expected, rel=1e-5)


def test_opposite_networks_are_separated_by_a_network_of_zeros(probe):
    """w and -w with the hidden layer flipped too say the same; between them lies log C."""
    torch.manual_seed(0)
    one = nn.Sequential(nn.Flatten(), nn.Linear(12, 8, False), nn.Linear(8, 3, False))
    other = nn.Sequential(nn.Flatten(), nn.Linear(12, 8, False), nn.Linear(8, 3, False))
    for mine, its in zip(one.parameters(), other.parameters(), strict=True):
        its.data = -mine.data
    losses = line(one, other, probe)
    assert losses[0].item() == pytest.approx(losses[-1].item(), rel=1e-5)
    assert losses[5].item() == pytest.approx(math.log(3), rel=1e-6)


def test_ends_of_a_line_have_their_own_statistics(probe):
    own = member_networks(be(normed, **NORMAL))[0]
    hidden = own[0](probe.train)
    update_batch_norm(own, probe.train)
    assert not own.training
    torch.testing.assert_close(own[1].running_mean, hidden.mean((0, 2, 3)))
    torch.testing.assert_close(own[1].running_var, hidden.var((0, 2, 3)))


@pytest.mark.parametrize("network", [mlp, normed])
def test_mean_of_copies_is_each_copy(network, probe):
    method = be(network, init="ones", bias="shared").eval()
    networks = member_networks(method)
    mean = mean_network(networks, probe.train)
    for mine, its in zip(mean.parameters(), networks[1].parameters(), strict=True):
        assert torch.equal(mine, its)
    update_batch_norm(networks[1], probe.train)
    assert torch.equal(mean(probe.val), networks[1](probe.val))


def test_mean_has_the_mean_of_effective_weights_and_biases(probe):
    method = be(mlp, bias="random", **NORMAL)
    mean = mean_network(member_networks(method), probe.train)
    for layer, weights in zip((mean[1], mean[3]), method.effective_weights(), strict=True):
        torch.testing.assert_close(layer.weight.flatten(), weights.mean(0))
    torch.testing.assert_close(mean[1].bias, method.network[1].bias.mean(0))


def test_mixing_leaves_the_networks_alone(probe):
    networks = member_networks(be(mlp, **NORMAL))
    before = [loss(network, probe) for network in networks]
    mix(mlp(), networks, [0.2, 0.3, 0.5])
    line(networks[0], networks[1], probe)
    mean_network(networks, probe.train)
    assert [loss(network, probe) for network in networks] == before


def song(k, l):  # noqa: E741
    """Return the unbiased HSIC of Song et al. (2012), eq. 5, literally."""
    n = len(k)
    k, l = (g - torch.diag(g.diagonal()) for g in (k, l))  # noqa: E741
    one = torch.ones(n, dtype=k.dtype)
    middle = (one @ k @ one) * (one @ l @ one) / ((n - 1) * (n - 2))
    return (torch.trace(k @ l) + middle - 2 / (n - 2) * one @ k @ l @ one) / (n * (n - 3))


def test_cka_is_the_ratio_of_unbiased_hsics():
    x = noise(2, 15, 6).double() + 1
    k, l = x @ x.mT  # noqa: E741
    expected = song(k, l) / (song(k, k) * song(l, l)).sqrt()
    torch.testing.assert_close(cka(x)[0, 1], expected)


def test_cka_ignores_rotation_scale_and_offset():
    x = noise(40, 6)
    rotation = torch.linalg.qr(noise(6, 6, seed=1))[0]
    found = cka(torch.stack([x, 3 * x @ rotation + 2]))
    torch.testing.assert_close(found, torch.ones(2, 2).double(), rtol=0, atol=1e-5)


def test_cka_of_unrelated_features_is_near_zero_even_with_many_units():
    x = torch.stack([noise(60, 200, seed=seed) for seed in range(2)])
    assert abs(cka(x)[0, 1].item()) < 0.15
    centred = x - x.mean(1, keepdim=True)
    cross = (centred[0].mT @ centred[1]).square().sum()
    plain = cross / ((centred[0] @ centred[0].mT).norm() * (centred[1] @ centred[1].mT).norm())
    assert plain > 0.6


def test_features_enter_the_last_linear_layer(probe):
    method = be(mlp, **NORMAL)
    networks = member_networks(method)
    found = features(method, networks, probe.val)
    assert found.shape == (3, 20, 8)
    torch.testing.assert_close(networks[2][3](found[2]), method.eval()(probe.val)[2])


def test_features_of_dropout_are_under_each_members_masks(probe):
    method = build("mc_dropout", {"members": 4}, masked, 0)
    found = features(method, member_networks(method), probe.val)
    hidden = method.network[:4](repeat_for_members(probe.val, 4)).unflatten(0, (4, -1))
    torch.testing.assert_close(found, hidden)


def test_features_need_a_linear_layer(probe):
    flat = lambda: nn.Sequential(nn.Conv2d(3, 5, 2), nn.Flatten())  # noqa: E731
    method = be(flat, **NORMAL)
    assert features(method, member_networks(method), probe.val) is None
    assert features(method, [], probe.val) is None
    assert {r.quantity for r in network_rows(method, [], probe, 1)} == set()


def test_at_most_three_pairs_are_joined(probe):
    method = be(mlp, members=5, **NORMAL)
    rows = network_rows(method, member_networks(method), probe, 7)
    assert [(r.quantity, r.i, r.j) for r in rows] == [
        ("barrier", 0, 1),
        ("barrier", 0, 2),
        ("barrier", 1, 2),
        ("barrier", None, None),
        ("cka", None, None),
    ]
    assert {r.epoch for r in rows} == {7}


def test_copies_have_no_barrier_and_equal_features(probe):
    method = be(mlp, init="ones", bias="shared")
    rows = network_rows(method, member_networks(method), probe, 1)
    assert [r.value for r in rows[:4]] == [0, 0, 0, 0]
    assert rows[4].value == pytest.approx(1)


def test_dead_features_have_no_cka(probe):
    method = be(mlp, init="ones", bias="shared")
    method.network[1].weight.data.zero_()
    rows = network_rows(method, member_networks(method), probe, 1)
    assert rows[-1] == GeometryRow("cka", None, 1)


@pytest.mark.parametrize(("total", "most"), [(5, 9), (100, 10), (1001, 1000), (1, 4)])
def test_evenly_spread_indices_are_distinct(total, most):
    found = evenly(total, most).tolist()
    assert len(set(found)) == len(found) == min(total, most)
    assert (found[0], found[-1]) == (0, total - 1)
