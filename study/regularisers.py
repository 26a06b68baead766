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

from study.plugins import suggest
from study.schema import StudyError


@dataclass(frozen=True)
class MemberOutputs:
    """What a regulariser may see of one training batch.

    Attributes:
        logits_MBC: Member logits, all on the same examples.
        y_B: Labels.
        perturbations_MP: Each member's own weights as deviations from the shared network.
    """

    logits_MBC: Tensor
    y_B: Tensor
    perturbations_MP: Tensor | None


Regulariser = Callable[[MemberOutputs], Tensor]
REGULARISERS: dict[str, Regulariser] = {}


def regulariser(function: Regulariser) -> Regulariser:
    """Make ``function`` known in YAML by its own name."""
    REGULARISERS[function.__name__] = function
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
    i, j = torch.triu_indices(len(log_p), len(log_p), offset=1)
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
    i, j = torch.triu_indices(len(p), len(p), offset=1)
    distances = (p[i] - p[j]).square().sum(-1)
    h = distances.detach().median().clamp(min=1e-12)
    return torch.exp(-distances / h).mean()


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
