"""What makes a trial the same, a configuration the same, and two streams of numbers differ."""

import pytest

from study.spec import Regularisation, derive_seed


def test_a_seed_depends_on_every_part_and_on_where_it_ends():
    parts = [("a", 1, 12), ("a", 11, 2), ("a1", 12), ("a", 12, 1), ("a", 1), ("b", 1, 12)]
    assert len({derive_seed(*own) for own in parts}) == len(parts)
    assert derive_seed("a", 1, 12) == derive_seed("a", 1, 12)
    assert all(0 <= derive_seed(*own) < 2**63 for own in parts)


@pytest.mark.parametrize(
    "other", [{"seed": 2}, {"replicate": 1}, {"stage": "search"}, {"role": "comparison"}]
)
def test_another_run_of_a_configuration_is_another_trial(make_spec, other):
    first, second = make_spec(), make_spec(**other)
    assert first.trial != second.trial
    assert first.configuration == second.configuration


@pytest.mark.parametrize(
    "other",
    [
        {"method": "batch_ensemble"},
        {"params": {"members": 2}},
        {"dropout": 0.1},
        {"dataset": {"name": "mnist"}},
        {"training": {"epochs": 3}},
        {"regulariser": Regularisation(name="hsic", weight=1.0)},
    ],
    ids=lambda other: next(iter(other)),
)
def test_another_value_is_another_configuration(make_spec, other):
    first, second = make_spec(), make_spec(**other)
    assert first.trial != second.trial
    assert first.configuration != second.configuration
