"""Ray: starts the runtime and lets Tune run what the agenda says, on as many slots as fit.

Tune's own state is never restored: what is complete is what is committed, so each start makes a
new Tuner for what is missing.
"""

import faulthandler
import logging
import os
import secrets
import shutil
import signal
import socket
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

QUIET = {
    "RAY_AIR_NEW_OUTPUT": "0",
    "RAY_USAGE_STATS_ENABLED": "0",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_DISABLE_SIGINT_HANDLER": "1",
    "TUNE_MAX_PENDING_TRIALS_PG": "1000000",  # AgendaSearcher.most is the limit.
    "TUNE_DISABLE_STRICT_METRIC_CHECKING": "1",
    "TUNE_WARN_EXCESSIVE_EXPERIMENT_CHECKPOINT_SYNC_THRESHOLD_S": "0",
}
FULL = 1e6
"""Bytes of free space below which a disk counts as full."""
JOIN = 90.0
"""Seconds in which a cluster must let this process join."""
LAST_WORD = 60.0
"""Seconds after which a worker that cannot say where it hangs is ended all the same."""
LOOK_EVERY, GRACE = 2.0, 10.0
"""Seconds between looks at Ray's processes, and for Ray to notice by itself that one has died."""
LOST = "node has died"
"""What Ray says of a worker that was lost with its node."""
NAP, LONGEST_NAP = 0.1, 5.0
"""Seconds that a worker without work sleeps as a trial of its own, longer from nap to nap. Tune
ends a worker for which no trial waits, and with short trials never completes the start of another:
the slot would be lost."""

os.environ.update(QUIET)  # Ray reads these when it is imported.

import optuna  # noqa: E402
import ray  # noqa: E402
from ray import tune  # noqa: E402
from ray.tune import Callback  # noqa: E402
from ray.tune.search import Searcher  # noqa: E402

from study.agenda import Agenda  # noqa: E402
from study.allocator import keep_freed_memory  # noqa: E402
from study.datasets import Dataset  # noqa: E402
from study.disk import free_space  # noqa: E402
from study.loggers import callbacks, figures  # noqa: E402
from study.nodes import Nodes  # noqa: E402
from study.place import ObjectPlace, Place  # noqa: E402
from study.progress import Progress  # noqa: E402
from study.runtime import Runtime  # noqa: E402
from study.schema import StudyError  # noqa: E402
from study.search import Job  # noqa: E402
from study.space import Study  # noqa: E402
from study.spec import Execution, TrialSpec  # noqa: E402
from study.stages import Rows, Together  # noqa: E402
from study.store import Store  # noqa: E402
from study.trial import replicates_as_one  # noqa: E402


def schedule(
    study: Study, store: Store, rows: Rows, data: Dataset, fingerprint: str, runtime: Runtime
) -> bool:
    """Run every missing trial under Ray Tune; return whether the study is complete."""
    verbose = runtime.verbose
    if not verbose:
        optuna.logging.set_verbosity(optuna.logging.WARNING)
    together = _together(study.execution.most, data)
    agenda = Agenda(study, store, rows, fingerprint, Progress(), together)
    if agenda.finished:
        print("nothing is missing")
        return True
    nodes: Nodes | None = None
    storage_path = ""
    try:
        start_ray(runtime.address, verbose)
        nodes = Nodes(study, store, joined=runtime.address is not None)
        nodes.require(runtime.unchecked)
        nodes.pack(data)
        trainable = tune.with_resources(
            tune.with_parameters(_trainable, data=data),
            {"cpu": nodes.cpus, "gpu": nodes.gpus},
        )
        searcher = AgendaSearcher(agenda, nodes)
        # Tune's state is not needed again; an object store would only make it slow.
        storage_path = tempfile.mkdtemp(prefix="tune-") if store.remote else str(store.ray)
        tuner = tune.Tuner(
            trainable,
            param_space={
                "out": str(store.root),
                "fingerprint": fingerprint,
                "hours": study.resources.trial_hours,
                "execution": study.execution.model_dump(),
            },
            tune_config=tune.TuneConfig(
                search_alg=searcher,
                num_samples=-1,
                reuse_actors=True,
            ),
            run_config=tune.RunConfig(
                name="tune",
                storage_path=storage_path,
                verbose=1 if verbose else 0,
                callbacks=[
                    Watching(searcher),
                    *callbacks(runtime.log, study.name, store, verbose),
                ],
            ),
        )
        try:
            with ending_with_ray(store, agenda):
                tuner.fit()
        except Exception as error:
            searcher.error = searcher.error or error
        if (why := searcher.error) is not None:
            told = isinstance(why, StudyError | OSError)
            raise why if told else _stopped(store, why) from (why if verbose else None)
        return agenda.finished
    except KeyboardInterrupt:
        return False
    finally:
        agenda.close()
        agenda.progress.summary()
        if nodes is not None:
            nodes.forget()
        ray.shutdown()
        if store.remote and storage_path:
            shutil.rmtree(storage_path, ignore_errors=True)


def _together(most: int | None, data: Dataset) -> Together:
    """Return how many replicates of a trial's configuration a worker gets at a time."""
    known: dict[str, int] = {}

    def together(spec: TrialSpec) -> int:
        if spec.configuration not in known:
            try:
                size = replicates_as_one(spec, data.shape, data.classes, most)
            except Exception:  # It will fail in its trial, where the reason is noted.
                size = 1
            known[spec.configuration] = size
        return known[spec.configuration]

    return together


def _stopped(store: Store, error: Exception) -> StudyError:
    """Say in one line why Tune gave up."""
    free = free_space(store)
    why = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
    if free < FULL:
        why = f"only {free / 1e6:.1f} MB are free there"
    return StudyError(
        f"--out {store.root}: the run stopped, since {why}; mend that (-v shows more) and give the "
        "same command again: nothing that was finished is lost"
    )


def start_ray(address: str | None, verbose: bool) -> None:
    """Start or join a Ray runtime, silently unless ``verbose``.

    Even a local one listens to the network. Ray lets in only who knows the token, which it would
    keep in the user's home; a local runtime has one of its own.
    """
    if address is None and "RAY_AUTH_TOKEN_PATH" not in os.environ:
        os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))
    if not verbose:
        for name in ("ray", "ray.tune", "ray.data"):
            logging.getLogger(name).setLevel(logging.CRITICAL)
    if address is not None:
        _reach(address)
    try:
        with _answering(address):
            ray.init(
                address=address or "local",
                include_dashboard=None if address else False,
                log_to_driver=verbose,
                logging_level=logging.INFO if verbose else logging.CRITICAL,
            )
    except Exception as error:
        why = f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
        if address is not None:
            raise StudyError(_not_joined(address, why)) from (error if verbose else None)
        raise StudyError(
            f"Ray could not be started ({why}); give the same command again (-v shows more)"
        ) from (error if verbose else None)
    if not verbose:
        logging.getLogger("ray").setLevel(logging.CRITICAL)
    if threading.current_thread() is threading.main_thread():
        # Ray's own handler prints a trace; a cluster ends its jobs so.
        signal.signal(signal.SIGTERM, signal.default_int_handler)


def _reach(address: str) -> None:
    """Refuse an address at which no machine answers: Ray would try for minutes."""
    host, separator, port = address.rpartition(":")
    if not separator or not port.isdecimal():
        return
    try:
        socket.create_connection((host, int(port)), timeout=10).close()
    except OSError as error:
        raise StudyError(
            f"--address {address}: a cluster must answer there, but {error.strerror or error}; "
            "start it (ray up clusters/gpu.yaml), or mend the address"
        ) from None


@contextmanager
def _answering(address: str | None) -> Iterator[None]:
    """End the process when a cluster takes connections, but does not let it join."""

    def end() -> None:
        print(
            f"error: --address {address}: the cluster did not let this machine join in "
            f"{JOIN:.0f} s; give the command on its head (ray exec clusters/gpu.yaml '...'), or "
            "with --address http://HEAD:8265",
            file=sys.stderr,
            flush=True,
        )
        os._exit(2)

    timer = threading.Timer(JOIN, end)
    timer.daemon = True
    if address is not None:
        timer.start()
    try:
        yield
    finally:
        timer.cancel()


def _not_joined(address: str, why: str) -> str:
    """Say in one line why a cluster could not be joined, and what to do."""
    remedy = (
        "put the cluster's token into ~/.ray/auth_token here, and give the command on one of its "
        "nodes, or with --address http://HEAD:8265"
    )
    if "ersion mismatch" in why:
        remedy = "use the cluster's versions of Ray and Python (clusters/constraints.txt)"
    elif address == "auto" and "ConnectionError" in why:
        remedy = "start a cluster first (ray up clusters/gpu.yaml)"
    return f"--address {address}: the cluster must let this process join, but {why}; {remedy}"


def _trainable(config: dict[str, Any], data: Dataset) -> None:
    """Run a job in a worker; without specs, only pass the time."""
    if config["specs"] is None:
        time.sleep(config["nap"])
        tune.report({"status": "nap"})
        return
    import torch

    from study.trial import run_trials

    keep_freed_memory()
    torch.set_num_threads(max(1, int(os.environ.get("OMP_NUM_THREADS", "1"))))
    specs = [TrialSpec.model_validate_json(spec) for spec in config["specs"]]
    store = Store(config["out"])
    with ending_hangs(store.hang(specs[0].trial), 3600 * config["hours"] * len(specs)):
        rows = run_trials(
            specs,
            data,
            store,
            fingerprint=config["fingerprint"],
            name=config["name"],
            execution=Execution(**config["execution"]),
        )
    tune.report({"status": "ended"} | figures(rows))


def _why(trial: Any) -> str:
    """Return what Tune wrote on why a trial failed."""
    try:
        return Path(trial.error_file).read_text()
    except (OSError, TypeError):
        return ""


@contextmanager
def ending_with_ray(store: Store, agenda: Agenda) -> Iterator[None]:
    """End this process when one that Ray started here dies: Ray itself would wait for ever."""
    done = threading.Event()

    def watch() -> None:
        while not done.wait(LOOK_EVERY):
            node = ray._private.worker.global_worker.node
            dead = node.dead_processes() if node is not None else []
            if dead and not done.wait(GRACE):
                agenda.close()
                names = ", ".join(sorted({kind for kind, _ in dead}))
                print(
                    f"error: --out {store.root}: Ray's {names} died; give the same command again: "
                    "nothing that was finished is lost",
                    file=sys.stderr,
                    flush=True,
                )
                os._exit(2)

    threading.Thread(target=watch, daemon=True).start()
    try:
        yield
    finally:
        done.set()


@contextmanager
def ending_hangs(file: Place, seconds: float) -> Iterator[None]:
    """End the process when the block takes longer, and write to ``file`` where it was.

    Where that is in an object store, a process that is stuck outside Python leaves no word.
    """
    if isinstance(file, ObjectPlace):
        with tempfile.TemporaryFile("w+") as own:
            last_word = threading.Timer(seconds, _leave_word, (file, own))
            last_word.daemon = True
            last_word.start()
            try:
                with _ending(own, seconds + LAST_WORD):
                    yield
            finally:
                last_word.cancel()
        return
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("w") as stream, _ending(stream, seconds):
        yield
    file.unlink()


@contextmanager
def _ending(stream: IO[str], seconds: float) -> Iterator[None]:
    # Of C, so that it works where Python itself is stuck.
    faulthandler.dump_traceback_later(seconds, exit=True, file=stream)
    try:
        yield
    finally:
        faulthandler.cancel_dump_traceback_later()


def _leave_word(file: ObjectPlace, stream: IO[str]) -> None:
    faulthandler.dump_traceback(stream)
    stream.seek(0)
    try:
        file.write_text(stream.read())
    finally:
        os._exit(1)


class Watching(Callback):  # type: ignore[misc]
    """Looks at what is under way, also while no trial ends."""

    def __init__(self, searcher: "AgendaSearcher") -> None:
        self.searcher = searcher

    def on_trial_start(self, iteration: int, trials: Any, trial: Any, **info: Any) -> None:
        """Keep the trial, which will know why it failed."""
        self.searcher.started[trial.trial_id] = trial

    def on_step_end(self, iteration: int, trials: Any, **info: Any) -> None:
        """Show the live table, and look at nodes that have joined, where it is due."""
        self.searcher.agenda.progress.show()
        self.searcher.look()

    def __getstate__(self) -> dict[str, Any]:
        """Leave out what Tune's own snapshot cannot and need not hold."""
        return {}


class AgendaSearcher(Searcher):  # type: ignore[misc]
    """Hands on between Tune and the agenda; has no state of its own to save.

    Attributes:
        error: What went wrong in the agenda; nothing more is handed out then.
        live: What has been handed out and has not ended, naps too.
        started: Of these, Tune's trials of those that have begun.
    """

    def __init__(self, agenda: Agenda, nodes: Nodes) -> None:
        super().__init__()
        self.agenda, self.nodes = agenda, nodes
        self.jobs: dict[str, Job] = {}
        self.live: set[str] = set()
        self.started: dict[str, Any] = {}
        self.error: Exception | None = None
        self.nap = NAP
        agenda.progress.slots = nodes.slots

    @property
    def most(self) -> int:
        """How many may be live: more than fit, as a worker is kept warm only by one that waits."""
        return self.agenda.concurrency or 2 * self.nodes.slots

    def look(self) -> None:
        """Take notice of nodes that have come or gone."""
        try:
            lines = self.nodes.renew()
        except Exception as error:
            self.error = self.error or error
            return
        self.agenda.progress.slots = self.nodes.slots
        if lines:
            self.error = self.error or StudyError(lines[0])

    def suggest(self, trial_id: str) -> Any:
        """Return a trial's configuration, a nap's while others must end first, or FINISHED.

        None while as many are live as may be.
        """
        if self.error is None and len(self.live) >= self.most:
            return None
        job = None
        if self.error is None:
            try:
                job = self.agenda.next()
            except Exception as error:  # Tune would log it and go on.
                self.error = error
        if self.error is not None:
            return Searcher.FINISHED
        if job is None:
            self.nap = min(LONGEST_NAP, 1.5 * self.nap)
            if self.agenda.finished:
                return Searcher.FINISHED
            self.live.add(trial_id)
            return {"specs": None, "name": None, "nap": self.nap}
        self.nap = NAP
        self.live.add(trial_id)
        self.jobs[trial_id] = job
        return {"specs": [spec.to_json() for spec in job.specs], "name": job.name, "nap": None}

    def on_trial_complete(self, trial_id: str, result: Any = None, error: bool = False) -> None:
        """Pass on that a trial has ended, or that its worker, or its node, was lost."""
        self.live.discard(trial_id)
        trial = self.started.pop(trial_id, None)
        if trial_id in self.jobs and self.error is None:
            lost = error and trial is not None and LOST in _why(trial)
            try:
                self.agenda.end(self.jobs.pop(trial_id), error, lost)
            except Exception as failure:  # Tune would log it and go on.
                self.error = failure

    def save(self, checkpoint_path: str) -> None:
        """Write nothing that matters: the committed rows are the state."""
        Path(checkpoint_path).touch()

    def restore(self, checkpoint_path: str) -> None:
        """Never used: each start makes a new Tuner."""

    def __getstate__(self) -> dict[str, Any]:
        """Leave out what Tune's own snapshot cannot and need not hold."""
        return {}
