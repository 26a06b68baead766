"""Singular Value Ensembles against the formulas they stand for."""

import pytest
import torch
from torch import nn

from study.conformance import CLASSES, Subject, inputs
from study.layers.perturbed import IndependentLayer
from study.methods import build
from study.methods.sve import SingularLayer
from study.spec import Training


def layer(kind, std=0.0, members=3, softplus=False):
    torch.manual_seed(0)
    plain = nn.Linear(6, 4) if kind == "linear" else nn.Conv2d(2, 4, 3, stride=2, padding=1)
    return plain, SingularLayer(plain, members, std, softplus)


def x_of(kind):
    return torch.randn(5, 6) if kind == "linear" else torch.randn(5, 2, 8, 8)


@pytest.mark.parametrize("softplus", [False, True])
@pytest.mark.parametrize("kind", ["linear", "conv"])
def test_unperturbed_singular_values_are_the_trained_layer(kind, softplus):
    plain, own = layer(kind, softplus=softplus)
    x = x_of(kind)
    out = own(x.repeat(3, *[1] * (x.dim() - 1))).unflatten(0, (3, -1))
    for member in out:
        torch.testing.assert_close(member, plain(x), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", ["linear", "conv"])
def test_members_differ_in_singular_values_alone(kind):
    plain, own = layer(kind, std=0.3)
    u, sigma, v = torch.linalg.svd(plain.weight.flatten(1), full_matrices=False)
    for weight, values in zip(own.effective_weight(), own.singular_values(), strict=True):
        torch.testing.assert_close(u.T @ weight.flatten(1) @ v.T, torch.diag(values))
        assert not torch.allclose(values, sigma)


def test_start_has_the_relative_spread_asked_for():
    own = SingularLayer(nn.Linear(200, 200), 50, 0.1, softplus=False)
    relative = own.singular_values() / own.sigma - 1
    assert relative.std().item() == pytest.approx(0.1, rel=0.02)


@pytest.mark.parametrize("softplus", [False, True])
def test_singular_values_never_fall_below_zero(softplus):
    _, own = layer("linear", softplus=softplus)
    own.fast["sigma"].data -= 100
    assert bool((own.singular_values() >= 0).all())


def test_a_member_costs_its_singular_values_biases_and_head():
    network = lambda: nn.Sequential(nn.Linear(64, 32), nn.Linear(32, 16), nn.Linear(16, 10))  # noqa: E731
    method = build("sve", {"members": 4, "warm_start": 0.0}, network, 0)
    own = sum(p.numel() for p in method.own_parameters())
    assert own == 4 * (32 + 16 + 32 + 16 + 16 * 10 + 10)
    assert method.stored_bytes() == 4 * (64 * 32 + 32 * 16 + own)  # U and V follow from W.


def test_directions_are_frozen_and_everything_else_is_trained():
    method = Subject("sve", {"members": 2, "warm_start": 0.0}, "cnn").make()
    groups = method.param_groups(Training())
    grouped = {id(p) for group in groups for p in group["params"]}
    frozen = {n for n, p in method.named_parameters() if id(p) not in grouped}
    singular = {n for n, m in method.named_modules() if isinstance(m, SingularLayer)}
    assert frozen == {f"{name}.weight" for name in singular}
    assert isinstance(method.network.head, IndependentLayer)


def test_the_warm_start_is_the_single_network():
    subject = Subject("sve", {"members": 3, "warm_start": 0.5}, "mlp")
    method = subject.make().eval()
    plain = Subject("single", {}, "mlp").make().eval()
    torch.testing.assert_close(method(inputs()), plain(inputs()).expand(3, -1, -1))
    logits, labels = method.training_forward(inputs(), torch.zeros(8, dtype=torch.long))
    assert (logits.shape, labels.shape) == ((1, 8, CLASSES), (1, 8))
    trained = subject.trained()
    assert not torch.allclose(trained.eval()(inputs())[0], trained(inputs())[1])
