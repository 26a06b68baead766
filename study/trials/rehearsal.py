"""A few training steps with parameters that note being read, for the dry run."""

import time
from typing import Any

import numpy as np
import torch

from study import backbones, methods
from study.datasets import Dataset
from study.diagnostics import cost
from study.space.configuration import configuration, models
from study.space.domain import Point
from study.space.settings import MethodSpace
from study.spec import Strict
from study.training.batches import DeviceImages, channel_statistics, default_device
from study.training.fit import epochs_of, fit
from study.training.prediction import PREDICTED, predict

STEPS = 2


def one_step(
    space: MethodSpace, point: Point, data: Dataset, size: int, predicts: bool = False
) -> tuple[set[str], float, float]:
    """Train on a few batches with parameters that note being read.

    Args:
        space: Of the method.
        point: Of the space.
        data: What is trained on.
        size: Examples of a batch.
        predicts: Whether batches of the largest size are predicted afterwards, for their memory.

    Returns:
        The parameters read, by how much the method exceeds its own limit (then it is not trained),
        and seconds per step.
    """
    own = configuration(space, point)
    sections = own.model_dump()
    read = {"training.epochs", "training.batch_size"}
    parsed: dict[str, Any] = {
        name: _recording(model(**sections[name]), name, read)
        for name, model in models(space.method, own.backbone["name"]).items()
    }
    method = methods.build(
        space.method,
        parsed["params"],
        lambda: backbones.build(parsed["backbone"], data.shape, data.classes),
        seed=0,
    ).to(device := default_device())
    excess = method.excess() or 0.0
    if excess > 0:
        return read, excess, 0.0
    size = min(max(size, method.members), own.training.batch_size, len(data.train[1]))
    _check_logits(method, data)
    # The images again and again, where the data has not enough for so many batches.
    images, labels = (np.resize(array, (STEPS * size, *array.shape[1:])) for array in data.train)
    pixels = DeviceImages(images, *channel_statistics(images), device)
    start, steps = time.perf_counter(), 0
    for part, _ in method.independent_members():
        epochs_of(part.phases(), own.training.epochs)
        epochs = sum(phase.at_least for phase in part.phases())
        short = parsed["training"].model_copy(update={"epochs": epochs, "batch_size": size})
        fit(part, pixels, torch.tensor(labels, device=device), short, parsed["regulariser"], seed=0)
        steps = steps or STEPS * epochs
    seconds = (time.perf_counter() - start) / max(1, steps)
    if predicts:
        several = np.resize(images, (2 * max(1, PREDICTED // method.members), *data.shape))
        predict(method, DeviceImages(several, *channel_statistics(several), device, kept=False))
    _look_at(method)
    return read, 0.0, seconds


def _look_at(method: methods.Method) -> None:
    """Ask the trained method for all that a confirmed trial asks for."""
    list(method.effective_weights())
    method.perturbations()
    method.collapsed()
    method.member_network(0)
    cost.size(method)


def _check_logits(method: methods.Method, data: Dataset) -> None:
    logits = method.eval()(torch.zeros(2, *data.shape, device=default_device()))
    expected = (method.members, 2, data.classes)
    if tuple(logits.shape) != expected:
        raise ValueError(
            f"logits must be (members, batch, classes) = {expected}, but are {tuple(logits.shape)}"
        )


def _recording(model: Strict, section: str, read: set[str]) -> Strict:
    """Return a copy of ``model`` that notes in ``read`` which fields are used."""
    kind = type(model)

    def noting(self: Strict, name: str) -> Any:
        if name in kind.model_fields:
            read.add(f"{section}.{name}")
        return kind.__getattribute__(self, name)

    recording: type[Strict] = type(kind.__name__, (kind,), {"__getattribute__": noting})
    # Without validation: its validators would read fields, which is not using them.
    return recording.model_construct(**dict(model))
