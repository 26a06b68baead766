"""Contrasts against scipy, and their size, power and coverage against simulation."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import special as scipy_special
from scipy import stats as scipy_stats

from analysis.stats.contrasts import (
    TAIL,
    UNBOUNDED,
    Contrast,
    OverExamples,
    Recovery,
    Summary,
    contrast,
    degrees_of_freedom,
    detectable_effect,
    fieller,
    holm,
    summary,
)

SPREAD = {"single": 0.30, "arm": 0.25, "deep_ensemble": 0.18}
"""Standard deviations over seeds in units of the gap, from a pilot on digits."""


def draw(rng: np.random.Generator, recovery: float, n: int, gap: float = 1.0) -> Recovery:
    """Draw one study: single at 0, Deep Ensemble at -gap."""
    means = {"single": 0.0, "arm": -recovery * gap, "deep_ensemble": -gap}
    return Recovery(**{k: summary(rng.normal(means[k], SPREAD[k], n)) for k in SPREAD})


@given(st.integers(0, 10_000), st.integers(2, 12), st.integers(2, 12))
@settings(max_examples=30, deadline=None)
def test_two_terms_are_welchs_test_but_for_its_tail(seed: int, n: int, m: int) -> None:
    rng = np.random.default_rng(seed)
    a, b = rng.normal(0.5, 1, n), rng.normal(0, 3, m)
    found = contrast([(1.0, summary(a)), (-1.0, summary(b))])
    theirs = scipy_stats.ttest_ind(a, b, equal_var=False, alternative="greater")
    assert found.estimate / found.se == pytest.approx(theirs.statistic)
    assert min(n, m) - 1 <= found.df * (1 + 1e-9)
    assert found.df <= theirs.df * (1 + 1e-9)
    assert found.p_positive == pytest.approx(scipy_stats.t.sf(theirs.statistic, found.df))
    assert found.p_negative == pytest.approx(1 - found.p_positive)


def test_many_seeds_of_equal_spread_are_students_test() -> None:
    """Satterthwaite's df are then those of the pooled variance, and no term weighs more."""
    same = Summary(0.0, 2.0, 40)
    assert contrast([(1.0, same), (-1.0, same)]).df == pytest.approx(2 * 39)
    assert degrees_of_freedom([1.0], [7]) == pytest.approx(7)


@pytest.mark.parametrize(("seeds", "single"), [(5, 28), (5, 10), (10, 55)])
def test_of_thirty_arms_at_the_margin_none_is_above_in_94_of_100(seeds: int, single: int) -> None:
    """At 0.05/30 each, beside a single model that all share; by Satterthwaite's df 0.106 were."""
    rng, studies, arms = np.random.default_rng(6), 12_000, 30
    numbers, weights = (single, seeds, seeds), (0.75, -1.0, 0.25)
    total, parts = np.zeros((studies, arms)), []
    for n, weight, sd in zip(numbers, weights, SPREAD.values(), strict=True):
        drawn = (studies, arms if weight == -1.0 else 1)
        total = total + weight * rng.normal(0, sd / n**0.5, drawn)
        variance = sd**2 * rng.chisquare(n - 1, drawn) / (n - 1)
        parts.append(np.broadcast_to(weight**2 * variance / n, total.shape))
    se = np.sqrt(sum(parts))
    df = degrees_of_freedom([part / se**2 for part in parts], [n - 1 for n in numbers])
    above = total > scipy_special.stdtrit(df, 1 - 0.05 / arms) * se
    assert above.any(1).mean() < 0.0625  # 0.06 and the simulation's error


def test_three_terms_by_hand() -> None:
    """Means 4, 3, 2, variances 1, 2, 3, n = 4, 5, 6, theta = 1/2."""
    effect = Recovery(Summary(4, 1, 4), Summary(3, 2, 5), Summary(2, 3, 6))
    found = effect.at(0.5)
    parts = [0.25 * 1 / 4, 2 / 5, 0.25 * 3 / 6]
    assert effect.recovery == 0.5
    assert found.estimate == 0
    assert found.se**2 == pytest.approx(sum(parts))
    shares = [part / sum(parts) for part in parts]
    each = [share / n for share, n in zip(shares, (3, 4, 5), strict=True)]
    mean, square = (np.dot(shares, np.power(each, k)) for k in (1, 2))
    assert found.df == pytest.approx(1 / (mean + TAIL * (square - mean**2)))
    assert found.df < 1 / mean  # Satterthwaite's
    assert found.p_positive == 0.5


def test_no_variance_gives_no_nan() -> None:
    for estimate, p in ((0.0, 1.0), (1.0, 0.0), (-1.0, 1.0)):
        assert Contrast(estimate, 0.0, float("inf")).p_positive == p
    constant = Recovery(summary([1.0, 1.0]), summary([0.5, 0.5]), summary([0.0, 0.0]))
    assert fieller(constant, 0.95) == (0.5, 0.5)
    assert detectable_effect(constant, 0.25, 0.05) == 0.25
    no_gap = Recovery(constant.single, constant.arm, constant.single)
    assert no_gap.recovery is None
    assert fieller(no_gap, 0.95) == UNBOUNDED
    assert detectable_effect(no_gap, 0.25, 0.05) is None


def test_one_constant_anchor_has_no_say_in_the_degrees_of_freedom() -> None:
    """As for the gain, where the single model is exactly 0."""
    noisy = Summary(-0.5, 0.04, 10)
    effect = Recovery(summary([0.0] * 10), noisy, Summary(-1.0, 0.0, 10))
    assert effect.at(0.25).df == pytest.approx(9)
    assert effect.at(0.25).estimate == pytest.approx(0.25)
    low, high = fieller(effect, 0.95)
    half = scipy_stats.t.ppf(0.975, 9) * 0.2 / 10**0.5
    assert (low, high) == pytest.approx((0.5 - half, 0.5 + half))


def test_one_replicate_has_no_variance() -> None:
    with pytest.raises(ValueError, match="at least 2 replicates, but there are 1"):
        summary([1.0])


def test_size_at_the_margin_and_power_above_it() -> None:
    """A 20,000-fold simulation: size .046-.053; at n = 10 P(escape | .5) .73, P(track | 0) .29."""
    rng, n, times = np.random.default_rng(1), 10, 2000

    def rate(recovery: float) -> tuple[float, float]:
        drawn = [draw(rng, recovery, n) for _ in range(times)]
        escape = [effect.at(0.25).p_positive <= 0.05 for effect in drawn]
        track = [
            max(effect.at(0.25).p_negative, effect.at(-0.25).p_positive) <= 0.05 for effect in drawn
        ]
        return float(np.mean(escape)), float(np.mean(track))

    error = 3 * (0.05 * 0.95 / times) ** 0.5
    at_margin, at_null, at_half = rate(0.25), rate(0.0), rate(0.5)
    assert at_margin[0] == pytest.approx(0.05, abs=error + 0.003)
    assert at_margin[1] <= 0.05 + error
    assert at_null[0] < 0.01
    assert at_null[1] == pytest.approx(0.29, abs=0.05)
    assert at_half[0] == pytest.approx(0.73, abs=0.05)


@pytest.mark.parametrize("recovery", [0.0, 0.25, 1.0])
def test_fieller_covers(recovery: float) -> None:
    rng, times = np.random.default_rng(2), 600
    bounds = [fieller(draw(rng, recovery, 8), 0.90) for _ in range(times)]
    covered = [low is None or high is None or low <= recovery <= high for low, high in bounds]
    assert np.mean(covered) == pytest.approx(0.90, abs=3 * (0.09 / times) ** 0.5 + 0.005)


@given(st.integers(0, 5_000), st.floats(-0.5, 1.5))
@settings(max_examples=60, deadline=None)
def test_the_interval_and_the_tests_agree(seed: int, recovery: float) -> None:
    effect = draw(np.random.default_rng(seed), recovery, 10)
    low, high = fieller(effect, 0.90)
    if low is None or high is None:
        return
    assert low < effect.recovery < high
    assert effect.at(low).p_positive == pytest.approx(0.05)
    assert effect.at(high).p_negative == pytest.approx(0.05)
    assert (low > 0.25) == (effect.at(0.25).p_positive < 0.05)
    assert (high < 0.25) == (effect.at(0.25).p_negative < 0.05)


def test_no_gap_gives_no_bounds() -> None:
    single = summary([1.0, 2.0, 3.0, 4.0])
    effect = Recovery(single, summary([2.0, 2.5, 3.0, 1.0]), summary([1.1, 2.2, 3.0, 3.5]))
    assert effect.recovery is not None
    assert fieller(effect, 0.95) == UNBOUNDED
    swapped = Recovery(summary([0.0, 0.1]), summary([0.5, 0.6]), summary([5.0, 5.1]))
    assert fieller(swapped, 0.95) == UNBOUNDED


def test_holm_by_hand() -> None:
    found = holm({"a": 0.01, "b": 0.04, "c": 0.03, "d": 0.5})
    assert found == pytest.approx({"a": 0.04, "b": 0.09, "c": 0.09, "d": 0.5})
    assert list(holm({"d": 0.5, "c": 0.03, "b": 0.04, "a": 0.01}).items()) == list(found.items())
    assert holm({}) == {}
    assert holm({"a": 0.7}) == {"a": 0.7}


@pytest.mark.peer
@settings(max_examples=20, deadline=None)  # A call of theirs takes a fifth of a second.
@given(st.lists(st.floats(0, 1), min_size=1, max_size=12))
def test_holm_is_statsmodels(p_values: list[float]) -> None:
    from statsmodels.stats.multitest import multipletests

    found = holm({f"{i:02d}": p for i, p in enumerate(p_values)})
    assert list(found.values()) == pytest.approx(multipletests(p_values, method="holm")[1])


def test_the_detectable_effect_is_detected_with_its_power() -> None:
    rng = np.random.default_rng(3)
    planned = detectable_effect(draw(rng, 0.5, 2000), 0.25, 0.05)
    scaled = 0.25 + (planned - 0.25) * (2000 / 20) ** 0.5
    found = [draw(rng, scaled, 20).at(0.25).p_positive <= 0.05 for _ in range(1000)]
    assert np.mean(found) == pytest.approx(0.8, abs=0.06)


def over(*sds: float, shared: float = 0.0) -> OverExamples:
    """Return a covariance over examples: each arm's own, and what is common to all."""
    return OverExamples(
        tuple(
            tuple(shared**2 + (one**2 if i == j else 0.0) for j in range(3))
            for i, one in enumerate(sds)
        )
    )


@given(st.integers(0, 10_000), st.floats(0, 0.3), st.floats(-0.5, 1.5))
@settings(max_examples=40, deadline=None)
def test_nothing_is_shown_of_other_examples_that_is_not_of_these(
    seed: int, sd: float, theta: float
) -> None:
    seeds = draw(np.random.default_rng(seed), 0.6, 8)
    both = replace(seeds, examples=over(sd, sd, sd, shared=5.0))
    at, alone = both.at(theta), seeds.at(theta)
    assert (at.estimate, at.df) == (alone.estimate, alone.df)
    assert at.se**2 == pytest.approx(
        alone.se**2 + ((1 - theta) ** 2 + 1 + theta**2) * sd**2, abs=1e-12
    )
    assert min(at.p_positive, at.p_negative) >= min(alone.p_positive, alone.p_negative) - 1e-12
    assert both.over_seeds == seeds
    assert both.gap.se >= seeds.gap.se
    low, high = fieller(both, 0.9)
    if low is not None and high is not None:
        assert both.at(low).p_positive == pytest.approx(0.05, abs=1e-6)
        assert both.at(high).p_negative == pytest.approx(0.05, abs=1e-6)


def test_examples_alone_are_judged_by_the_normal_law() -> None:
    """Where all seeds are alike, as in the gain of identical members."""
    found = contrast([(1.0, Summary(0.2, 0.0, 5)), (-1.0, Summary(0.0, 0.0, 5))], 0.01)
    assert found.p_positive == pytest.approx(scipy_stats.norm.sf(2))
    assert contrast([(1.0, Summary(0.2, 0.0, 5))]).p_positive == 0


def test_the_recovery_that_can_be_found_is_larger_with_other_examples() -> None:
    seeds = draw(np.random.default_rng(3), 0.6, 20)
    least = [
        detectable_effect(replace(seeds, examples=over(sd, sd, sd)), 0.25, 0.05) or 0.0
        for sd in (0.0, 0.05, 0.2)
    ]
    assert least[0] == detectable_effect(seeds, 0.25, 0.05)
    assert least == sorted(set(least))
