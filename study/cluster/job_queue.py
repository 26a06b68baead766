"""What is to be run next: walks through a study's stages and keeps the rows of what has ended.

A job whose worker died is handed out again, ``resources.max_failures`` times at most, and more
often where a node or a link was lost (``MORE``). Tune's own restarts are not used: they leave out a
trial that was about to be given the dead worker.
"""

from collections import Counter, deque
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, Literal

from study.errors import StudyError
from study.jobs import Job, Rows
from study.parquet_format import Outcome, TrialRow
from study.progress.table import Progress
from study.run_folder.free_space import refuse_full
from study.run_folder.store import LAST_WORDS, RunFolder
from study.space.settings import Study
from study.spec import TrialSpec
from study.stages.stage import Stage
from study.trials.new_row import new_row

CRASH: Final = "Fatal Python error: "
"""What the first of a crash's last words begins with."""
FEW: Final = 20
"""Trials before which the share of failed ones says nothing."""
MORE: Final = {"node": 100, "link": 10}
"""Losses that are not the job's fault and after which it is run again: preemptible nodes come and
go, while a worker that cannot be reached may have been killed for want of memory."""


@dataclass(frozen=True)
class WorkerDeath:
    """The death of a worker in the middle of a job.

    Attributes:
        why: In a few words; empty where nobody knows.
        lost: What was lost with it: its node, the link to it, or no more than the worker.
        raised: Whether it only raised an error.
    """

    why: str = ""
    lost: Literal["node", "link", "worker"] = "worker"
    raised: bool = False

    @property
    def line(self) -> str:
        """The reason for a row."""
        what = "the worker raised an error" if self.raised else "worker died or could not start"
        return f"{what}: {self.why}" if self.why else what


class JobQueue:
    """The study as a queue of jobs, one stage after the other.

    Args:
        study: Its resources.
        store: Where rows lie.
        rows: Those that are there; the rows of what ends are added.
        fingerprint: Of the data.
        progress: Told of all that begins and ends.
        stages: See :func:`study.stages.sequence.stages`, which sees the same ``rows``.
    """

    def __init__(
        self,
        study: Study,
        store: RunFolder,
        rows: Rows,
        fingerprint: str,
        progress: Progress,
        stages: Iterator[Stage],
    ) -> None:
        self.store, self.rows, self.fingerprint = store, rows, fingerprint
        self.progress, self.stages = progress, stages
        self.stage: Stage | None = None
        self.waiting: Job | None = None
        self.restarts = study.resources.max_failures
        self.hours = study.resources.trial_hours
        self.concurrency = study.resources.concurrency
        self.most_failed = study.resources.failed_share
        self.deaths: Counter[tuple[str, str]] = Counter()
        self.reasons: Counter[str | None] = Counter()
        self.ended = 0
        self.again: deque[Job] = deque()
        progress.know(rows.values())
        self._advance()

    @property
    def finished(self) -> bool:
        """Whether no stage is left."""
        return self.stage is None

    def next(self) -> Job | None:
        """Return the next job, None while running ones must end first.

        Raises:
            StudyError: When the disk is as good as full.
        """
        refuse_full(self.store)
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

    def end(self, job: Job, death: WorkerDeath | None = None) -> None:
        """Take the end of a job; a worker that died too often leaves rows with the reason.

        Where its trials are of several configurations, each is first run once more alone: the
        fault may be of one of them.

        Args:
            job: What has ended.
            death: Of its worker, if it died.
        """
        rows = {spec.trial: self.store.row(spec.trial) for spec in job.specs}
        words = self.store.last_words(job.spec.trial) if death else ""
        crashed = words.startswith(CRASH)
        hung = bool(words) and not crashed
        # Whoever had time for last words lost no node, though it may not be reached just after.
        lost = death.lost if death and not words else "worker"
        may_restart = not hung and self.deaths[job.spec.trial, lost] < MORE.get(lost, self.restarts)
        if None in rows.values() and may_restart:
            self.deaths[job.spec.trial, lost] += 1
            if words:  # They are not those of the next attempt.
                self.store.last_words_file(job.spec.trial).unlink(missing_ok=True)
            self.again.append(job)
            return
        reason = death.line if death else "ended without a row"
        if crashed:
            signal = words.partition("\n")[0].removeprefix(CRASH)
            reason = f"worker died: {signal}; {LAST_WORDS} says where"
        if hung:
            reason = f"took more than resources.trial_hours={self.hours:g}; {LAST_WORDS} says where"
        assert self.stage is not None
        new = [spec for spec in job.specs if spec.trial not in self.rows]
        if job.mixed:
            self.again.extend(Job(spec) for spec in new if rows[spec.trial] is None)
            new = [spec for spec in new if rows[spec.trial] is not None]
        ended = [rows[spec.trial] or self._failed(spec, job.name, reason) for spec in new]
        self.progress.took(job, ended)
        for row in ended:
            self._end(row)
        if self.waiting is None and not self.stage.remaining:
            self._advance()

    def _failed(self, spec: TrialSpec, name: str | None, reason: str) -> TrialRow:
        outcome = Outcome(members=spec.members, status="failed", reason=reason)
        row = new_row(spec, self.fingerprint, name, outcome)
        self.store.commit(row)
        return row

    def _end(self, row: TrialRow) -> None:
        self.rows[row.trial] = row
        assert self.stage is not None
        self.stage.end(row)
        self.progress.ended(row)
        self.ended += 1
        if row.status == "failed":
            self.reasons[row.reason] += 1
        failed = self.reasons.total()
        if self.ended >= FEW and failed > self.most_failed * self.ended:
            raise StudyError(
                f"{failed} of {self.ended} trials of this run failed, more than "
                f"resources.failed_share={self.most_failed:g} (most often: "
                f"{self.reasons.most_common(1)[0][0]}); fix that and give the same command again"
            )

    def _advance(self) -> None:
        """Go to the first stage that has something to run."""
        self.progress.close()
        for stage in self.stages:
            self.stage = stage
            self.waiting = stage.next()
            self.progress.enter(stage, self.waiting)
            if self.waiting is not None:
                return
        self.stage = None
