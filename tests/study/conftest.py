"""A small real study of the digits."""

from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from study import backbones, datasets
from study.datasets import digits
from study.parquet_format import Outcome, TrialRow
from study.space.load import load_study
from study.space.settings import Study
from study.spec import Regularisation, Training, TrialSpec
from study.trials.new_row import new_row

SMOKE = Path(__file__).parents[2] / "search_spaces" / "smoke.yaml"


def row_of(spec, name=None, **found) -> TrialRow:
    """Return the row of a trial that found out this."""
    return replace(new_row(spec, "data", name, Outcome(members=spec.members)), **found)


def some_row(**values) -> TrialRow:
    """Return the row of some trial; what is not given does not matter."""
    words = ("trial", "configuration", "name", "method", "spec", "device", "host", "versions")
    other = dict.fromkeys((*words, "commit", "data"), "any")
    numbers = {"members": 1, "replicate": 0, "seed": 0}
    kinds = {"role": "candidate", "stage": "search", "finished": datetime.now(UTC)}
    return TrialRow(**(other | numbers | kinds | values))


@pytest.fixture(scope="session")
def options():
    small = {"train_size": 100, "val_size": 100, "shift_size": 20, "ood_size": 50}
    return digits.Options(**small).model_dump()


@pytest.fixture(scope="session")
def data(options):
    return datasets.load(options, None)


@pytest.fixture
def smoke() -> Study:
    return load_study([SMOKE])


@pytest.fixture
def make_spec(options):
    """Make a quick TrialSpec; keywords replace its fields, ``training`` some of its own."""

    def make(method="single", params=None, training=None, dropout=0.0, **fields):
        mlp = {"name": "mlp", "width": 16, "depth": 1, "dropout": dropout}
        quick = {"epochs": 2, "batch_size": 25, "lr": 0.1}
        content = {
            "method": method,
            "params": params or {},
            "backbone": backbones.parameters(mlp).model_dump(),
            "dataset": options,
            "training": Training(**(quick | (training or {}))),
            "regulariser": Regularisation(),
            "role": "candidate",
            "stage": "confirm",
            "replicate": 0,
            "seed": 1,
        }
        return TrialSpec(**(content | fields))

    return make
