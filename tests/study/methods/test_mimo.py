"""MIMO against the network it stands for, and its batches against torch-uncertainty's."""

import pytest
import torch
from torch.nn import functional as F

from study import backbones
from study.conformance import CLASSES, SHAPE, Subject, inputs
from study.methods import build
from tests.peers import peer

M = 3


def mimo(backbone="mlp", **params):
    return Subject("mimo", {"members": M, **params}, backbone).make().eval()


def wide_twin(method):
    """Return the plain backbone of M times the channels and classes, with MIMO's weights."""
    options = {"name": "cnn", "channels": [4, 6], "dropout": 0.1}
    shape = (M * SHAPE[0], *SHAPE[1:])
    twin = backbones.build(options | {"hidden": 64}, shape, M * CLASSES).eval()
    state = method.network.state_dict()
    head = {"weight": state.pop("head.head.fast.W"), "bias": state.pop("head.head.bias")}
    state |= {f"head.{name}": tensor.flatten(0, 1) for name, tensor in head.items()}
    twin.load_state_dict(state)
    return twin


def test_it_is_the_backbone_of_m_images_and_m_heads():
    method = mimo("cnn")
    twin = wide_twin(method)
    x = inputs()
    expected = twin(x.repeat(1, M, 1, 1)).unflatten(1, (M, CLASSES)).transpose(0, 1)
    torch.testing.assert_close(method(x), expected)


def test_training_gives_every_head_the_label_of_its_own_image():
    method = mimo("cnn", batch_repetition=2)
    twin, x = wide_twin(method), inputs()
    torch.manual_seed(4)
    logits, labels = method.training_forward(x, torch.arange(len(x)))
    images = torch.cat([x[own] for own in labels], dim=1)
    expected = twin(images).unflatten(1, (M, CLASSES)).transpose(0, 1)
    torch.testing.assert_close(logits, expected)
    assert labels.shape == (M, 2 * len(x))
    for own in labels:
        assert torch.equal(own.bincount(), torch.full((len(x),), 2))
    assert len({tuple(own.tolist()) for own in labels}) == M


@pytest.mark.peer
@pytest.mark.parametrize("share", [0.0, 0.25, 0.6, 1.0])
@pytest.mark.parametrize("repetition", [1, 4])
def test_batches_are_the_peers_from_the_same_random_state(share, repetition):
    method = mimo(input_repetition=share, batch_repetition=repetition)
    x = torch.arange(8.0).view(8, 1)
    torch.manual_seed(7)
    index = method.positions(8, torch.device("cpu"))
    torch.manual_seed(7)
    images, labels = peer("torch_uncertainty.transforms").MIMOBatchFormat(M, share, repetition)(
        (x, torch.arange(8))
    )
    assert torch.equal(index.flatten(), labels)
    assert torch.equal(x[index].flatten(0, 1), images)


def test_repeated_inputs_are_the_same_for_all_members():
    index = mimo(input_repetition=0.5).positions(20, torch.device("cpu"))
    same = (index == index[0]).all(0)
    assert bool(same[40:].all())
    assert not bool(same[:40].all())
    assert len(torch.unique(mimo(input_repetition=1.0).positions(20, index.device), dim=0)) == 1


def test_a_head_hears_of_its_own_loss_alone():
    method = mimo()
    logits, labels = method.training_forward(inputs(), torch.arange(len(inputs())) % CLASSES)
    F.cross_entropy(logits[1], labels[1]).backward()
    own = method.network.head.head.fast["W"].grad
    assert [bool(gradient.any()) for gradient in own] == [False, True, False]


def test_one_member_without_repetition_is_a_single_network():
    method = build(
        "mimo", {"members": 1, "batch_repetition": 1}, Subject("single", {}, "mlp").plain, 0
    ).eval()
    x = inputs()
    torch.testing.assert_close(method(x)[0], method.member_network(0).eval()(x))
    torch.manual_seed(0)
    logits, labels = method.training_forward(x, torch.arange(len(x)))
    torch.testing.assert_close(logits[0], method(x)[0][labels[0]])
