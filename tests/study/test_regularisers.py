"""Diversity terms against hand-computed cases and the peers' formulas."""

import math

import pytest
import torch

from study import regularisers
from study.regularisers import JS_CAP, MemberOutputs, find
from study.schema import StudyError


def outputs(logits, perturbations=None):
    logits = torch.as_tensor(logits, dtype=torch.float64)
    y = torch.zeros(logits.shape[1], dtype=torch.long)
    return MemberOutputs(logits, y, perturbations)


CERTAIN = [[[50.0, 0.0]], [[0.0, 50.0]]]
SAME = [[[1.0, 2.0]], [[1.0, 2.0]]]


def test_negative_correlation_by_hand():
    # p = (1, 0) and (0, 1), mean (1/2, 1/2): each is at squared distance 1/2 from it.
    assert find("negative_correlation")(outputs(CERTAIN)).item() == pytest.approx(-0.5)


def test_jensen_shannon_is_capped_and_zero_for_equals():
    assert find("jensen_shannon")(outputs(CERTAIN)).item() == pytest.approx(-JS_CAP)
    assert find("jensen_shannon")(outputs(SAME)).item() == pytest.approx(0, abs=1e-12)


def test_jensen_shannon_by_hand():
    p, q = (0.5, 0.5), (0.6, 0.4)
    mean = [(a + b) / 2 for a, b in zip(p, q, strict=True)]
    kl = [sum(a * math.log(a / m) for a, m in zip(d, mean, strict=True)) for d in (p, q)]
    logits = torch.tensor([[p], [q]], dtype=torch.float64).log()
    assert find("jensen_shannon")(outputs(logits)).item() == pytest.approx(-sum(kl) / 2)


def test_cosine_by_hand():
    phi = torch.tensor([[1.0, 0.0], [1.0, 1.0], [0.0, 3.0]])
    # cos² of the three pairs: 1/2, 0, 1/2
    assert find("cosine")(outputs(SAME, phi)).item() == pytest.approx(1 / 3)


def test_cosine_needs_own_weights():
    with pytest.raises(StudyError, match="cosine needs members with own weights"):
        find("cosine")(outputs(SAME))


def test_function_space_by_hand():
    # Squared distances of the pairs: 2, 2·0.25, 2·0.25; their (lower) median is 1/2.
    logits = torch.tensor([[[1.0, 1e-30]], [[1e-30, 1.0]], [[0.5, 0.5]]], dtype=torch.float64).log()
    expected = (math.exp(-4) + 2 * math.exp(-1)) / 3
    assert find("function_space")(outputs(logits)).item() == pytest.approx(expected)


@pytest.mark.parametrize("name", list(regularisers.REGULARISERS))
def test_descent_makes_members_differ(name):
    torch.manual_seed(0)
    start = torch.randn(4, 30, 5, dtype=torch.float64) * 0.1
    logits = start.clone().requires_grad_()
    phi = torch.randn(4, 7, dtype=torch.float64).requires_grad_()
    value = find(name)(MemberOutputs(logits, torch.zeros(30, dtype=torch.long), phi))
    value.backward()
    assert math.isfinite(value.item())
    moved = phi if name == "cosine" else logits
    before = moved.detach().softmax(-1) if name != "cosine" else moved.detach()
    after = moved.detach() - 0.5 * moved.grad
    assert spread(after if name == "cosine" else after.softmax(-1)) > spread(before)


def spread(members):
    """How far predictions (M, B, C) are from their mean, or how little vectors (M, P) align."""
    if members.dim() == 3:
        return (members - members.mean(0)).square().sum().item()
    unit = torch.nn.functional.normalize(members, dim=1)
    return -(unit @ unit.mT).square().sum().item()


@pytest.mark.parametrize("name", list(regularisers.REGULARISERS))
def test_identical_members_have_a_finite_gradient(name):
    logits = torch.zeros(3, 6, 4, dtype=torch.float64, requires_grad=True)
    phi = torch.zeros(3, 5, dtype=torch.float64, requires_grad=True)
    find(name)(MemberOutputs(logits, torch.zeros(6, dtype=torch.long), phi)).backward()
    for gradient in (logits.grad, phi.grad):
        assert gradient is None or bool(gradient.isfinite().all())


@pytest.mark.parametrize("name", list(regularisers.REGULARISERS))
def test_weight_means_the_same_for_every_batch_and_ensemble_size(name):
    torch.manual_seed(0)
    logits, phi = torch.randn(2, 10, 4), torch.randn(2, 9)
    y = torch.zeros(10, dtype=torch.long)
    once = find(name)(MemberOutputs(logits, y, phi))
    twice = find(name)(MemberOutputs(logits.repeat(1, 2, 1), y.repeat(2), phi))
    torch.testing.assert_close(once, twice)


def test_unknown_names_are_refused_with_the_nearest():
    with pytest.raises(StudyError, match="did you mean 'jensen_shannon'"):
        find("jensen_shanon")
    with pytest.raises(StudyError, match="cannot be imported"):
        find("nowhere.term")
    assert find("none") is None
    assert find("study.regularisers.cosine") is regularisers.cosine
