"""What is run: a job is one trial or several; a stage hands jobs out."""

from dataclasses import dataclass

from study.schema import TrialRow
from study.spec import TrialSpec

Rows = dict[str, TrialRow]


@dataclass(frozen=True)
class Job:
    """What a worker runs at a time: one trial, or replicates of one configuration.

    Attributes:
        spec: The first trial.
        name: The configuration's name for readers.
        beside: The others, which may be trained with it as one.
    """

    spec: TrialSpec
    name: str | None = None
    beside: tuple[TrialSpec, ...] = ()

    @property
    def specs(self) -> tuple[TrialSpec, ...]:
        """Every trial."""
        return (self.spec, *self.beside)


@dataclass(frozen=True)
class PlannedJob:
    """A job that has not been handed out, as far as it is known.

    Attributes:
        method: Of its trials.
        job: What will be run, None where that is yet to be proposed.
    """

    method: str
    job: Job | None = None
