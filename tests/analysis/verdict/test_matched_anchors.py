"""An escape must hold against networks that are trained as the configuration is, at its price."""

from dataclasses import replace

import numpy as np
import polars as pl
import pytest

from analysis.measures.per_example import ExampleValues
from analysis.verdict.doubts import doubts
from analysis.verdict.judge import judge
from analysis.verdict.schema import INCONCLUSIVE, SOME_ESCAPES
from tests.analysis.verdict.test_judge import ENDPOINTS, GAP, content, declared, measured

SAID_OF_OWN = (
    "weakest recovery of \u201ccandidate1\u201d: 0.90 against the tuned baselines, 0.90 against "
    "baselines with its own hyperparameters (without regulariser adp)"
)
SINGLE, POOL = "matched_single-own", "matched_deep_ensemble-pool"
MATCHED = {"single": "own", "deep_ensemble": "pool", "dropped": ["regulariser adp"]}


def with_own(candidate, single, deep, others=None, **options):
    """Return measures of a candidate beside its own anchors, all on the tuned anchors' scale.

    ``others`` are candidates that have none.
    """
    arms = {"candidate1": candidate, SINGLE: single, f"{POOL}-4": deep} | (others or {})
    found = measured(arms, **options)
    role = pl.col("arm").str.split("-").list.first()
    own = pl.col("arm").str.starts_with("matched")
    return replace(
        found,
        replicates=found.replicates.with_columns(
            role=pl.when(own).then(role).otherwise("role"),
            configuration=pl.when(own)
            .then(pl.col("arm").str.split("-").list.get(1, null_on_oob=True))
            .otherwise("configuration"),
            members=pl.when(pl.col("arm") == SINGLE).then(1).otherwise("members").cast(pl.Int16),
        ),
    )


def plan_of(found, **changes):
    made = content(found)
    own = {"candidate1": {"matched": MATCHED}}
    arms = [arm | own.get(arm["configuration"], {}) for arm in made["arms"]]
    return declared(found, arms=arms, **changes)


def verdict_of(*truth, **options):
    found = with_own(*truth, **options)
    return judge(found, plan_of(found))


def all_three(recovery):
    return (recovery,) * 3


@pytest.mark.parametrize(
    ("candidate", "single", "deep", "verdict", "label"),
    [
        (1.0, 0.0, 1.0, "escapes", None),
        (0.9, 0.3, 1.3, "escapes", None),
        (0.6, 0.6, 1.6, "inconclusive", "better trained"),
        (2.5, 2.4, 3.4, "inconclusive", "better trained"),
        (-0.4, -1.0, 0.0, "worse", None),
        (0.0, 0.0, 1.0, "tracks", None),
        (0.5, 0.5, 1.5, "inconclusive", "better trained"),
    ],
)
def test_each_claim_holds_against_both_pairs_of_anchors(candidate, single, deep, verdict, label):
    # A member's gain is 0 in a single network, whatever it is trained with.
    found = verdict_of(all_three(candidate), (single, single, 0.0), (deep, deep, 1.0))
    arm = found.by_arm()["candidate1"]
    assert arm.own.endpoints["gain"].recovery == pytest.approx(candidate)
    for key in ("cll", "shift_nll"):
        expected = (candidate - single) / (deep - single)
        assert arm.own.endpoints[key].recovery == pytest.approx(expected)
        assert arm.endpoints[key].recovery == pytest.approx(candidate)
    assert (arm.verdict, arm.label) == (verdict, label)


@pytest.mark.parametrize(
    ("candidate", "single", "deep", "label"),
    [
        (
            (0.0, 0.0, 1.0),
            (-0.9, -0.9, 0.0),
            (0.1, 0.1, 1.0),
            "escapes its own hyperparameters only",
        ),
        ((0.0, 0.0, 0.0), (0.9, 0.9, 0.0), (1.9, 1.9, 1.0), "tracks the tuned network only"),
        ((-0.3, -0.3, 0.0), (-0.3, -0.3, 0.0), (0.7, 0.7, 1.0), None),
    ],
)
def test_one_pair_alone_is_a_label_of_inconclusive(candidate, single, deep, label):
    arm = verdict_of(candidate, single, deep, noise=0.04).by_arm()["candidate1"]
    if label is None:  # Worse than the tuned network, though like its own.
        assert (arm.verdict, arm.own.verdict) == ("worse", "tracks")
    else:
        assert (arm.verdict, arm.label) == ("inconclusive", label)
        assert "a single network with its own hyperparameters" in arm.detail


def test_a_better_trained_configuration_is_no_escape_of_the_study():
    found = verdict_of(all_three(2.4), (2.3, 2.3, 0.0), (3.3, 3.3, 3.0))
    assert found.verdict == INCONCLUSIVE
    assert found.counts.labels == {"better trained": 1}
    arm = found.by_arm()["candidate1"]
    assert (arm.by_tuned, arm.own.verdict) == ("escapes", "inconclusive")
    assert arm.own.dropped == ("regulariser adp",)
    escaped = verdict_of(all_three(0.9), (0.0, 0.0, 0.0), all_three(1.0))
    assert escaped.verdict == SOME_ESCAPES
    assert escaped.by_arm()["candidate1"].least[2].recovery == pytest.approx(0.9)
    assert ("yes", SAID_OF_OWN) in doubts(escaped)


def test_without_a_gap_between_its_own_anchors_an_arm_does_not_escape():
    found = verdict_of(all_three(1.0), (1.0, 0.0, 0.0), all_three(1.0))
    arm = found.by_arm()["candidate1"]
    assert (arm.verdict, arm.label) == ("inconclusive", "not assessable")
    assert arm.detail.startswith("with its own hyperparameters: calibrated NLL")
    closed = [gate for gate in found.gates if not gate.open]
    assert [(gate.against, gate.single, gate.endpoint) for gate in closed] == [
        ("own", SINGLE, "cll")
    ]


def test_runs_of_its_own_anchors_that_are_missing_are_missing():
    found = with_own(all_three(1.0), (0, 0, 0), all_three(1.0))
    plan = plan_of(found)
    gone = (pl.col("arm") == SINGLE) & (pl.col("replicate") == 3)
    short = judge(replace(found, replicates=found.replicates.filter(~gone)), plan)
    assert short.verdict == INCONCLUSIVE
    assert short.reasons[0] == "the study is not finished: 69 of 70 runs are there"
    assert "1 of 10 runs are missing" in short.by_arm()["candidate1"].detail


def test_values_that_are_the_tuned_ones_need_no_anchors_of_their_own():
    found = measured({"candidate1": all_three(1.0)})
    made = content(found)
    single = next(a["configuration"] for a in made["arms"] if a["role"] == "single")
    matched = {"single": single, "deep_ensemble": "deep_ensemble-4"}
    arms = [a | ({"matched": matched} if a["role"] == "candidate" else {}) for a in made["arms"]]
    arm = judge(found, declared(found, arms=arms)).by_arm()["candidate1"]
    assert arm.verdict == "escapes"
    assert (arm.own.single, arm.own.deep_ensemble) == ("single", "deep_ensemble-4")
    assert arm.own.endpoints == arm.endpoints


def test_a_plan_without_matched_anchors_is_judged_by_the_tuned_ones():
    found = measured({"candidate1": all_three(1.0)})
    verdict = judge(found, declared(found))
    arm = verdict.by_arm()["candidate1"]
    assert (arm.verdict, arm.own) == ("escapes", None)
    assert [state for state, text in doubts(verdict) if "own hyperparameters were" in text] == [
        "no"
    ]


def spent(**multiples):
    """Return what arms cost: a Deep Ensemble of four costs 4 of everything."""
    names = ("parameters", "stored_bytes", "infer_flops")
    rows = [{"arm": "deep_ensemble-4"} | dict.fromkeys(names, 4.0)]
    rows += [{"arm": "candidate1"} | dict.fromkeys(names, 1.2) | multiples]
    return pl.DataFrame(rows)


def test_an_escape_says_its_price():
    found = with_own(all_three(1.0), (0, 0, 0), all_three(1.0))
    verdict = judge(found, plan_of(found), spent(infer_flops=4.0))
    arm = verdict.by_arm()["candidate1"]
    assert arm.price.model_dump() == {
        "parameters": pytest.approx(0.3),
        "stored_bytes": pytest.approx(0.3),
        "infer_flops": 1.0,
        "dearer": (),
    }
    assert verdict.verdict == SOME_ESCAPES
    assert "at 30 % of its parameters and 100 % of its inference FLOPs" in verdict.sentence


def test_bytes_are_told_where_weights_have_few_bits():
    found = with_own(all_three(1.0), (0, 0, 0), all_three(1.0))
    few = judge(found, plan_of(found), spent(parameters=4.0, stored_bytes=1.3, infer_flops=4.0))
    assert "Ensemble of 4 where it does worst" in few.sentence
    assert "at 32 % of its stored bytes, 100 % of its parameters and 100 % of" in few.sentence


def test_an_escape_at_an_unknown_price_says_so():
    found = with_own(all_three(1.0), (0, 0, 0), all_three(1.0))
    said = [text for _, text in doubts(judge(found, plan_of(found)))]
    assert any("costs is not known" in text for text in said)
    said = [text for _, text in doubts(judge(found, plan_of(found), spent()))]
    assert not any("costs is not known" in text for text in said)


@pytest.mark.parametrize("cost", ["parameters", "stored_bytes", "infer_flops"])
def test_what_costs_more_than_a_deep_ensemble_is_no_efficient_ensemble_that_escapes(cost):
    found = with_own(all_three(1.0), (0, 0, 0), all_three(1.0))
    verdict = judge(found, plan_of(found), spent(**{cost: 4.9}))
    arm = verdict.by_arm()["candidate1"]
    assert (arm.verdict, arm.price.dearer) == ("escapes", (cost,))
    assert verdict.verdict == INCONCLUSIVE
    assert (verdict.counts.escapes, verdict.counts.dear) == (1, 1)
    assert verdict.sentence.removeprefix("Exploratory: ") == (
        "No efficient ensemble escapes single-model behaviour. "
        "1 configuration escapes, but costs more than the Deep Ensemble of its size."
    )


class Examples:
    """Per-example values whose means are those of the replicates, with noise over examples."""

    def __init__(self, replicates, noise, count=400):
        self.replicates, self.noise, self.count = replicates, noise, count

    def examples(self, arm):
        own = self.replicates.filter(pl.col("arm") == arm).sort("replicate")
        rng = np.random.default_rng(sum(map(ord, arm)))
        values = {}
        for key in ENDPOINTS:
            error_N = rng.normal(size=self.count)
            error_N -= error_N.mean()
            means = own[key].to_numpy()[:, None]
            values[key] = (means + self.noise * GAP[key] * error_N).astype(np.float32)
        weights = dict.fromkeys(ENDPOINTS, np.ones(self.count, np.float32))
        return ExampleValues(own["replicate"].to_list(), values, weights)


@pytest.mark.parametrize(("noise", "holds"), [(0.5, True), (8.0, False)])
def test_an_escape_holds_for_other_test_examples_or_is_none(noise, holds):
    found = with_own(all_three(0.9), (0, 0, 0), all_three(1.0), noise=0.02)
    found = replace(found, source=Examples(found.replicates, noise))
    verdict = judge(found, plan_of(found))
    arm = verdict.by_arm()["candidate1"]
    assert arm.on_examples is holds
    assert arm.p_seeds <= 0.05
    assert (arm.p_holm <= 0.05) is holds
    assert arm.verdict == ("escapes" if holds else "inconclusive")
    assert arm.label == (None if holds else "not for other test examples")
    said = {True: "its escape holds for other", False: "its escape is not shown for other"}
    assert any(said[holds] in text for _, text in doubts(verdict))


def test_what_test_examples_add_is_corrected_for_the_number_of_configurations():
    """One of many configurations is lucky with the images as well as with its seeds."""
    escaping = {}
    for many in (1, 30):
        arms = {f"candidate{i}": all_three(0.9) for i in range(1, many + 1)}
        found = measured(arms, noise=0.02)
        found = replace(found, source=Examples(found.replicates, 4.0))
        verdict = judge(found, declared(found))
        first = verdict.by_arm()["candidate1"]
        escaping[many] = first.verdict == "escapes"
        assert first.p_seeds <= 0.05
    assert escaping == {1: True, 30: False}


def contended(candidate, contender):
    """Return the verdict on a candidate where another single network may be the best."""
    found = with_own(all_three(candidate), (0, 0, 0), all_three(1.0))
    close = found.replicates.filter(pl.col("arm") == "single").with_columns(
        *(pl.col(key) - contender * GAP[key] for key in ("cll", "shift_nll")),
        arm=pl.lit("matched_single-close"),
        role=pl.lit("matched_single"),
        configuration=pl.lit("close"),
    )
    found = replace(found, replicates=pl.concat([found.replicates, close]))
    arms = [
        arm
        | ({"matched": MATCHED} if arm["role"] == "candidate" else {})
        | ({"reason": "contender"} if arm["configuration"] == "close" else {})
        for arm in content(found)["arms"]
    ]
    return judge(found, declared(found, arms=arms))


@pytest.mark.parametrize(("contender", "escapes"), [(0.3, True), (0.8, False)])
def test_an_arm_must_escape_from_every_single_network_that_may_be_the_best(contender, escapes):
    verdict = contended(0.9, contender)
    arm = verdict.by_arm()["candidate1"]
    (close,) = arm.contenders
    assert close.single == "matched_single-close"
    expected = (0.9 - contender) / (1 - contender)
    assert close.endpoints["cll"].recovery == pytest.approx(expected)
    assert arm.verdict == ("escapes" if escapes else "inconclusive")
    assert (arm.by_tuned, arm.own.verdict) == ("escapes", "escapes")
    assert close.verdict == ("escapes" if escapes else "inconclusive")
    assert arm.label == (None if escapes else "escapes the chosen single network only")
    assert arm.least[0] == "contender"
    line = next(t for s, t in doubts(verdict) if "validation cannot tell from the tuned one" in t)
    assert line.endswith(f"{expected:.2f}")
    # The controls are not candidates for anything.
    assert not verdict.by_arm()["positive_control"].contenders


def test_where_examples_are_not_known_the_page_says_so():
    found = with_own(all_three(0.9), (0, 0, 0), all_three(1.0))
    verdict = judge(found, plan_of(found))
    assert verdict.by_arm()["candidate1"].on_examples is None
    assert any("whether on others is not known" in text for _, text in doubts(verdict))


def test_the_difference_to_a_single_network_is_better_members_and_ensemble_gain():
    found = with_own(all_three(0.9), (0.3, 0, 0), all_three(1.0))
    members = {"single": 0.5, SINGLE: 0.4, "candidate1": 0.45}
    ensemble = members | {"candidate1": 0.3}
    arm = pl.col("arm")
    frame = found.replicates.with_columns(
        nll=arm.replace_strict(ensemble, default=None, return_dtype=pl.Float64),
        member_nll=arm.replace_strict(members, default=None, return_dtype=pl.Float64),
    )
    own = judge(replace(found, replicates=frame), plan_of(found)).by_arm()["candidate1"].against
    expected = {"tuned": (0.2, 0.05, 0.15), "own": (0.1, -0.05, 0.15)}
    for key, (total, better, gain) in expected.items():
        assert own[key].model_dump() == pytest.approx(
            {"total": total, "better_members": better, "ensemble_gain": gain}
        )


def test_the_best_is_that_whose_least_recovery_is_largest():
    """Though the tuned anchors rank the two the other way round."""
    truth = all_three(0.9), all_three(0.6), all_three(1.2)  # 0.5 of its own gap.
    verdict = verdict_of(*truth, others={"candidate2": all_three(0.7)})
    first, second = verdict.arms[:2]
    assert [first.arm, second.arm] == ["candidate2", "candidate1"]
    assert first.verdict == second.verdict == "escapes"
    assert first.least[2].recovery == pytest.approx(0.7)
    assert second.least[2].recovery == pytest.approx(0.5)
    assert second.endpoints["cll"].recovery == pytest.approx(0.9)
    assert "\u201ccandidate2\u201d, covers 70 % of the way" in verdict.sentence


def test_like_a_deep_ensemble_is_so_against_all_anchors():
    near = verdict_of(all_three(1.0), (0, 0, 0), all_three(1.0))
    far = verdict_of(all_three(1.0), all_three(0.5), all_three(1.5))
    assert near.by_arm()["candidate1"].de_like
    assert far.by_arm()["candidate1"].verdict == "escapes"
    assert not far.by_arm()["candidate1"].de_like


def test_what_tracks_says_the_largest_end_between_all_its_anchors():
    verdict = verdict_of(all_three(0.0), (0, 0, 0), all_three(0.55))
    arm = verdict.by_arm()["candidate1"]
    assert arm.verdict == "tracks"
    tuned, own = (max(effect.high for effect in effects.values()) for _, effects in arm.between)
    assert own > tuned
    assert f"No interval reaches beyond {np.ceil(100 * own):.0f} % of the way" in verdict.sentence


@pytest.mark.parametrize(
    ("mean", "seeds", "state", "end"),
    [
        (0.60, 5, "yes", "; the next is 0.1000 nats behind, with a standard error of 0.0141"),
        (0.51, 5, "na", "; the next is 0.0100 nats behind, with a standard error of 0.0141"),
        (0.40, 4, "na", "; runs of the next one failed"),
    ],
)
def test_how_sure_the_choice_of_the_single_network_is(mean, seeds, state, end):
    tried = [
        {"configuration": "a", "source": "its own search", "seeds": 5, "mean": 0.5, "se": 0.01},
        {"configuration": "b", "source": "candidate1", "seeds": seeds, "mean": mean, "se": 0.01},
    ]
    found = measured({"candidate1": all_three(0.0)})
    lines = doubts(judge(found, declared(found, tried=tried)))
    text = "the single network is the best of 2 on validation data (its own search)"
    assert (state, text + end) in lines


def test_a_single_network_that_is_the_best_under_shift_alone_is_said_to_be_so():
    tried = [
        {"configuration": c, "source": s, "seeds": 5, "mean": mean, "se": 0.01, "shift_nll": shift}
        for c, s, mean, shift in [("a", "its own search", 0.52, 1.0), ("b", "x", 0.51, 2.0)]
    ]
    found = measured({"candidate1": all_three(0.0)})
    ((state, line),) = [
        one for one in doubts(judge(found, declared(found, tried=tried))) if "one of 2" in one[1]
    ]
    assert state == "na"
    assert line.endswith(
        "the best under validation shift; another is 0.0100 nats better on clean data, with a "
        "standard error of 0.0141"
    )
