"""What a trial costs where trials and slots are many: ``python -m benchmarks.cluster_scale``.

Measures the parts of a study apart, on made-up results, and prints a row for each size. Seconds are
of this process's CPU, which a busy machine alters little, unless a heading says wall.

* ``sampler``: a proposal after so many trials of one method.
* ``job_queue``: handing out and taking one of so many trials on 1,000 slots, at random points.
* ``storage``: Optuna's, the journal or the one at ``--url``.
* ``folder``: the run folder, as workers write it, and as each start and the report read it.
* ``tune``: Ray Tune and so many sleeping trials on ``--slots``.
* ``slots``: how busy 1,000 slots are, reckoned, when a generation has so many trials.
"""

import argparse
import heapq
import logging
import os
import random
import secrets
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast
from unittest.mock import patch

import optuna

from benchmarks.long_run import _resident
from study.cluster import runtime  # noqa: F401  (keeps Ray quiet)
from study.cluster.job_queue import JobQueue
from study.cluster.nodes import Nodes
from study.cluster.tune_searcher import JobQueueSearcher, OldestWithoutWorker
from study.jobs import Job, Rows
from study.parquet_format import Outcome, TrialRow
from study.progress.table import Progress
from study.run_folder.integrity import examine
from study.run_folder.store import RunFolder
from study.search import method_search, points
from study.search.method_search import OBJECTIVES, MethodSearch
from study.search.storage import open_storage
from study.space.load import load_study
from study.space.settings import Study
from study.spec import TrialSpec
from study.stages.sequence import stages
from study.trials.new_row import new_row

SPACES = Path(__file__).parents[1] / "search_spaces"
SLOTS = 1000
TPE = method_search.sampler
Cells = dict[str, float]


def took(work: Callable[[], object], per: int = 1, wall: bool = False) -> float:
    """Do it; return CPU or wall seconds per item."""
    clock = time.perf_counter if wall else time.process_time
    start = clock()
    work()
    return (clock() - start) / per


def of_size(name: str, trials: int, generation: int = 15) -> Study:
    """Return a study with so many trials of each method."""
    study = load_study([SPACES / f"{name}.yaml"])
    budget = {"trials": trials, "generation": generation}
    return study.model_copy(update={"budget": study.budget.model_copy(update=budget)})


def at_random(seed: int) -> optuna.samplers.BaseSampler:
    """Return a sampler that costs next to nothing."""
    return optuna.samplers.RandomSampler(seed=seed % 2**32)


def result(spec: TrialSpec, rng: random.Random) -> TrialRow:
    """Return a made-up row."""
    values = {name: rng.random() for name in OBJECTIVES}
    outcome = Outcome(members=spec.members, seconds=1.0, train_seconds=0.9, **values)
    return new_row(spec, "data", None, outcome)


def asked(study: Study, method: str, trials: int) -> optuna.Study:
    """Return running trials at random points of a method's space."""
    made = optuna.create_study(directions=list(OBJECTIVES.values()), sampler=at_random(0))
    for _ in range(trials):
        points.suggest(made.ask(), study.space(method))
    return made


def sampler(size: int, options: argparse.Namespace) -> Cells:
    """Propose three times after ``size`` trials of one method."""
    study, rng = of_size("be", 60), random.Random(0)
    made = asked(study, options.method, size)
    for number in range(size):
        made.tell(number, [rng.random() for _ in OBJECTIVES])
    draft = optuna.create_study(directions=list(OBJECTIVES.values()))
    copied = took(lambda: draft.add_trials(made.get_trials(deepcopy=False)))

    def propose() -> None:
        for seed in range(3):
            draft.sampler = TPE(seed)
            points.suggest(draft.ask(), study.space(options.method))

    return {"copy, s": copied, "a proposal, s": took(propose, 3)}


class Kept(RunFolder):
    """A store whose rows are in memory."""

    def __init__(self, root: str) -> None:
        super().__init__(root)
        self.create()
        self.kept: dict[str, TrialRow] = {}

    def row(self, trial: str) -> TrialRow | None:
        """Return the row that was put there."""
        return self.kept.get(trial)


def job_queue(size: int, options: argparse.Namespace) -> Cells:
    """Hand out and take trials of three methods; twice as many as slots are out at a time."""
    random_points = patch.object(method_search, "sampler", at_random)
    with random_points, tempfile.TemporaryDirectory() as folder:
        store, rng, progress = Kept(folder), random.Random(0), Progress()
        progress.slots, progress.console.quiet = SLOTS, True
        study = of_size("smoke", size // 3, SLOTS)

        def queue(rows: Rows) -> JobQueue:
            return JobQueue(study, store, rows, "data", progress, stages(study, store, rows))

        plan = queue({})
        out: list[Job] = []
        spent, counted = [0.0, 0.0], size // 4
        for done in range(size - 2 * SLOTS):
            start = time.process_time()
            while len(out) < 2 * SLOTS and (job := plan.next()) is not None:
                out.append(job)
            handed = time.process_time()
            job = out.pop(rng.randrange(len(out)))
            store.kept[job.spec.trial] = result(job.spec, rng)
            made = time.process_time()
            plan.end(job)
            if done >= size - 2 * SLOTS - counted:
                spent[0] += handed - start
                spent[1] += time.process_time() - made
        left = took(progress.seconds_left)
        begin = took(lambda: queue(store.kept))
        each = [1e3 * seconds / counted for seconds in spent]
        return {"next, ms": each[0], "end, ms": each[1], "time left, s": left, "start, s": begin}


def storage(size: int, options: argparse.Namespace) -> Cells:
    """Write ``size`` proposals of a method and their results, and read them in a new storage."""
    study = of_size("be", 60)
    trials = asked(study, options.method, size).get_trials(deepcopy=False)
    with tempfile.TemporaryDirectory() as folder:

        def there() -> optuna.storages.BaseStorage:
            if options.url is None:
                return open_storage(study, RunFolder(folder))
            return optuna.storages.RDBStorage(options.url.replace("FOLDER", folder))

        name, directions = f"{size}-{time.time()}", list(OBJECTIVES.values())
        made = optuna.create_study(study_name=name, storage=there(), directions=directions)
        add = took(lambda: made.add_trials(trials), size, wall=True)
        tell = took(lambda: [made.tell(n, [0.0] * 3) for n in range(size)], size, wall=True)
        made.get_trials(deepcopy=False)
        again = took(lambda: made.get_trials(deepcopy=False), wall=True)
        first = took(
            lambda: optuna.load_study(study_name=name, storage=there()).get_trials(deepcopy=False),
            wall=True,
        )
    return {
        "a proposal, wall ms": 1e3 * add,
        "a result, wall ms": 1e3 * tell,
        "all trials again, wall s": again,
        "at a start, wall s": first,
    }


def folder(size: int, options: argparse.Namespace) -> Cells:
    """Commit trials with a file of predictions each, and read them."""
    from analysis.data.run import load

    rng, content = random.Random(0), os.urandom(1000 * options.kilobytes)
    spec = MethodSearch(of_size("be", 60), of_size("be", 60).spaces[0], _memory()).next()
    assert spec is not None
    with tempfile.TemporaryDirectory() as root:
        store = RunFolder(root)
        store.create()

        def commit() -> None:
            for seed in range(size):
                own = spec.spec.model_copy(update={"seed": seed})
                store.folder(own.trial).mkdir()
                (store.folder(own.trial) / "val.parquet").write_bytes(content)
                store.commit(result(own, rng))

        return {
            "commit, wall ms": 1e3 * took(commit, size, wall=True),
            "committed, s": took(store.committed),
            "rows, s": took(store.rows),
            "examine, s": took(lambda: examine(store)),
            "analysis.data.run, s": took(lambda: load(root)),
        }


def _memory() -> optuna.storages.BaseStorage:
    return optuna.storages.InMemoryStorage()


class Sleeping:
    """A job queue of trials that take no work; notes the driver's CPU seconds and memory."""

    def __init__(self, job: Job, trials: int, most: int | None) -> None:
        self.job, self.left, self.concurrency = job, trials, most
        self.progress = SimpleNamespace(slots=0)
        self.marks: list[tuple[float, float]] = []

    @property
    def finished(self) -> bool:
        """Whether none is left."""
        return self.left <= 0

    def next(self) -> Job | None:
        """Return a job, None at the end."""
        self.left -= 1
        return self.job if self.left >= 0 else None

    def end(self, job: Job, died: bool, lost: bool) -> None:
        """Note what it took so far."""
        self.marks.append((time.process_time(), _resident(os.getpid())))


def tune(size: int, options: argparse.Namespace) -> Cells:
    """Let Tune run trials that sleep, ``--rate`` of them a second, as the scheduler does."""
    import ray
    from ray import tune as tuning

    job = MethodSearch(of_size("be", 60), of_size("be", 60).spaces[0], _memory()).next()
    assert job is not None
    sleeping, slots = Sleeping(job, size, options.out), options.slots
    os.environ["RAY_AUTH_TOKEN"] = secrets.token_hex(32)
    logging.getLogger("ray.tune").setLevel(logging.CRITICAL)
    ray.init("local", num_cpus=slots, include_dashboard=False, log_to_driver=False)
    with tempfile.TemporaryDirectory() as root:
        nodes = SimpleNamespace(slots=slots, present=slots, grows=False)
        searcher = JobQueueSearcher(cast(JobQueue, sleeping), cast(Nodes, nodes))
        tuning.Tuner(
            tuning.with_resources(_sleep, {"cpu": 1}),
            param_space={"seconds": slots / options.rate},
            tune_config=tuning.TuneConfig(
                search_alg=searcher,
                scheduler=OldestWithoutWorker(searcher),
                num_samples=-1,
                reuse_actors=True,
            ),
            run_config=tuning.RunConfig(name="tune", storage_path=root, verbose=0),
        ).fit()
        snapshot = max(file.stat().st_size for file in Path(root).rglob("experiment_state*"))
    ray.shutdown()
    (cpu, memory), (end, most) = sleeping.marks[size // 2], sleeping.marks[-1]
    count = size - 1 - size // 2
    return {
        "driver, ms": 1e3 * (end - cpu) / count,
        "memory, kB": 1e3 * (most - memory) / count,
        "snapshot, kB": snapshot / 1e3 / size,
    }


def _sleep(config: dict[str, Any]) -> None:
    from ray import tune as tuning

    time.sleep(config["seconds"])
    tuning.report({"status": "ended"})


def slots(size: int, options: argparse.Namespace) -> Cells:
    """Reckon the share of busy slots with generations of ``size`` trials, 20,000 of each method.

    A trial's length is log-normal, its logarithm's standard deviation 0.5; proposing takes no time.
    """
    found = {}
    for methods in (1, 4, 10):
        rng = random.Random(0)
        asked, open_, queue = [0] * methods, [0] * methods, [0] * methods
        ends: list[tuple[float, int]] = []
        now = busy = 0.0
        turn = list(range(methods))
        while True:
            for method in list(turn):
                if not open_[method] and asked[method] < 20_000:
                    queue[method] = open_[method] = min(size, 20_000 - asked[method])
                    asked[method] += size
            while len(ends) < SLOTS and (ready := [m for m in turn if queue[m]]):
                method = ready[0]
                turn.remove(method)
                turn.append(method)
                queue[method] -= 1
                length = rng.lognormvariate(0, 0.5)
                busy += length
                heapq.heappush(ends, (now + length, method))
            if not ends:
                break
            now, method = heapq.heappop(ends)
            open_[method] -= 1
        found[f"{methods} methods"] = busy / (SLOTS * now)
    return found


PARTS: dict[str, Callable[[int, argparse.Namespace], Cells]] = {
    "sampler": sampler,
    "job_queue": job_queue,
    "storage": storage,
    "folder": folder,
    "tune": tune,
    "slots": slots,
}
SIZES = {"job_queue": (10_000, 30_000), "tune": (500,), "slots": (15, 250, 1000, 2000, 5000)}


def main(argv: list[str] | None = None) -> int:
    """Print a table of each part."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.cluster_scale", description=__doc__)
    add = parser.add_argument
    add("--part", action="append", choices=PARTS, help="may be repeated (default: all)")
    add("--sizes", type=int, nargs="+", help="(default: 1000 3000 10000, or what suits the part)")
    add("--method", default="batch_ensemble", help="of be.yaml: batch_ensemble, mc_dropout, single")
    add("--url", help="of Optuna's storage, such as sqlite:///FOLDER/db (default: the journal)")
    add("--kilobytes", type=int, default=100, help="a trial's predictions")
    add("--slots", type=int, default=8, help="of Tune")
    add("--out", type=int, help="trials that Tune holds at a time (default: twice the slots)")
    add("--rate", type=float, default=20.0, help="trials a second that all slots sleep through")
    options = parser.parse_args(argv)
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    for part in options.part or PARTS:
        print(f"\n{part}", flush=True)
        for number, size in enumerate(options.sizes or SIZES.get(part, (1000, 3000, 10_000))):
            cells = PARTS[part](size, options)
            if not number:
                print(f"| size | {' | '.join(cells)} |\n|{' --- |' * (1 + len(cells))}")
            print(f"| {size} | {' | '.join(f'{v:.3g}' for v in cells.values())} |", flush=True)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
