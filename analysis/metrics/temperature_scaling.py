"""One temperature for all examples, and the likelihood it gives on examples it was not fitted on.

With z_c = log q_c - max log q and beta = 1/T, the loss log sum_c exp(beta z_c) - beta z_y of an
example is convex in beta: its slope is E[z] - z_y and its curvature Var[z] under softmax(beta z),
so that one pass over the array gives a Newton step.
"""

import math

import numpy as np

from analysis.metrics.arrays import FloatArray, IntArray

TEMPERATURES = (0.02, 50.0)
CLOSE = 1e-4
"""Relative Newton step after which to stop; the error that is left is about its square."""
NEAR = 0.05
"""The same, where the value is only a start for the halves."""


def temperature(logq_NC: FloatArray, y_N: IntArray) -> float:
    """Return T in ``TEMPERATURES`` that minimises the NLL of softmax(log q / T).

    A set without an error, whose best T is 0, gets the lower bound; uniform predictions get 1.
    """
    return 1 / _fit(*_gaps(logq_NC, y_N))


def cll(logq_NC: FloatArray, y_N: IntArray, rng: np.random.Generator, repeats: int = 5) -> float:
    """Return the calibrated negative log likelihood, in nats; LOWER is better.

    The mean of ``example_cll``, which see. Ashukha et al. 2020 report the log likelihood (higher
    is better); the sign is turned here so that it reads like ``nll``.
    """
    return float(example_cll(logq_NC, y_N, rng, repeats).mean())


def example_cll(
    logq_NC: FloatArray, y_N: IntArray, rng: np.random.Generator, repeats: int = 5
) -> FloatArray:
    """Return the calibrated negative log likelihood of each example, (N,) float64, in nats.

    Ashukha et al. 2020 (arXiv 2002.06470), section 4: the examples are split at random into
    halves, ``repeats`` times; the temperature is fitted on one half, *after* the members are
    averaged, and the NLL taken on the other, both ways: each example has one value per repeat,
    and its mean is returned. Lower is better; needs N >= 2. Every example weighs the same, so
    with odd N the larger half weighs more by 1/N than in a mean of the halves' means.
    """
    z_CN, z_N = _gaps(logq_NC, y_N)
    near = _fit(z_CN, z_N, close=NEAR)
    moments = _moments(z_CN, near)  # Every half starts here, so that its first step is a sum.
    total_N, half = np.zeros(len(y_N)), len(y_N) // 2
    for _ in range(repeats):
        order = rng.permutation(len(y_N))
        halves = order[:half], order[half:]
        arrays = [np.take(z_CN, rows, axis=1) for rows in halves]
        for fit, held in ((0, 1), (1, 0)):
            rows = halves[fit]
            start = near, moments[0][rows], moments[1][rows]
            beta = _fit(arrays[fit], z_N[rows], start)
            rows = halves[held]
            total_N[rows] += np.log(np.exp(beta * arrays[held]).sum(0)) - beta * z_N[rows]
    return total_N / repeats


def _gaps(logq_NC: FloatArray, y_N: IntArray) -> tuple[FloatArray, FloatArray]:
    """Return log q - max log q, class-major as (C, N) float64, and its entries at the labels."""
    z_CN = np.ascontiguousarray((logq_NC - logq_NC.max(-1, keepdims=True)).T, np.float64)
    return z_CN, z_CN[y_N, np.arange(len(y_N))]


def _fit(
    z_CN: FloatArray,
    z_N: FloatArray,
    start: tuple[float, FloatArray, FloatArray] | None = None,
    close: float = CLOSE,
) -> float:
    """Return the best 1/T by Newton steps, kept within a bracket by bisection.

    ``start`` is a value and the ``_moments`` there, by default 1; a relative step below ``close``
    is the last.
    """
    lowest, highest = 1 / TEMPERATURES[1], 1 / TEMPERATURES[0]
    if not z_N.any() and z_CN.any():  # No error: the slope has no root, and Newton crawls.
        return highest
    low, high = lowest / 2, highest * 2
    beta, mean_N, variance_N = start or (1.0, *_moments(z_CN, 1.0))
    while True:
        slope, curvature = float((mean_N - z_N).mean()), float(variance_N.mean())
        if slope == 0:
            return beta
        low, high = (beta, high) if slope < 0 else (low, beta)
        if low >= highest or high <= lowest:
            return min(max(beta, lowest), highest)
        step = beta - slope / curvature if curvature > 0 else math.inf
        if not low < step < high:
            step = math.sqrt(low * high)
        if abs(step - beta) <= close * beta:
            return min(max(step, lowest), highest)
        beta = step
        mean_N, variance_N = _moments(z_CN, beta)


def _moments(z_CN: FloatArray, beta: float) -> tuple[FloatArray, FloatArray]:
    """Return mean and variance of z under softmax(beta z), each (N,)."""
    weight_CN = beta * z_CN
    np.exp(weight_CN, out=weight_CN)
    total_N = weight_CN.sum(0)
    weight_CN *= z_CN
    mean_N = weight_CN.sum(0) / total_N
    weight_CN *= z_CN
    return mean_N, weight_CN.sum(0) / total_N - mean_N**2
