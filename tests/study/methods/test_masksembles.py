"""Masksembles against the formulas they stand for, and against torch-uncertainty."""

from itertools import combinations

import pytest
import torch
from torch import nn

from study.conformance import Subject, inputs
from study.errors import StudyError
from study.methods import build
from study.methods.masksembles import MaskedLayer, active_units, draw_masks
from tests.peers import layers_of_torch_uncertainty, peer

M, B = 4, 5


def overlap(masks):
    """Return the mean share of a mask's ones that another mask has too."""
    ones = masks[0].sum()
    return torch.stack([(a * b).sum() / ones for a, b in combinations(masks, 2)]).mean().item()


def test_scale_one_is_the_plain_network():
    method = Subject("masksembles", {"members": 3, "scale": 1.0}, "cnn").make().eval()
    plain = Subject("single", {}, "cnn").make().eval()
    torch.testing.assert_close(method(inputs()), plain(inputs()).expand(3, -1, -1))


@pytest.mark.parametrize("units", [4, 12, 64, 300])
@pytest.mark.parametrize("scale", [1.0, 1.5, 2.0, 6.0])
@pytest.mark.parametrize("members", [1, 2, 8])
def test_masks_use_every_unit_and_are_equally_large(units, members, scale):
    torch.manual_seed(0)
    masks = draw_masks(units, members, scale)
    assert masks.shape == (members, units)
    assert bool(((masks == 0) | (masks == 1)).all())
    assert bool(masks.any(dim=0).all())
    assert masks.sum(1).tolist() == [active_units(units, members, scale)] * members


def test_overlap_falls_with_the_scale():
    torch.manual_seed(0)
    overlaps = [overlap(draw_masks(400, M, scale)) for scale in (1.0, 1.5, 2.0, 3.0, 6.0)]
    assert overlaps == sorted(overlaps, reverse=True)
    assert overlaps[0] == 1
    for measured, scale in zip(overlaps, (1.0, 1.5, 2.0, 3.0, 6.0), strict=True):
        assert measured == pytest.approx(1 / scale, abs=0.05)


@pytest.mark.peer
@pytest.mark.parametrize("scale", [1.5, 2.0, 4.0])
def test_masks_have_the_size_and_overlap_of_the_peers(scale):
    torch.manual_seed(0)
    ours = [draw_masks(128, M, scale) for _ in range(20)]
    theirs = [
        torch.tensor(
            peer("torch_uncertainty.layers.masksembles").generation_wrapper(128, M, scale)
        ).float()
        for _ in range(20)
    ]
    assert {m.sum(1).tolist()[0] for m in ours} == {m.sum(1).tolist()[0] for m in theirs}
    mean = [sum(map(overlap, masks)) / len(masks) for masks in (ours, theirs)]
    assert mean[0] == pytest.approx(mean[1], abs=0.03)


@pytest.mark.peer
@pytest.mark.parametrize(
    ("layer", "peer", "shape"),
    [
        (
            lambda: nn.Linear(12, 6),
            lambda: layers_of_torch_uncertainty().MaskedLinear(12, 6, M, 2.0),
            (12,),
        ),
        (
            lambda: nn.Conv2d(12, 6, 3, stride=2, padding=1),
            lambda: layers_of_torch_uncertainty().MaskedConv2d(
                12, 6, 3, M, 2.0, stride=2, padding=1
            ),
            (12, 6, 6),
        ),
    ],
    ids=["linear", "conv"],
)
def test_values_and_gradients_are_the_peers(layer, peer, shape):
    torch.manual_seed(0)
    own, other = MaskedLayer(layer(), M, 2.0), peer()
    shared = (
        other.linear
        if isinstance(other, layers_of_torch_uncertainty().MaskedLinear)
        else other.conv
    )
    own.weight.data, own.bias.data = shared.weight.detach().clone(), shared.bias.detach().clone()
    own.mask = other.mask.masks.float()
    x = torch.randn(M * B, *shape)
    mine, theirs = own(x), other(x)
    torch.testing.assert_close(mine, theirs)
    direction = torch.randn_like(mine)
    (mine * direction).sum().backward()
    (theirs * direction).sum().backward()
    torch.testing.assert_close(own.weight.grad, shared.weight.grad)
    torch.testing.assert_close(own.bias.grad, shared.bias.grad)


def test_every_layer_but_the_first_is_masked():
    method = Subject("masksembles", {"members": 2}, "resnet18").make()
    plain = [n for n, m in method.network.named_modules() if isinstance(m, nn.Linear | nn.Conv2d)]
    assert plain == ["conv"]


def test_a_split_batch_is_an_mth_for_each_member():
    method = Subject("masksembles", {"members": 2, "batch": "split"}, "mlp").make()
    method.eval()
    x, y = inputs(), torch.arange(len(inputs()))
    logits, labels = method.training_forward(x, y)
    assert labels.tolist() == y.view(2, -1).tolist()
    whole = method(x)
    torch.testing.assert_close(logits, torch.stack([whole[0, :4], whole[1, 4:]]))


def test_masks_of_a_byte_per_unit_restore_the_members():
    one, other = (Subject("masksembles", {"members": 3}, "cnn").make(s).eval() for s in (0, 1))
    state = {k: t.bool() if k.endswith(".mask") else t for k, t in one.state_dict().items()}
    assert one.stored_bytes() == sum(tensor.nbytes for tensor in state.values())
    other.load_state_dict(state)
    assert torch.equal(one(inputs()), other(inputs()))


def test_a_member_has_its_masks_share_of_the_inputs():
    network = lambda: nn.Sequential(nn.Linear(8, 64), nn.Linear(64, 3))  # noqa: E731
    method = build("masksembles", {"members": 4, "scale": 3.0}, network, 0)
    weights = list(method.effective_weights())[1].view(4, 3, 64)
    assert (weights != 0).any(1).sum(1).tolist() == [active_units(64, 4, 3.0)] * 4


@pytest.mark.parametrize(
    ("units", "members", "scale"), [(7, 2, 6.0), (10, 3, 6.0), (9, 8, 6.0), (20, 2, 6.0)]
)
def test_few_units_with_hardly_any_overlap_are_all_used(units, members, scale):
    torch.manual_seed(0)
    masks = draw_masks(units, members, scale)
    assert masks.shape == (members, units)
    assert bool(masks.any(dim=0).all())
    assert masks.sum(1).tolist() == [active_units(units, members, scale)] * members


def test_masks_that_leave_nothing_out_are_refused():
    with pytest.raises(StudyError, match=r"scale=2.0 must leave out units"):
        Subject("masksembles", {"members": 4}, "mlp", {"width": 1, "depth": 1}).make()
