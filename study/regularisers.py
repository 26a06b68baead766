"""Diversity terms that join the training loss: one function each, named by its key in YAML.

Each takes :class:`MemberOutputs` and returns a scalar to be *minimised*, averaged over examples and
pairs of members, so that its weight means the same for every batch and ensemble size. Each
rewards disagreement, not accuracy: read its effect beside the members' own NLL.
"""

import importlib
import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from study.errors import StudyError
from study.plugins import suggest


@dataclass(frozen=True)
class MemberOutputs:
    """What a regulariser may see of one training batch.

    Attributes:
        logits_MBC: Member logits, all on the same examples.
        y_B: Labels.
        perturbations_MP: Each member's own weights as deviations from the shared network.
        features_MBF: Penultimate features: what enters the layer called ``head``.
        x_BD: The images, flattened.
    """

    logits_MBC: Tensor
    y_B: Tensor
    perturbations_MP: Tensor | None = None
    features_MBF: Tensor | None = None
    x_BD: Tensor | None = None


Regulariser = Callable[[MemberOutputs], Tensor]
REGULARISERS: dict[str, Regulariser] = {}


def regulariser(function: Regulariser) -> Regulariser:
    """Make ``function`` known in YAML by its own name."""
    REGULARISERS[function.__name__] = function
    return function


def alone(function: Regulariser) -> Regulariser:
    """Mark a term that is defined for each member by itself, so for one network too."""
    # The type of a function knows no attributes.
    function.applies_alone = True  # type: ignore[attr-defined]
    return function


@regulariser
def negative_correlation(outputs: MemberOutputs) -> Tensor:
    """Return -mean_m ‖p_m - p̄‖² (Liu & Yao 1999, on probabilities)."""
    p = outputs.logits_MBC.softmax(-1)
    return -(p - p.mean(0)).square().sum(-1).mean()


JS_CAP = 0.1 * math.log(2)


@regulariser
def jensen_shannon(outputs: MemberOutputs) -> Tensor:
    """Return -mean over pairs and examples of min(JS(p_i, p_j), 0.1 ln 2), in nats.

    The cap stops a pair that already differs from buying still more divergence with accuracy.
    """
    log_p = outputs.logits_MBC.log_softmax(-1)
    i, j = _pairs(log_p)
    log_mean = torch.logaddexp(log_p[i], log_p[j]) - math.log(2)
    js = 0.5 * (_kl(log_p[i], log_mean) + _kl(log_p[j], log_mean))
    return -js.clamp(max=JS_CAP).mean()


@regulariser
def cosine(outputs: MemberOutputs) -> Tensor:
    """Return the mean over pairs of cos²(φ_i, φ_j), φ_m the member's fast weights minus one."""
    if outputs.perturbations_MP is None:
        raise StudyError(
            "regulariser cosine needs members with own weights beside shared ones, "
            "but this method has none; choose another regulariser"
        )
    phi = torch.nn.functional.normalize(outputs.perturbations_MP, dim=1)
    gram = phi @ phi.mT
    return _mean_over_pairs(gram.square())


@regulariser
def function_space(outputs: MemberOutputs) -> Tensor:
    """Return mean over pairs of exp(-‖p_i - p_j‖²/h), p over the whole batch, h their median.

    Kernel repulsion in function space (D'Angelo & Fortuin 2021) as a loss; h carries no gradient.
    """
    p = outputs.logits_MBC.softmax(-1).flatten(1)
    i, j = _pairs(p)
    distances = (p[i] - p[j]).square().sum(-1)
    h = distances.detach().median().clamp(min=1e-12)
    return torch.exp(-distances / h).mean()


@regulariser
def hsic(outputs: MemberOutputs) -> Tensor:
    """Return the mean over pairs of the normalised HSIC of two members' penultimate features.

    Features are centred within each class: what depends on the label alone is common to members
    that are right, and is spared. Gaussian kernels, their width the median distance (no gradient).
    """
    features = _features(outputs, "hsic")
    within = torch.stack([_within_class(z, outputs.y_B) for z in features])
    grams = torch.stack([_centred_gram(z) for z in within])
    return _mean_over_pairs(_alignment(grams))


BOTTLENECK = 100.0
"""Weight of what features say of the label over what they say of the image (Ma et al. 2020)."""


@regulariser
@alone
def hsic_bottleneck(outputs: MemberOutputs) -> Tensor:
    """Return the mean over members of nHSIC(Z, X)/100 - nHSIC(Z, Y), Z the penultimate features.

    The HSIC bottleneck (Ma et al. 2020, divided by its β = 100) of the last hidden layer alone,
    instead of every layer; the labels' kernel is 1 within a class and 0 otherwise. It makes no pair
    differ: it compresses each member for itself.
    """
    features = _features(outputs, "hsic_bottleneck")
    assert outputs.x_BD is not None
    same = (outputs.y_B.unsqueeze(0) == outputs.y_B.unsqueeze(1)).to(features.dtype)
    images, labels = _centred_gram(outputs.x_BD), _centred(same)
    total = features.new_zeros(())
    for z in features:
        of_image, of_label = _alignment(torch.stack([_centred_gram(z), images, labels]))[0, 1:]
        total = total + of_image / BOTTLENECK - of_label
    return total / len(features)


@regulariser
def dice(outputs: MemberOutputs) -> Tensor:
    """Return the mean over pairs of the squared correlations of features, given the class.

    A proxy of DICE (Ramé & Cord 2021), which estimates I(Z_i; Z_j | Y) by adversarial training: the
    cross-covariance within classes of features of unit variance, squared, over their number.
    """
    features = _features(outputs, "dice")
    within = torch.stack([_within_class(z, outputs.y_B) for z in features])
    scale = (within.square().mean(1, keepdim=True) + 1e-12).sqrt()
    unit = within / scale
    i, j = _pairs(unit)
    correlation = unit[i].mT @ unit[j] / unit.shape[1]
    return correlation.square().mean()


ADP_RATIO = 0.25
"""Weight of the log-determinant over that of the entropy: 0.5 over 2 in Pang et al. (2019)."""
ADP_JITTER = 1e-4


@regulariser
def adp(outputs: MemberOutputs) -> Tensor:
    """Return -H(p̄) - log det(P̃ᵀP̃ + 1e-4)/4, averaged over examples, in nats.

    Adaptive diversity promoting (Pang et al. 2019, eqs. 4 and 5): P̃ (C-1, M) are the members'
    predictions without the true class, each of unit length. The jitter, which is ours, keeps the
    determinant of identical members above 0.

    Raises:
        StudyError: When there are more members than classes but one: the determinant is then 0.
    """
    members, _, classes = outputs.logits_MBC.shape
    if members > classes - 1:
        raise StudyError(
            f"regulariser adp needs at most {classes - 1} members, one less than the classes, "
            f"but there are {members}; lower params.members"
        )
    p = outputs.logits_MBC.softmax(-1)
    mean = p.mean(0)
    entropy = -(mean * mean.clamp(min=1e-12).log()).sum(-1)
    # The classes but the true one by number: a mask would have to be counted first.
    others_BC = torch.arange(classes - 1, device=p.device).expand(len(mean), -1)
    others_BC = others_BC + (others_BC >= outputs.y_B.unsqueeze(1))
    others = p.transpose(0, 1).gather(2, others_BC.unsqueeze(1).expand(-1, members, -1))
    others = torch.nn.functional.normalize(others, dim=-1)
    jitter = ADP_JITTER * torch.eye(members, dtype=p.dtype, device=p.device)
    return -(entropy + ADP_RATIO * torch.logdet(others @ others.mT + jitter)).mean()


def _features(outputs: MemberOutputs, name: str) -> Tensor:
    if outputs.features_MBF is None:
        raise StudyError(
            f"regulariser {name} needs the features that enter a layer called head, but the "
            "network has none; call its last layer head"
        )
    return outputs.features_MBF


def _within_class(z_BF: Tensor, y_B: Tensor) -> Tensor:
    """Return features less the mean of their class in the batch."""
    same = (y_B.unsqueeze(0) == y_B.unsqueeze(1)).to(z_BF.dtype)
    return z_BF - same @ z_BF / same.sum(1, keepdim=True)


def _centred_gram(z_BF: Tensor) -> Tensor:
    """Return the centred Gaussian kernel matrix (B, B)."""
    squared = (z_BF.unsqueeze(0) - z_BF.unsqueeze(1)).square().sum(-1)
    width = squared.detach().median().clamp(min=1e-12)
    return _centred(torch.exp(-squared / (2 * width)))


def _centred(gram: Tensor) -> Tensor:
    return gram - gram.mean(0, keepdim=True) - gram.mean(1, keepdim=True) + gram.mean()


def _alignment(grams_KBB: Tensor) -> Tensor:
    """Return the normalised HSIC of every two centred kernel matrices, (K, K), 0 to 1."""
    flat = grams_KBB.flatten(1)
    unit = flat / (flat.square().sum(1, keepdim=True) + 1e-12).sqrt()
    return unit @ unit.mT


def _pairs(members: Tensor) -> Tensor:
    """Return the numbers of both members of each pair, (2, M(M-1)/2), on their device."""
    m = len(members)
    return torch.triu_indices(m, m, offset=1, device=members.device)


def _kl(log_p: Tensor, log_q: Tensor) -> Tensor:
    return (log_p.exp() * (log_p - log_q)).sum(-1)


def _mean_over_pairs(matrix_MM: Tensor) -> Tensor:
    m = len(matrix_MM)
    return (matrix_MM.sum() - matrix_MM.diagonal().sum()) / (m * (m - 1))


def find(name: str) -> Regulariser | None:
    """Return the regulariser called ``name``, None for ``none``; a dotted name is imported.

    Raises:
        StudyError: When there is none; with the nearest known name.
    """
    if name == "none":
        return None
    if "." in name:
        return _imported(name)
    if name not in REGULARISERS:
        known = ["none", *REGULARISERS]
        raise StudyError(f"regulariser {name!r} does not exist{suggest(name, known)}")
    return REGULARISERS[name]


def _imported(name: str) -> Regulariser:
    module, _, function = name.rpartition(".")
    try:
        found: Regulariser = getattr(importlib.import_module(module), function)
    except (ModuleNotFoundError, AttributeError) as error:
        raise StudyError(
            f"regulariser {name!r} cannot be imported ({error}); install it or set PYTHONPATH"
        ) from None
    return found
