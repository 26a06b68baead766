"""Power against simulation of the very tests, and what must hold of seeds and recoveries."""

import subprocess
import sys
from math import comb

import numpy as np
import pytest
from scipy import stats as scipy_stats

from analysis.data.protocol import ENDPOINTS
from analysis.stats.contrasts import Recovery, summary
from analysis.stats.power import (
    Spread,
    least_permutation_p,
    least_sign_flip_p,
    power_all,
    power_escape,
    power_gate,
    power_track,
    recovery_found,
    seeds_needed,
)
from analysis.verdict.decisions import tests_of as p_values_of

TEST = Spread(0.30, 0.25, 0.18)
SHIFT = Spread(0.235, 0.12, 0.08)
GAIN = Spread(0.0, 0.15, 0.15, two_sided=False)


def draw(rng: np.random.Generator, spread: Spread, recovery: float, seeds: int) -> Recovery:
    means = 0.0, -recovery * spread.gap, -spread.gap
    deviations = spread.single, spread.arm, spread.deep_ensemble
    numbers = (rng.normal(m, s, seeds) for m, s in zip(means, deviations, strict=True))
    return Recovery(*(summary(own) for own in numbers))


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
    ],
)
def test_powers_are_the_rates_of_the_rules_own_tests(
    spread: Spread, recovery: float, seeds: int
) -> None:
    rng, times = np.random.default_rng(11), 800
    endpoint = ENDPOINTS["cll" if spread.two_sided else "gain"]
    found = [p_values_of(endpoint, draw(rng, spread, recovery, seeds), 0.25) for _ in range(times)]
    for seen, planned in (
        (np.mean([p.p_escape <= 0.05 for p in found]), power_escape(spread, recovery, seeds)),
        (np.mean([p.p_track <= 0.05 for p in found]), power_track(spread, recovery, seeds)),
    ):
        error = (max(planned * (1 - planned), 0.002) / times) ** 0.5
        assert seen == pytest.approx(planned, abs=3.5 * error)


@pytest.mark.parametrize("seeds", [3, 10, 30])
@pytest.mark.parametrize("spread", [Spread(1.0, 0.8, 0.55), Spread(0.6, 0.5, 0.5), TEST])
def test_the_gates_power_is_its_rate(spread: Spread, seeds: int) -> None:
    rng, times = np.random.default_rng(12), 1000
    opened = []
    for _ in range(times):
        effect = draw(rng, spread, 0.0, seeds)
        pooled = ((effect.single.variance + effect.deep_ensemble.variance) / 2) ** 0.5
        opened.append(effect.gap.p_positive < 0.025 and effect.gap.estimate >= pooled)
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
        seeds = seeds_needed(both, verdict, recovery, configurations=8)
        assert seeds is not None
        assert power_all(both, verdict, recovery, seeds, alpha=alpha) >= 0.8
        assert power_all(both, verdict, recovery, seeds - 1, alpha=alpha) < 0.8
    assert seeds_needed([Spread(0, 0, 0)]) == 2
    assert seeds_needed([Spread(100, 100, 100)]) is None
    one, eight = (seeds_needed([TEST], configurations=k) for k in (1, 8))
    assert one is not None
    assert eight is not None
    assert one < eight


def test_the_recovery_found_is_found() -> None:
    for spreads in ([TEST], [TEST, SHIFT, GAIN]):
        for seeds, many in ((10, 1), (20, 8)):
            least = recovery_found(spreads, seeds, 0.8, configurations=many)
            power = power_all(spreads, "escape", least, seeds, alpha=0.05 / many)
            assert power > 0.75
            assert power < 0.95 if len(spreads) > 1 else power < 0.83


def test_floors_by_hand() -> None:
    assert least_permutation_p(5) == 1 / 252 == 1 / comb(10, 5)
    assert least_sign_flip_p(5) == 1 / 32


def test_planning_needs_no_frames() -> None:
    """The study plans its seeds with this module, and starts without polars."""
    code = "import sys, analysis.stats.power; print([m for m in ('polars', 'torch') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
