"""How well an uncertainty puts the errors last, when the least certain examples are rejected.

``uncertainty_N`` is higher where an example goes first (for instance -max log q); ``wrong_N`` says
which predictions are wrong. Equal uncertainties count as their mean over all orders.
"""

import numpy as np
from scipy.stats import rankdata

from analysis.metrics.arrays import BoolArray, FloatArray, tie_means


def aurc(uncertainty_N: FloatArray, wrong_N: BoolArray) -> float:
    """Return the area under the risk-coverage curve, 0 to 1; lower is better.

    1/N sum_k of the error rate among the k most certain examples (Geifman & El-Yaniv 2017). A
    blind uncertainty gives the error rate.
    """
    risk_N = tie_means(uncertainty_N, wrong_N)[np.argsort(uncertainty_N)]
    return float(np.mean(risk_N.cumsum() / np.arange(1, len(risk_N) + 1)))


def augrc(uncertainty_N: FloatArray, wrong_N: BoolArray) -> float:
    """Return the area under the generalised risk-coverage curve, 0 to 1/2; lower is better.

    The integral over coverage k/N of P(wrong and accepted), by trapezoids from (0, 0) (Traub et
    al. 2024, arXiv 2407.01032): an error at rank r from the certain end is accepted at a share
    (N - r + 1/2) / N of the coverages. A blind uncertainty gives half the error rate.
    """
    n = len(wrong_N)
    return float((wrong_N * (n + 0.5 - rankdata(uncertainty_N))).sum() / n**2)
