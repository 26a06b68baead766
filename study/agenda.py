"""What is to be run next: walks through a study's stages and keeps the rows of what has ended.

A job whose worker died is handed out again, ``resources.max_failures`` times at most. Tune's own
restarts are not used: they leave out a trial that was about to be given the dead worker.
"""

from collections import Counter, deque
from collections.abc import Iterator

from study.progress import Progress
from study.search import Job
from study.space import Study
from study.stages import Rows, Stage, stages
from study.store import Store
from study.trial import new_row


class Agenda:
    """The study as a queue of jobs, one stage after the other."""

    def __init__(
        self, study: Study, store: Store, rows: Rows, fingerprint: str, progress: Progress
    ) -> None:
        self.store, self.rows, self.fingerprint = store, rows, fingerprint
        self.progress = progress
        self.stages: Iterator[Stage] = stages(study, store, rows)
        self.stage: Stage | None = None
        self.waiting: Job | None = None
        self.restarts = study.resources.max_failures
        self.deaths: Counter[str] = Counter()
        self.again: deque[Job] = deque()
        self._advance()

    @property
    def finished(self) -> bool:
        """Whether no stage is left."""
        return self.stage is None

    def next(self) -> Job | None:
        """Return the next job, None while running ones must end first."""
        if self.again:
            return self.again.popleft()
        job, self.waiting = self.waiting, None
        while job is None and self.stage is not None:
            job = self.stage.next()
            if job is None and self.stage.remaining:
                return None
            if job is None:
                self._advance()
        if job is not None:
            self.progress.started(job.spec.trial)
        return job

    def end(self, job: Job, died: bool) -> None:
        """Take the end of a job; a worker that died too often leaves a row with the reason."""
        row = self.store.row(job.spec.trial)
        if row is None and died and self.deaths[job.spec.trial] < self.restarts:
            self.deaths[job.spec.trial] += 1
            self.again.append(job)
            return
        if row is None:
            reason = "worker died or could not start" if died else "ended without a row"
            row = new_row(job.spec, self.fingerprint, job.name)
            row |= {"status": "failed", "reason": reason}
            self.store.commit(job.spec.trial, row)
        self.rows[job.spec.trial] = row
        assert self.stage is not None
        self.stage.end(row)
        self.progress.ended(row)
        if self.waiting is None and not self.stage.remaining:
            self._advance()

    def close(self) -> None:
        """Leave the terminal in order."""
        self.progress.close()

    def _advance(self) -> None:
        """Go to the first stage that has something to run."""
        self.progress.close()
        for stage in self.stages:
            self.stage = stage
            self.waiting = stage.next()
            self.progress.enter(stage, stage.total - stage.remaining)
            if self.waiting is not None:
                return
        self.stage = None
