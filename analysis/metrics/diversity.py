"""How far members' predictions differ. They also differ when members are merely bad."""

import math
from itertools import combinations

import numpy as np

from analysis.metrics.arrays import BoolArray, FloatArray, IntArray


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
    and bounded where ``pairwise_kl`` is not. Needs M >= 2. The logarithms of the M(M-1)/2 means are
    taken in float32, four times as fast: off by less than 1e-9 nats, and exactly 0 for equal
    members. ``p_MNC`` is exp of the other, where it is at hand.
    """
    members, rows, _ = logp_MNC.shape
    p = np.exp(logp_MNC.astype(np.float64, copy=False)) if p_MNC is None else p_MNC
    # Halves, of which two make a pair's mean; what is 0 stays so small that p log p is 0.
    half_MK = np.maximum(p.reshape(members, -1) / 2, np.finfo(np.float32).tiny).astype(np.float32)
    own_MK = half_MK * np.log(half_MK + half_MK)
    total_K = np.zeros_like(own_MK[0])
    mean_K, term_K = np.empty_like(total_K), np.empty_like(total_K)
    for i, j in combinations(range(members), 2):
        np.log(np.add(half_MK[i], half_MK[j], out=mean_K), out=term_K)
        term_K *= mean_K
        term_K -= own_MK[i]
        term_K -= own_MK[j]
        total_K -= term_K
    mean = float(total_K.sum(dtype=np.float64)) / math.comb(members, 2) / rows
    return min(max(0.0, mean), math.log(2))


def double_fault(wrong_MN: BoolArray) -> float:
    """Return the share of examples on which both of a pair err, 0 to 1; needs M >= 2.

    Giacinto & Roli (2001). Grows with the error rate itself: read it beside that.
    """
    both_P, *_ = _contingency(wrong_MN)
    return float(both_P.mean() / wrong_MN.shape[1])


def error_correlation(wrong_MN: BoolArray) -> float:
    """Return the correlation phi of two members' errors, -1 to 1; 0 for independent errors.

    phi = (N11 N00 - N10 N01) / sqrt of the product of the four margins, which is Pearson's
    correlation of the indicators. Undefined for a pair with a member that is always or never
    wrong: such pairs are left out, and NaN is returned where none is left.
    """
    both_P, first_P, second_P, neither_P = _contingency(wrong_MN)
    margins = (both_P + first_P) * (both_P + second_P)
    margins = np.sqrt(margins) * np.sqrt((neither_P + first_P) * (neither_P + second_P))
    return _mean_ratio(both_P * neither_P - first_P * second_P, margins)


def q_statistic(wrong_MN: BoolArray) -> float:
    """Return Yule's Q = (N11 N00 - N10 N01) / (N11 N00 + N10 N01), -1 to 1; 0 if independent.

    Kuncheva & Whitaker (2003). Undefined for a pair with a member that is always or never wrong:
    such pairs are left out, and NaN is returned where none is left. 1 as soon as one member's
    errors contain the other's.
    """
    both_P, first_P, second_P, neither_P = _contingency(wrong_MN)
    same, other = both_P * neither_P, first_P * second_P
    return _mean_ratio(same - other, same + other)


def _contingency(wrong_MN: BoolArray) -> tuple[FloatArray, FloatArray, FloatArray, FloatArray]:
    """Return over pairs i < j on how many examples both, i alone, j alone, and neither err."""
    i, j = np.triu_indices(len(wrong_MN), 1)
    both = [np.count_nonzero(a & b) for a, b in combinations(wrong_MN, 2)]
    both_P, count_M = np.array(both, np.float64), wrong_MN.sum(1).astype(np.float64)
    first_P, second_P = count_M[i] - both_P, count_M[j] - both_P
    return both_P, first_P, second_P, wrong_MN.shape[1] - both_P - first_P - second_P


def _mean_ratio(above_P: FloatArray, below_P: FloatArray) -> float:
    """Return the mean of above / below over the pairs where below is not 0; NaN for none."""
    defined = below_P > 0
    return float(np.mean(above_P[defined] / below_P[defined])) if defined.any() else math.nan
