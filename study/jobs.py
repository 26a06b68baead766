"""What is run: a job is one trial or several; a stage hands jobs out."""

from collections import Counter
from collections.abc import Callable, Hashable, Iterable
from dataclasses import dataclass, replace

from study.parquet_format import TrialRow
from study.spec import TrialSpec

Rows = dict[str, TrialRow]
Together = Callable[[TrialSpec], tuple[str, int]]
"""What a search trial has in common with those that may be trained with it as one, and how many
of these make up a job."""


@dataclass(frozen=True)
class Job:
    """What a worker runs at a time: one trial, or several that may be trained as one.

    Attributes:
        spec: The first trial.
        name: The configuration's name for readers; None where there are several configurations.
        beside: The others, which may be trained with it as one.
    """

    spec: TrialSpec
    name: str | None = None
    beside: tuple[TrialSpec, ...] = ()

    @property
    def specs(self) -> tuple[TrialSpec, ...]:
        """Every trial."""
        return (self.spec, *self.beside)

    @property
    def mixed(self) -> bool:
        """Whether its trials are of several configurations."""
        return any(spec.configuration != self.spec.configuration for spec in self.beside)


@dataclass(frozen=True)
class PlannedJob:
    """A job that has not been handed out, as far as it is known.

    Attributes:
        method: Of its trials.
        job: What will be run, None where that is yet to be proposed.
    """

    method: str
    job: Job | None = None


def joined(jobs: Iterable[Job], kind: Callable[[Job], tuple[Hashable, int]]) -> list[Job]:
    """Return jobs of one trial each joined, in the order of the first of each.

    Args:
        jobs: In order.
        kind: Of a job: what is joined has it in common, and how many are at most.
    """
    found: dict[tuple[Hashable, int], list[Job]] = {}
    count: Counter[Hashable] = Counter()
    for job in jobs:
        common, most = kind(job)
        found.setdefault((common, count[common] // most), []).append(job)
        count[common] += 1
    return [
        replace(first, beside=tuple(job.spec for job in others))
        for first, *others in found.values()
    ]
