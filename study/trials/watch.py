"""What is looked at after every epoch of runs that are trained: their curves, and which diverge."""

import math
from collections.abc import Sequence
from dataclasses import replace

from study.methods import Method
from study.parquet_format import Outcome
from study.training.fit import DivergenceError, EpochDone, OnEpoch
from study.trials.evaluation import Run


class Watch:
    """Watches runs until their training ends, or all of them have diverged.

    Args:
        runs: That are trained as one, or one run alone.
        as_one: Whether all their parts are trained side by side.
        on_epoch: Told the number of epochs done.

    Attributes:
        diverged: Number and message of the first epoch whose loss was not finite, by trial.
    """

    def __init__(self, runs: Sequence[Run], as_one: bool, on_epoch: OnEpoch) -> None:
        self.runs, self.as_one, self.on_epoch = runs, as_one, on_epoch
        self.diverged: dict[str, tuple[int, str]] = {}
        self.before = self._seconds()

    def after(self, apart: Sequence[Method], first: int, epochs: Sequence[EpochDone]) -> None:
        """Take an epoch of some parts into account.

        Args:
            apart: The parts.
            first: Number of the first of them.
            epochs: What the epoch was to each.

        Raises:
            DivergenceError: When every run has diverged.
        """
        each = len(epochs) // len(self.runs)
        for number, run in enumerate(self.runs):
            self._judge(run, epochs[number * each : (number + 1) * each])
        if len(self.diverged) == len(self.runs):
            raise DivergenceError(next(iter(self.diverged.values()))[1])
        self.on_epoch(epochs[0].number)
        if not self.as_one:  # Members that are trained apart are at the same epoch at the end.
            for member, (network, epoch) in enumerate(zip(apart, epochs, strict=True), first):
                self.runs[0].curve.record(epoch, network, member)
            return
        for number, run in enumerate(self.runs):
            if run.spec.trial not in self.diverged:
                own = epochs[number * each : (number + 1) * each]
                mean = sum(epoch.loss for epoch in own) / each
                run.trajectory.record(own[0].number)
                run.curve.record(own[0]._replace(loss=mean), run.method)

    def _judge(self, run: Run, epochs: Sequence[EpochDone]) -> None:
        broken = [epoch for epoch in epochs if not math.isfinite(epoch.loss)]
        if broken:
            number, loss, _ = broken[0]
            found = number, f"loss is {loss} in epoch {number}"
            self.diverged.setdefault(run.spec.trial, found)

    def ended(self, run: Run) -> Run:
        """Return a run with its outcome if it has diverged."""
        if run.spec.trial not in self.diverged:
            return run
        epoch, reason = self.diverged[run.spec.trial]
        found = Outcome(
            members=run.spec.members, status="diverged", reason=reason, epochs=epoch - 1
        )
        return replace(run, outcome=found)

    @property
    def seconds(self) -> float:
        """What looking took so far, which is no part of training."""
        return self._seconds() - self.before

    def _seconds(self) -> float:
        return sum(run.trajectory.seconds + run.curve.seconds for run in self.runs)
