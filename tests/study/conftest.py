"""A small real study of the digits."""

from pathlib import Path

import pytest

from study import backbones, datasets
from study.datasets import digits
from study.space import Study
from study.space_file import load_study
from study.spec import Regularisation, Training, TrialSpec

SMOKE = Path(__file__).parents[2] / "search_spaces" / "smoke.yaml"


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
