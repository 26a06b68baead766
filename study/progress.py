"""What a person sees while a study runs: one live table on a terminal, plain lines elsewhere."""

import math
import time
from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass

from rich.console import Console
from rich.live import Live
from rich.table import Table

from study.search import Job, Row
from study.stages import Stage

PLAIN_EVERY = 10.0


@dataclass
class Use:
    """What a run's trials took, of the time from the start of the first to the end of the last.

    Attributes:
        trials: That have ended.
        seconds: Of trials.
        train_seconds: Of these, of training.
        began: When the first trial began; what started the workers is not counted.
        ended: When the last one ended.
    """

    trials: int = 0
    seconds: float = 0.0
    train_seconds: float = 0.0
    began: float = math.inf
    ended: float = 0.0

    def add(self, rows: Iterable[Row]) -> None:
        """Add the rows of a job that has just ended."""
        rows = list(rows)
        seconds = sum(row["seconds"] for row in rows)
        self.trials += len(rows)
        self.seconds += seconds
        self.train_seconds += sum(row["train_seconds"] for row in rows)
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


class Progress:
    """Counts and remaining time of the running stage."""

    def __init__(self) -> None:
        self.slots = 1
        self.console = Console()
        self.stage: Stage | None = None
        self.counts: dict[str, Counter[str]] = defaultdict(Counter)
        self.best: dict[str, float] = {}
        self.running: set[str] = set()
        self.began = self.last_line = time.monotonic()
        self.done_before = 0
        self.live: Live | None = None
        self.use = Use()

    def enter(self, stage: Stage, done: int) -> None:
        """Begin a stage of which ``done`` jobs need not be run."""
        self.close()
        self.stage, self.done_before = stage, done
        self.counts.clear()
        self.best.clear()
        self.began = time.monotonic()
        note = f", {done} there already" if done else ""
        self.console.print(f"{stage.name}: {stage.total} trials{note}")
        if self.console.is_terminal and done < stage.total:
            self.live = Live(
                self._table(), console=self.console, refresh_per_second=4, transient=True
            )
            self.live.start()

    def started(self, job: Job) -> None:
        """Note that a job runs."""
        self.running.add(job.spec.trial)
        self._show()

    def left(self, job: Job) -> None:
        """Note that a job runs no longer."""
        self.running.discard(job.spec.trial)

    def ended(self, row: Row) -> None:
        """Note that a trial has ended, with its row."""
        self.counts[row["method"]][row["status"]] += 1
        value = row["val_nll"]
        if row["status"] == "complete" and value is not None:
            self.best[row["method"]] = min(value, self.best.get(row["method"], value))
        self._show()

    def summary(self) -> None:
        """Say how well the slots were used, once the run has ended."""
        if self.use.trials:
            self.console.print(self.use.line(self.slots), highlight=False, soft_wrap=True)

    def close(self) -> None:
        """Leave the terminal in order, with the stage's last figures."""
        if self.live is not None:
            self.live.stop()
            self.live = None
        if self.stage is not None and self.counts:
            self.console.print(self._line(), highlight=False, soft_wrap=True)
        self.stage = None

    def _show(self) -> None:
        if self.live is not None:
            self.live.update(self._table())
        elif time.monotonic() - self.last_line > PLAIN_EVERY:
            self.last_line = time.monotonic()
            self.console.print(self._line(), highlight=False, soft_wrap=True)

    def _remaining(self) -> str:
        assert self.stage is not None
        ended = sum(sum(c.values()) for c in self.counts.values())
        left = self.stage.total - self.done_before - ended
        if not ended:
            return "?"
        return duration(left * (time.monotonic() - self.began) / ended)

    def _line(self) -> str:
        assert self.stage is not None
        total: Counter[str] = sum(self.counts.values(), Counter())
        best = ", ".join(f"{m} {v:.4f}" for m, v in sorted(self.best.items()))
        elapsed = duration(time.monotonic() - self.began)
        return (
            f"  {self.stage.name}: {self.done_before + sum(total.values())}/{self.stage.total} done"
            f" ({total['pruned']} pruned, {total['diverged']} diverged, {total['failed']} failed),"
            f" {min(len(self.running), self.slots)} running, {elapsed} gone,"
            f" {self._remaining()} left;"
            f" best val NLL: {best or '-'}"
        )

    def _table(self) -> Table:
        assert self.stage is not None
        ended = self.done_before + sum(sum(c.values()) for c in self.counts.values())
        running = min(len(self.running), self.slots)
        table = Table(
            title=f"{self.stage.name}  {ended}/{self.stage.total}   {running} running   "
            f"{self._remaining()} left",
            title_justify="left",
        )
        for heading in ("method", "complete", "pruned", "diverged", "failed", "best val NLL"):
            table.add_column(heading, justify="left" if heading == "method" else "right")
        for method, counts in sorted(self.counts.items()):
            best = f"{self.best[method]:.4f}" if method in self.best else "-"
            numbers = (str(counts[s]) for s in ("complete", "pruned", "diverged", "failed"))
            table.add_row(method, *numbers, best)
        return table


def duration(seconds: float) -> str:
    """Return a time span as a person would say it."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes:02d} min"
    return f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"
