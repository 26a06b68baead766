"""What a search looks at: the NLL, gain and accuracy of an ensemble's logits."""

import math
from typing import NamedTuple

import torch
from torch import Tensor


def log_ensemble(logits_MNC: Tensor) -> Tensor:
    """Return the log of the members' averaged probabilities, (N, C)."""
    return _log_mean(_log_probabilities(logits_MNC))


def nll(logits_MNC: Tensor, y_N: Tensor) -> float:
    """Return the ensemble's mean negative log-likelihood, in nats."""
    return _nll(log_ensemble(logits_MNC), y_N)


class Objectives(NamedTuple):
    """What the search looks at on clean validation data; named as the columns of a row."""

    val_nll: float
    val_gain: float
    val_accuracy: float


def objectives(logits_MNC: Tensor, y_N: Tensor) -> Objectives:
    """Return an ensemble's objectives, its NLL and gain in nats."""
    logp_MNC = _log_probabilities(logits_MNC)
    log_mean = _log_mean(logp_MNC)
    ensemble = _nll(log_mean, y_N)
    members = sum(_nll(own, y_N) for own in logp_MNC) / len(logp_MNC)
    right = log_mean.argmax(-1) == y_N
    return Objectives(ensemble, members - ensemble, right.double().mean().item())


def _log_probabilities(logits_MNC: Tensor) -> Tensor:
    return logits_MNC.double().log_softmax(-1)


def _log_mean(logp_MNC: Tensor) -> Tensor:
    return logp_MNC.logsumexp(0) - math.log(len(logp_MNC))


def _nll(logp_NC: Tensor, y_N: Tensor) -> float:
    return torch.nn.functional.nll_loss(logp_NC, y_N).item()
