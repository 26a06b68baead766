"""Power against simulation of the very tests, and what must hold of seeds and recoveries."""

import subprocess
import sys
from dataclasses import replace
from math import comb

import numpy as np
import pytest
from scipy import stats as scipy_stats

from analysis.data.protocol import ENDPOINTS, Protocol, gate_level
from analysis.stats import contrasts, power
from analysis.stats.contrasts import OverExamples, Recovery, summary
from analysis.stats.power import (
    POWER,
    Aim,
    Costs,
    Pair,
    Replicates,
    Seeds,
    Spread,
    Verdict,
    cheapest_seeds,
    least_permutation_p,
    least_sign_flip_p,
    power_all,
    power_between,
    power_escape,
    power_gate,
    power_track,
    recovery_found,
    seeds_needed,
)
from analysis.verdict.decisions import tests_of as p_values_of
from study.thresholds import LEAST_SEEDS

TEST = Spread(0.30, 0.25, 0.18)
SHIFT = Spread(0.235, 0.12, 0.08)
GAIN = Spread(0.0, 0.15, 0.15, two_sided=False)
OTHERS = OverExamples(((0.02, 0.019, 0.018), (0.019, 0.021, 0.018), (0.018, 0.018, 0.02)))
"""What other test examples would change: most of it alike in all arms."""


def draw(rng: np.random.Generator, spread: Spread, recovery: float, seeds: Seeds) -> Recovery:
    means = 0.0, -recovery * spread.gap, -spread.gap
    deviations = spread.single, spread.arm, spread.deep_ensemble
    numbers = Replicates.of(seeds).of_contrast
    of_examples = np.zeros(3)
    if spread.examples:
        of_examples = rng.multivariate_normal(np.zeros(3), np.array(spread.examples.covariance))
    parts = zip(means + of_examples, deviations, numbers, strict=True)
    single, arm, deep = (summary(rng.normal(*part)) for part in parts)
    return Recovery(single, arm, deep, spread.examples)


@pytest.mark.parametrize(
    ("spread", "recovery", "seeds"),
    [
        (TEST, 0.0, 10),
        (TEST, 0.25, 5),
        (TEST, 0.5, 5),
        (TEST, 0.1, 20),
        (SHIFT, 0.0, 5),
        (SHIFT, 0.4, 10),
        (GAIN, 0.15, 8),
        (GAIN, 0.4, 4),
        (Spread(0.9, 0.5, 1.2, gap=3.0), 0.0, 6),
        (Spread(0.9, 0.5, 1.2, gap=3.0), 0.6, 3),
        (TEST, 0.5, Replicates(arm=6, single=17, deep_ensemble=17)),
        (TEST, 0.0, Replicates(arm=30, single=40, deep_ensemble=10)),
        (SHIFT, 0.4, Replicates(arm=3, single=20, deep_ensemble=5)),
        (Spread(0.9, 0.5, 1.2, gap=3.0), 0.0, Replicates(arm=20, single=4, deep_ensemble=9)),
        (replace(SHIFT, examples=OTHERS), 0.4, 30),
        (replace(SHIFT, examples=OTHERS), 0.0, 30),
    ],
)
def test_powers_are_the_rates_of_the_rules_own_tests(
    spread: Spread, recovery: float, seeds: Seeds
) -> None:
    rng, times = np.random.default_rng(11), 2000
    endpoint = ENDPOINTS["cll" if spread.two_sided else "gain"]
    found = [
        p_values_of(endpoint, draw(rng, spread, recovery, seeds), Protocol()) for _ in range(times)
    ]
    for seen, planned in (
        (np.mean([p.p_escape <= 0.05 for p in found]), power_escape(spread, recovery, seeds)),
        (np.mean([p.p_track <= 0.05 for p in found]), power_track(spread, recovery, seeds)),
    ):
        error = (max(planned * (1 - planned), 0.002) / times) ** 0.5
        assert seen == pytest.approx(planned, abs=3.5 * error)


UNEQUAL = Replicates(arm=2, single=25, deep_ensemble=6)


@pytest.mark.parametrize("seeds", [3, 10, 30, UNEQUAL])
@pytest.mark.parametrize("spread", [Spread(1.0, 0.8, 0.55), Spread(0.6, 0.5, 0.5), TEST])
def test_the_gates_power_is_its_rate(spread: Spread, seeds: Seeds) -> None:
    rng, times = np.random.default_rng(12), 1000
    opened = []
    for _ in range(times):
        opened.append(draw(rng, spread, 0.0, seeds).gap.p_positive < 0.025)
    planned = power_gate(spread, seeds)
    assert np.mean(opened) == pytest.approx(planned, abs=0.05)


def test_without_spread_of_one_kind_it_is_a_plain_t_test() -> None:
    """Only the arm varies: T(0.25) is a one-sample t-test of mean 0.25 gaps."""
    only_arm = Spread(0.0, 0.3, 0.0)
    shift = (0.5 - 0.25) / 0.3 * 12**0.5
    exact = scipy_stats.nct.sf(scipy_stats.t.ppf(0.95, 11), 11, shift)
    assert power_escape(only_arm, 0.5, 12) == pytest.approx(exact, abs=1e-3)
    one_sided = Spread(0.0, 0.3, 0.0, two_sided=False)
    assert power_track(one_sided, 0.0, 12) == pytest.approx(exact, abs=1e-3)


def test_at_the_margin_the_power_is_the_level() -> None:
    assert power_escape(TEST, 0.25, 200) == pytest.approx(0.05, abs=1e-3)
    assert power_escape(TEST, 0.25, 200, alpha=0.01) == pytest.approx(0.01, abs=5e-4)
    assert power_escape(TEST, 0.15, 200, delta=0.15) == pytest.approx(0.05, abs=1e-3)
    assert power_track(TEST, 0.25, 200) == pytest.approx(0.05, abs=1e-3)
    assert power_track(TEST, -0.25, 200) == pytest.approx(0.05, abs=1e-3)


@pytest.mark.parametrize(
    ("seeds", "most"),
    [(Replicates(5, 28, 5), 1.3), (Replicates(10, 55, 10), 1.0), (Replicates(10, 20, 5), 1.0)],
)
def test_the_level_of_many_configurations_is_kept(
    seeds: Replicates, most: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    level = 0.05 / 30
    monkeypatch.setattr(power, "DRAWS", 4096)  # So far in the tail more points are needed.
    assert power_escape(TEST, 0.25, seeds, alpha=level) < most * level
    monkeypatch.setattr(contrasts, "TAIL", 0.0)  # Satterthwaite's degrees of freedom
    assert power_escape(TEST, 0.25, seeds, alpha=level) > most * level


@pytest.mark.parametrize(("seeds", "cost"), [(20, 0.008), (60, 0.001)])
def test_keeping_it_costs_little_power(
    seeds: int, cost: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    numbers = Replicates(seeds, 3 * seeds, seeds), Replicates(seeds, 2 * seeds, seeds // 2)
    found = [power_escape(TEST, 0.5, n, alpha=0.05 / 8) for n in numbers]
    monkeypatch.setattr(contrasts, "TAIL", 0.0)
    without = [power_escape(TEST, 0.5, n, alpha=0.05 / 8) for n in numbers]
    assert np.all(np.subtract(without, found) < cost)


def test_only_units_of_the_gap_count() -> None:
    large = Spread(30, 25, 18, gap=100)
    assert power_escape(large, 0.5, 10) == pytest.approx(power_escape(TEST, 0.5, 10))
    assert power_track(large, 0.0, 10) == pytest.approx(power_track(TEST, 0.0, 10))
    assert power_gate(large, 10) == pytest.approx(power_gate(TEST, 10))


def test_no_spread_at_all_is_certain() -> None:
    sure = Spread(0, 0, 0)
    assert power_escape(sure, 0.5, 2) == 1
    assert power_escape(sure, 0.2, 2) == 0
    assert [power_track(sure, r, 2) for r in (-0.3, -0.2, 0.2, 0.3)] == [0, 1, 1, 0]
    assert power_track(Spread(0, 0, 0, two_sided=False), -0.3, 2) == 1
    assert power_gate(sure, 2) == 1


def test_more_seeds_never_hurt() -> None:
    for spread in (TEST, SHIFT, GAIN):
        for rates in (
            [power_escape(spread, 0.5, n) for n in range(2, 40)],
            [power_track(spread, 0.0, n) for n in range(2, 40)],
        ):
            assert np.all(np.diff(rates) > -2e-3)


def test_seeds_needed_are_the_fewest() -> None:
    for verdict, recovery, alpha in (("escape", 0.5, 0.05 / 8), ("track", 0.0, 0.05)):
        both = [TEST, SHIFT]
        seeds = seeds_needed([Pair(both)], Aim(verdict, configurations=8))
        assert seeds is not None
        assert power_all(both, verdict, recovery, seeds, alpha=alpha) >= 0.8
        assert power_all(both, verdict, recovery, seeds - 1, alpha=alpha) < 0.8
    assert seeds_needed([Pair([Spread(0, 0, 0)])], Aim()) == LEAST_SEEDS
    assert seeds_needed([Pair([Spread(100, 100, 100)])], Aim()) is None
    one, eight = (seeds_needed([Pair([TEST])], Aim(configurations=k)) for k in (1, 8))
    assert one is not None
    assert eight is not None
    assert one < eight


POWERS = 0.4450058654352899, 0.37750734174583395


def test_one_number_of_seeds_is_that_of_all_three(monkeypatch: pytest.MonkeyPatch) -> None:
    """The values are those of formulae for equal seeds, by Satterthwaite's degrees of freedom."""
    monkeypatch.setattr(contrasts, "TAIL", 0.0)
    monkeypatch.setattr(power, "DRAWS", 1024)
    same = Replicates(12, 12, 12)
    for seeds in (12, same):
        assert power_escape(TEST, 0.5, seeds, alpha=0.05 / 8) == pytest.approx(POWERS[0], abs=1e-12)
        assert power_track(TEST, 0.0, seeds) == pytest.approx(POWERS[1], abs=1e-12)
        pairs = [Pair([TEST, SHIFT])]
        assert recovery_found(pairs, seeds, Aim()) == recovery_found(pairs, 12, Aim())
    narrow = Spread(1.0, 0.8, 0.55)
    assert power_gate(narrow, 12) == power_gate(narrow, same)
    assert seeds_needed([Pair([TEST, SHIFT])], Aim(configurations=8)) == 23


def test_each_arms_own_seeds_count() -> None:
    """Where one of the three alone varies, only its seeds matter."""
    for spread, numbers in (
        (Spread(0.3, 0.0, 0.0), Replicates(5, 12, 9)),
        (Spread(0.0, 0.3, 0.0), Replicates(12, 5, 9)),
        (Spread(0.0, 0.0, 0.3), Replicates(5, 9, 12)),
    ):
        for of, recovery in ((power_escape, 0.5), (power_track, 0.0)):
            assert of(spread, recovery, numbers) == pytest.approx(of(spread, recovery, 12))


def test_anchors_with_more_seeds_spare_those_of_arms() -> None:
    equal = seeds_needed([Pair([TEST, SHIFT])], Aim(configurations=8))
    more = Pair([TEST, SHIFT], lambda n: Replicates(n, *2 * [int(np.ceil(8**0.5 * n))]))
    shared = seeds_needed([more], Aim(configurations=8))
    assert equal is not None
    assert shared is not None
    assert shared < equal
    many = int(np.ceil(8**0.5 * shared))
    numbers = Replicates(shared, many, many)
    assert power_all([TEST, SHIFT], "escape", 0.5, numbers, alpha=0.05 / 8) >= 0.8


def test_an_arm_is_held_against_every_pair() -> None:
    wide = Pair([TEST, SHIFT], lambda n: Replicates(n, 3 * n, n))
    narrow = Pair([TEST], lambda n: Replicates(n, n, max(2, n // 2)))
    alone = seeds_needed([wide], Aim()), seeds_needed([narrow], Aim())
    both = seeds_needed([wide, narrow], Aim())
    assert None not in (*alone, both)
    assert both > max(alone)  # type: ignore[operator,type-var]

    def reached(n: int) -> float:
        own = (power_all(p.spreads, "escape", 0.5, p.seeds(n)) for p in (wide, narrow))
        return float(np.prod(list(own)))

    assert reached(both) >= 0.8 > reached(both - 1)  # type: ignore[arg-type,operator]


def test_more_shared_anchors_leave_an_arms_own_as_they_are() -> None:
    shared, own = Pair([TEST]), Pair([TEST], lambda n: Replicates(n, 2 * n, 5), shared=False)
    numbers = Replicates(12, 40, 40)
    assert shared.numbers(numbers) == numbers
    assert own.numbers(numbers) == own.numbers(12) == Replicates(12, 24, 5)
    by_hand = power_escape(TEST, 0.5, numbers) * power_escape(TEST, 0.5, Replicates(12, 24, 5))
    assert power_between([shared, own], Aim(), numbers) == pytest.approx(by_hand)
    least = recovery_found([shared, own], numbers, Aim())
    assert least is not None
    found = power_between([shared, own], Aim(recovery=least), numbers)
    assert found == pytest.approx(POWER, abs=1e-4)


@pytest.mark.parametrize("costs", [Costs(8, 2), Costs(8, 5), Costs(1, 5), Costs(24, 5)])
@pytest.mark.parametrize("verdict", ["escape", "track"])
def test_the_cheapest_seeds_have_the_power_and_their_neighbours_do_not(
    costs: Costs, verdict: Verdict
) -> None:
    spreads, recovery = [TEST, SHIFT], 0.5 if verdict == "escape" else 0.0
    level = 0.05 / 8 if verdict == "escape" else 0.05

    def enough(arm: int, anchors: int) -> bool:
        numbers = Replicates(arm, anchors, anchors)
        return power_all(spreads, verdict, recovery, numbers, alpha=level) >= 0.8

    aim = Aim(verdict, configurations=8)
    found = cheapest_seeds([Pair(spreads)], costs, aim)
    equal = seeds_needed([Pair(spreads)], aim)
    assert found is not None
    assert equal is not None
    assert found.single == found.deep_ensemble
    assert enough(found.arm, found.single)
    assert costs.total(found) <= costs.total(equal)
    for arm in range(max(5, found.arm - 4), found.arm + 5):
        for anchors in range(max(5, found.single - 6), found.single + 7):
            if costs.total(Replicates(arm, anchors, anchors)) < costs.total(found):
                assert not enough(arm, anchors), (arm, anchors)


def test_the_cheapest_anchors_follow_dunnetts_rule() -> None:
    """K arms and anchors of equal deviations, of which T(1/2) takes half each: sqrt(K/2) times."""
    spread, costs = Spread(0.4, 0.4, 0.4), Costs(16, 2)
    found = cheapest_seeds([Pair([spread])], costs, Aim(recovery=0.8, delta=0.5))
    assert found is not None
    # The cost K a + 2 b for a variance 1/a + (1/4 + 1/4)/b is least at b/a = sqrt(K/4) = 2.
    assert found.single / found.arm == pytest.approx(2, rel=0.15)


def test_what_no_seeds_can_show_has_no_price() -> None:
    assert cheapest_seeds([Pair([Spread(100, 100, 100)])], Costs(8, 5), Aim()) is None
    assert cheapest_seeds([Pair([Spread(0, 0, 0)])], Costs(8, 5), Aim()) == Replicates(5, 5, 5)


def test_the_recovery_found_is_found() -> None:
    for spreads in ([TEST], [TEST, SHIFT, GAIN]):
        for seeds, many in ((10, 1), (20, 8)):
            aim = Aim(power=0.8, configurations=many)
            least = recovery_found([Pair(spreads)], seeds, aim)
            assert least is not None
            power = power_between([Pair(spreads)], replace(aim, recovery=least), seeds)
            assert power == pytest.approx(0.8, abs=1e-4)


def test_where_anchors_seldom_differ_no_recovery_is_found() -> None:
    """The gate bounds the power, whatever the recovery: here at about a half."""
    noisy = Pair([Spread(1.0, 0.1, 1.0)])
    assert power_between([noisy], Aim(recovery=50.0), 10) < 0.7
    assert recovery_found([noisy], 10, Aim(power=0.8)) is None
    assert recovery_found([noisy], 10, Aim(power=0.4)) is not None


def test_at_a_stricter_level_anchors_must_differ_more_surely() -> None:
    """By the same numbers the interval of a recovery is bounded wherever it is judged."""
    assert gate_level(0.05) == gate_level(0.2) == 0.025
    assert gate_level(0.01) == 0.005
    spread = Spread(1.0, 0.2, 1.0)
    assert power_gate(spread, 12, 0.005) < power_gate(spread, 12)
    strict, usual = (seeds_needed([Pair([spread])], Aim(alpha=alpha)) for alpha in (0.01, 0.05))
    assert strict is not None
    assert usual is not None
    assert power_between([Pair([spread])], Aim(alpha=0.01), strict) >= 0.8
    assert strict > usual


def test_floors_by_hand() -> None:
    assert least_permutation_p(5) == 1 / 252 == 1 / comb(10, 5)
    assert least_sign_flip_p(5) == 1 / 32


def test_no_number_of_seeds_makes_up_for_test_examples() -> None:
    few = replace(SHIFT, examples=OverExamples(((0.1, 0, 0), (0, 0.1, 0), (0, 0, 0.1))))
    assert seeds_needed([Pair([SHIFT])], Aim()) is not None
    assert seeds_needed([Pair([few])], Aim()) is None


def test_planning_needs_no_frames() -> None:
    """The study plans its seeds with this module, and starts without polars."""
    code = "import sys, analysis.stats.power; print([m for m in ('polars', 'torch') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_so_many_points_are_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    """Against 64 times as many."""
    cases = [(spread, n) for spread in (TEST, SHIFT, Spread(1.0, 0.2, 1.0)) for n in (5, 12, 60)]

    def powers() -> list[float]:
        return [
            found
            for spread, n in cases
            for found in (power_escape(spread, 0.5, n), power_track(spread, 0.0, n))
        ]

    usual = powers()
    monkeypatch.setattr(power, "DRAWS", 64 * power.DRAWS)
    assert usual == pytest.approx(powers(), abs=2e-3)
