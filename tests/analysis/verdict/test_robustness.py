"""The three other ways to ask: golden cases, agreement with theory, degenerate input."""

from dataclasses import dataclass
from math import comb
from typing import Any

import numpy as np
import pytest
from scipy import stats

from analysis.data.protocol import ENDPOINTS, Protocol
from analysis.stats import resampling
from analysis.stats.contrasts import UNBOUNDED, Recovery, fieller, summary
from analysis.stats.resampling import bca_interval, generator, permutation_test, recounts, resampled
from analysis.verdict import robustness, schema
from analysis.verdict.arms import Anchors, Case, PlacedArm, Placement, Reason
from analysis.verdict.crossed_bootstrap import Crossed
from analysis.verdict.robustness import check
from analysis.verdict.wording import METHODS

CLL, GAIN = ENDPOINTS["cll"], ENDPOINTS["gain"]
ONE = Protocol(endpoints=(CLL,))
DEEP = "deep_ensemble-4"
TUNED = Anchors("single", "deep_ensemble", 4)
X = PlacedArm("candidate", "x", "x", "x", 4, arm="x", tuned=TUNED)


@dataclass(frozen=True)
class Examples:
    values: dict[str, Any]
    weights: dict[str, Any]


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


def test_a_resample_of_everything_once_is_the_measure_itself() -> None:
    values = np.array([[1.0, 2.0, 6.0], [2.0, 4.0, 12.0]], np.float32)
    weights = np.array([0.5, 0.5, 1.0], np.float32)

    found = resampled(values, weights, np.ones((1, 3), np.uint8), np.array([[0.25, 0.75]]))

    assert found == pytest.approx([0.25 * 9 / 2 + 0.75 * 18 / 2])


def test_an_example_that_is_drawn_twice_counts_twice() -> None:
    values, weights = np.array([[1.0, 4.0]], np.float32), np.ones(2, np.float32)

    found = resampled(values, weights, np.array([[2, 1]], np.uint8), np.ones((1, 1)))

    assert found == pytest.approx([2.0])


def test_counts_add_up_to_the_examples() -> None:
    counts = recounts(50, generator("x"))

    assert counts.shape == (resampling.RESAMPLES, 50)
    assert (counts.sum(1, dtype=int) == 50).all()


def losses(n: int, examples: int, seed_sd: float, example_sd: float) -> dict[str, Examples]:
    """Make arms whose losses vary over seeds and, alike in every arm, over examples."""
    rng = np.random.default_rng(1)
    shared = example_sd * rng.normal(size=examples)
    ones = {"cll": np.ones(examples, np.float32)}
    found = {}
    for name, mean in {"single": 1.0, "x": 0.4, DEEP: 0.0}.items():
        seeds = seed_sd * rng.normal(size=(n, 1))
        own = 0.2 * example_sd * rng.normal(size=(n, examples))
        found[name] = Examples({"cll": (mean + seeds + shared + own).astype(np.float32)}, ones)
    return found


def test_the_crossed_interval_without_variance_over_examples_is_that_over_seeds() -> None:
    known = losses(30, 50, 0.2, 0.0)
    values = tuple(k.values["cll"].mean(1).astype(float) for k in known.values())

    found = Crossed(known.get).interval("x", TUNED, CLL, 0.9)  # type: ignore[arg-type]

    expected = fieller(case(values).tuned.effects["cll"], 0.9)
    assert found == pytest.approx(expected, abs=0.03)


def test_few_seeds_do_not_make_the_crossed_interval_too_narrow() -> None:
    """Means of n - 1 of n seeds vary as the mean of n does, by the sample's own variance."""
    known = losses(4, 20, 0.2, 0.0)
    seeds = known["x"].values["cll"].mean(1).astype(float)

    means = Crossed(known.get).means("x", CLL)  # type: ignore[arg-type]

    assert np.var(means) == pytest.approx(seeds.var(ddof=1) / 4, rel=0.1)


def test_the_crossed_interval_is_wider_where_examples_matter() -> None:
    widths = []
    for example_sd in (0.0, 2.0):
        known = losses(20, 60, 0.1, example_sd)
        low, high = Crossed(known.get).interval("x", TUNED, CLL, 0.9)  # type: ignore[arg-type,misc]
        widths.append(high - low)
    assert widths[1] > 1.3 * widths[0]


def test_anchors_in_the_wrong_order_leave_no_interval() -> None:
    known = losses(10, 20, 0.1, 0.1)
    known["single"], known[DEEP] = known[DEEP], known["single"]

    assert Crossed(known.get).interval("x", TUNED, CLL, 0.9) == UNBOUNDED  # type: ignore[arg-type]


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


def test_all_three_agree_on_a_clear_escape_and_draws_do_not_depend_on_other_arms() -> None:
    known = losses(12, 40, 0.05, 0.1)
    values = tuple(k.values["cll"].mean(1).astype(float) for k in known.values())

    found = check(case(values), ONE, "escapes", Crossed(known.get))  # type: ignore[arg-type]
    other = Crossed(known.get)  # type: ignore[arg-type]
    other.interval("single", TUNED, CLL, 0.9)
    again = check(case(values), ONE, "escapes", other)

    assert found == again
    assert found is not None
    assert set(found.answers) == set(METHODS)
    assert {answer.verdict for answer in found.answers.values()} == {"escapes"}
    assert all(answer.agrees for answer in found.answers.values())


def test_two_seeds_cannot_be_permuted_to_the_level() -> None:
    found = check(case(arms(0.5, 2)), ONE, "inconclusive", Crossed(lambda arm: None))

    assert found is not None
    assert found.permutation is None


def test_what_is_not_known_is_not_asked() -> None:
    closed = Case(X, Placement(TUNED, {}, (Reason("gap not shown", endpoint=CLL),)))
    nothing = Crossed(lambda arm: None)

    assert check(closed, ONE, "inconclusive", nothing) is None
    found = check(case(arms(0.5, 8)), ONE, "escapes", nothing)
    assert found is not None
    assert found.crossed is None
