"""Seeds, power and the recovery that can be found, before anything is paid for.

All follow from the spread over seeds of single model, arm and Deep Ensemble. Powers are those of
the t-tests of ``analysis.verdict.decisions`` for normal errors: given the sample variances the
means are normal, and the sample variances are integrated out. No random numbers are drawn.

Every arm is compared with the same anchors, which may therefore have more seeds than an arm: where
a number of seeds is asked for, ``Replicates`` gives each its own.
"""

from bisect import bisect_left
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache, partial
from math import ceil, comb, prod
from typing import Final, Literal

import numpy as np
from scipy.optimize import brentq
from scipy.special import ndtr, roots_legendre, stdtrit
from scipy.stats import chi2, qmc

from analysis.data.protocol import GATE_LEVEL, gate_level
from analysis.stats.contrasts import (
    Contrast,
    FloatArray,
    OverExamples,
    Recovery,
    Summary,
    Weights,
    degrees_of_freedom,
)
from study.thresholds import ALPHA, DELTA, LEAST_SEEDS

Verdict = Literal["escape", "track"]
VERDICTS: Final[tuple[Verdict, Verdict]] = "escape", "track"

POWER: Final = 0.8
MOST_SEEDS: Final = 2000
"""Where ``seeds_needed`` gives up."""
MOST_RECOVERY: Final = 100.0
"""Where ``recovery_found`` gives up."""
DRAWS: Final = 256
"""Points at which the sample variances are taken: powers are right to 0.002, on average 0.0001."""
FAR: Final = 9.0
"""Standard deviations beyond which a normal density adds nothing."""


@dataclass(frozen=True)
class Replicates:
    """Numbers of seeds: of an arm that is judged, of the single model and of the Deep Ensemble."""

    arm: int
    single: int
    deep_ensemble: int

    @classmethod
    def of(cls, seeds: "Seeds") -> "Replicates":
        """Return the numbers; one number is that of all three."""
        return seeds if isinstance(seeds, Replicates) else cls(seeds, seeds, seeds)

    @property
    def of_contrast(self) -> tuple[int, int, int]:
        """In the order of a contrast's terms: single, arm, Deep Ensemble."""
        return self.single, self.arm, self.deep_ensemble


Seeds = int | Replicates


@dataclass(frozen=True)
class Costs:
    """What one seed costs, in any unit.

    Attributes:
        arms: Of all arms that are judged, together; above 0.
        anchors: Of the single model and the Deep Ensemble, together; above 0.
    """

    arms: float
    anchors: float

    def total(self, seeds: Seeds) -> float:
        """Return the cost of a study whose anchors have the same number of seeds."""
        numbers = Replicates.of(seeds)
        return numbers.arm * self.arms + numbers.single * self.anchors


@dataclass(frozen=True)
class Aim:
    """What an arm is to show, and how surely.

    Attributes:
        verdict: ``escape``, or ``track`` at a recovery of 0.
        recovery: Of what escapes, on every endpoint between every pair.
        power: Wanted probability of the verdict.
        delta: Margin.
        alpha: One-sided level.
        configurations: How many share Holm's correction; an escape is planned at alpha over this
            number, Holm's strictest step, so the seeds suffice whatever the others do. Tracking is
            not corrected.
    """

    verdict: Verdict = "escape"
    recovery: float = 0.5
    power: float = POWER
    delta: float = DELTA
    alpha: float = ALPHA
    configurations: int = 1

    @property
    def truth(self) -> float:
        """True recovery."""
        return self.recovery if self.verdict == "escape" else 0.0

    @property
    def level(self) -> float:
        """One-sided level of the arm's tests."""
        return self.alpha / self.configurations if self.verdict == "escape" else self.alpha


@dataclass(frozen=True)
class Spread:
    """Standard deviations over seeds on one endpoint, and the gap between the anchors.

    Attributes:
        single: Of the single model, in the unit of ``gap``.
        arm: Of the arm that is judged.
        deep_ensemble: Of the Deep Ensemble.
        gap: Loss of the single model minus that of the Deep Ensemble, above 0.
        two_sided: Whether tracking has two sides (performance) or one (diversity).
        examples: What other test examples would change, which no seeds make less; None where the
            claims are about these examples.
    """

    single: float
    arm: float
    deep_ensemble: float
    gap: float = 1.0
    two_sided: bool = True
    examples: OverExamples | None = None

    @property
    def variances(self) -> FloatArray:
        """Of single model, arm and Deep Ensemble, (3,)."""
        return np.square([self.single, self.arm, self.deep_ensemble])

    def effect(self, recovery: float, seeds: Seeds) -> Recovery:
        """Return the effect of an arm of this true recovery, as if the truth had been drawn."""
        means = 0.0, -recovery * self.gap, -self.gap
        numbers = Replicates.of(seeds).of_contrast
        parts = zip(means, self.variances.tolist(), numbers, strict=True)
        single, arm, deep = (Summary(*part) for part in parts)
        return Recovery(single, arm, deep, self.examples)


@dataclass(frozen=True)
class Pair:
    """A pair of anchors that an arm is held against.

    Attributes:
        spreads: One per endpoint.
        seeds: From the seeds of an arm to those of all three.
        shared: Whether all arms are held against this pair.
    """

    spreads: Sequence[Spread]
    seeds: Callable[[int], Replicates] = Replicates.of
    shared: bool = True

    def numbers(self, seeds: Seeds) -> Replicates:
        """Return the seeds of all three, given an arm's and, where asked for, shared anchors'."""
        if isinstance(seeds, Replicates):
            return seeds if self.shared else self.seeds(seeds.arm)
        return self.seeds(seeds)

    @property
    def over_seeds(self) -> "Pair":
        """The same about these test examples."""
        return replace(self, spreads=[replace(own, examples=None) for own in self.spreads])


def power_escape(
    spread: Spread, recovery: float, seeds: Seeds, delta: float = DELTA, alpha: float = ALPHA
) -> float:
    """Return P(T(delta) > 0 is shown at level alpha)."""
    truth, reach = _contrast(spread, recovery, seeds, delta, alpha)
    if truth.se == 0:
        return float(truth.estimate > 0)
    return float(ndtr((truth.estimate - reach) / truth.se).mean())


def power_track(
    spread: Spread, recovery: float, seeds: Seeds, delta: float = DELTA, alpha: float = ALPHA
) -> float:
    """Return P(T(delta) < 0 and T(-delta) > 0 are both shown), one side only for diversity."""
    below, below_reach = _contrast(spread, recovery, seeds, delta, alpha)
    if below.se == 0:
        both = -delta < recovery < delta
        return float(both if spread.two_sided else recovery < delta)
    top = (-below_reach - below.estimate) / below.se
    if not spread.two_sided:
        return float(ndtr(top).mean())
    above, above_reach = _contrast(spread, recovery, seeds, -delta, alpha)
    bottom = (above_reach - above.estimate) / above.se
    of_means = spread.variances / Replicates.of(seeds).of_contrast
    covariance = np.dot([1 - delta**2, 1, -(delta**2)], of_means)
    if spread.examples:
        ends: tuple[Weights, Weights] = (1 - delta, -1.0, delta), (1 + delta, -1.0, -delta)
        covariance += spread.examples.between(*ends)
    return float(_between(top, bottom, covariance / (below.se * above.se)).mean())


def power_gate(spread: Spread, seeds: Seeds, level: float = GATE_LEVEL) -> float:
    """Return P(the anchors are shown to differ at this one-sided level)."""
    gap = spread.effect(0.0, seeds).gap
    if gap.se == 0:
        return float(gap.estimate > 0)
    se, df = _estimated(spread, seeds, (1.0, 0.0, -1.0))
    return float(ndtr((gap.estimate - stdtrit(df, 1 - level) * se) / gap.se).mean())


def power_all(
    spreads: Sequence[Spread],
    verdict: Verdict,
    recovery: float,
    seeds: Seeds,
    delta: float = DELTA,
    alpha: float = ALPHA,
) -> float:
    """Return a bound on the power on every endpoint at once: the product of the powers.

    It is exact for independent endpoints and too low for positively correlated ones.
    """
    power: Callable[..., float] = power_escape if verdict == "escape" else power_track
    return prod(power(spread, recovery, seeds, delta, alpha) for spread in spreads)


def power_between(pairs: Sequence[Pair], aim: Aim, seeds: Seeds, least: float = 0.0) -> float:
    """Return the power between all pairs of anchors at once: again a product, of the gates, too.

    Where the gap between two anchors is not shown nothing is judged between them.

    Args:
        pairs: What an arm is held against.
        aim: What is to be shown.
        seeds: Of the arm, from which those of its anchors follow; or those of all that is shared.
        least: Where the product falls below this it is not completed.
    """
    reached = 1.0
    for pair in pairs:
        numbers = pair.numbers(seeds)
        for spread in pair.spreads:
            reached *= power_all([spread], aim.verdict, aim.truth, numbers, aim.delta, aim.level)
            reached *= power_gate(spread, numbers, gate_level(aim.alpha))
            if reached < least:
                return reached
    return reached


def seeds_needed(pairs: Sequence[Pair], aim: Aim) -> int | None:
    """Return the fewest seeds per arm with this power between all pairs of anchors at once.

    The power is a product, so too low where endpoints or pairs go up and down together: pairs share
    the arm.

    Args:
        pairs: What an arm is held against.
        aim: What is to be shown.

    Returns:
        Number of seeds of an arm, at least ``LEAST_SEEDS``, as fewer are not judged; None where
        ``MOST_SEEDS`` do not suffice.
    """

    def enough(arm: int) -> bool:
        return power_between(pairs, aim, arm, aim.power) >= aim.power

    return _fewest(enough, MOST_SEEDS)


def cheapest_seeds(pairs: Sequence[Pair], costs: Costs, aim: Aim) -> Replicates | None:
    """Return the seeds of an arm and of shared anchors that have this power at the least cost.

    Most arms are compared with the same anchors, so a seed of these serves all arms: where all runs
    cost the same, K arms call for about sqrt(K) times as many seeds of an anchor (Dunnett 1955).
    Every number of an arm's seeds is tried that is not dearer than the best split so far.

    Args:
        pairs: What an arm is held against; anchors that are not shared have their own seeds still.
        costs: Of one seed.
        aim: What is to be shown.

    Returns:
        None where no number up to ``MOST_SEEDS`` suffices.
    """

    def enough(arm: int, anchors: int) -> bool:
        numbers = Replicates(arm, anchors, anchors)
        return power_between(pairs, aim, numbers, aim.power) >= aim.power

    start = _fewest(lambda seeds: enough(seeds, seeds), MOST_SEEDS)
    if start is None:
        return None
    best, arm = Replicates.of(start), LEAST_SEEDS
    while costs.total(Replicates(arm, LEAST_SEEDS, LEAST_SEEDS)) < costs.total(best):
        room = (costs.total(best) - costs.total(Replicates(arm, 0, 0))) / costs.anchors
        seeds = _fewest(partial(enough, arm), min(MOST_SEEDS, ceil(room) - 1))
        if seeds is not None:
            best = Replicates(arm, seeds, seeds)
        arm += 1
    return best


def _fewest(enough: Callable[[int], bool], most: int) -> int | None:
    """Return the least number of seeds up to ``most`` that is enough, as all above it are."""
    if most < LEAST_SEEDS:
        return None
    low = high = LEAST_SEEDS
    while not enough(high):  # Upwards, as too few are found out sooner.
        if high == most:
            return None
        low, high = high + 1, min(2 * high, most)
    return low + bisect_left(range(low, high), True, key=enough)


def recovery_found(pairs: Sequence[Pair], seeds: Seeds, aim: Aim) -> float | None:
    """Return the least recovery on every endpoint between all pairs that ESCAPE finds so often.

    Gates included: None where anchors are not shown to differ so often, or only beyond
    ``MOST_RECOVERY``. Recovery and verdict of ``aim`` are ignored.
    """

    def short(recovery: float) -> float:
        asked = replace(aim, verdict="escape", recovery=recovery)
        return aim.power - power_between(pairs, asked, seeds)

    if short(MOST_RECOVERY) > 0:
        return None
    least = aim.delta
    return least if short(least) <= 0 else float(brentq(short, least, MOST_RECOVERY, xtol=1e-6))


def least_permutation_p(seeds: int) -> float:
    """Return the least one-sided p-value of any permutation of labels between two arms."""
    return 1 / comb(2 * seeds, seeds)


def least_sign_flip_p(seeds: int) -> float:
    """Return the least one-sided p-value of any flip of the signs of paired differences."""
    return float(0.5**seeds)


def _contrast(
    spread: Spread, recovery: float, seeds: Seeds, theta: float, alpha: float
) -> tuple[Contrast, FloatArray]:
    """Return the true T(theta), and by how much its estimate must differ from 0 to be shown.

    The latter is t_{1-alpha, df} times the standard error as studies would estimate them, (DRAWS,).
    """
    se, df = _estimated(spread, seeds, (1 - theta, -1.0, theta))
    return spread.effect(recovery, seeds).at(theta), stdtrit(df, 1 - alpha) * se


def _estimated(spread: Spread, seeds: Seeds, weights: Weights) -> tuple[FloatArray, FloatArray]:
    """Return the standard error of a contrast and its df as studies would estimate them, (DRAWS,).

    Sample variances over seeds are chi², of which an unscrambled Sobol sequence takes quantiles;
    that over test examples, of which there are many, is taken as known.
    """
    numbers = np.array(Replicates.of(seeds).of_contrast)
    chi2_of = [_chi2_of(term, int(n) - 1, DRAWS) for term, n in enumerate(numbers)]
    parts = np.square(weights) * spread.variances / numbers * np.stack(chi2_of, 1)
    variance = parts.sum(1)
    over_examples = spread.examples.variance(weights) if spread.examples else 0.0
    if not variance.any():
        return np.sqrt(variance + over_examples), np.full(DRAWS, np.inf)
    shares = list((parts / variance[:, None]).T)
    df = degrees_of_freedom(shares, (numbers - 1).tolist())
    return np.sqrt(variance + over_examples), np.asarray(df)


@cache
def _chi2_of(term: int, df: int, draws: int) -> FloatArray:
    """Return chi²/df of one of three independent variances, (draws,)."""
    uniform = qmc.Sobol(3, scramble=False).random(draws)[:, term] + 0.5 / draws
    return np.asarray(chi2.ppf(uniform, df) / df)


def _between(top: FloatArray, bottom: FloatArray, rho: float) -> FloatArray:
    """Return P(Z1 < top, Z2 > bottom) of standard normals of correlation rho, elementwise.

    Gauss-Legendre over Z1 between -FAR and top.
    """
    nodes, weights = _legendre()
    half = (np.clip(top, -FAR, FAR) + FAR)[:, None] / 2
    z = half * (nodes + 1) - FAR
    given = ndtr((rho * z - bottom[:, None]) / max(1e-12, 1 - rho**2) ** 0.5)
    density = np.exp(-(z**2) / 2) / (2 * np.pi) ** 0.5
    return np.asarray((half * weights * density * given).sum(1))


@cache
def _legendre() -> tuple[FloatArray, FloatArray]:
    nodes, weights = roots_legendre(64)
    return nodes, weights
