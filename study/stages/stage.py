"""The two kinds of stage: jobs known beforehand, and jobs that a search proposes."""

from collections import deque
from collections.abc import Callable, Hashable, Iterator
from itertools import zip_longest

from study import parquet_format
from study.jobs import Job, PlannedJob, Rows, joined
from study.parquet_format import TrialRow
from study.search.method_search import MethodSearch
from study.spec import TrialSpec

ReplicatesPerJob = Callable[[TrialSpec], int]


def one_replicate(spec: TrialSpec) -> int:
    """Return how many replicates of ``spec`` make up a job: one."""
    return 1


class FixedStage:
    """A stage whose trials are known beforehand; jobs all of which have rows are not handed out.

    Args:
        name: Of the stage.
        jobs: One trial each.
        rows: Those that are there.
        replicates_per_job: How many replicates of a trial's configuration make up a job. Which do
            does not depend on ``rows``, so that an interruption changes no number.
    """

    def __init__(
        self,
        name: parquet_format.Stage,
        jobs: list[Job],
        rows: Rows,
        replicates_per_job: ReplicatesPerJob = one_replicate,
    ) -> None:
        self.name, self.total = name, len(jobs)
        self.open = {job.spec.trial for job in jobs if job.spec.trial not in rows}

        def kind(job: Job) -> tuple[Hashable, int]:
            return (job.spec.role, job.spec.configuration), replicates_per_job(job.spec)

        several = joined(jobs, kind)
        self.queue = deque(j for j in several if any(s.trial in self.open for s in j.specs))

    @property
    def remaining(self) -> int:
        """How many trials have not ended."""
        return len(self.open)

    def next(self) -> Job | None:
        """Return the next job in order."""
        return self.queue.popleft() if self.queue else None

    def end(self, row: TrialRow) -> None:
        """Take the row of a job that has ended."""
        self.open.discard(row.trial)

    def ahead(self) -> Iterator[PlannedJob]:
        """Yield the jobs in order."""
        yield from (PlannedJob(job.spec.method, job) for job in self.queue)


class SearchStage:
    """The search of every tuned method, in turns, so that no slot waits for a generation to end."""

    name: parquet_format.Stage = "search"

    def __init__(self, searches: list[MethodSearch], rows: Rows) -> None:
        self.searches, self.rows = searches, rows
        self.total = sum(search.total for search in searches)
        self.owner: dict[str, MethodSearch] = {}

    @property
    def remaining(self) -> int:
        """How many trials have not ended."""
        return sum(search.remaining for search in self.searches)

    def next(self) -> Job | None:
        """Return a job of the method that is furthest behind and has one ready."""
        for search in list(self.searches):
            while (job := search.next()) is not None:
                there = [spec.trial for spec in job.specs if spec.trial in self.rows]
                for trial in there:
                    search.tell(self.rows[trial])
                if len(there) == len(job.specs):
                    continue
                self.searches.remove(search)
                self.searches.append(search)
                self.owner |= {spec.trial: search for spec in job.specs}
                return job
        return None

    def end(self, row: TrialRow) -> None:
        """Tell Optuna."""
        self.owner.pop(row.trial).tell(row)

    def ahead(self) -> Iterator[PlannedJob]:
        """Yield a job of each method in turn."""
        for turn in zip_longest(*(search.ahead() for search in self.searches)):
            yield from (ahead for ahead in turn if ahead is not None)


Stage = SearchStage | FixedStage
