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
NEAR = 1.05
"""Ratio of two values of beta between which to interpolate."""
BEYOND = 1.25
"""By how much a bracket is wider than the longest Newton step in it."""


def temperature(logq_NC: FloatArray, y_N: IntArray) -> float:
    """Return T in ``TEMPERATURES`` that minimises the NLL of softmax(log q / T).

    A set without an error, whose best T is 0, gets the lower bound; uniform predictions get 1.
    """
    return 1 / _fit(*_gaps(logq_NC, y_N))


def cll(logq_NC: FloatArray, y_N: IntArray) -> float:
    """Return the calibrated negative log likelihood, in nats; LOWER is better.

    The mean of ``example_cll``, which see. Ashukha et al. 2020 report the log likelihood (higher
    is better); the sign is turned here so that it reads like ``nll``.
    """
    return float(example_cll(logq_NC, y_N).mean())


def example_cll(logq_NC: FloatArray, y_N: IntArray) -> FloatArray:
    """Return the calibrated negative log likelihood of each example, (N,) float64, in nats.

    The NLL of each example at the ``temperature`` of all the others, fitted *after* the members
    are averaged. Lower is better; needs N >= 2.

    Ashukha et al. 2020 (arXiv 2002.06470), section 4, fit on a random half of the examples, take
    the NLL on the other, and repeat this five times. Which halves are drawn then moves the result,
    and no interval over seeds or examples covers that. Leaving one example out draws nothing, and
    its mean over data sets is exactly the loss of a temperature fitted on N - 1 examples.
    """
    z_CN, z_N = _gaps(logq_NC, y_N)
    beta_N = _fit_others(z_CN, z_N)
    weight_CN = beta_N * z_CN
    np.exp(weight_CN, out=weight_CN)
    return np.asarray(np.log(weight_CN.sum(0)) - beta_N * z_N)


def _gaps(logq_NC: FloatArray, y_N: IntArray) -> tuple[FloatArray, FloatArray]:
    """Return log q - max log q, class-major as (C, N) float64, and its entries at the labels."""
    z_CN = np.ascontiguousarray((logq_NC - logq_NC.max(-1, keepdims=True)).T, np.float64)
    return z_CN, z_CN[y_N, np.arange(len(y_N))]


def _fit_others(z_CN: FloatArray, z_N: FloatArray) -> FloatArray:
    """Return, for each example, the best 1/T of all the others, (N,).

    With g and h, slope and curvature of one example's loss, and G and H, their sums, the others'
    slope is G - g. At the best value of all, G is 0, and a Newton step from there to the root is
    g / (H - h). Most steps are short: one more pass, a little beyond the longest to either side,
    brackets the roots, between which ``_interpolated`` finds them. Examples whose step leaves the
    range of ``NEAR``, of which a large set has few, are left out in turn.
    """
    lowest, highest = 1 / TEMPERATURES[1], 1 / TEMPERATURES[0]
    beta_N = np.where(z_CN.any(0), np.nan, 1.0)  # Uniform: log C at any temperature.
    wrong_N, open_N = z_N < 0, np.isnan(beta_N)
    if open_N.sum() > 1 and wrong_N.sum() < 2:  # Who is left makes no error.
        beta_N[wrong_N if wrong_N.any() else open_N] = highest
    best = _fit(z_CN, z_N)
    slope_N, curvature_N = _of_others(z_CN, z_N, best)
    for sign, bound, far in ((1, lowest, best / NEAR), (-1, highest, best * NEAR)):
        side_N = np.isnan(beta_N) & (sign * slope_N > 0)
        if best == bound:
            beta_N[side_N] = bound
            continue
        with np.errstate(divide="ignore"):
            steps = slope_N[side_N] / curvature_N[side_N]
        ends = best - BEYOND * steps[np.abs(steps) < abs(far - best)]
        if ends.size == 0:
            continue
        end = max(ends.min(), far, lowest) if sign > 0 else min(ends.max(), far, highest)
        at_end = _of_others(z_CN, z_N, end)
        if end == bound:
            beta_N[side_N & (sign * at_end[0] > 0)] = bound
        side_N &= sign * at_end[0] <= 0
        beta_N[side_N] = _interpolated(
            (best, slope_N[side_N], curvature_N[side_N]),
            (end, at_end[0][side_N], at_end[1][side_N]),
        )
    for i in np.flatnonzero(np.isnan(beta_N)):
        beta_N[i] = _fit(np.delete(z_CN, i, 1), np.delete(z_N, i))
    return beta_N


def _of_others(z_CN: FloatArray, z_N: FloatArray, beta: float) -> tuple[FloatArray, FloatArray]:
    """Return the sums of slope and curvature over all other examples, each (N,)."""
    mean_N, variance_N = _moments(z_CN, beta)
    slope_N = mean_N - z_N
    return slope_N.sum() - slope_N, variance_N.sum() - variance_N


def _interpolated(
    a: tuple[float, FloatArray, FloatArray], b: tuple[float, FloatArray, FloatArray]
) -> FloatArray:
    """Return where a slope is 0, (N,), from beta, slope and curvature at both ends.

    Of beta as a function of the slope, the cubic with the right values and derivatives.
    """
    (beta_a, slope_a, curvature_a), (beta_b, slope_b, curvature_b) = a, b
    width = slope_b - slope_a
    t = -slope_a / width
    rise = t**2 * (3 - 2 * t) * (beta_b - beta_a)
    bend = t * (1 - t) * width * ((1 - t) / curvature_a - t / curvature_b)
    return np.clip(beta_a + rise + bend, min(beta_a, beta_b), max(beta_a, beta_b))


def _fit(z_CN: FloatArray, z_N: FloatArray) -> float:
    """Return the best 1/T by Newton steps, kept within a bracket by bisection."""
    lowest, highest = 1 / TEMPERATURES[1], 1 / TEMPERATURES[0]
    if not z_N.any() and z_CN.any():  # No error: the slope has no root, and Newton crawls.
        return highest
    low, high, beta = lowest / 2, highest * 2, 1.0
    while True:
        mean_N, variance_N = _moments(z_CN, beta)
        slope, curvature = float((mean_N - z_N).mean()), float(variance_N.mean())
        if slope == 0:
            return beta
        low, high = (beta, high) if slope < 0 else (low, beta)
        if low >= highest or high <= lowest:
            return min(max(beta, lowest), highest)
        step = beta - slope / curvature if curvature > 0 else math.inf
        if not low < step < high:
            step = math.sqrt(low * high)
        if abs(step - beta) <= CLOSE * beta:
            return min(max(step, lowest), highest)
        beta = step


def _moments(z_CN: FloatArray, beta: float) -> tuple[FloatArray, FloatArray]:
    """Return mean and variance of z under softmax(beta z), each (N,)."""
    weight_CN = beta * z_CN
    np.exp(weight_CN, out=weight_CN)
    total_N = weight_CN.sum(0)
    weight_CN *= z_CN
    mean_N = weight_CN.sum(0) / total_N
    weight_CN *= z_CN
    return mean_N, weight_CN.sum(0) / total_N - mean_N**2
