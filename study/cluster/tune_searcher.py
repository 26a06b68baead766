"""Between Tune, which has the workers, and the job queue, which has the jobs."""

import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from ray import cloudpickle
from ray.exceptions import ActorUnavailableError, RayActorError, RayTaskError
from ray.tune import Callback
from ray.tune.schedulers import FIFOScheduler
from ray.tune.search import Searcher

from study.cluster.job_queue import JobQueue, WorkerDeath
from study.cluster.nodes import NOTICE_LOSS, Nodes
from study.cluster.out_of_memory import KilledForMemoryError
from study.errors import StudyError
from study.jobs import Job

NAP, LONGEST_NAP, MOST_NAPS = 0.1, 5.0, 20.0
"""Seconds that a worker without work sleeps as a trial of its own, longer from nap to nap, and how
many of these may end in a second. Tune ends a worker for which no trial waits."""


DETAIL: Final = "Worker exit detail: "
"""What precedes, in Ray's account of a death, the words that say something."""
ADVICE: Final = " Some common causes include"
"""What follows them."""
KILLED: Final = "End of file."
"""What ends them where the process was killed from outside."""
FOR_MEMORY: Final = " It may have been killed for want of memory."
NODE_DIED: Final = "its node has died"
LONGEST: Final = 200
"""Letters of a reason."""


def worker_death(error: Exception | None) -> WorkerDeath:
    """Return what is to be known of a worker's death from the error that Ray raised for it."""
    if isinstance(error, ActorUnavailableError):
        return WorkerDeath("it could not be reached", lost="link")
    words = str(error or "").strip()
    if isinstance(error, RayTaskError):
        first = str(error.cause).strip().partition("\n")[0]
        return WorkerDeath(f"{type(error.cause).__name__}: {first}"[:LONGEST], raised=True)
    if not isinstance(error, RayActorError) or error.actor_init_failed:
        return WorkerDeath(words.rpartition("\n")[2][:LONGEST])  # The last line of a traceback.
    if isinstance(error, KilledForMemoryError):
        return WorkerDeath(words)
    if NODE_DIED in words:
        return WorkerDeath(NODE_DIED, lost="node")
    why = " ".join(words.partition(DETAIL)[2].partition(ADVICE)[0].split())[:LONGEST]
    return WorkerDeath(why + FOR_MEMORY * why.endswith(KILLED))


def _error(trial: Any) -> Exception | None:
    """Return the error that Tune has just written down; it passes on only that there is one."""
    try:
        return cloudpickle.loads(Path(trial.pickled_error_file).read_bytes())
    except Exception:  # No reason for a study to end.
        return None


class Stateless:
    """What Tune's own snapshot cannot and need not hold."""

    def __getstate__(self) -> dict[str, Any]:
        return {}


# Ray has no types: to mypy its classes are any.
class JobQueueSearcher(Stateless, Searcher):  # type: ignore[misc]
    """Hands on between Tune and the job queue; has no state of its own to save.

    Attributes:
        error: What went wrong in the job queue; nothing more is handed out then.
        live: What has been handed out and has not ended, naps too.
        started: Of these, those that have begun, and the node that each runs on.
        deaths: Of workers, by trial; noted before Tune reports that the trial has ended.
        doubtful: When, where and how a worker died, maybe with its node, and of which job.
    """

    def __init__(self, job_queue: JobQueue, nodes: Nodes) -> None:
        super().__init__()
        self.job_queue, self.nodes = job_queue, nodes
        self.jobs: dict[str, Job] = {}
        self.live: set[str] = set()
        self.started: dict[str, str | None] = {}
        self.deaths: dict[str, WorkerDeath] = {}
        self.doubtful: list[tuple[float, str, Job, WorkerDeath]] = []
        self.error: Exception | None = None
        self.nap = NAP
        job_queue.progress.slots = max(1, nodes.present)

    @property
    def most(self) -> int:
        """How many may be live: more than fit, as a worker is kept warm only by one that waits."""
        return self.job_queue.concurrency or 2 * self.nodes.slots

    def look(self) -> None:
        """Take notice of nodes that have come or gone."""
        try:
            lines = self.nodes.renew()
        except Exception as error:
            self.error = self.error or error
            return
        self.job_queue.progress.slots = max(1, self.nodes.present)
        for line in lines[:-1]:
            print(f"error: {line}", file=sys.stderr)
        if lines:
            self.error = self.error or StudyError(lines[-1])
        self._decide()

    def _decide(self) -> None:
        """Hand the jobs back whose workers were lost with their nodes, or a while ago."""
        doubtful, self.doubtful = self.doubtful, []
        for at, node, job, death in doubtful:
            lost = node not in self.nodes.alive
            if lost or time.monotonic() - at >= NOTICE_LOSS:
                self._end(job, replace(death, lost="node") if lost else death)
            else:
                self.doubtful.append((at, node, job, death))

    def _end(self, job: Job, death: WorkerDeath | None) -> None:
        if self.error is None:
            try:
                self.job_queue.end(job, death)
            except Exception as failure:  # Tune would log it and go on.
                self.error = failure

    def suggest(self, trial_id: str) -> Any:
        """Return a trial's configuration, a nap's while others must end first, or FINISHED.

        None while as many are live as may be.
        """
        if self.error is not None:
            return Searcher.FINISHED
        if len(self.live) >= self.most:
            return None
        try:
            job = self.job_queue.next()
        except Exception as error:  # Tune would log it and go on.
            self.error = error
            return Searcher.FINISHED
        if job is None and self.job_queue.finished:
            return Searcher.FINISHED
        if job is None and self.nodes.grows:
            return None  # A nap would hold a machine that may go.
        if job is None:
            self.nap = min(max(LONGEST_NAP, self.nodes.slots / MOST_NAPS), 1.5 * self.nap)
            self.live.add(trial_id)
            return {"specs": None, "name": None, "nap": self.nap}
        self.nap = NAP
        self.live.add(trial_id)
        self.jobs[trial_id] = job
        return {"specs": [spec.to_json() for spec in job.specs], "name": job.name, "nap": None}

    def on_trial_complete(self, trial_id: str, result: Any = None, error: bool = False) -> None:
        """Pass on that a trial has ended, or that its worker, or its node, was lost."""
        self.live.discard(trial_id)
        node = self.started.pop(trial_id, None)
        job = self.jobs.pop(trial_id, None)
        death = self.deaths.pop(trial_id, WorkerDeath()) if error else None
        if job is None:
            return
        if death is None or death.raised:
            self._end(job, death)
        elif not self.nodes.joined:  # On this machine alone there is no link to fail.
            why = "it ended without a word" if death.lost == "link" else death.why
            self._end(job, WorkerDeath(why))
        elif node and death.lost != "node":
            self.doubtful.append((time.monotonic(), node, job, death))
        else:
            self._end(job, death)

    def save(self, checkpoint_path: str) -> None:
        """Write nothing that matters: the committed rows are the state."""
        Path(checkpoint_path).touch()

    def restore(self, checkpoint_path: str) -> None:
        """Never used: each start makes a new Tuner."""


class Watching(Stateless, Callback):  # type: ignore[misc]
    """Looks at what is under way, also while no trial ends."""

    def __init__(self, searcher: "JobQueueSearcher") -> None:
        self.searcher = searcher

    def on_trial_start(self, iteration: int, trials: Any, trial: Any, **info: Any) -> None:
        """Note where the trial runs."""
        searcher = self.searcher
        searcher.started[trial.trial_id] = searcher.nodes.node_of(trial.temporary_state.ray_actor)

    def on_step_end(self, iteration: int, trials: Any, **info: Any) -> None:
        """Show the live table, and look at nodes that have joined, where it is due."""
        self.searcher.job_queue.progress.show()
        self.searcher.look()


class OldestWithoutWorker(Stateless, FIFOScheduler):  # type: ignore[misc]
    """Gives a free worker to the trial that has waited longest and whose own is not being started.

    Tune would give it to the one that has waited longest of all, for which a worker is just being
    started, and end that: where trials are shorter than the start of a worker, a node that joins
    would never get one. Which are being started is not known, but workers are started in order, on
    slots where no trial runs.
    """

    def __init__(self, searcher: JobQueueSearcher) -> None:
        super().__init__()
        self.searcher = searcher

    def on_trial_error(self, tune_controller: Any, trial: Any) -> None:
        """Note why the trial's worker died; the searcher is told next, but only that it did."""
        self.searcher.deaths[trial.trial_id] = worker_death(_error(trial))

    def choose_trial_to_run(self, tune_controller: Any) -> Any:
        """Return a pending trial; only those that are live are looked through."""
        waiting = len(self.searcher.live) - len(self.searcher.started)
        pending: list[Any] = []
        for trial in reversed(tune_controller.get_trials()):
            if len(pending) >= waiting:
                break
            if trial.status == trial.PENDING:
                pending.append(trial)
        # One slot is that of the free worker itself.
        starting = self.searcher.nodes.present - len(self.searcher.started) - 1
        oldest = pending[::-1]
        return next(iter(oldest[max(0, starting) :] or oldest[-1:]), None)
