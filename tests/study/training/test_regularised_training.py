"""Diversity terms and fixed heads by name: from YAML into training on real digits."""

import pytest
import torch

from study import backbones
from study.diagnostics.landscape import features
from study.errors import StudyError
from study.regularisers import REGULARISERS, MemberOutputs, find
from study.space.configuration import configuration
from study.space.load import load_study
from study.spec import Regularisation
from study.training.batches import DeviceImages, channel_statistics
from study.training.fit import fit
from study.training.prediction import predict
from study.trials.trial import build

SPACE = """
name: named
dataset: {name: digits}
method: batch_ensemble
fixed:
  params: {members: 4, init: normal, init_std: 0.5}
  backbone: {name: mlp, width: 16}
  training: {epochs: 2}
search:
  backbone:
    head: {choice: [linear, equiangular, rotated]}
    head_scale: {float: [4.0, 32.0], log: true, when: {backbone.head: [equiangular, rotated]}}
  training:
    lr: {float: [0.01, 0.3], log: true}
  regulariser:
    name: {choice: [none, hsic, hsic_bottleneck, dice, adp]}
    weight: {float: [1e-2, 1.0], log: true, when: {regulariser.name: [hsic, hsic_bottleneck, dice, adp]}}
"""

NORMAL = {"members": 3, "init": "normal", "init_std": 0.5}


def pixels(data, images):
    return DeviceImages(images, *channel_statistics(data.train[0]), torch.device("cpu"))


def logits(spec, data):
    method = build(spec, data.shape, data.classes)
    labels = torch.tensor(data.train[1])
    for part, seed in method.independent_members():
        chosen = spec.seed if seed is None else seed
        fit(part, pixels(data, data.train[0]), labels, spec.training, spec.regulariser, chosen)
    return predict(method, pixels(data, data.val[0]))


def test_a_space_searches_them_by_name(tmp_path):
    file = tmp_path / "space.yaml"
    file.write_text(SPACE)
    (space,) = load_study([file]).candidates
    point = {"backbone.head": "rotated", "backbone.head_scale": 8.0, "training.lr": 0.1}
    point |= {"regulariser.name": "adp", "regulariser.weight": 0.1}
    found = configuration(space, point)
    assert found.backbone["head"] == "rotated"
    assert found.regulariser.name == "adp"
    with pytest.raises(StudyError, match="head"):
        configuration(space, point | {"backbone.head": "curved"})


@pytest.mark.parametrize(
    ("method", "params", "name"),
    [
        *(("batch_ensemble", NORMAL, name) for name in REGULARISERS),
        ("single", {}, "hsic_bottleneck"),
        ("deep_ensemble", {"members": 2}, "hsic_bottleneck"),
        ("split_ensemble", {"groups": 2, "shared": 1.0, "warm_start": 0.5}, "hsic_bottleneck"),
        ("packed_ensembles", {"members": 2}, "hsic"),
    ],
)
def test_a_term_joins_the_training(make_spec, data, method, params, name):
    with_term = make_spec(method, params, regulariser=Regularisation(name=name, weight=0.1))
    found = logits(with_term, data)
    assert bool(found.isfinite().all())
    assert not torch.equal(found, logits(make_spec(method, params), data))


def test_a_term_has_its_weight_and_none_at_the_start_of_its_ramp(make_spec, data):
    """A step of plain gradient descent goes as far along the term's gradient as it weighs."""
    training = {"epochs": 1, "batch_size": 100, "momentum": 0.0, "schedule": "constant"}

    def after_a_step(**term):
        spec = make_spec("batch_ensemble", NORMAL, training, regulariser=Regularisation(**term))
        method = build(spec, data.shape, data.classes)
        labels = torch.tensor(data.train[1])
        fit(method, pixels(data, data.train[0]), labels, spec.training, spec.regulariser, 1)
        return torch.cat([p.detach().flatten() for p in method.parameters()])

    term = {"name": "negative_correlation", "ramp": 0.0}
    none, some, more = after_a_step(), *(after_a_step(**term, weight=w) for w in (50.0, 100.0))
    assert (some - none).abs().max() > 1e-3
    torch.testing.assert_close(more - none, 2 * (some - none), atol=1e-5, rtol=1e-3)
    assert torch.equal(after_a_step(**term | {"ramp": 1.0}, weight=50.0), none)


@pytest.mark.parametrize("name", ["hsic", "dice", "adp"])
def test_terms_of_pairs_do_not_apply_to_one_network(make_spec, data, name):
    spec = make_spec(regulariser=Regularisation(name=name, weight=0.1))
    with pytest.raises(StudyError, match=f"{name} compares members"):
        logits(spec, data)


@pytest.mark.parametrize("name", ["hsic", "hsic_bottleneck", "negative_correlation"])
@pytest.mark.parametrize(
    ("method", "params"),
    [("batch_ensemble", NORMAL | {"batch": "split"}), ("mimo", {"members": 2})],
)
def test_members_of_other_examples_are_refused(make_spec, data, method, params, name):
    spec = make_spec(method, params, regulariser=Regularisation(name=name, weight=0.1))
    with pytest.raises(StudyError, match=f"{name} needs members that see the same examples"):
        logits(spec, data)


@pytest.mark.parametrize("kind", ["equiangular", "rotated"])
@pytest.mark.parametrize(("method", "params"), [("single", {}), ("batch_ensemble", NORMAL)])
def test_a_fixed_head_learns_the_digits(make_spec, data, method, params, kind):
    options = {"name": "mlp", "width": 64, "depth": 1, "head": kind}
    backbone = backbones.parameters(options).model_dump()
    spec = make_spec(method, params, {"epochs": 30}, backbone=backbone)
    accuracy = (logits(spec, data).mean(0).argmax(-1) == torch.tensor(data.val[1])).float().mean()
    assert accuracy > 0.7


def test_features_are_those_that_enter_a_fixed_head(make_spec, data):
    options = {"name": "mlp", "width": 16, "depth": 1, "head": "rotated"}
    backbone = backbones.parameters(options).model_dump()
    method = build(make_spec("batch_ensemble", NORMAL, backbone=backbone), (1, 8, 8), 10).eval()
    x = torch.randn(5, 1, 8, 8)
    found = features(method, [], x)
    assert found.shape == (3, 5, 16)
    torch.testing.assert_close(method.network.head(found.flatten(0, 1)).view(3, 5, 10), method(x))


@pytest.mark.parametrize("name", ["hsic", "hsic_bottleneck", "dice", "adp"])
def test_weight_means_the_same_for_every_batch_size(name):
    torch.manual_seed(0)
    y = torch.arange(12) % 4
    given = MemberOutputs(torch.randn(3, 12, 4), y, None, torch.randn(3, 12, 5), torch.randn(12, 6))
    assert given.features_MBF is not None
    twice = MemberOutputs(
        given.logits_MBC.repeat(1, 2, 1),
        y.repeat(2),
        None,
        given.features_MBF.repeat(1, 2, 1),
        given.x_BD.repeat(2, 1),
    )
    torch.testing.assert_close(find(name)(given), find(name)(twice), rtol=1e-4, atol=1e-6)
