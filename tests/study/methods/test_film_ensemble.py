"""FiLM-Ensemble against the formulas it stands for."""

import math

import pytest
import torch
from torch import nn

from study.backbones import build as build_backbone
from study.backbones.mlp import Params as Mlp
from study.conformance import CLASSES, Subject, inputs
from study.errors import StudyError
from study.methods import build
from study.methods.film_ensemble import FilmNorm

M = 3


def mlp(norm):
    return lambda: build_backbone(Mlp(width=12, depth=2, norm=norm), (3, 16, 16), CLASSES)


@pytest.mark.parametrize("norm", ["batch", "layer"])
def test_without_modulation_it_is_the_backbone(norm):
    method = build("film_ensemble", {"members": M}, mlp(norm), 0)
    for gamma, beta in method.modulations():
        gamma.data.fill_(1)
        beta.data.zero_()
    torch.manual_seed(0)
    plain = mlp(norm)()
    for network in (method, plain):
        network.train()
    expected = plain(inputs())
    torch.testing.assert_close(method(inputs()), expected.expand(M, -1, -1))
    torch.testing.assert_close(
        method.eval()(inputs())[0], plain.eval()(inputs()), atol=1e-3, rtol=0
    )


@pytest.mark.parametrize("shape", [(5, 4), (5, 4, 6, 6)])
def test_shared_statistics_are_those_of_the_joint_batch(shape):
    kind = nn.BatchNorm1d if len(shape) == 2 else nn.BatchNorm2d
    gamma, beta = torch.randn(M, 4), torch.randn(M, 4)
    x = torch.randn(M, *shape) * 3 + 1
    film = FilmNorm(kind(4), gamma, beta).train()
    axes = (0, 1, *range(3, len(shape) + 1))
    centred = x - x.mean(axes, keepdim=True)
    unit = centred / (centred.square().mean(axes, keepdim=True) + 1e-5).sqrt()
    view = (M, 1, 4, *[1] * (len(shape) - 2))
    expected = gamma.view(view) * unit + beta.view(view)
    torch.testing.assert_close(film(x.flatten(0, 1)), expected.flatten(0, 1))


def test_statistics_by_member_are_of_its_own_part():
    method = build("film_ensemble", {"members": M, "norm": "member"}, mlp("batch"), 0)
    norm = method.network.layers[2].train()
    x = torch.randn(M, 6, 12) * torch.tensor([1.0, 5.0, 20.0]).view(M, 1, 1)
    gamma, beta = next(iter(method.modulations()))
    unit = (x - x.mean(1, keepdim=True)) / (x.var(1, correction=0, keepdim=True) + 1e-5).sqrt()
    expected = gamma.unsqueeze(1) * unit + beta.unsqueeze(1)
    torch.testing.assert_close(norm(x.flatten(0, 1)), expected.flatten(0, 1))


def test_layer_norm_is_over_the_features_of_tokens():
    gamma, beta = torch.randn(M, 4), torch.randn(M, 4)
    film, x = FilmNorm(nn.LayerNorm(4), gamma, beta), torch.randn(M, 5, 7, 4)
    expected = torch.stack(
        [nn.functional.layer_norm(x[m], (4,), gamma[m], beta[m]) for m in range(M)]
    )
    torch.testing.assert_close(film(x.flatten(0, 1)).unflatten(0, (M, -1)), expected)


@pytest.mark.parametrize("norm", ["shared", "member"])
@pytest.mark.parametrize("gain", [0.5, 4.0])
def test_start_is_the_law_asked_for(norm, gain):
    def network():
        return nn.Sequential(nn.Linear(4, 500), nn.BatchNorm1d(500), nn.Linear(500, 2))

    def start(init):
        params = {"members": 4, "gain": gain, "init": init, "norm": norm}
        return next(iter(build("film_ensemble", params, network, 0).modulations()))

    bound = gain * math.sqrt(6 / 504)
    for offset, values in zip((0, 0, 1, 0), (*start("xavier"), *start("around_one")), strict=True):
        deviations = values.detach() - offset
        assert deviations.abs().max().item() == pytest.approx(bound, rel=0.01)
        assert deviations.std().item() == pytest.approx(bound / math.sqrt(3), rel=0.05)
        assert abs(deviations.mean().item()) < 0.06 * bound
    for values in start("sign"):
        assert set(values.flatten().tolist()) == {-gain, gain}


@pytest.mark.parametrize("norm", ["shared", "member"])
def test_a_member_costs_two_numbers_for_each_channel(norm):
    method = Subject("film_ensemble", {"members": M, "norm": norm}, "resnet18").make()
    channels = sum(
        m.num_features
        for m in Subject("single", {}, "resnet18").make().modules()
        if isinstance(m, nn.BatchNorm2d)
    )
    assert sum(p.numel() for p in method.own_parameters()) == 2 * M * channels
    assert method.perturbations().shape == (M, 2 * channels)


def test_networks_without_the_norms_are_refused():
    with pytest.raises(StudyError, match=r"needs batch or layer.*set backbone.norm"):
        build("film_ensemble", {}, mlp("none"), 0)
    with pytest.raises(StudyError, match=r"only layer norms; set params.norm to shared"):
        build("film_ensemble", {"norm": "member"}, mlp("layer"), 0)
