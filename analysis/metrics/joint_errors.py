"""Whether members err on the same examples: means over pairs of members, from who errs where.

``wrong_MN`` says which member is wrong on which example. All are lower for more diverse errors.
"""

import math
from itertools import combinations

import numpy as np

from analysis.metrics.arrays import BoolArray, FloatArray


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
