"""How many members of a Deep Ensemble something is worth."""

import math
from collections.abc import Sequence

import numpy as np

from analysis.metrics.arrays import FloatArray


def deep_ensemble_equivalent(cll_x: float, curve_L: FloatArray | Sequence[float]) -> float:
    """Return the size of the Deep Ensemble that is as good as x, in members; higher is better.

    The least l >= 1 at which ``curve_L``, the mean calibrated NLL of Deep Ensembles of l = 1..L
    members, reaches ``cll_x`` (both lower is better), linear in between (Ashukha et al. 2020). The
    curve is made monotone by its running minimum first, so that noise gives no size twice. 1.0
    where x is no better than one member, ``math.inf`` where it is better than all L, NaN where
    ``cll_x`` or the curve is.
    """
    best_L = np.minimum.accumulate(np.asarray(curve_L, np.float64))
    if math.isnan(cll_x) or np.isnan(best_L[-1]):
        return math.nan
    if cll_x >= best_L[0]:
        return 1.0
    if cll_x < best_L[-1]:
        return math.inf
    after = int(np.argmax(best_L <= cll_x))
    above, below = best_L[after - 1], best_L[after]
    return float(after + (above - cll_x) / (above - below))
