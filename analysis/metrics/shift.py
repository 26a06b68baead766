"""Errors under corruption, in units of a reference's."""

import math

import numpy as np

from analysis.metrics.arrays import FloatArray


def mce(error_CS: FloatArray, reference_CS: FloatArray) -> float:
    """Return the mean corruption error, without unit; 1 is the reference, lower is better.

    mean_c (sum_s E_cs / sum_s R_cs) of error rates by corruption c and severity s (Hendrycks &
    Dietterich 2019, who multiply by 100 and take AlexNet as the reference). NaN where the reference
    has no error under some corruption: the ratio is undefined.
    """
    error_C = np.asarray(error_CS, np.float64).sum(-1)
    reference_C = np.asarray(reference_CS, np.float64).sum(-1)
    return float(np.mean(error_C / reference_C)) if reference_C.all() else math.nan
