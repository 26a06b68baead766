"""The learning curve of a trial: its training loss, learning rate and validation NLL by epoch."""

import time
from typing import Final

import torch
from torch import Tensor

from study.diagnostics.objectives import objectives
from study.methods import Method
from study.parquet_format import CurveRow
from study.training.batches import DeviceImages
from study.training.fit import EpochDone
from study.training.prediction import predict

LOOKS: Final = 10
"""Epochs at which the validation NLL is computed, evenly spread; the last is one of them."""


class Curve:
    """The rows of a trial's learning curve; looking changes nothing of what is trained.

    Args:
        epochs: Of the whole training.
        val: Validation images on the device of what is trained, and their classes (N,) on the CPU.

    Attributes:
        due: Epochs after which the validation NLL is computed.
        rows: What was recorded; NLLs in nats.
        seconds: What looking took, so that training can be timed without it.
    """

    def __init__(self, epochs: int, val: tuple[DeviceImages, Tensor]) -> None:
        self.due = {round(epochs * look / LOOKS) for look in range(1, LOOKS + 1)}
        self.val, self.labels = val
        self.rows: list[CurveRow] = []
        self.seconds = 0.0

    def record(self, done: EpochDone, method: Method, part: int | None = None) -> None:
        """Take an epoch into account.

        Args:
            done: The epoch.
            method: What is predicted with, as it is after the epoch.
            part: Number of the member where members are trained one after another; else None.
        """
        start = time.perf_counter()
        nll = members_nll = None
        if done.number in self.due:
            # A method of the user's own may draw random numbers in evaluation, too.
            devices = {self.val.device} - {torch.device("cpu")}
            with torch.random.fork_rng(devices):
                found = objectives(predict(method, self.val), self.labels)
            nll, members_nll = found.val_nll, found.val_nll + found.val_gain
        self.rows.append(CurveRow(done.number, part, done.lr, done.loss, nll, members_nll))
        self.seconds += time.perf_counter() - start
