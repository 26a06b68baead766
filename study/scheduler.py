"""Ray: starts the runtime and lets Tune run what the agenda says, on as many slots as fit.

Tune's own state is never restored: what is complete is what is committed, so each start makes a
new Tuner for what is missing.
"""

import faulthandler
import logging
import math
import os
import secrets
import shutil
import sys
import threading
import time
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

QUIET = {
    "RAY_AIR_NEW_OUTPUT": "0",
    "RAY_USAGE_STATS_ENABLED": "0",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_DISABLE_SIGINT_HANDLER": "1",
    "TUNE_DISABLE_STRICT_METRIC_CHECKING": "1",
    "TUNE_WARN_EXCESSIVE_EXPERIMENT_CHECKPOINT_SYNC_THRESHOLD_S": "0",
}
FULL = 1e6
"""Bytes of free space below which a disk counts as full."""
LOOK_EVERY, GRACE = 2.0, 10.0
"""Seconds between looks at Ray's processes, and for Ray to notice by itself that one has died."""
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
from study.loggers import callbacks, figures  # noqa: E402
from study.progress import Progress  # noqa: E402
from study.schema import StudyError  # noqa: E402
from study.search import Job  # noqa: E402
from study.space import Resources, Study  # noqa: E402
from study.spec import Execution, TrialSpec  # noqa: E402
from study.stages import Rows, Together  # noqa: E402
from study.store import Store  # noqa: E402
from study.trial import replicates_as_one  # noqa: E402


def schedule(
    study: Study,
    store: Store,
    rows: Rows,
    data: Dataset,
    fingerprint: str,
    address: str | None,
    verbose: bool,
    log: Collection[str] = (),
) -> bool:
    """Run every missing trial under Ray Tune; return whether the study is complete."""
    if not verbose:
        optuna.logging.set_verbosity(optuna.logging.WARNING)
    together = _together(study.execution.most, data)
    agenda = Agenda(study, store, rows, fingerprint, Progress(), together)
    if agenda.finished:
        print("nothing is missing")
        return True
    try:
        start_ray(address, verbose)
        agenda.progress.slots = slots = _slots(study.resources)
        trainable = tune.with_resources(
            tune.with_parameters(_trainable, data=data),
            {"cpu": study.resources.cpus_per_trial, "gpu": study.resources.gpus_per_trial},
        )
        searcher = AgendaSearcher(agenda)
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
                # More than fit: Tune keeps a worker warm only while another trial waits for it.
                max_concurrent_trials=study.resources.concurrency or 2 * slots,
                reuse_actors=True,
            ),
            run_config=tune.RunConfig(
                name="tune",
                storage_path=str(store.ray),
                verbose=1 if verbose else 0,
                callbacks=[Watching(agenda), *callbacks(log, study.name, store, verbose)],
            ),
        )
        try:
            with ending_with_ray(store, agenda):
                tuner.fit()
        except Exception as error:
            raise searcher.error or _stopped(store, error) from (error if verbose else None)
        if searcher.error is not None:
            raise searcher.error
        return agenda.finished
    except KeyboardInterrupt:
        return False
    finally:
        agenda.close()
        agenda.progress.summary()
        ray.shutdown()


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
    free = shutil.disk_usage(store.root).free
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
    try:
        ray.init(
            address=address or "local",
            include_dashboard=None if address else False,
            log_to_driver=verbose,
            logging_level=logging.INFO if verbose else logging.CRITICAL,
        )
    except (ConnectionError, ValueError) as error:
        raise StudyError(f"--address {address}: no Ray cluster answers there ({error})") from None
    except Exception as error:
        why = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
        raise StudyError(
            f"Ray could not be started ({why}); give the same command again (-v shows more)"
        ) from (error if verbose else None)
    if not verbose:
        logging.getLogger("ray").setLevel(logging.CRITICAL)


def _slots(resources: Resources) -> int:
    """Return how many trials fit on the cluster at once."""
    have = ray.cluster_resources()
    fit = math.floor(have.get("CPU", 0) / resources.cpus_per_trial)
    if resources.gpus_per_trial:
        fit = min(fit, math.floor(have.get("GPU", 0) / resources.gpus_per_trial + 1e-9))
    if fit < 1:
        raise StudyError(
            f"resources: a trial needs {resources.cpus_per_trial} CPUs and "
            f"{resources.gpus_per_trial} GPUs, but the cluster has {have.get('CPU', 0):g} and "
            f"{have.get('GPU', 0):g}; lower resources.*_per_trial or add nodes"
        )
    return min(fit, resources.concurrency or fit)


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
def ending_hangs(file: Path, seconds: float) -> Iterator[None]:
    """End the process when the block takes longer, and write to ``file`` where it was."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("w") as stream:
        # Of C, so that it works where Python itself is stuck.
        faulthandler.dump_traceback_later(seconds, exit=True, file=stream)
        try:
            yield
        finally:
            faulthandler.cancel_dump_traceback_later()
    file.unlink()


class Watching(Callback):  # type: ignore[misc]
    """Renews what is shown, also while no trial ends."""

    def __init__(self, agenda: Agenda) -> None:
        self.agenda = agenda

    def on_step_end(self, iteration: int, trials: Any, **info: Any) -> None:
        """Show the live table, where it is due."""
        self.agenda.progress.show()

    def __getstate__(self) -> dict[str, Any]:
        """Leave out what Tune's own snapshot cannot and need not hold."""
        return {}


class AgendaSearcher(Searcher):  # type: ignore[misc]
    """Hands on between Tune and the agenda; has no state of its own to save.

    Attributes:
        error: What went wrong in the agenda; nothing more is handed out then.
    """

    def __init__(self, agenda: Agenda) -> None:
        super().__init__()
        self.agenda = agenda
        self.jobs: dict[str, Job] = {}
        self.error: Exception | None = None
        self.nap = NAP

    def suggest(self, trial_id: str) -> Any:
        """Return a trial's configuration, a nap's while others must end first, or FINISHED."""
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
            nap = {"specs": None, "name": None, "nap": self.nap}
            return Searcher.FINISHED if self.agenda.finished else nap
        self.nap = NAP
        self.jobs[trial_id] = job
        return {"specs": [spec.to_json() for spec in job.specs], "name": job.name, "nap": None}

    def on_trial_complete(self, trial_id: str, result: Any = None, error: bool = False) -> None:
        """Pass on that a trial has ended, or that its worker died."""
        if trial_id in self.jobs and self.error is None:
            try:
                self.agenda.end(self.jobs.pop(trial_id), error)
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
