"""What has ended, counted by stage and method, and how well the slots were used."""

import math
import time
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

from study.parquet_format import TrialRow

OTHERS = ("pruned", "diverged", "failed")


@dataclass
class Use:
    """What a run's trials took, of the time from the start of the first to the end of the last.

    Attributes:
        trials: That have ended.
        jobs: Of one trial or several.
        seconds: Of trials.
        train_seconds: Of these, of training.
        began: When the first trial began; what started the workers is not counted.
        ended: When the last one ended.
    """

    trials: int = 0
    jobs: int = 0
    seconds: float = 0.0
    train_seconds: float = 0.0
    began: float = math.inf
    ended: float = 0.0

    def add(self, rows: Iterable[TrialRow]) -> None:
        """Add the rows of a job that has just ended."""
        rows = list(rows)
        seconds = sum(row.seconds for row in rows)
        self.trials += len(rows)
        self.jobs += 1
        self.seconds += seconds
        self.train_seconds += sum(row.train_seconds for row in rows)
        self.ended = time.monotonic()
        self.began = min(self.began, self.ended - seconds)

    def line(self, slots: int) -> str:
        """Return the figures as a sentence."""
        wall = max(self.ended - self.began, 1e-9)  # A job of dead workers took no time.
        busy, training = (s / (slots * wall) for s in (self.seconds, self.train_seconds))
        return (
            f"{self.trials} trials in {duration(wall)} on {slots} slots: {busy:.0%} of their time "
            f"in trials, {training:.0%} in training"
        )


@dataclass
class Tally:
    """What has ended of a stage and method.

    Attributes:
        statuses: Trials by status.
        best: Lowest validation NLL of a complete trial, in nats.
        seconds: Of all its trials.
    """

    statuses: Counter[str] = field(default_factory=Counter)
    best: float = math.inf
    seconds: float = 0.0

    def add(self, row: TrialRow) -> None:
        """Take a trial's row."""
        self.statuses[row.status] += 1
        self.seconds += row.seconds
        if row.status == "complete" and row.val_nll is not None:
            self.best = min(self.best, row.val_nll)

    def cells(self) -> list[str]:
        """Return the numbers as the cells of a table."""
        count = self.statuses.total()
        return [
            *(str(self.statuses[status]) for status in OTHERS),
            f"{self.best:.4f}" if self.best < math.inf else "-",
            short_number(self.seconds / count) if count else "-",
        ]


def short_number(value: float) -> str:
    """Return a number with three significant digits."""
    return f"{value:.3g}" if value < 1000 else f"{value:.0f}"


def duration(seconds: float) -> str:
    """Return a time span as a person would say it."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes:02d} min"
    return f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"
