"""Permutation and BCa bootstrap of recovery; seeded, so that a verdict is reproducible."""

import hashlib
import warnings
from typing import Final

import numpy as np
from scipy import stats

from analysis.stats.contrasts import UNBOUNDED, FloatArray, Interval

PERMUTATIONS: Final = 1_999
RESAMPLES: Final = 2_000
SEED: Final = 20_260_123


def generator(*words: str) -> np.random.Generator:
    """Return the generator that belongs to ``words``."""
    mark = hashlib.blake2b("\x1f".join(words).encode(), digest_size=8).digest()
    return np.random.default_rng([SEED, int.from_bytes(mark)])


def seed_weights(n: int, *words: str) -> FloatArray:
    """Return the weights of n seeds in each resample, (RESAMPLES, n).

    Of n seeds n - 1 are drawn (Rao & Wu 1988), by the generator that belongs to ``words``.
    """
    return generator(*words).multinomial(n - 1, [1 / n] * n, RESAMPLES) / (n - 1)


def permutation_test(
    single: FloatArray, arm: FloatArray, deep: FloatArray, theta: float, rng: np.random.Generator
) -> tuple[float, float]:
    """Return the one-sided p-values against "R <= theta" and against "R >= theta".

    The values of ``arm`` and of u = (1 - theta) S + theta DE (seed by seed: the anchors' seeds are
    independent, so any pairing will do) have the same mean when R = theta. Their labels are
    exchanged and Welch's t compared with its permutation distribution: exact where both have one
    law, and of the right size in the limit where only the means agree (Janssen 1997). Where one
    anchor has more seeds than the other, its last are left out: the test then has less power than
    the t-test that it stands beside, and may show less.

    Args:
        single: Losses of the single model's replicates, one each.
        arm: Those of the arm's.
        deep: Those of the Deep Ensemble's.
        theta: Recovery under the null hypothesis.
        rng: Source of the permutations; unused where all of them are fewer than ``PERMUTATIONS``.
    """
    n = min(len(single), len(deep))
    mixture = (1 - theta) * single[:n] + theta * deep[:n]
    if np.ptp(mixture) == 0 and np.ptp(arm) == 0:
        better = float(mixture[0] - arm[0])
        return (0.0 if better > 0 else 1.0), (0.0 if better < 0 else 1.0)
    # The two tails of one null distribution: drawn once, counted from both ends.
    found = stats.permutation_test(
        (mixture, arm),
        _welch,
        vectorized=True,
        n_resamples=PERMUTATIONS,
        alternative="greater",
        rng=rng,
    )
    null = found.null_distribution
    exact = len(null) < PERMUTATIONS
    below = int((null <= found.statistic * (1 + 1e-14 * np.sign(found.statistic))).sum())
    return float(found.pvalue), below / len(null) if exact else (below + 1) / (len(null) + 1)


def _welch(a: FloatArray, b: FloatArray, axis: int = -1) -> FloatArray:
    """Return Welch's t of mean a - mean b; 0 / 0 counts as 0."""
    spread = a.var(axis, ddof=1) / a.shape[axis] + b.var(axis, ddof=1) / b.shape[axis]
    difference = a.mean(axis) - b.mean(axis)
    tiny = np.finfo(np.float64).tiny
    return np.asarray(difference / np.sqrt(np.maximum(spread, tiny)))


def recovery(single: FloatArray, arm: FloatArray, deep: FloatArray, axis: int = -1) -> FloatArray:
    """Return (S - x) / (S - DE) of the means over ``axis``."""
    base = single.mean(axis)
    return np.asarray((base - arm.mean(axis)) / (base - deep.mean(axis)))


def bca_interval(
    single: FloatArray, arm: FloatArray, deep: FloatArray, level: float, rng: np.random.Generator
) -> Interval:
    """Return the BCa interval of R over seeds (Efron 1987), or none where it is degenerate.

    Args:
        single: (n,) losses of the single model's replicates; each arm is resampled by itself.
        arm: Losses of the arm's.
        deep: Losses of the Deep Ensemble's.
        level: Two-sided level.
        rng: Source of the draws.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a degenerate sample is answered by UNBOUNDED
        found = stats.bootstrap(
            (single, arm, deep),
            recovery,
            vectorized=True,
            n_resamples=RESAMPLES,
            confidence_level=level,
            method="BCa",
            rng=rng,
        ).confidence_interval
    if not np.isfinite([found.low, found.high]).all():
        return UNBOUNDED
    return float(found.low), float(found.high)
