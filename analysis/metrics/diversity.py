"""How far members' predictions differ. They also differ when members are merely bad."""

import math
from itertools import combinations

import numpy as np

from analysis.metrics.arrays import FloatArray, IntArray


def disagreement(choice_MN: IntArray, classes: int) -> float:
    """Return the share of member pairs that choose another class, 0 to 1; needs M >= 2.

    From class counts n_c: mean of (M² - sum_c n_c²) / (M(M-1)), which is the mean over pairs.
    """
    members, n = choice_MN.shape
    cell = np.arange(n) * classes + choice_MN
    counts = np.bincount(cell.ravel(), minlength=n * classes)
    return float((members**2 - (counts**2).sum() / n) / (members * (members - 1)))


def normalised_disagreement(choice_MN: IntArray, y_N: IntArray, classes: int) -> float:
    """Return ``disagreement`` over the members' mean error rate; higher is more diverse.

    Without unit, from 0; above 1 members differ more than they err (Fort et al. 2019; the
    disagreement-error ratio of Theisen et al. 2023). NaN where no member errs.
    """
    error = float(np.mean(choice_MN != y_N))
    return disagreement(choice_MN, classes) / error if error else math.nan


def pairwise_disagreement(choice_MN: IntArray) -> FloatArray:
    """Return the (M, M) matrix of the share of examples on which members i and j differ."""
    counts = [[np.count_nonzero(a != b) for b in choice_MN] for a in choice_MN]
    return np.asarray(counts, np.float64) / choice_MN.shape[1]


def pairwise_kl(logp_MNC: FloatArray, p_MNC: FloatArray | None = None) -> float:
    """Return the mean over ordered pairs i != j of KL(p_i || p_j), in nats; needs M >= 2.

    sum_ij p_i (log p_i - log p_j) = M sum_i p_i log p_i - (sum_i p_i)(sum_j log p_j): no loop.
    ``p_MNC`` is exp of the other, where it is at hand in float64.
    """
    members = len(logp_MNC)
    logp = logp_MNC.astype(np.float64, copy=False)
    p = np.exp(logp) if p_MNC is None else p_MNC
    total = members * (p * logp).sum((0, -1)) - (p.sum(0) * logp.sum(0)).sum(-1)
    return max(0.0, float(total.mean() / (members * (members - 1))))


def pairwise_js(logp_MNC: FloatArray, p_MNC: FloatArray | None = None) -> float:
    """Return the mean over pairs of the Jensen-Shannon divergence, in nats, 0 to log 2.

    H[(p_i + p_j) / 2] - (H[p_i] + H[p_j]) / 2 (Lin 1991), then the mean over examples; symmetric
    and bounded where ``pairwise_kl`` is not. Needs M >= 2.
    ``p_MNC`` is exp of the other, where it is at hand in float64.
    """
    members, rows, _ = logp_MNC.shape
    logp_MK = logp_MNC.astype(np.float64, copy=False).reshape(members, -1)
    p_MK = np.exp(logp_MK) if p_MNC is None else p_MNC.reshape(members, -1)
    own = float(np.einsum("mk,mk->", p_MK, logp_MK)) / members
    # Halves, of which two make a pair's mean; what is 0 stays so small that p log p is 0.
    half_MK = np.maximum(p_MK / 2, np.finfo(np.float64).tiny)
    mixed, mean_K, log_K = 0.0, np.empty_like(half_MK[0]), np.empty_like(half_MK[0])
    for a_K, b_K in combinations(half_MK, 2):
        np.log(np.add(a_K, b_K, out=mean_K), out=log_K)
        mixed += float(np.einsum("k,k->", mean_K, log_K))
    return max(0.0, (own - mixed / math.comb(members, 2)) / rows)
