"""What is to be run next: walks through a study's stages and keeps the rows of what has ended.

A job whose worker died is handed out again, ``resources.max_failures`` times at most. Tune's own
restarts are not used: they leave out a trial that was about to be given the dead worker.
"""

from collections import Counter, deque
from collections.abc import Iterator

from study.progress import Progress
from study.search import Job, Row
from study.space import Study
from study.spec import TrialSpec
from study.stages import Rows, Stage, Together, one_by_one, stages
from study.store import Store
from study.trial import new_row


class Agenda:
    """The study as a queue of jobs, one stage after the other."""

    def __init__(
        self,
        study: Study,
        store: Store,
        rows: Rows,
        fingerprint: str,
        progress: Progress,
        together: Together = one_by_one,
    ) -> None:
        self.store, self.rows, self.fingerprint = store, rows, fingerprint
        self.progress = progress
        self.stages: Iterator[Stage] = stages(study, store, rows, together)
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
            self.progress.started(job)
        return job

    def end(self, job: Job, died: bool) -> None:
        """Take the end of a job; a worker that died too often leaves rows with the reason."""
        rows = {spec.trial: self.store.row(spec.trial) for spec in job.specs}
        if None in rows.values() and died and self.deaths[job.spec.trial] < self.restarts:
            self.deaths[job.spec.trial] += 1
            self.again.append(job)
            return
        reason = "worker died or could not start" if died else "ended without a row"
        self.progress.left(job)
        assert self.stage is not None
        new = [spec for spec in job.specs if spec.trial not in self.rows]
        ended = [rows[spec.trial] or self._failed(spec, job.name, reason) for spec in new]
        self.progress.use.add(ended)
        for row in ended:
            self._end(row)
        if self.waiting is None and not self.stage.remaining:
            self._advance()

    def _failed(self, spec: TrialSpec, name: str | None, reason: str) -> Row:
        row = new_row(spec, self.fingerprint, name) | {"status": "failed", "reason": reason}
        self.store.commit(spec.trial, row)
        return row

    def _end(self, row: Row) -> None:
        self.rows[row["trial"]] = row
        assert self.stage is not None
        self.stage.end(row)
        self.progress.ended(row)

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
