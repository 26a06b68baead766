"""How many members a Deep Ensemble needs to be as good: the Deep Ensemble equivalent.

Ashukha et al. 2020 (arXiv 2002.06470), section 4.2, on calibrated NLL. The paper draws its bounds
from the curve's mean ± SD; here the interval is a bootstrap over the seeds of arm and curve.
"""

import numpy as np
import polars as pl

from analysis.measures.measure import Measures
from analysis.metrics import deep_ensemble_equivalent
from analysis.stats.resampling import seed_weights
from analysis.verdict.schema import Equivalent


class Equivalents:
    """The curve of the anchor Deep Ensemble against its size, and where arms stand on it."""

    def __init__(self, measures: Measures) -> None:
        self.measures = measures
        known = measures.curve.drop_nulls("cll").sort("replicate", "members")
        per_pool = known.group_by("replicate", maintain_order=True).agg("cll")["cll"].to_list()
        largest = max(map(len, per_pool), default=1)
        whole = [curve for curve in per_pool if len(curve) == largest]
        self.curve_RL = np.array(whole).reshape(-1, largest)

    def of(self, arm: str, level: float) -> Equivalent | None:
        """Return the equivalent of ``arm`` and its interval.

        None with fewer than two seeds of either, or where calibrated NLL was not measured.
        """
        own = self.measures.replicates.filter(pl.col("arm") == arm).sort("replicate")
        cll_R = own["cll"].drop_nulls().to_numpy()
        if len(cll_R) < 2 or len(self.curve_RL) < 2:
            return None
        curve = self.curve_RL.mean(0)
        point = deep_ensemble_equivalent(float(cll_R.mean()), curve)
        arms_B = seed_weights(len(cll_R), "equivalent", arm) @ cll_R
        curves_BL = seed_weights(len(self.curve_RL), "equivalent", "curve") @ self.curve_RL
        drawn = [
            deep_ensemble_equivalent(float(a), c) for a, c in zip(arms_B, curves_BL, strict=True)
        ]
        low, high = np.quantile(drawn, [(1 - level) / 2, (1 + level) / 2], method="nearest")
        # Infinity, which becomes null, is an arm better than the whole pool.
        return Equivalent(members=point, low=float(low), high=float(high), largest=len(curve))
