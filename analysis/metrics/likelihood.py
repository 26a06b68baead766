"""Negative log likelihood of an ensemble and of its members, and what averaging gains."""

import numpy as np

from analysis.metrics.arrays import FloatArray, IntArray


def example_nll(logq_NC: FloatArray, y_N: IntArray) -> FloatArray:
    """Return -log q_y of each example, (N,) float64, in nats."""
    return -logq_NC[np.arange(len(y_N)), y_N].astype(np.float64)


def nll(logq_NC: FloatArray, y_N: IntArray) -> float:
    """Return the negative log likelihood -1/N sum log q_y, in nats; lower is better."""
    return float(example_nll(logq_NC, y_N).mean())


def chance_nll(y_N: IntArray) -> float:
    """Return the NLL, in nats, of the labels' own frequencies: the best that guessing can do."""
    share = np.unique(y_N, return_counts=True)[1] / len(y_N)
    return float(-(share * np.log(share)).sum()) + 0.0


def member_nll(logp_MNC: FloatArray, y_N: IntArray) -> float:
    """Return the mean over members of the member's NLL, in nats; lower is better."""
    return float(np.mean([nll(logp_NC, y_N) for logp_NC in logp_MNC]))


def example_gain(logp_MNC: FloatArray, y_N: IntArray) -> FloatArray:
    """Return log mean_m p_my - mean_m log p_my of each example, (N,) float64, in nats."""
    logp_MN = logp_MNC[:, np.arange(len(y_N)), y_N].astype(np.float64)
    top = logp_MN.max(0)
    return np.asarray(top + np.log(np.exp(logp_MN - top).mean(0)) - logp_MN.mean(0))


def gain(logp_MNC: FloatArray, y_N: IntArray) -> float:
    """Return the ensemble gain: mean member NLL - ensemble NLL, in nats.

    At least 0 by Jensen's inequality, and exactly 0 for one member; higher is more useful
    diversity (the Jensen gap of Jeffares et al. 2023).
    """
    return float(example_gain(logp_MNC, y_N).mean())
