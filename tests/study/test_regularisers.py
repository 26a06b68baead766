"""Diversity terms against hand-computed cases and the peers' formulas."""

import math

import pytest
import torch

from study import regularisers
from study.errors import StudyError
from study.regularisers import JS_CAP, MemberOutputs, find


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


FEATURES = ("hsic", "dice", "hsic_bottleneck")
OF_LOGITS = [n for n in regularisers.REGULARISERS if n not in FEATURES]


@pytest.mark.parametrize("name", OF_LOGITS)
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
    z = torch.zeros(3, 6, 2, dtype=torch.float64, requires_grad=True)
    y, x = torch.tensor([0, 0, 0, 1, 1, 1]), torch.randn(6, 3, dtype=torch.float64)
    find(name)(MemberOutputs(logits, y, phi, z, x)).backward()
    for gradient in (logits.grad, phi.grad, z.grad):
        assert gradient is None or bool(gradient.isfinite().all())


@pytest.mark.parametrize("name", OF_LOGITS)
def test_weight_means_the_same_for_every_batch_and_ensemble_size(name):
    torch.manual_seed(0)
    logits, phi = torch.randn(2, 10, 4), torch.randn(2, 9)
    y = torch.zeros(10, dtype=torch.long)
    once = find(name)(MemberOutputs(logits, y, phi))
    twice = find(name)(MemberOutputs(logits.repeat(1, 2, 1), y.repeat(2), phi))
    torch.testing.assert_close(once, twice)


CLASSES = torch.tensor([0, 0, 0, 0, 1, 1, 1, 1])


def features(members=2, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(members, 8, 3, generator=generator, dtype=torch.float64)


def of_features(name, z, y=CLASSES, x=None):
    logits = torch.zeros(len(z), len(y), 2, dtype=torch.float64)
    return find(name)(MemberOutputs(logits, y, None, z, x))


def kernel(z):
    d = torch.cdist(z, z).square()
    return torch.exp(-d / (2 * d.median()))


def nhsic(one, other):
    """tr(KHLH) of two kernel matrices over its geometric mean with itself, from the definition."""
    h = torch.eye(len(one), dtype=one.dtype) - 1 / len(one)
    k, m = h @ one @ h, h @ other @ h
    return (k * m).sum() / (k.norm() * m.norm())


def centred(z):
    return torch.cat([part - part.mean(0) for part in z.split(4)])


def test_hsic_is_the_definition_within_classes():
    z = features()
    expected = nhsic(kernel(centred(z[0])), kernel(centred(z[1])))
    assert of_features("hsic", z).item() == pytest.approx(expected.item())
    assert of_features("hsic", z[:1].expand(2, -1, -1)).item() == pytest.approx(1)


def test_hsic_spares_what_depends_on_the_class_alone():
    z = features()
    moved = z + 5 * CLASSES.double().view(1, 8, 1)
    torch.testing.assert_close(of_features("hsic", moved), of_features("hsic", z))


def test_hsic_bottleneck_is_the_definition_and_needs_no_other_member():
    z, x = features(1), torch.randn(8, 5, dtype=torch.float64)
    y = (CLASSES.unsqueeze(0) == CLASSES.unsqueeze(1)).double()
    expected = nhsic(kernel(z[0]), kernel(x)) / 100 - nhsic(kernel(z[0]), y)
    found = of_features("hsic_bottleneck", z, x=x)
    assert found.item() == pytest.approx(expected.item(), rel=1e-3)
    assert find("hsic_bottleneck").applies_alone


def test_dice_by_hand():
    # One class; the first feature is common, the second is not correlated: 1 of 4 correlations.
    a = torch.tensor([1.0, 1.0, -1.0, -1.0])
    b = torch.tensor([1.0, -1.0, 1.0, -1.0])
    c = torch.tensor([1.0, -1.0, -1.0, 1.0])
    z = torch.stack([torch.stack([a, b], 1), torch.stack([a, c], 1)]).double()
    y = torch.zeros(4, dtype=torch.long)
    assert of_features("dice", z, y).item() == pytest.approx(1 / 4)


@pytest.mark.parametrize("name", ["hsic", "dice"])
def test_descent_makes_features_less_alike(name):
    z = (features()[:1] + 0.3 * features(2, seed=1)).requires_grad_()
    before = of_features(name, z)
    before.backward()
    assert of_features(name, z.detach() - 0.1 * z.grad) < before


def test_adp_by_hand():
    # Without the true class 0 the members hold (1, 0) and (0.6, 0.8) in unit length.
    p = torch.tensor([[[0.5, 0.5, 0.0]], [[0.3, 0.3, 0.4]]], dtype=torch.float64)
    mean = (0.4, 0.4, 0.2)
    entropy = -sum(q * math.log(q) for q in mean)
    determinant = (1 + 1e-4) ** 2 - 0.6**2
    expected = -(entropy + 0.25 * math.log(determinant))
    found = find("adp")(outputs(p.clamp(min=1e-30).log()))
    assert found.item() == pytest.approx(expected)


def test_adp_needs_fewer_members_than_classes():
    with pytest.raises(StudyError, match=r"adp needs at most 2 members.* but there are 3"):
        find("adp")(outputs(torch.zeros(3, 4, 3)))


@pytest.mark.parametrize("name", FEATURES)
def test_features_are_needed(name):
    with pytest.raises(
        StudyError, match=f"{name} needs the features that enter a layer called head"
    ):
        find(name)(outputs(SAME))


def test_unknown_names_are_refused_with_the_nearest():
    with pytest.raises(StudyError, match="did you mean 'jensen_shannon'"):
        find("jensen_shanon")
    with pytest.raises(StudyError, match="cannot be imported"):
        find("nowhere.term")
    assert find("none") is None
    assert find("study.regularisers.cosine") is regularisers.cosine
