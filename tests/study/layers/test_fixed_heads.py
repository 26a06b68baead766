"""Fixed equiangular heads: the frame, its rotation by member, and what each method makes of it."""

import copy

import pytest
import torch

from study import backbones
from study.conformance import Subject, check_method
from study.errors import StudyError
from study.layers.fixed_heads import EquiangularHead, MemberHead, frame, simplex
from study.layers.members import weighted_layers
from study.methods.deep_ensemble import member_seed
from study.plugins import load_plugin, names

KINDS = ["equiangular", "rotated"]
METHODS = ["single", "deep_ensemble", "batch_ensemble"]
EXAMPLES = [(m, p) for m in METHODS for p in load_plugin("study.methods", m).EXAMPLES]
NORMAL = {"members": 3, "init": "normal", "init_std": 0.5}


def network(width=12, classes=5, **options):
    mlp = {"name": "mlp", "width": width, "depth": 1} | options
    return backbones.build(mlp, (1, 4, 4), classes)


def head(method, params, seed=0, **options):
    return Subject(method, params, "mlp", {"head": "rotated"} | options).make(seed).network.head


def test_three_classes_by_hand():
    # 120 degrees apart in the plane.
    root = 3**0.5 / 2
    expected = torch.tensor([[root, 0.5], [-root, 0.5], [0.0, -1.0]]).double()
    torch.testing.assert_close(simplex(3), expected)


@pytest.mark.parametrize(("features", "classes"), [(1, 2), (9, 10), (40, 10), (128, 100)])
def test_the_frame_is_a_simplex(features, classes):
    v = frame(features, classes).double()
    cosines = torch.full((classes, classes), -1 / (classes - 1)).double().fill_diagonal_(1)
    torch.testing.assert_close(v @ v.mT, cosines, rtol=0, atol=1e-6)
    torch.testing.assert_close(v.sum(0), torch.zeros(features).double(), rtol=0, atol=1e-5)


def test_the_frame_has_no_preferred_direction():
    torch.manual_seed(0)
    first = torch.stack([frame(4, 3)[0] for _ in range(2000)])
    assert first.mean(0).abs().max() < 0.05
    torch.testing.assert_close(first.mT @ first / 2000, torch.eye(4) / 4, rtol=0, atol=0.02)


def test_the_frame_is_made_on_the_cpu_whatever_the_default_device():
    with torch.device("meta"):
        assert frame(6, 3).device.type == "cpu"


def test_logits_by_hand():
    fixed = EquiangularHead(2, 2, scale=10.0)
    v = fixed.frame[0]
    torch.testing.assert_close(fixed(3 * v.unsqueeze(0)), torch.tensor([[10.0, -10.0]]))
    orthogonal = torch.stack([-v[1], v[0]]).unsqueeze(0)
    torch.testing.assert_close(fixed(orthogonal), torch.zeros(1, 2), rtol=0, atol=1e-5)


def test_features_of_zero_have_a_finite_gradient():
    z = torch.zeros(2, 6, requires_grad=True)
    EquiangularHead(6, 3, scale=16.0)(z).sum().backward()
    assert bool(z.grad.isfinite().all())


def test_too_few_features_are_refused_with_the_nearest_width():
    network(width=4, head="equiangular")
    with pytest.raises(StudyError, match=r"at least 4 features, but .* has 3; .* width is 4"):
        network(width=3, head="equiangular")


def test_a_backbone_needs_a_linear_head():
    broken = network()
    del broken.head
    with pytest.raises(StudyError, match="last layer is linear and called head"):
        backbones.fixed_heads.install(broken, "rotated", 16.0)


@pytest.mark.parametrize("backbone", names("study.backbones"))
def test_every_backbone_has_the_option_and_the_same_body(backbone):
    def drawn(kind):
        torch.manual_seed(0)
        return Subject("single", {}, backbone, {"head": kind, "head_scale": 4.0}).plain()

    plain, fixed = drawn("linear"), drawn("equiangular")
    assert isinstance(fixed.head, EquiangularHead)
    assert fixed.head.scale == 4.0
    assert len(weighted_layers(fixed)) == len(weighted_layers(plain)) - 1
    for one, other in zip(weighted_layers(plain), weighted_layers(fixed), strict=False):
        assert torch.equal(one.weight, other.weight)


def test_a_backbone_of_others_without_the_option_still_works(monkeypatch):
    from study.backbones import mlp
    from study.spec import Strict

    class Params(Strict):
        name: str
        hidden: list[int] = [8]
        norm: str = "none"
        dropout: float = 0.0

    monkeypatch.setattr(mlp, "Params", Params)
    assert isinstance(backbones.build({"name": "mlp"}, (1, 4, 4), 3).head, torch.nn.Linear)


def test_equiangular_is_one_frame_for_all_and_rotated_depends_on_the_seed():
    def frames(kind, seed):
        return Subject("single", {}, "mlp", {"head": kind}).make(seed).network.head.frame

    assert torch.equal(frames("equiangular", 0), frames("equiangular", 1))
    assert torch.equal(frames("rotated", 0), frames("rotated", 0))
    assert not torch.allclose(frames("rotated", 0), frames("rotated", 1))


def test_a_member_of_a_rotated_deep_ensemble_is_its_single_network():
    options = {"head": "rotated"}
    ensemble = Subject("deep_ensemble", {"members": 2}, "mlp", options).make(3)
    own = [s.network.head.frame for s in ensemble.singles]
    assert not torch.allclose(*own)
    single = Subject("single", {}, "mlp", options).make(member_seed(3, 1))
    assert torch.equal(single.network.head.frame, own[1])


def test_folded_members_have_a_frame_each():
    rotated = head("batch_ensemble", NORMAL)
    assert isinstance(rotated, MemberHead)
    assert rotated.plain(0).rotated
    for i, own in enumerate(rotated.frames):
        cosines = own @ own.mT
        torch.testing.assert_close(cosines, torch.full((5, 5), -0.25).fill_diagonal_(1.0))
        assert all(not torch.allclose(own, other) for other in rotated.frames[i + 1 :])
    z = torch.randn(3 * 7, 12)
    expected = [rotated.plain(m)(part) for m, part in enumerate(z.split(7))]
    torch.testing.assert_close(rotated(z), torch.cat(expected))


def test_a_warm_start_trains_one_head_which_the_first_member_keeps():
    subject = Subject("batch_ensemble", NORMAL | {"warm_start": 0.5}, "mlp", {"head": "rotated"})
    ensemble = subject.make()
    before = copy.deepcopy(ensemble.network.head)
    assert isinstance(before, EquiangularHead)
    ensemble.phases()[1].begin()
    assert torch.equal(ensemble.network.head.frames[0], before.frame)
    assert ensemble.network.head.members == 3


def test_the_collapsed_control_has_the_mean_of_the_frames():
    subject = Subject("batch_ensemble", NORMAL, "mlp", {"head": "rotated"})
    ensemble = subject.make()
    one = ensemble.collapsed().network.head
    torch.testing.assert_close(one.frames, ensemble.network.head.frames.mean(0, keepdim=True))


def test_the_last_layer_is_then_the_last_weighted_one():
    subject = Subject("batch_ensemble", NORMAL | {"layers": "last"}, "mlp", {"head": "equiangular"})
    layers = list(subject.make().member_layers())
    assert [tuple(layer.shape) for layer in layers] == [(12, 12)]


@pytest.mark.parametrize("method", ["mc_dropout", "snapshot_ensemble", "swag", "e3"])
def test_rotation_is_refused_where_members_share_a_head(method):
    params = load_plugin("study.methods", method).EXAMPLES[0]
    rule = rf"head must be equiangular or linear for {method}, but is rotated; set it to linear"
    with pytest.raises(StudyError, match=rule):
        Subject(method, params, "mlp", {"head": "rotated"}).make()


@pytest.mark.parametrize("method", ["mimo", "packed_ensembles"])
def test_methods_that_make_their_own_heads_refuse_a_fixed_one(method):
    params = load_plugin("study.methods", method).EXAMPLES[0]
    with pytest.raises(StudyError, match="head must be linear"):
        Subject(method, params, "mlp", {"head": "equiangular"}).make()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("backbone", ["mlp", "cnn"])
@pytest.mark.parametrize(("method", "params"), EXAMPLES, ids=str)
def test_conformance(method, params, backbone, kind):
    check_method(method, params, backbone, {"head": kind})


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("method", [m for m in names("study.methods") if m not in METHODS])
def test_every_other_method_conforms_or_refuses(method, kind):
    params = load_plugin("study.methods", method).EXAMPLES[0]
    backbone = "vit" if method == "lora_ensemble" else "cnn"
    try:
        Subject(method, params, backbone, {"head": kind}).make()
    except StudyError as refusal:
        assert "head" in str(refusal)  # noqa: PT017
        return
    check_method(method, params, backbone, {"head": kind})
