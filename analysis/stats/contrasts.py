"""Contrasts of arms, intervals of the recovery, multiplicity: only what scipy does not have.

One number per arm and replicate comes in; a replicate (one whole run) is the unit of replication.
Beside it stands what other test examples would change. All endpoints here are losses: lower is
better. Turn the sign of a gain before.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from scipy.optimize import brentq
from scipy.special import stdtr, stdtrit  # Student's t; scipy.stats.t is 50 times slower

FloatArray = npt.NDArray[np.floating[Any]]
Interval = tuple[float | None, float | None]

UNBOUNDED: Final[Interval] = (None, None)
TAIL: Final = 24.0
"""Of ``degrees_of_freedom``: 4/3 z² is 12 at z = 3 (p = 0.001); five seeds ask for as much again.

Where the terms of Welch's series beyond count, too: by simulation, 30 tests at 0.05/30 of one truth
at the margin then reject somewhere in 0.06, and without any in 0.106 (tuned anchors, 5 seeds).
"""


@dataclass(frozen=True)
class Summary:
    """Mean, sample variance (over n - 1) and number of replicates of one arm."""

    mean: float
    variance: float
    n: int


@dataclass(frozen=True)
class Contrast:
    """A weighted sum of arm means with its standard error and degrees of freedom.

    With no variance at all ``se`` is 0, ``df`` infinite, and the p-values 0 or 1 (1 at 0).
    """

    estimate: float
    se: float
    df: float

    @property
    def p_positive(self) -> float:
        """One-sided p-value against "the contrast is at most 0"."""
        return self._p(self.estimate)

    @property
    def p_negative(self) -> float:
        """One-sided p-value against "the contrast is at least 0"."""
        return self._p(-self.estimate)

    def _p(self, estimate: float) -> float:
        if self.se == 0:
            return 0.0 if estimate > 0 else 1.0
        return float(stdtr(self.df, -estimate / self.se))


Weights = tuple[float, float, float]
"""Of single model, arm and Deep Ensemble in a contrast."""


@dataclass(frozen=True)
class OverExamples:
    """How the means of single model, arm and Deep Ensemble vary with the test examples.

    All arms are tested on the same examples, so much of it cancels in a contrast.

    Attributes:
        covariance: (3, 3), of the means, so already divided by the number of examples; without what
            an arm's own seeds add, which is in its variance over seeds.
    """

    covariance: tuple[tuple[float, ...], ...]

    def between(self, one: Weights, other: Weights) -> float:
        """Return the covariance of two contrasts."""
        return float(np.array(one) @ np.array(self.covariance) @ np.array(other))

    def variance(self, weights: Weights) -> float:
        """Return the variance of a contrast; at least 0, though it is estimated by a difference."""
        return max(0.0, self.between(weights, weights))


@dataclass(frozen=True)
class Recovery:
    """One arm between its anchors, on one endpoint.

    With ``examples`` every claim is about other seeds and other test examples, drawn like these;
    without, about other seeds on these examples.
    """

    single: Summary
    arm: Summary
    deep_ensemble: Summary
    examples: OverExamples | None = None

    @property
    def gap(self) -> Contrast:
        """mean S - mean DE: positive where a Deep Ensemble is better."""
        return self._contrast((1.0, 0.0, -1.0))

    @property
    def recovery(self) -> float | None:
        """R = (S - x) / (S - DE): 0 is the single model, 1 the Deep Ensemble; None without gap."""
        gap = self.gap.estimate
        return (self.single.mean - self.arm.mean) / gap if gap else None

    def at(self, theta: float) -> Contrast:
        """Return T(theta) = (S - x) - theta (S - DE), which is positive where R > theta.

        No ratio is taken, and the anchors that all arms share are accounted for.
        """
        return self._contrast((1 - theta, -1.0, theta))

    @property
    def over_seeds(self) -> "Recovery":
        """The same about other seeds alone."""
        return replace(self, examples=None)

    def _contrast(self, weights: Weights) -> Contrast:
        arms = self.single, self.arm, self.deep_ensemble
        terms = [(weight, arm) for weight, arm in zip(weights, arms, strict=True) if weight]
        return contrast(terms, self.examples.variance(weights) if self.examples else 0.0)


def summary(values: Sequence[float] | FloatArray) -> Summary:
    """Return mean, variance and count; the variance of equal values is exactly 0.

    Args:
        values: At least two finite numbers.

    Raises:
        ValueError: For fewer than two values.
    """
    array = np.asarray(values, np.float64)
    if len(array) < 2:
        raise ValueError(f"a variance needs at least 2 replicates, but there are {len(array)}")
    n = len(array)
    if (array == array[0]).all():
        return Summary(float(array[0]), 0.0, n)
    # np.var does the same behind many checks, and this is called for every arm and endpoint.
    mean = float(np.add.reduce(array)) / n
    deviations = array - mean
    return Summary(mean, float(np.add.reduce(deviations * deviations)) / (n - 1), n)


def contrast(terms: Sequence[tuple[float, Summary]], over_examples: float = 0.0) -> Contrast:
    """Return sum_i w_i mean_i; Var = sum_i w_i² v_i/n_i. For df see :func:`degrees_of_freedom`.

    Args:
        terms: Weights and arms.
        over_examples: What the test examples add to the variance. The df stay those of the seeds,
            of which there are fewer: so nothing is shown of other examples that is not of these.
    """
    estimate = sum(weight * arm.mean for weight, arm in terms)
    parts = [weight**2 * arm.variance / arm.n for weight, arm in terms]
    variance = sum(parts)
    if variance == 0:
        return Contrast(estimate, float(np.sqrt(over_examples)), float("inf"))
    df = degrees_of_freedom([p / variance for p in parts], [arm.n - 1 for _, arm in terms])
    return Contrast(estimate, float(np.sqrt(variance + over_examples)), float(df))


def degrees_of_freedom(shares: Sequence[Any], numbers: Sequence[int]) -> Any:
    """Return the df of a t that is made of several means, each with a variance of its own.

    With x_i = share_i/number_i, and mean and variance over terms that weigh as their shares,
    1/df = mean(x) + TAIL variance(x), at most mean(1/number). The first term is Satterthwaite's
    (Welch's for two means). He errs far in the tail, where variance(x) leads the next term of
    Welch's series (1947, Biometrika 34): 4/3 z² variance(x). The bound is Cochran and Cox's.

    Args:
        shares: Of each term in the variance of the sum; together 1. Numbers, or arrays alike.
        numbers: Degrees of freedom of each term's variance.

    Returns:
        As a share is.
    """
    terms = list(zip(shares, numbers, strict=True))
    mean = sum(share * share / number for share, number in terms)
    square = sum(share * (share / number) ** 2 for share, number in terms)
    most = sum(share / number for share, number in terms)
    return 1 / np.minimum(mean + TAIL * (square - mean * mean), most)


def fieller(effect: Recovery, level: float) -> Interval:
    """Return the interval of R that holds every theta at which T(theta) = 0 is not rejected.

    Fieller (1954), by inversion of the two-sided t-test of ``Recovery.at``. So the 1 - 2 alpha
    interval lies above delta exactly when ESCAPE holds at alpha. Where the gap between the anchors
    is itself not different from 0 at this level the set is unbounded (or, between anchors in the
    wrong order, without meaning): then both bounds are None.
    """
    gap, recovery = effect.gap, effect.recovery
    if recovery is None or gap.estimate <= 0 or gap.p_positive >= (1 - level) / 2:
        return UNBOUNDED
    spread = effect.at(recovery).se / gap.estimate
    if spread == 0:
        return recovery, recovery

    def excess(theta: float) -> float:
        test = effect.at(theta)
        return abs(test.estimate) - float(stdtrit(test.df, (1 + level) / 2)) * test.se

    bounds = [_root(excess, recovery, side * spread) for side in (-1.0, 1.0)]
    return (bounds[0], bounds[1]) if None not in bounds else UNBOUNDED


def _root(excess: Callable[[float], float], start: float, step: float) -> float | None:
    """Return where ``excess`` first rises above 0 as theta leaves ``start`` in strides of step."""
    for _ in range(60):
        end = start + step
        if excess(end) > 0:
            return float(brentq(excess, start, end, xtol=1e-12))
        start, step = end, 2 * step
    return None


def holm(p_values: Mapping[str, float]) -> dict[str, float]:
    """Return Holm's adjusted p-values by key, in a fixed order whatever the input's.

    Of K, the i-th least (from 0) is max_{j <= i} min(1, (K - j) p_j); reject where it is at most
    alpha (Holm 1979).
    """
    adjusted, largest = {}, 0.0
    for i, key in enumerate(sorted(p_values, key=lambda key: (p_values[key], key))):
        largest = max(largest, min(1.0, (len(p_values) - i) * p_values[key]))
        adjusted[key] = largest
    return {key: adjusted[key] for key in sorted(adjusted)}


def detectable_effect(
    effect: Recovery, delta: float, alpha: float, power: float = 0.8
) -> float | None:
    """Return the least recovery that ESCAPE at level alpha would find with this power.

    delta + (t_{1-alpha} + t_{power}) SE(T(delta)) / gap, from the spread that was seen; None where
    the gap is not positive.
    """
    gap, test = effect.gap.estimate, effect.at(delta)
    if gap <= 0:
        return None
    if test.se == 0:
        return delta
    return delta + float(stdtrit(test.df, [1 - alpha, power]).sum()) * test.se / gap
