"""How well a score tells out-of-distribution examples from those in distribution.

``negative`` are the scores in distribution, ``positive`` those out of it; a score is higher where
the ensemble is less certain.
"""

import numpy as np
from scipy.stats import rankdata

from analysis.metrics.arrays import FloatArray


def auroc(negative: FloatArray, positive: FloatArray) -> float:
    """Return P(positive > negative) + P(equal) / 2 of two samples of scores.

    Out of distribution is *positive*: 1 is perfect, 0.5 is blind (Mann-Whitney U / (N₀ N₁)).
    """
    ranks = rankdata(np.concatenate([negative, positive]))[len(negative) :]
    n = len(positive)
    return float((ranks.sum() - n * (n + 1) / 2) / (n * len(negative)))


def roc(negative: FloatArray, positive: FloatArray, alarm: FloatArray) -> FloatArray:
    """Return the share of ``positive`` that is found at each share ``alarm`` of false alarms.

    Out of distribution is *positive*. Straight between thresholds, as ``auroc`` counts equal
    scores: the area below the curve is ``auroc``.
    """
    thresholds = np.unique(np.concatenate([negative, positive]))
    shares = [
        1 - np.searchsorted(np.sort(sample), thresholds, "left") / len(sample)
        for sample in (negative, positive)
    ]
    false, true = (np.concatenate([[0.0], share[::-1]]) for share in shares)
    return np.interp(alarm, false, true)  # At a vertical step, its top.


def aupr(negative: FloatArray, positive: FloatArray) -> float:
    """Return the average precision at equal prevalence: 1 is perfect, about 0.5 is blind.

    Out of distribution is *positive*. sum_t (R_t - R_t-1) P_t over thresholds t from the top, with
    recall R = P(positive >= t) and precision P = R / (R + P(negative >= t)): each sample has weight
    1/2 whatever its size, which is the limit of drawing the larger one down to the smaller.
    Equal scores share a threshold.
    """
    found, count = np.unique(positive, return_counts=True)
    recall = count[::-1].cumsum()[::-1] / len(positive)
    alarm = 1 - np.searchsorted(np.sort(negative), found) / len(negative)
    return float(count @ (recall / (recall + alarm)) / len(positive))


def fpr95(negative: FloatArray, positive: FloatArray) -> float:
    """Return the share of out-of-distribution examples accepted where 95 % of the others are.

    *In* distribution is positive here, as in OpenOOD (Yang et al. 2022), the other way round than
    in ``auroc``: the threshold is the lowest that keeps at least 95 % of ``negative``, and the
    result P(positive <= threshold). 0 is perfect, 0.95 is blind; lower is better. Scores equal to
    the threshold are accepted, in and out.
    """
    kept = -(-19 * len(negative) // 20)
    threshold = np.partition(negative, kept - 1)[kept - 1]
    return float(np.mean(positive <= threshold))
