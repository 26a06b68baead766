"""One pure function per metric, on natural logarithms of probabilities.

Shapes: M members, N examples, C classes. ``logp_MNC`` are the members' log-probabilities,
``logq_NC`` the ensemble's, that is log of the members' mean *probability*; ``y_N`` the classes.
Log-probabilities are exact in log space, so nothing is clipped. ``log_softmax`` lays its result
out class by class in memory, which makes every reduction over classes a sum of long rows.
"""

from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.optimize import minimize_scalar
from scipy.stats import rankdata

FloatArray = npt.NDArray[np.floating[Any]]
IntArray = npt.NDArray[np.integer[Any]]

BINS = 15
TEMPERATURES = (0.02, 50.0)
ROUNDING = 1e-12


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


def accuracy(logq_NC: FloatArray, y_N: IntArray) -> float:
    """Return the share of examples whose most probable class is the label; higher is better."""
    return float(np.mean(logq_NC.argmax(-1) == y_N))


def example_nll(logq_NC: FloatArray, y_N: IntArray) -> FloatArray:
    """Return -log q_y of each example, (N,) float64, in nats."""
    return -logq_NC[np.arange(len(y_N)), y_N].astype(np.float64)


def nll(logq_NC: FloatArray, y_N: IntArray) -> float:
    """Return the negative log likelihood -1/N sum log q_y, in nats; lower is better."""
    return float(example_nll(logq_NC, y_N).mean())


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


def member_nll(logp_MNC: FloatArray, y_N: IntArray) -> float:
    """Return the mean over members of the member's NLL, in nats; lower is better."""
    return float(np.mean([nll(logp_NC, y_N) for logp_NC in logp_MNC]))


def temperature(logq_NC: FloatArray, y_N: IntArray) -> float:
    """Return T in ``TEMPERATURES`` that minimises the NLL of softmax(log q / T).

    The loss is convex in 1/T; the search is bounded Brent in log T, so a set without an error
    (whose best T is 0) gets the lower bound.
    """
    z_CN = np.ascontiguousarray((logq_NC - logq_NC.max(-1, keepdims=True)).T, np.float64)
    z_y = z_CN[y_N, np.arange(len(y_N))].mean()

    def loss(log_t: float) -> float:
        beta = np.exp(-log_t)
        return float(np.log(np.exp(beta * z_CN).sum(0)).mean() - beta * z_y)

    found = minimize_scalar(loss, bounds=np.log(TEMPERATURES), method="bounded")
    return float(np.exp(found.x))


def cll(logq_NC: FloatArray, y_N: IntArray, rng: np.random.Generator, repeats: int = 5) -> float:
    """Return the calibrated negative log likelihood, in nats; LOWER is better.

    Ashukha et al. 2020 (arXiv 2002.06470), section 4: the examples are split at random into
    halves, ``repeats`` times; the temperature is fitted on one half, *after* the members are
    averaged, and the NLL taken on the other; both ways, then the mean. The paper reports the
    log likelihood (higher is better); the sign is turned here so that it reads like ``nll``.
    """
    losses = []
    for _ in range(repeats):
        order = rng.permutation(len(y_N))
        halves = order[: len(order) // 2], order[len(order) // 2 :]
        for fit, held in (halves, halves[::-1]):
            t = temperature(logq_NC[fit], y_N[fit])
            losses.append(nll(log_softmax(logq_NC[held].astype(np.float64) / t), y_N[held]))
    return float(np.mean(losses))


def brier(logq_NC: FloatArray, y_N: IntArray) -> float:
    """Return 1/N sum_n sum_c (q_c - [y=c])², between 0 and 2; lower is better (Brier 1950)."""
    q = np.exp(logq_NC)
    q_y = q[np.arange(len(y_N)), y_N]
    return float(np.mean((q * q).sum(-1) - 2 * q_y + 1, dtype=np.float64))


def confidence_bins(confidence_N: FloatArray, bins: int = BINS) -> IntArray:
    """Return which of ``bins`` equal-width, right-closed bins of [0, 1] each value is in."""
    edges = np.linspace(0, 1, bins + 1)[1:-1]
    return np.searchsorted(edges, confidence_N, side="left")


def reliability(
    logq_NC: FloatArray, y_N: IntArray, bins: int = BINS
) -> tuple[IntArray, FloatArray, FloatArray]:
    """Return per bin of confidence: count, mean confidence, accuracy (NaN in an empty bin)."""
    confidence = np.exp(logq_NC.max(-1).astype(np.float64))
    at = confidence_bins(confidence, bins)
    count = np.bincount(at, minlength=bins)
    right = logq_NC.argmax(-1) == y_N
    safe = np.where(count, count, np.nan)
    return (
        count,
        np.bincount(at, confidence, bins) / safe,
        np.bincount(at, right, bins) / safe,
    )


def ece(logq_NC: FloatArray, y_N: IntArray, bins: int = BINS) -> float:
    """Return sum_b |B_b|/N |accuracy_b - confidence_b|, 0 to 1; lower is better.

    Bins of ``confidence_bins`` (Guo et al. 2017, eq. 3). Biased upwards by 1/N: descriptive only.
    """
    count, confidence, right = reliability(logq_NC, y_N, bins)
    return float(np.nansum(count * np.abs(right - confidence)) / len(y_N))


def entropy(logp: FloatArray) -> FloatArray:
    """Return -sum_c p log p over the last axis, in nats."""
    return np.asarray(-(np.exp(logp) * logp).sum(-1))


def predictive_entropy(logq_NC: FloatArray) -> FloatArray:
    """Return the total uncertainty H[q] of each example, (N,), in nats, 0 to log C."""
    return entropy(logq_NC)


def mutual_information(logp_MNC: FloatArray) -> FloatArray:
    """Return H[q] - mean_m H[p_m] of each example, (N,), in nats, 0 to log M.

    Disagreement of the members' distributions; equals mean_m KL(p_m || q) (Houlsby et al. 2011).
    What is below the rounding error is 0, so that identical members tie in ``auroc``.
    """
    mi = entropy(ensemble(logp_MNC)) - entropy(logp_MNC).mean(0)
    return np.where(mi > ROUNDING, mi, 0.0)


def disagreement(choice_MN: IntArray, classes: int) -> float:
    """Return the share of member pairs that choose another class, 0 to 1; needs M >= 2.

    From class counts n_c: mean of (M² - sum_c n_c²) / (M(M-1)), which is the mean over pairs.
    """
    members, n = choice_MN.shape
    cell = np.arange(n) * classes + choice_MN
    counts = np.bincount(cell.ravel(), minlength=n * classes)
    return float((members**2 - (counts**2).sum() / n) / (members * (members - 1)))


def pairwise_disagreement(choice_MN: IntArray) -> FloatArray:
    """Return the (M, M) matrix of the share of examples on which members i and j differ."""
    return np.asarray([[np.mean(a != b) for b in choice_MN] for a in choice_MN], dtype=np.float64)


def pairwise_kl(logp_MNC: FloatArray) -> float:
    """Return the mean over ordered pairs i != j of KL(p_i || p_j), in nats; needs M >= 2.

    sum_ij p_i (log p_i - log p_j) = M sum_i p_i log p_i - (sum_i p_i)(sum_j log p_j): no loop.
    """
    members = len(logp_MNC)
    logp = logp_MNC.astype(np.float64)
    p = np.exp(logp)
    total = members * (p * logp).sum((0, -1)) - (p.sum(0) * logp.sum(0)).sum(-1)
    return max(0.0, float(total.mean() / (members * (members - 1))))


def auroc(negative: FloatArray, positive: FloatArray) -> float:
    """Return P(positive > negative) + P(equal) / 2 of two samples of scores.

    Out of distribution is *positive*: 1 is perfect, 0.5 is blind (Mann-Whitney U / (N₀ N₁)).
    """
    ranks = rankdata(np.concatenate([negative, positive]))[len(negative) :]
    n = len(positive)
    return float((ranks.sum() - n * (n + 1) / 2) / (n * len(negative)))
