"""Identities of specs: a run is only resumed if they stay what they were."""

import json

import pytest

from study.spec import Regularisation, Training, TrialSpec, derive_seed

PARAMS = {"members": 4, "init": "normal", "init_std": 0.5, "bias": None, "layers": ["a", 1, True]}
KNOWN = {
    "plain": ({}, "f193cace46adcbe1", "34727b7d56"),
    "of the confirm stage": (
        {"role": "negative_control", "stage": "confirm", "replicate": 7, "seed": 2**62},
        "bd321ae293d7997e",
        "34727b7d56",
    ),
    "of other sections": (
        {
            "params": PARAMS,
            "training": Training(optimizer="adamw", lr=1e-3, precision="bfloat16"),
            "regulariser": Regularisation(name="adp", weight=0.1),
        },
        "b38b9be8ce6d9692",
        "6ebdd25da8",
    ),
}
"""Fields of a spec, and its identities as of schema version 4."""


def spec(**fields):
    content = {
        "method": "batch_ensemble",
        "params": {"members": 2},
        "backbone": {"name": "mlp", "width": 16, "dropout": 0.0},
        "dataset": {"name": "digits", "train_size": 100},
        "training": Training(epochs=2),
        "regulariser": Regularisation(),
        "role": "candidate",
        "stage": "search",
        "replicate": 0,
        "seed": 1,
    }
    return TrialSpec(**(content | fields))


@pytest.mark.parametrize("case", KNOWN)
def test_identities_are_those_of_earlier_releases(case):
    fields, trial, configuration = KNOWN[case]
    made = spec(**fields)
    assert (made.trial, made.configuration) == (trial, configuration)
    assert TrialSpec.model_validate_json(made.to_json()) == made


def test_a_spec_is_written_flat():
    assert list(json.loads(spec().to_json())) == [
        "backbone", "dataset", "method", "params", "regulariser", "replicate", "role", "seed",
        "stage", "training",
    ]  # fmt: skip


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
