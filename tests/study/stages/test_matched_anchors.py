"""Every arm is held against networks that are trained with its own hyperparameters, too."""

import pytest

from study.stages.matched_anchors import MORE, pool_seeds, with_contenders, with_matched
from tests.study.stages.anchoring import arm, other_values
from tests.study.stages.test_sequence import finished, plan_of


def test_arms_of_the_same_values_share_anchors_as_large_as_the_largest(single, make_spec):
    arms = [arm(make_spec, 2, lr=0.3), arm(make_spec, 6, lr=0.3), arm(make_spec, 4)]
    pool = single.model_copy(update={"method": "deep_ensemble", "params": {"members": 6}})
    judged, trained = with_matched(arms, single, pool, 20)
    assert [(t.role, t.spec.members, t.spec.training.lr, t.seeds) for t in trained] == [
        ("matched_single", 1, 0.3, 40),
        ("matched_deep_ensemble", 6, 0.3, 10),
    ]
    assert judged[0].matched == judged[1].matched
    assert judged[0].matched.single == trained[0].spec.configuration
    assert judged[0].matched.deep_ensemble == trained[1].spec.configuration
    # Its values are the tuned network's.
    assert judged[2].matched.single == single.configuration
    assert judged[2].matched.deep_ensemble == pool.configuration


def test_what_a_single_network_cannot_have_is_dropped_and_said(single, make_spec):
    one = arm(make_spec, params={"batch": "split"}, lr=0.3)
    regularised = one.spec.regulariser.model_copy(update={"name": "adp", "weight": 0.1})
    one = one.model_copy(update={"spec": one.spec.model_copy(update={"regulariser": regularised})})
    (judged,), (own, pool) = with_matched([one], single, single, 20)
    assert judged.matched.dropped == ("regulariser adp", "batches split among members")
    assert own.spec.regulariser.name == pool.spec.regulariser.name == "none"
    assert own.spec.training == pool.spec.training == one.spec.training


def test_a_contender_has_the_seeds_of_a_matched_single_network_and_no_ensemble(single, make_spec):
    _, matched = with_matched([arm(make_spec, lr=0.3)], single, single, 20)
    shared, new = matched[0].spec, other_values(single, lr=0.7)
    found = with_contenders(matched, [shared, new], 20)
    assert [(a.role, a.reason, a.spec.training.lr) for a in found] == [
        ("matched_single", "contender", 0.3),
        ("matched_deep_ensemble", "matched", 0.3),
        ("matched_single", "contender", 0.7),
    ]
    assert found[2].seeds == MORE * 20 == found[0].seeds


@pytest.mark.parametrize(("seeds", "fewer"), [(2, 2), (5, 5), (8, 5), (20, 10)])
def test_a_matched_pool_has_half_the_seeds_but_no_less_than_five(seeds, fewer):
    assert pool_seeds(seeds) == fewer


def test_the_shared_single_network_has_the_root_of_the_arms_as_many_seeds(smoke, tmp_path):
    rows = finished(smoke, tmp_path, ())
    plan = plan_of(tmp_path)
    judged = [a for a in plan["arms"] if a["role"] in ("candidate", "comparison")]
    assert len(judged) == 3
    confirm = [r for r in rows if r.stage == "confirm" and r.role == "single"]
    assert len(confirm) == 6 == -(-3 * 3**0.5 // 1)
