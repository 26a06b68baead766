"""Every method learns MNIST-1D, in its known settings, and moves in the way its paper says."""

from functools import cache
from pathlib import Path

import pytest
import torch
from torch import Tensor

from study import backbones, datasets, methods
from study.plugins import names
from study.space.configuration import configuration
from study.space.load import load_study
from study.spec import Regularisation
from study.training.batches import DeviceImages, channel_statistics
from study.training.fit import fit
from study.training.prediction import predict

SPACES = Path(__file__).parents[3] / "search_spaces"
TUNED = [name for name in names("study.methods") if name not in ("single", "deep_ensemble")]
FILES = {"batch_ensemble": "be"}


@cache
def series():
    return datasets.load(space("sve")[0].dataset, None)


def space(method):
    study = load_study([SPACES / f"{FILES.get(method, method)}.yaml"])
    return study, study.space(method)


def known(method):
    """Return the points of a method's enqueued settings; of one without any, the space's middle."""
    found = {
        entry["name"]: {k: v for k, v in entry.items() if "." in k and v is not None}
        for entry in space(method)[1].enqueue
        if "control" not in entry
    }
    middle = {"backbone.width": 64, "backbone.dropout": 0.05, "training.optimizer": "sgd"}
    return found or {"middle": middle | {"training.lr": 0.1, "training.weight_decay": 6e-4}}


def logits(method, point, seed=0) -> Tensor:
    """Train on the training split; return the logits (M, N, C) on its validation split."""
    torch.set_num_threads(1)
    data = series()
    found = configuration(space(method)[1], point)
    shape = data.shape, data.classes
    ensemble = methods.build(
        method, found.params, lambda: backbones.build(found.backbone, *shape), seed
    )
    statistics = channel_statistics(data.train[0])
    train, val = (
        DeviceImages(part[0], *statistics, torch.device("cpu")) for part in (data.train, data.val)
    )
    for part, own in ensemble.independent_members():
        labels = torch.tensor(data.train[1])
        fit(part, train, labels, found.training, Regularisation(), seed if own is None else own)
    return predict(ensemble, val)


def accuracy(found: Tensor) -> float:
    right = found.softmax(-1).mean(0).argmax(-1) == torch.tensor(series().val[1])
    return right.float().mean().item()


@pytest.mark.slow
@pytest.mark.parametrize("method", TUNED)
def test_a_known_setting_learns_the_series(method):
    reached = {name: accuracy(logits(method, point)) for name, point in known(method).items()}
    assert max(reached.values()) >= 0.35, reached  # Logistic regression reaches 0.21.


@pytest.mark.slow
def test_singular_values_of_a_random_base_are_worst():
    points = known("sve")
    warm, random = (
        sum(accuracy(logits("sve", points[name], seed)) for seed in range(3)) / 3
        for name in ("published", "random base")
    )
    assert random < warm - 0.02


@pytest.mark.slow
def test_more_members_of_a_lora_ensemble_disagree_more_than_one():
    points = known("lora_ensemble")
    assert len(logits("lora_ensemble", points["one update"])) == 1
    found = logits("lora_ensemble", points["published"]).argmax(-1)
    assert (found[0] != found[1]).float().mean() > 0
