"""Binned gaps between confidence and frequency. Descriptive only: all are biased upwards."""

import numpy as np

from analysis.metrics.arrays import FloatArray, IntArray, tie_means

BINS = 15


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


def adaptive_ece(logq_NC: FloatArray, y_N: IntArray, bins: int = BINS) -> float:
    """Return ``ece`` over bins of equal mass instead of equal width, 0 to 1; lower is better.

    The examples in order of confidence are cut into ``bins`` runs (N of them if fewer), the first
    N mod ``bins`` longer by one (Nixon et al. 2019, of the most probable class alone). Examples of
    equal confidence share their mean accuracy, wherever the cut falls.
    """
    confidence_N = np.exp(logq_NC.max(-1).astype(np.float64))
    right_N = tie_means(confidence_N, logq_NC.argmax(-1) == y_N)
    gap_N = (right_N - confidence_N)[np.argsort(confidence_N)]
    runs = np.array_split(gap_N, min(bins, len(y_N)))
    return float(sum(abs(run.sum()) for run in runs) / len(y_N))


def class_bins(
    logq_NC: FloatArray, y_N: IntArray, bins: int = BINS
) -> tuple[FloatArray, FloatArray, IntArray]:
    """Return q, [y = c], and the bin of q among those of all classes, each (C, N)."""
    q_CN = np.exp(np.ascontiguousarray(logq_NC.T, np.float64))
    classes_C1 = np.arange(len(q_CN))[:, None]
    return q_CN, (y_N == classes_C1) * 1.0, confidence_bins(q_CN, bins) + bins * classes_C1


def classwise_ece(logq_NC: FloatArray, y_N: IntArray, bins: int = BINS) -> float:
    """Return 1/C sum_c sum_b |B_cb|/N |frequency_cb - mean q_cb|, 0 to 1; lower is better.

    Every class against the rest, in bins of q_c by ``confidence_bins``, empty ones counting 0
    (Kull et al. 2019, the static calibration error of Nixon et al. 2019).
    """
    q_CN, label_CN, at_CN = class_bins(logq_NC, y_N, bins)
    gap = np.bincount(at_CN.ravel(), (label_CN - q_CN).ravel())
    return float(np.abs(gap).sum() / q_CN.size)
