"""LoRA-Ensemble against the formulas it stands for."""

import math

import pytest
import torch
from torch import nn

from study.conformance import Subject, inputs
from study.errors import StudyError
from study.layers.perturbed import IndependentLayer, LowRankLayer
from study.methods import build
from study.spec import Training

START = {"members": 3, "rank": 2, "warm_start": 0.0}


@pytest.mark.parametrize("backbone", ["mlp", "cnn", "resnet18"])
def test_members_start_as_the_base(backbone):
    method = Subject("lora_ensemble", START, backbone).make().eval()
    plain = Subject("single", {}, backbone).make().eval()
    torch.testing.assert_close(method(inputs()), plain(inputs()).expand(3, -1, -1))


@pytest.mark.parametrize("layer", [nn.Linear(6, 4), nn.Conv2d(2, 4, 3, padding=1)])
def test_a_member_adds_b_a_to_the_base(layer):
    torch.manual_seed(0)
    inner = layer.weight.flatten(1).shape[1]
    a, b = torch.randn(2, 3, inner), torch.randn(2, 4, 3)
    own = LowRankLayer(layer, a, b)
    x = torch.randn(5, 6) if isinstance(layer, nn.Linear) else torch.randn(5, 2, 8, 8)
    out = own(torch.cat([x, x])).unflatten(0, (2, 5))
    base = layer.weight.detach().clone()
    for m in range(2):
        layer.weight.data = base + (b[m] @ a[m]).view_as(base)
        torch.testing.assert_close(out[m], layer(x))
        layer.weight.data = base


def test_a_is_xaviers_uniform_law_with_its_gain():
    method = build("lora_ensemble", START | {"init_gain": 10.0, "members": 50},
                   lambda: nn.Sequential(nn.Linear(64, 32), nn.Linear(32, 4)), 0)  # fmt: skip
    a = method.network[0].fast["A"]
    assert a.std().item() == pytest.approx(10 * math.sqrt(2 / (64 + 2)), rel=0.03)
    assert a.abs().max().item() <= 10 * math.sqrt(6 / (64 + 2))


@pytest.mark.parametrize(("base", "trained"), [("frozen", False), ("slow", True)])
def test_what_is_trained_beside_the_members(base, trained):
    method = Subject("lora_ensemble", START | {"base": base}, "cnn").make()
    groups = method.param_groups(Training(lr=0.2))
    shared = [p for n, p in method.named_parameters() if ".fast." not in n and "head" not in n]
    assert {p.requires_grad for p in shared} == {trained}
    assert [g["lr"] for g in groups] == pytest.approx([0.02, 0.2] if trained else [0.2])


def test_members_come_apart_in_training():
    trained = Subject("lora_ensemble", START, "mlp").trained().eval()
    first, second, _ = trained(inputs())
    assert not torch.allclose(first, second)


def test_rank_above_the_layer_is_refused():
    with pytest.raises(StudyError, match=r"params\.rank must be at most 12.* but is 13"):
        Subject("lora_ensemble", START | {"rank": 13}, "mlp").make()


def test_attention_needs_attention():
    with pytest.raises(StudyError, match="needs a backbone with attention"):
        Subject("lora_ensemble", START | {"layers": "attention"}, "mlp").make()


@pytest.mark.parametrize("method", ["lora_ensemble", "sve"])
def test_behind_a_fixed_head_no_member_owns_a_hidden_layer(method):
    params = {"members": 2, "warm_start": 0.0} | ({"rank": 2} if method == "lora_ensemble" else {})
    subject = Subject(method, params, "resnet18", {"head": "equiangular"})
    own = [m for m in subject.make().modules() if isinstance(m, IndependentLayer)]
    assert own == []
    assert any(
        isinstance(m, IndependentLayer)
        for m in Subject(method, params, "resnet18").make().modules()
    )
