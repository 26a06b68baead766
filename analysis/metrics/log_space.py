"""Logits to log-probabilities, members to their ensemble: exact in log space, nothing clipped."""

import numpy as np

from analysis.metrics.arrays import FloatArray


def log_softmax(logits: FloatArray) -> FloatArray:
    """Return log-probabilities of the last axis, in nats, same shape, class-major in memory."""
    z: FloatArray = np.moveaxis(np.moveaxis(logits, -1, 0).copy(), 0, -1)
    z -= z.max(-1, keepdims=True)
    z -= np.log(np.exp(z).sum(-1, keepdims=True))
    return z


def ensemble(logp_MNC: FloatArray) -> FloatArray:
    """Return log mean_m p_m, (N, C), in nats: the average of probabilities, not of logits."""
    if len(logp_MNC) == 1:
        return np.asarray(logp_MNC[0])
    top = logp_MNC.max(0)
    return np.asarray(top + np.log(np.exp(logp_MNC - top).mean(0)))
