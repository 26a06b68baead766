"""Seeds are planned with the spread, the anchors and the numbers of seeds of a study."""

from dataclasses import replace

import numpy as np
import pytest

from analysis.stats.power import Aim, Replicates, power_between, seeds_needed
from analysis.validation.gaussian import ALL, CORRELATION, SPREADS
from analysis.validation.matched import both, matched_study
from analysis.validation.simulate import Examples, Gaussian, draw_study, with_examples
from analysis.verdict.decisions import decide
from analysis.verdict.seeds_needed import WANTED, needed_of, pairs_of

SEEDS = 20
EXAMPLES, FEW = Examples(400, 0.5), Examples(400, 2.0)
CLOSE = Gaussian((0.2, 0.0, 0.0), tuple(SPREADS[key].single for key in ALL), CORRELATION)


def design(seeds=SEEDS, contenders=1, many=4):
    """Return a study of one configuration that recovers half of every gap, and of others."""
    found = matched_study([both(0.5)] + [both(0.0)] * (many - 1), seeds)
    return replace(found, contenders=(CLOSE,) * contenders)


def drawn(made, examples=None, seed=0):
    rng = np.random.default_rng(seed)
    study = draw_study(made, rng, [arm.draw(rng, made.seeds) for arm in made.arms])
    return with_examples(study, examples, rng) if examples else study


def of_first(study):
    return next(case for case in decide(study).cases if case.arm.role == "candidate")


def test_the_pairs_are_those_of_the_study_in_its_proportions():
    study = drawn(design(), EXAMPLES)
    case = of_first(study)
    escape, track = (pairs_of(study, case, verdict) for verdict in ("escape", "track"))
    assert [pair.shared for pair in escape] == [True, False, True]
    assert [pair.spreads for pair in track] == [pair.spreads for pair in escape[:2]]
    # Four arms share the single network, which has the root of 4 as many seeds as each; one of an
    # arm's own and a contender have twice as many, and an arm's own pool half.
    assert [pair.seeds(SEEDS) for pair in escape] == [
        Replicates(SEEDS, 40, SEEDS),
        Replicates(SEEDS, 40, 10),
        Replicates(SEEDS, 40, SEEDS),
    ]
    assert escape[0].seeds(2 * SEEDS) == Replicates(40, 80, 40)
    arms = "single", case.arm.arm, case.arm.reference
    tuned = escape[0].spreads[0]
    deviations = [study.losses[arm, "cll"].std(ddof=1) for arm in arms]
    assert [tuned.single, tuned.arm, tuned.deep_ensemble] == pytest.approx(deviations)
    gap = study.losses["single", "cll"].mean() - study.losses[arms[2], "cll"].mean()
    assert tuned.gap == pytest.approx(gap)
    assert tuned.examples == study.examples.of(arms, "cll")
    assert [spread.two_sided for spread in escape[0].spreads] == [True, True, False]


def test_seeds_that_are_needed_allow_for_every_pair_and_for_other_examples():
    study = drawn(design(), EXAMPLES)
    case = of_first(study)
    found = needed_of(study, case, family=4)
    escape = pairs_of(study, case, "escape")
    aim = Aim("escape", WANTED, 0.8, 0.25, 0.05, 4)
    assert found.escape == seeds_needed(escape, aim)
    assert found.escape > seeds_needed(escape[:1], aim)
    assert found.escape > found.escape_on_these
    assert found.track >= found.track_on_these
    alone = needed_of(study, case, family=1)
    assert alone.escape < found.escape
    assert alone.track == found.track


def test_where_examples_are_wanting_no_number_of_seeds_does():
    study = drawn(design(), FEW)
    found = needed_of(study, of_first(study), family=4)
    assert found.escape is None
    assert found.escape_on_these


def test_without_a_gap_to_a_contender_nothing_can_be_planned():
    made = replace(design(), contenders=(replace(CLOSE, recovery=(1.0, 0.0, 0.0)),))
    study = drawn(made)
    case = of_first(study)
    assert pairs_of(study, case, "escape") is None
    assert pairs_of(study, case, "track")
    found = needed_of(study, case, family=4)
    assert found.escape is None
    assert found.escape_on_these is None
    assert found.track


@pytest.mark.parametrize("examples", [None, EXAMPLES])
def test_studies_find_it_at_least_as_often_as_is_predicted(examples):
    """Predicted from one study of 60 seeds; the truth is half of every gap between every pair."""
    made = replace(design(many=1), contenders=())
    large = drawn(replace(made, seeds=60), examples)
    pairs = pairs_of(large, of_first(large), "escape")
    # One study's deviations err by a tenth, and its product is a bound.
    predicted = power_between(pairs, Aim(), SEEDS)
    escapes = [
        next(iter(decide(drawn(made, examples, seed)).candidates.values())).verdict == "escapes"
        for seed in range(1, 301)
    ]
    assert predicted - 0.1 < np.mean(escapes) < predicted + 0.25
    assert 0.1 < np.mean(escapes) < 0.97
