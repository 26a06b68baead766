"""The same weights in, the same logits and gradients out as the layers of peers.

torch-uncertainty's and tabm's BatchEnsemble, peft's LoRA. Further comparisons with
torch-uncertainty stand beside the methods' own tests; ``make test-peers`` runs them all.
"""

import pytest
import torch
from torch import nn

from study.layers.perturbed import LowRankLayer
from study.methods import build
from tests.peers import layers_of_torch_uncertainty, peer

pytestmark = pytest.mark.peer
M, B = 3, 5

CONVOLUTION = {"kernel_size": 3, "stride": 2, "padding": 1}


def of_batch_ensemble(layer, weight, r, s, bias):
    """Return our ensemble of one layer with a peer's weights, and pairs of parameters."""
    method = build("batch_ensemble", {"members": M, "init": "normal", "init_std": 0.5}, layer, 0)
    own = method.network[0]
    pairs = [(own.weight, weight), (own.fast["r"], r), (own.fast["s"], s), (own.bias, bias)]
    for mine, theirs in pairs:
        mine.data = theirs.detach().clone()
    return method, pairs


def assert_same(mine, theirs, pairs):
    """Compare values, and gradients along a random direction."""
    torch.testing.assert_close(mine, theirs)
    direction = torch.randn_like(mine)
    (mine * direction).sum().backward()
    (theirs * direction).sum().backward()
    for own, other in pairs:
        torch.testing.assert_close(own.grad.view_as(other.grad), other.grad)


@pytest.mark.parametrize(
    ("layer", "theirs", "shape"),
    [
        (
            lambda: nn.Sequential(nn.Linear(6, 4)),
            lambda: layers_of_torch_uncertainty().BatchLinear(6, 4, M),
            (6,),
        ),
        (
            lambda: nn.Sequential(nn.Conv2d(2, 4, **CONVOLUTION)),
            lambda: layers_of_torch_uncertainty().BatchConv2d(
                2, 4, num_estimators=M, **CONVOLUTION
            ),
            (2, 8, 8),
        ),
    ],
    ids=["linear", "conv"],
)
def test_batch_ensemble_is_torch_uncertaintys(layer, theirs, shape):
    torch.manual_seed(0)
    other = theirs()
    shared = other.linear if hasattr(other, "linear") else other.conv
    weights = shared.weight, other.r_group, other.s_group, other.bias
    method, pairs = of_batch_ensemble(layer, *weights)
    x = torch.randn(B, *shape)
    expected = other(x.repeat(M, *[1] * len(shape))).unflatten(0, (M, B))
    assert_same(method(x), expected, pairs)


@pytest.mark.parametrize("init", ["normal", "random-signs"])
def test_batch_ensemble_is_tabms(init):
    torch.manual_seed(0)
    other = peer("tabm").LinearBatchEnsemble(6, 4, k=M, scaling_init=init)
    weights = other.weight, other.r, other.s, other.bias
    method, pairs = of_batch_ensemble(lambda: nn.Sequential(nn.Linear(6, 4)), *weights)
    x = torch.randn(B, 6)
    theirs = other(x.unsqueeze(1).expand(-1, M, -1)).transpose(0, 1)
    assert_same(method(x), theirs, pairs)


@pytest.mark.parametrize(
    ("layer", "shape"),
    [(lambda: nn.Linear(6, 4), (6,)), (lambda: nn.Conv2d(3, 4, **CONVOLUTION), (3, 8, 8))],
    ids=["linear", "conv"],
)
def test_one_member_of_a_lora_ensemble_is_pefts(layer, shape):
    peft = peer("peft")
    torch.manual_seed(0)
    base = layer()
    plain = nn.Sequential(base)
    config = peft.LoraConfig(r=2, lora_alpha=2, target_modules=["0"], init_lora_weights=False)
    other = peft.get_peft_model(nn.Sequential(*plain), config)
    a, b = (getattr(other.base_model.model[0], f"lora_{part}")["default"].weight for part in "AB")
    own = LowRankLayer(base, *(v.detach().flatten(1).unsqueeze(0) for v in (a, b)))
    x = torch.randn(B, *shape)
    assert_same(own(x), other(x), [(own.fast["A"], a), (own.fast["B"], b)])
