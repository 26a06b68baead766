"""The two other ways to ask: golden cases, agreement with theory, degenerate input."""

from dataclasses import replace
from math import comb
from typing import Any

import numpy as np
import pytest
from scipy import stats

from analysis.data.protocol import ENDPOINTS, Protocol
from analysis.stats import resampling
from analysis.stats.contrasts import UNBOUNDED, OverExamples, Recovery, fieller, summary
from analysis.stats.resampling import bca_interval, generator, permutation_test
from analysis.verdict import robustness, schema
from analysis.verdict.arms import Anchors, PlacedArm
from analysis.verdict.placements import Case, Placement, Reason
from analysis.verdict.robustness import check
from analysis.verdict.wording import METHODS

CLL, GAIN = ENDPOINTS["cll"], ENDPOINTS["gain"]
ONE = Protocol(endpoints=(CLL,))
DEEP = "deep_ensemble-4"
TUNED = Anchors("single", "deep_ensemble", 4)
X = PlacedArm("candidate", "x", "x", "x", 4, arm="x", tuned=TUNED)


def arms(recovery: float, n: int, sd: float = 0.2, seed: int = 0) -> tuple[Any, Any, Any]:
    rng = np.random.default_rng(seed)
    return tuple(mean + sd * rng.normal(size=n) for mean in (1.0, 1.0 - recovery, 0.0))  # type: ignore[return-value]


def case(values: tuple[Any, Any, Any]) -> Case:
    effect = Recovery(*(summary(v) for v in values))
    return Case(X, Placement(TUNED, {"cll": effect}, (), {"cll": values}))


def test_all_permutations_of_five_and_five_are_counted() -> None:
    single, deep = np.full(5, 1.0), np.zeros(5)
    arm = np.array([0.1, 0.2, 0.3, 0.4, 0.5])

    above, below = permutation_test(single, arm, deep, 0.0, generator("x"))

    assert above == pytest.approx(1 / comb(10, 5))
    assert below == pytest.approx(1)


def test_both_tails_are_those_of_scipy() -> None:
    single, arm, deep = arms(0.3, 6, 1.0)
    mixture = 0.75 * single + 0.25 * deep

    found = permutation_test(single, arm, deep, 0.25, generator("x"))

    for tail, p in zip(("greater", "less"), found, strict=True):
        both = (mixture, arm)
        peer = stats.permutation_test(
            both, lambda a, b: stats.ttest_ind(a, b, equal_var=False).statistic, alternative=tail
        )
        assert p == pytest.approx(peer.pvalue)


def test_of_drawn_permutations_what_was_seen_is_one() -> None:
    single, arm, deep = arms(-9.0, 12)
    above, below = permutation_test(single, arm, deep, 0.25, generator("x"))
    assert below == pytest.approx(1 / (resampling.PERMUTATIONS + 1))
    assert above == pytest.approx(1)


def test_permutation_has_its_level_at_the_margin_with_unequal_variances(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(resampling, "PERMUTATIONS", 199)
    rng, times = np.random.default_rng(5), 500
    rejected = 0
    for _ in range(times):
        single, arm, deep = (
            rng.normal(mean, sd, 10) for mean, sd in ((1, 0.3), (0.75, 0.1), (0, 0.2))
        )
        rejected += permutation_test(single, arm, deep, 0.25, rng)[0] <= 0.05
    assert stats.binomtest(rejected, times, 0.05).pvalue > 0.001


def test_a_sample_without_spread_is_decided_by_its_sign() -> None:
    ones, zeros = np.ones(4), np.zeros(4)
    rng = generator("x")

    assert permutation_test(ones, zeros, zeros, 0.25, rng) == (0.0, 1.0)
    assert permutation_test(ones, ones, zeros, 0.25, rng) == (1.0, 0.0)
    assert permutation_test(ones, ones, zeros, 0.0, rng) == (1.0, 1.0)


def test_bca_is_near_fieller_on_normal_losses_and_covers() -> None:
    single, arm, deep = arms(0.5, 40)

    low, high = bca_interval(single, arm, deep, 0.9, generator("x"))

    expected = fieller(Recovery(summary(single), summary(arm), summary(deep)), 0.9)
    assert (low, high) == pytest.approx(expected, abs=0.03)


def test_bca_draws_every_arms_seeds_by_themselves() -> None:
    """With one noise in all arms a recovery of seeds drawn together would be 1/2 without error."""
    single, *_ = arms(0.0, 30)
    arm, deep = single - 0.5, single - 1

    found = bca_interval(single, arm, deep, 0.9, generator("x"))

    expected = fieller(Recovery(summary(single), summary(arm), summary(deep)), 0.9)
    assert found == pytest.approx(expected, abs=0.03)


def test_bca_of_equal_seeds_is_no_interval() -> None:
    assert bca_interval(np.ones(4), np.ones(4), np.zeros(4), 0.9, generator("x")) == UNBOUNDED


def p(escape: float = 1.0, track: float = 1.0, worse: float = 1.0) -> schema.Tests:
    return schema.Tests(p_escape=escape, p_track=track, p_worse=worse)


@pytest.mark.parametrize(
    ("interval", "expected"),
    [
        ((0.3, 0.9), p(escape=0)),
        ((-0.2, 0.2), p(track=0)),
        ((-0.9, -0.3), p(worse=0)),
        ((0.0, 0.3), p()),
        (UNBOUNDED, p()),
    ],
)
def test_an_interval_decides_as_it_lies(interval: Any, expected: schema.Tests) -> None:
    assert robustness.tests_from(interval, CLL, 0.25) == expected


def test_little_diversity_tracks_however_low_its_interval() -> None:
    assert robustness.tests_from((-0.9, -0.3), GAIN, 0.25).p_track == 0


def test_both_agree_on_a_clear_escape() -> None:
    found = check(case(arms(0.6, 12, 0.05)), ONE)

    assert found is not None
    assert found.primary == "escapes"
    assert set(found.answers) == set(METHODS)
    assert {answer.verdict for answer in found.answers.values()} == {"escapes"}
    assert all(answer.agrees for answer in found.answers.values())


def test_they_are_asked_about_these_test_examples_as_they_draw_seeds_alone() -> None:
    values = arms(0.6, 12, 0.05)
    clear = case(values)
    over = OverExamples(((1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0)))
    vague = replace(clear.tuned.effects["cll"], examples=over)
    found = check(replace(clear, tuned=replace(clear.tuned, effects={"cll": vague})), ONE)

    assert found == check(clear, ONE)


def test_two_seeds_cannot_be_permuted_to_the_level() -> None:
    found = check(case(arms(0.5, 2)), ONE)

    assert found is not None
    assert found.permutation is None


def test_what_cannot_be_assessed_is_not_asked() -> None:
    closed = Case(X, Placement(TUNED, {}, (Reason("gap not shown", endpoint=CLL),)))

    assert check(closed, ONE) is None
