"""The diversity term of a step: which outputs of the members a regulariser is given."""

from collections.abc import Callable

import torch
from torch import Tensor

from study import regularisers
from study.errors import StudyError
from study.layers.members import split_members
from study.methods import Method, Phase
from study.spec import Regularisation


def diversity_term(
    method: Method, regularisation: Regularisation, phase: Phase
) -> Callable[[Tensor, Tensor, list[Tensor], Tensor], Tensor] | None:
    """Return the weighted diversity term of logits, labels, features and images.

    Of a stack it is (N,), one of each network.
    """
    regulariser = regularisers.find(regularisation.name)
    if regulariser is None:
        return None
    if not phase.diverse and not getattr(regulariser, "applies_alone", False):
        return None
    # A stack is several methods side by side, whose members are not to be compared.
    streams, checked = len(method.batch_seeds(0)), False

    def weighted(logits_MBC: Tensor, y_MB: Tensor, features: list[Tensor], x: Tensor) -> Tensor:
        nonlocal checked
        members = len(logits_MBC) // streams
        if members < 2:
            refuse_pairs(regularisation)
        if not checked:  # In the first step alone: the answer has to be waited for.
            for labels in y_MB.chunk(streams):
                _require_same_examples(labels, regularisation)
            checked = True
        seen = features[-1].float().flatten(1) if features else None
        every = (logits_MBC, y_MB, x.flatten(1), seen, method.perturbations())
        parts = ([None] * streams if v is None else v.chunk(streams) for v in every)
        terms = []
        for logits, labels, images, z, deviations in zip(*parts, strict=True):
            z = None if z is None else _by_member(z, members, len(images))
            outputs = regularisers.MemberOutputs(logits, labels[0], deviations, z, images)
            terms.append(regulariser(outputs))
        term = torch.stack(terms) if streams > 1 else terms[0]
        return (regularisation.weight or 0.0) * term

    return weighted


def refuse_pairs(regularisation: Regularisation) -> None:
    """Refuse a term that compares members.

    Raises:
        StudyError: Unless the term is none, or one of each network for itself.
    """
    regulariser = regularisers.find(regularisation.name)
    if regulariser is not None and not getattr(regulariser, "applies_alone", False):
        raise StudyError(
            f"regulariser {regularisation.name} compares members that are trained jointly on the "
            "same examples, which this method does not have; set regulariser.name to none"
        )


def _require_same_examples(y_MB: Tensor, regularisation: Regularisation) -> None:
    if not torch.equal(y_MB, y_MB[:1].expand_as(y_MB)):
        raise StudyError(
            f"regulariser {regularisation.name} needs members that see the same examples at a "
            "time, which in this method they do not; set regulariser.name to none or, where "
            "there is one, params.batch to repeat"
        )


def _by_member(features: Tensor, members: int, examples: int) -> Tensor:
    """Return features (M, B, F) from (M*B, F), or from (B, F) that the members share."""
    if len(features) == examples:
        return features.expand(members, *features.shape)
    return split_members(features, members)
