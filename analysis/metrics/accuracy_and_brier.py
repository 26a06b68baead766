"""Accuracy, and the Brier score with what it is made of."""

import math
from typing import NamedTuple

import numpy as np

from analysis.metrics.arrays import FloatArray, IntArray
from analysis.metrics.calibration import BINS, class_bins


class BrierParts(NamedTuple):
    """Brier score = reliability - resolution + uncertainty + within."""

    reliability: float
    resolution: float
    uncertainty: float
    within: float


def accuracy(logq_NC: FloatArray, y_N: IntArray) -> float:
    """Return the share of examples whose most probable class is the label; higher is better."""
    return float(np.mean(logq_NC.argmax(-1) == y_N))


def brier(logq_NC: FloatArray, y_N: IntArray) -> float:
    """Return 1/N sum_n sum_c (q_c - [y=c])², between 0 and 2; lower is better (Brier 1950)."""
    q = np.exp(logq_NC)
    q_y = q[np.arange(len(y_N)), y_N]
    return float(np.mean((q * q).sum(-1) - 2 * q_y + 1, dtype=np.float64))


def brier_decomposition(logq_NC: FloatArray, y_N: IntArray, bins: int = BINS) -> BrierParts:
    """Return the parts of ``brier``, each a sum over classes of the class against the rest.

    Murphy (1973) over bins of q_c by ``confidence_bins``, with o = [y=c] and bars for means, over
    a bin or over all examples:
    reliability sum_b |B_b|/N (q̄_b - ō_b)², at least 0, lower is better;
    resolution sum_b |B_b|/N (ō_b - ō)², from 0 to uncertainty, higher is better;
    uncertainty ō (1 - ō), the labels' own, 0 to 1 - 1/C;
    within 1/N sum (q - q̄_b)² - 2 (q - q̄_b)(o - ō_b), what binning hides: the two extra components
    of Stephenson et al. (2008), variance less twice covariance; 0 where q is constant in each bin,
    negative where it tells more than its bin.
    Reliability and resolution are biased upwards by the same sampling noise of ō_b.
    """
    q_CN, label_CN, at_CN = class_bins(logq_NC, y_N, bins)
    n, at = len(y_N), at_CN.ravel()
    count = np.bincount(at, minlength=bins * len(q_CN))
    q_B = np.bincount(at, q_CN.ravel(), len(count)) / np.maximum(count, 1)
    label_B = np.bincount(at, label_CN.ravel(), len(count)) / np.maximum(count, 1)
    label_C = label_CN.mean(1)
    q_CN -= q_B[at_CN]
    label_CN -= label_B[at_CN]
    return BrierParts(
        reliability=float(count @ (q_B - label_B) ** 2 / n),
        resolution=float(count @ (label_B - label_C.repeat(bins)) ** 2 / n),
        uncertainty=float(label_C @ (1 - label_C)),
        within=float((q_CN * (q_CN - 2 * label_CN)).sum() / n),
    )


def mean_corruption_error(error_CS: FloatArray, reference_CS: FloatArray) -> float:
    """Return the mean corruption error, without unit; 1 is the reference, lower is better.

    mean_c (sum_s E_cs / sum_s R_cs) of error rates by corruption c and severity s (Hendrycks &
    Dietterich 2019, who multiply by 100 and take AlexNet as the reference). NaN where the reference
    has no error under some corruption: the ratio is undefined.
    """
    error_C = np.asarray(error_CS, np.float64).sum(-1)
    reference_C = np.asarray(reference_CS, np.float64).sum(-1)
    return float(np.mean(error_C / reference_C)) if reference_C.all() else math.nan
