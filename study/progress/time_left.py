"""How long a stage will still take, from what trials like the missing ones took.

A trial's time is the mean training time of the nearest trials that have ended, plus the median of
what they took besides: a worker's first trial pays for what is loaded once. Nearest are trials of
the same configuration in this stage, then in the stages before it, then those of the same method
and size.
"""

from bisect import insort
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from heapq import heapreplace
from statistics import median_low
from typing import get_args

from study import schema
from study.jobs import PlannedJob
from study.spec import TrialSpec

STAGES = get_args(schema.Stage)
Kind = tuple[object, ...]
"""What trials have in common: the configuration, or the method and its size."""

FEW = 3
"""Trials of a method before which what they took besides training is looked for in all methods."""


@dataclass
class _Mean:
    total: float = 0.0
    count: int = 0

    def add(self, value: float) -> None:
        self.total += value
        self.count += 1


class Pace:
    """What trials take, in seconds, from those that have ended."""

    def __init__(self) -> None:
        self.training: dict[Kind, _Mean] = defaultdict(_Mean)
        self.besides: dict[Kind, list[float]] = defaultdict(list)
        self.expected: dict[Kind, _Mean] = defaultdict(_Mean)
        self.taken: dict[Kind, _Mean] = defaultdict(_Mean)

    def add(self, row: schema.TrialRow) -> None:
        """Take a trial's row; those of a stage come after those of the stages before it."""
        stage, method, configuration = row.stage, row.method, row.configuration
        whole = row.status == "complete"
        training = row.train_seconds if whole else row.seconds
        kind: Kind
        for kind in ((configuration,), (method, row.members), (method,), ()):
            self.training[stage, *kind].add(training)
        if whole:
            for kind in ((stage, method), (stage,)):
                insort(self.besides[kind], row.seconds - training)
        before = self._before(stage, method, (configuration,))
        if before is not None:
            self.expected[stage, method].add(before)
            self.taken[stage, method].add(row.seconds)

    def seconds(self, stage: str, method: str, spec: TrialSpec | None = None) -> float | None:
        """Return what a trial of the stage will take, None where nothing like it has ended."""
        found = self._nearest_first(stage, method, spec)
        return next((seconds for seconds in found if seconds is not None), None)

    def _nearest_first(
        self, stage: str, method: str, spec: TrialSpec | None
    ) -> Iterator[float | None]:
        kinds: list[Kind] = [(method,)]
        if spec is not None:
            kinds.insert(0, (method, spec.members))
            yield self._of(stage, method, (spec.configuration,))
            yield self._before(stage, method, (spec.configuration,), self._scale(stage, method))
        for kind in kinds:
            yield self._of(stage, method, kind)
        if spec is not None and method == "deep_ensemble":
            single = spec.model_copy(update={"method": "single", "params": {}})
            member = self.seconds(stage, "single", single)
            yield None if member is None else spec.members * member
        for kind in kinds:
            yield self._before(stage, method, kind, self._scale(stage, method))
        yield self._of(stage, method, ())

    def _of(self, stage: str, method: str, kind: Kind) -> float | None:
        found = self.training.get((stage, *kind))
        if found is None:
            return None
        besides = self.besides.get((stage, method), [])
        if len(besides) < FEW:
            besides = self.besides.get((stage,), [])
        return found.total / found.count + (median_low(besides) if besides else 0.0)

    def _before(self, stage: str, method: str, kind: Kind, scale: float = 1.0) -> float | None:
        for earlier in reversed(STAGES[: STAGES.index(stage)]):
            if (found := self._of(earlier, method, kind)) is not None:
                return scale * found
        return None

    def _scale(self, stage: str, method: str) -> float:
        """Return how much longer the method's trials take than the same ones did before the stage.

        A trial that took as long as before is added: the first ones say little.
        """
        if (expected := self.expected.get((stage, method))) is None:
            return 1.0
        one = expected.total / expected.count
        return (self.taken[stage, method].total + one) / (expected.total + one)


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
