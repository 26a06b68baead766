"""What a search looks at: the NLL, gain and accuracy of an ensemble's logits."""

import math
from typing import NamedTuple

import torch
from torch import Tensor


def log_ensemble(logits_MNC: Tensor) -> Tensor:
    """Return the log of the members' averaged probabilities, (N, C)."""
    return logits_MNC.double().log_softmax(-1).logsumexp(0) - math.log(len(logits_MNC))


def nll(logits_MNC: Tensor, y_N: Tensor) -> float:
    """Return the ensemble's mean negative log-likelihood, in nats."""
    return torch.nn.functional.nll_loss(log_ensemble(logits_MNC), y_N).item()


class Objectives(NamedTuple):
    """What the search looks at on clean validation data; named as the columns of a row."""

    val_nll: float
    val_gain: float
    val_accuracy: float


def objectives(logits_MNC: Tensor, y_N: Tensor) -> Objectives:
    """Return an ensemble's objectives, its NLL and gain in nats."""
    ensemble = nll(logits_MNC, y_N)
    members = sum(nll(own.unsqueeze(0), y_N) for own in logits_MNC) / len(logits_MNC)
    right = log_ensemble(logits_MNC).argmax(-1) == y_N
    return Objectives(ensemble, members - ensemble, right.double().mean().item())
