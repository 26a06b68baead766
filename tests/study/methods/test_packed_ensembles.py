"""Packed-Ensembles against the narrow networks they stand for, and against torch-uncertainty."""

import pytest
import torch
from torch import nn

from study.backbones import build as build_backbone
from study.backbones.mlp import Params as Mlp
from study.conformance import CLASSES, Subject, inputs
from study.errors import StudyError
from study.layers.members import recording_head_inputs, split_members
from study.methods import build
from study.methods.packed_ensembles import GroupedLinear, Params
from tests.peers import layers_of_torch_uncertainty

M = 3


def assert_same(mine, theirs, pairs):
    """Compare values, and gradients along a random direction."""
    torch.testing.assert_close(mine, theirs)
    direction = torch.randn_like(mine)
    (mine * direction).sum().backward()
    (theirs * direction).sum().backward()
    for own, other in pairs:
        torch.testing.assert_close(own.grad.view_as(other.grad), other.grad)


@pytest.mark.parametrize(
    ("alpha", "members", "gamma", "units", "width"),
    [(2.0, 4, 1, 64, 32), (1.0, 4, 1, 10, 3), (2.0, 4, 2, 64, 32), (2.0, 4, 4, 10, 8)],
)
def test_widths_are_rounded_up_to_whole_groups(alpha, members, gamma, units, width):
    assert Params(alpha=alpha, members=members, gamma=gamma).width(units) == width


def test_alpha_of_m_has_members_of_the_backbones_size():
    method = Subject("packed_ensembles", {"members": 3, "alpha": 3.0}, "resnet18").make()
    plain = Subject("single", {}, "resnet18").make()
    for member, one in zip(method.effective_weights(), plain.effective_weights(), strict=True):
        assert member.shape[1] == one.shape[1]
    shapes = {k: v.shape for k, v in method.member_network(0).state_dict().items()}
    assert shapes == {k: v.shape for k, v in plain.network.state_dict().items()}


@pytest.mark.parametrize("norm", ["none", "batch", "layer"])
def test_a_member_does_not_hear_of_the_others(norm):
    def network():
        return build_backbone(Mlp(width=12, depth=2, norm=norm), (1, 4, 4), CLASSES)

    method = build("packed_ensembles", {"members": M, "gamma": 2}, network, 0).train()
    x = torch.randn(6, 1, 4, 4)
    method(x)[0].square().sum().backward()
    for layer in method.network.modules():
        if isinstance(layer, nn.Linear | GroupedLinear):
            gradients = layer.weight.grad.reshape(M, -1)
            assert bool(gradients[0].any())
            assert not bool(gradients[1:].any())


@pytest.mark.peer
def test_logits_and_gradients_are_the_peers_mlp():
    method = build(
        "packed_ensembles",
        {"members": M, "alpha": 2.0},
        lambda: build_backbone(Mlp(width=12, depth=2), (1, 4, 4), CLASSES),
        0,
    )
    settings = {"alpha": 2.0, "num_estimators": M}
    peer = nn.Sequential(
        nn.Flatten(),
        layers_of_torch_uncertainty().PackedLinear(16, 12, first=True, **settings),
        nn.ReLU(),
        layers_of_torch_uncertainty().PackedLinear(12, 12, **settings),
        nn.ReLU(),
        layers_of_torch_uncertainty().PackedLinear(12, CLASSES, last=True, **settings),
    )
    first, hidden = method.network.layers[1], method.network.layers[3]
    head = method.network.head.head
    own = [first.weight, first.bias, hidden.weight, hidden.bias, head.fast["W"], head.bias]
    other = list(peer.parameters())
    for mine, theirs in zip(own, other, strict=True):
        theirs.data = mine.detach().reshape(theirs.shape).clone()
    x = torch.randn(7, 1, 4, 4)
    pairs = zip(own, other, strict=True)
    assert_same(method(x), peer(x).unflatten(0, (M, -1)), pairs)


@pytest.mark.peer
@pytest.mark.parametrize("gamma", [1, 2])
def test_values_and_gradients_are_the_peers_convolutions(gamma):
    class Convolutions(nn.Module):
        def __init__(self):
            super().__init__()
            self.first = nn.Conv2d(2, 6, 3, padding=1)
            self.second = nn.Conv2d(6, 12, 3, stride=2, padding=1)
            self.head = nn.Linear(12, CLASSES)

        def forward(self, x):
            return self.head(self.second(self.first(x).relu()).mean((2, 3)))

    params = {"members": M, "alpha": 2.0, "gamma": gamma}
    method = build("packed_ensembles", params, Convolutions, 0)
    settings = {"alpha": 2.0, "num_estimators": M, "minimum_channels_per_group": 1}
    first = layers_of_torch_uncertainty().PackedConv2d(2, 6, 3, padding=1, first=True, **settings)
    second = layers_of_torch_uncertainty().PackedConv2d(
        6, 12, 3, stride=2, padding=1, gamma=gamma, **settings
    )
    last = layers_of_torch_uncertainty().PackedLinear(
        12, CLASSES, alpha=2.0, num_estimators=M, last=True
    )
    ours, head = method.network, method.network.head.head
    own = [ours.first.weight, ours.first.bias, ours.second.weight, ours.second.bias]
    own += [head.fast["W"], head.bias]
    other = [p for layer in (first, second, last) for p in layer.parameters()]
    for mine, theirs in zip(own, other, strict=True):
        theirs.data = mine.detach().reshape(theirs.shape).clone()
    x = torch.randn(5, 2, 8, 8)
    theirs = last(second(first(x).relu()).mean((2, 3))).unflatten(0, (M, -1))
    assert_same(method(x), theirs, zip(own, other, strict=True))


def test_features_that_a_regulariser_sees_stand_member_by_member():
    method = Subject("packed_ensembles", {"members": M, "alpha": 2.0}, "cnn").make().eval()
    with recording_head_inputs(method) as seen:
        method(inputs())
    features = split_members(seen[-1], M)
    assert features.shape[:2] == (M, len(inputs()))
    for member in range(M):
        network = method.member_network(member).eval()
        with recording_head_inputs(network) as own:
            network(inputs())
        torch.testing.assert_close(features[member], own[0])


def test_a_backbone_that_cannot_be_divided_is_refused():
    def transformer():
        return nn.TransformerEncoderLayer(8, 2)

    with pytest.raises(StudyError, match=r"whose units can be divided.*self_attn.*choose mlp"):
        build("packed_ensembles", {}, transformer, 0)


def test_an_alpha_without_a_unit_for_each_group_is_refused_with_the_least():
    subject = Subject("packed_ensembles", {"members": 4, "alpha": 0.05}, "mlp")
    with pytest.raises(
        StudyError, match=r"params\.alpha must be at least 0\.334 for a layer of 12"
    ):
        subject.make()
    least = Params(members=4, alpha=0.334)
    assert least.width(12) == 1
    assert Params(members=29, alpha=0.29).width(100) == 1
