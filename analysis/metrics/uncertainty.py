"""Entropy of the ensemble, split into the members' own and their disagreement."""

import numpy as np

from analysis.metrics.arrays import FloatArray
from analysis.metrics.log_space import ensemble

ROUNDING = 1e-12


def entropy(logp: FloatArray) -> FloatArray:
    """Return -sum_c p log p over the last axis, in nats."""
    return np.asarray(-(np.exp(logp) * logp).sum(-1))


def predictive_entropy(logq_NC: FloatArray) -> FloatArray:
    """Return the total uncertainty H[q] of each example, (N,), in nats, 0 to log C."""
    return entropy(logq_NC)


def aleatoric_entropy(logp_MNC: FloatArray, p_MNC: FloatArray | None = None) -> FloatArray:
    """Return mean_m H[p_m] of each example, (N,) float64, in nats, 0 to log C.

    With ``mutual_information`` it adds up to ``predictive_entropy`` (Depeweg et al. 2018).
    ``p_MNC`` is exp of the other, where it is at hand in float64.
    """
    exact_MNC = logp_MNC.astype(np.float64, copy=False)
    p_MNC = np.exp(exact_MNC) if p_MNC is None else p_MNC
    return np.asarray(-(p_MNC * exact_MNC).sum(-1).mean(0))


def mutual_information(
    logp_MNC: FloatArray, logq_NC: FloatArray | None = None, p_MNC: FloatArray | None = None
) -> FloatArray:
    """Return H[q] - mean_m H[p_m] of each example, (N,) float64, in nats, 0 to log M.

    Disagreement of the members' distributions; equals mean_m KL(p_m || q) (Houlsby et al. 2011).
    What is below the rounding error is 0, so that identical members tie in ``auroc``.
    ``logq_NC`` is ``ensemble(logp_MNC)`` and ``p_MNC`` is exp(logp_MNC), where at hand in float64.
    """
    exact_MNC = logp_MNC.astype(np.float64, copy=False)
    total_N = entropy(ensemble(exact_MNC) if logq_NC is None else logq_NC)
    mi = total_N - aleatoric_entropy(exact_MNC, p_MNC)
    return np.where(mi > ROUNDING, mi, 0.0)
