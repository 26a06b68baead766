"""How long a stage will still take, from what trials like the missing ones took.

A trial's time is the median training time of the nearest trials that have ended, plus the median of
what they took besides: a worker's first trial pays for what is loaded once. Nearest are trials of
the same configuration, then those of the same method and size, then those of the method; of this
stage, or else of the one before it.
"""

from bisect import insort
from collections import defaultdict
from collections.abc import Iterable, Iterator
from heapq import heapreplace
from statistics import median, median_low
from typing import get_args

from study import parquet_format
from study.jobs import PlannedJob
from study.spec import TrialSpec

STAGES = get_args(parquet_format.Stage)
Kind = tuple[object, ...]
"""What trials have in common: the configuration, or the method and its size."""


class Pace:
    """What trials take, in seconds, from those that have ended."""

    def __init__(self) -> None:
        self.training: dict[Kind, list[float]] = defaultdict(list)
        self.besides: dict[str, list[float]] = defaultdict(list)

    def add(self, row: parquet_format.TrialRow) -> None:
        """Take a trial's row."""
        training = row.train_seconds if row.status == "complete" else row.seconds
        kind: Kind
        for kind in ((row.configuration,), (row.method, row.members), (row.method,), ()):
            insort(self.training[row.stage, *kind], training)
        insort(self.besides[row.stage], row.seconds - training)

    def seconds(self, stage: str, method: str, spec: TrialSpec | None = None) -> float | None:
        """Return what a trial of the stage will take, None where nothing like it has ended."""
        kinds: list[Kind] = [(method,)]
        if spec is not None:
            kinds = [(spec.configuration,), (method, spec.members), *kinds]
        for kind in kinds:
            for at in STAGES[STAGES.index(stage) :: -1]:
                if training := self.training.get((at, *kind)):
                    return median(training) + median_low(self.besides[stage] or self.besides[at])
        if spec is not None and method == "deep_ensemble":
            single = spec.model_copy(update={"method": "single", "params": {}})
            if (member := self.seconds(stage, "single", single)) is not None:
                return spec.members * member
        every = self.training.get((stage,))
        return median(every) + median_low(self.besides[stage]) if every else None


def lengths(pace: Pace, stage: str, jobs: Iterable[PlannedJob]) -> Iterator[float | None]:
    """Yield the seconds of each job of a stage, None where nothing like it has ended."""
    known: dict[tuple[str, str | None], float | None] = {}
    for ahead in jobs:
        spec = None if ahead.job is None else ahead.job.spec
        key = (ahead.method, None if spec is None else spec.configuration)
        if key not in known:
            known[key] = pace.seconds(stage, ahead.method, spec)
        each = known[key]
        yield None if each is None else each * (1 if ahead.job is None else len(ahead.job.specs))


def last_end(running: Iterable[float], waiting: Iterable[float], slots: int) -> float:
    """Return after how many seconds the last job ends.

    Args:
        running: What the jobs under way will still take.
        waiting: What the others will take, in their order.
        slots: How many jobs run at a time.
    """
    free = sorted([*running, *[0.0] * slots][: max(slots, 1)])
    for seconds in waiting:
        heapreplace(free, free[0] + seconds)
    return max(free)
