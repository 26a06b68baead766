"""The same weights in, the same logits and gradients out as torch-uncertainty's layers."""

import warnings

import pytest
import torch
from torch import nn

from study.methods import build

M, B = 3, 5

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # those of the peer and of what it imports are its own
    from torch_uncertainty.layers import BatchConv2d, BatchLinear


def both(layer, peer):
    """Return our ensemble of one layer and the peer's layer, with the peer's weights in both."""
    ours = build("batch_ensemble", {"members": M, "init": "normal", "init_std": 0.5}, layer, 0)
    own = ours.network[0]
    shared = peer.linear if isinstance(peer, BatchLinear) else peer.conv
    own.weight.data = shared.weight.detach().clone()
    own.fast["r"].data = peer.r_group.detach().clone()
    own.fast["s"].data = peer.s_group.detach().clone()
    own.bias.data = peer.bias.detach().clone()
    pairs = {
        "weight": (own.weight, shared.weight),
        "r": (own.fast["r"], peer.r_group),
        "s": (own.fast["s"], peer.s_group),
        "bias": (own.bias, peer.bias),
    }
    return ours, pairs


@pytest.mark.parametrize(
    ("layer", "peer", "shape"),
    [
        (lambda: nn.Sequential(nn.Linear(6, 4)), lambda: BatchLinear(6, 4, M), (6,)),
        (
            lambda: nn.Sequential(nn.Conv2d(2, 4, 3, stride=2, padding=1)),
            lambda: BatchConv2d(2, 4, 3, M, stride=2, padding=1),
            (2, 8, 8),
        ),
    ],
    ids=["linear", "conv"],
)
def test_values_and_gradients_are_the_peers(layer, peer, shape):
    torch.manual_seed(0)
    peer_layer = peer()
    ours, pairs = both(layer, peer_layer)
    x = torch.randn(B, *shape)
    mine = ours(x)
    theirs = peer_layer(x.repeat(M, *[1] * len(shape))).unflatten(0, (M, B))
    torch.testing.assert_close(mine, theirs)
    direction = torch.randn_like(mine)
    (mine * direction).sum().backward()
    (theirs * direction).sum().backward()
    for name, (own, other) in pairs.items():
        torch.testing.assert_close(own.grad, other.grad, msg=name)
