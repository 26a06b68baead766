"""What a person sees while a study runs: one live table on a terminal, plain lines elsewhere."""

import math
import time
from collections import Counter, defaultdict
from collections.abc import Iterable
from itertools import islice

from rich.console import Console
from rich.live import Live
from rich.table import Table

from study.jobs import Job, PlannedJob
from study.parquet_format import TrialRow
from study.progress.tally import OTHERS, Tally, Use, duration, short_number
from study.progress.time_left import STAGES, Pace, last_end, lengths
from study.stages.stage import Stage

PLAIN_EVERY, LIVE_EVERY = 10.0, 0.5
"""Seconds between two lines, and between two states of the live table."""
PART = 0.05
"""Share of the time that drawing the live table may take: its cost grows with what is left."""
MOST_REASONS = 3
"""Number of reasons for failed trials in the summary."""
HEADINGS = (*OTHERS, "val NLL", "s each")


class Progress:
    """Counts, pace and remaining time of the running stage, and what has ended of all.

    Attributes:
        slots: How many jobs run at a time.
        failures: Failed trials by reason.
        use: What this run's trials took.
        of_stage: The same of the running stage alone.
    """

    def __init__(self) -> None:
        self.slots = 1
        self.console = Console(markup=False)
        self.stage: Stage | None = None
        self.first: Job | None = None
        self.tallies: dict[tuple[str, str], Tally] = defaultdict(Tally)
        self.failures: Counter[str] = Counter()
        self.pace = Pace()
        self.use, self.of_stage = Use(), Use()
        self.running: dict[str, Job] = {}
        self.since: dict[str, float] = {}
        self.began = self.last_shown = time.monotonic()
        self.drawing = 0.0
        self.live: Live | None = None

    def know(self, rows: Iterable[TrialRow]) -> None:
        """Take the rows that were there before this run."""
        for row in rows:
            self._add(row)

    def enter(self, stage: Stage, first: Job | None) -> None:
        """Begin a stage, of which ``first`` has been taken out already."""
        self.close()
        self.stage, self.first = stage, first
        self.began = time.monotonic()
        self.of_stage = Use()
        done = stage.total - stage.remaining
        note = f", {done} there already" if done else ""
        self.console.print(f"{stage.name}: {stage.total} trials{note}")
        if self.console.is_terminal and stage.remaining:
            self.live = Live(console=self.console, auto_refresh=False, transient=True)
            self.live.start()
            self.show()

    def started(self, job: Job) -> None:
        """Note that a job was handed out; it runs once one of the slots is free."""
        self.first = None
        self.running[job.spec.trial] = job
        self._note_begun()

    def took(self, job: Job, rows: list[TrialRow]) -> None:
        """Note that a job runs no longer, and what it took, with the rows of its trials."""
        self.running.pop(job.spec.trial, None)
        self.since.pop(job.spec.trial, None)
        self._note_begun()
        cold = self.use.jobs == 0
        for use in (self.use, self.of_stage):
            use.add(rows)
        if cold:  # Until then the others have loaded what they need as well.
            self.began = max(self.began, self.use.began)
            self.since = {trial: max(t, self.began) for trial, t in self.since.items()}

    def ended(self, row: TrialRow) -> None:
        """Note that a trial has ended, with its row."""
        self._add(row)
        assert self.stage is not None
        due = self.stage.remaining and time.monotonic() - self.last_shown > PLAIN_EVERY
        if self.live is None and due:  # The last line of a stage is that of its end.
            self._say(f"{self._counts()}{self._pace()}{self._remaining()}{self._best()}")
        self.show()

    def show(self) -> None:
        """Renew the live table, where there is one and it is due."""
        start = time.monotonic()
        if self.live is not None and start - self.last_shown > max(LIVE_EVERY, self.drawing / PART):
            self.live.update(self._table(), refresh=True)
            self.last_shown = time.monotonic()
            self.drawing = self.last_shown - start

    def close(self) -> None:
        """Leave the terminal in order, with the stage's last figures."""
        if self.live is not None:
            self.live.stop()
            self.live = None
        if self.stage is not None and self.of_stage.trials:
            gone = duration(time.monotonic() - self.began)
            self._say(f"{self._counts()} in {gone}{self._pace()}{self._best()}")
        self.stage = None

    def summary(self) -> None:
        """Say what there is of each stage and method, and how well the slots were used."""
        if not self.use.trials:
            return
        table = _plain("stage", "method", "trials")
        order = sorted(self.tallies.items(), key=lambda item: (STAGES.index(item[0][0]), item[0]))
        for (stage, method), tally in order:
            table.add_row(stage, method, str(tally.statuses.total()), *tally.cells())
        self.console.print(table)
        for reason, count in self.failures.most_common(MOST_REASONS):
            self.console.print(f"{count} failed: {reason}", highlight=False, soft_wrap=True)
        self.console.print(self.use.line(self.slots), highlight=False, soft_wrap=True)

    def seconds_left(self) -> float | None:
        """Return the seconds until the stage ends, None while nothing like it has ended."""
        assert self.stage is not None
        now = time.monotonic()
        running = [PlannedJob(job.spec.method, job) for job in self.running.values()]
        first = [] if self.first is None else [PlannedJob(self.first.spec.method, self.first)]
        known = []
        for seconds in lengths(self.pace, self.stage.name, [*running, *first, *self.stage.ahead()]):
            if seconds is None:
                return None
            known.append(seconds)
        begun = [t for trial in self.running if (t := self.since.get(trial)) is not None]
        under_way = [max(0.0, s - (now - t)) for s, t in zip(known, begun, strict=False)]
        # Slots are idle between jobs, and at the end of a generation: as much as so far.
        return last_end(under_way, known[len(begun) :], self.slots) / (self._busy_share() or 1.0)

    def _busy_share(self) -> float:
        """Return the share of the slots' time in this stage in which jobs ran."""
        now = time.monotonic()
        wall = max(now - self.began, 1e-9)
        busy = self.of_stage.seconds + sum(now - since for since in self.since.values())
        return min(1.0, busy / (self.slots * wall))

    def _note_begun(self) -> None:
        for trial in islice(self.running, self.slots):
            self.since.setdefault(trial, time.monotonic())

    def _add(self, row: TrialRow) -> None:
        self.pace.add(row)
        self.tallies[row.stage, row.method].add(row)
        if row.status == "failed":
            self.failures[row.reason or "no reason is known"] += 1

    def _say(self, line: str) -> None:
        self.console.print(f"  {line}", highlight=False, soft_wrap=True)
        self.last_shown = time.monotonic()

    def _own(self) -> dict[str, Tally]:
        assert self.stage is not None
        return {m: t for (stage, m), t in sorted(self.tallies.items()) if stage == self.stage.name}

    def _counts(self) -> str:
        assert self.stage is not None
        total = sum((tally.statuses for tally in self._own().values()), Counter[str]())
        others = "".join(f", {total[status]} {status}" for status in OTHERS if total[status])
        done = self.stage.total - self.stage.remaining
        running = sum(self._running().values())
        now = f", {running} running" if running else ""
        return f"{self.stage.name}: {done}/{self.stage.total} done{others}{now}"

    def _running(self) -> Counter[str]:
        """Return the trials under way by method."""
        found: Counter[str] = Counter()
        for trial in self.since:
            job = self.running[trial]
            found[job.spec.method] += len(job.specs)
        return found

    def _pace(self) -> str:
        if not self.of_stage.trials:
            return ""
        wall = max(time.monotonic() - self.began, 1e-9)
        per_minute = short_number(60 * self.of_stage.trials / wall)
        return f", {per_minute}/min, slots {self._busy_share():.0%} busy"

    def _remaining(self) -> str:
        seconds = self.seconds_left()
        return "" if seconds is None else f", {duration(seconds)} left"

    def _best(self) -> str:
        found = {m: t.best for m, t in self._own().items() if t.best < math.inf}
        return "; best val NLL: " + (", ".join(f"{m} {v:.4f}" for m, v in found.items()) or "-")

    def _table(self) -> Table:
        """Return the running stage, a line for each method."""
        pace = f"{self._counts()}{self._pace()}{self._remaining()}"
        table = _plain("method", "done", "running", title=pace)
        own, running = self._own(), self._running()
        for method in sorted({*own, *running}):
            tally = own.get(method, Tally())
            numbers = (str(tally.statuses.total()), str(running[method]))
            table.add_row(method, *numbers, *tally.cells())
        return table


def _plain(*headings: str, title: str | None = None) -> Table:
    """Return a table without lines that fits 80 columns, names to the left."""
    table = Table(title=title, box=None, pad_edge=False, padding=(0, 2, 0, 0))
    table.title_justify, table.title_style = "left", ""
    for heading in (*headings, *HEADINGS):
        names = heading in ("stage", "method")
        table.add_column(heading, justify="left" if names else "right", overflow="fold")
    return table
