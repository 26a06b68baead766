"""``python -m study.run``: from the YAML of a study to its verdict. Ray schedules the trials."""

import argparse
import logging
import math
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from study.schema import StudyError
from study.store import Store

DATA_ROOT = "STUDY_DATA_ROOT"


def main(argv: list[str] | None = None) -> int:
    """Run the command line; return 0, 2 for the user's mistakes, 130 when interrupted."""
    arguments = _parser().parse_args(argv)
    try:
        return _dispatch(arguments)
    except StudyError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m study.run", description=__doc__)
    add = parser.add_argument
    add("--space", type=Path, action="append", required=True, metavar="FILE",
        help="search space; the first of several gives the study's settings")
    add("--out", type=Path, metavar="DIR", help="run folder (default: runs/<study name>)")
    add("--data-root", type=Path, metavar="DIR", default=os.environ.get(DATA_ROOT),
        help=f"folder with the image sets (default: the variable {DATA_ROOT})")
    add("--address", metavar="ADDRESS", help="Ray cluster (default: a local runtime of its own)")
    add("--set", action="append", default=[], metavar="KEY=VALUE", help="replace a key of the YAML")
    add("-v", "--verbose", action="store_true", help="let Ray and Optuna speak")
    mode = parser.add_mutually_exclusive_group()
    mode.add_argument("--dry-run", action="store_true", help="check everything, train nothing")
    mode.add_argument("--status", action="store_true", help="say what is done and what is missing")
    mode.add_argument("--replay", metavar="TRIAL", help="run one trial again and compare")
    return parser


def _dispatch(arguments: argparse.Namespace) -> int:
    from study.space import load_study

    study = load_study(arguments.space, arguments.set)
    store = Store(arguments.out or Path("runs") / study.name)
    root = None if arguments.data_root is None else Path(arguments.data_root)
    if arguments.status:
        from study.inspect import status

        return status(study, store)
    if arguments.replay:
        from study.inspect import replay

        return replay(store, arguments.replay, root)
    if arguments.dry_run:
        from study.dry_run import dry_run

        return dry_run(study, store, root)
    return run(study, store, root, address=arguments.address, verbose=arguments.verbose)


def run(study: Any, store: Store, root: Path | None, *, address: str | None, verbose: bool) -> int:
    """Do what is missing of the study, then judge it."""
    from study import datasets

    store.create()
    check_same_study(study, store)
    rows = {t: row for t, row in store.rows().items() if not _is_to_be_retried(store, row)}
    data = datasets.load(study.dataset, root)
    fingerprint = data.fingerprint
    check_same_data(rows, fingerprint)
    store.write_json(store.study, study.model_dump(mode="json", by_alias=True))
    if schedule(study, store, rows, data, fingerprint, address, verbose):
        return judge(store)
    again = " ".join(["python -m study.run", *(f"--space {s.file}" for s in study.candidates)])
    print(f"\nstopped; nothing that was finished is lost; to go on: {again} --out {store.root}")
    return 130


def check_same_study(study: Any, store: Store) -> None:
    """Refuse a run folder of another study; more trials or seeds are no difference."""
    earlier = store.read_json(store.study)
    if earlier is None:
        return
    now = study.model_dump(mode="json", by_alias=True)
    free = ("budget", "protocol", "resources")
    for key in now:
        if key not in free and earlier.get(key) != now[key]:
            raise StudyError(
                f"--out {store.root}: the folder belongs to another study: "
                f"{_difference(key, earlier.get(key), now[key])}; choose another --out"
            )


def _difference(path: str, old: Any, new: Any) -> str:
    """Name the first place where two JSON values differ."""
    if isinstance(old, dict) and isinstance(new, dict):
        for key in sorted({*old, *new}):
            if old.get(key) != new.get(key):
                return _difference(f"{path}.{key}", old.get(key), new.get(key))
    if isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        for number, pair in enumerate(zip(old, new, strict=True)):
            if pair[0] != pair[1]:
                return _difference(f"{path}[{number}]", *pair)
    return f"{path} is {old!r} there and {new!r} here"


def check_same_data(rows: dict[str, Any], fingerprint: str) -> None:
    """Refuse to mix trials of different data."""
    for row in rows.values():
        if row["data"] != fingerprint:
            raise StudyError(
                f"the data's fingerprint is {fingerprint}, but trial {row['trial']} was run on "
                f"{row['data']}; restore the data or choose another --out"
            )


def _is_to_be_retried(store: Store, row: dict[str, Any]) -> bool:
    """Discard the trial and return True if it failed in an earlier run."""
    if row["status"] != "failed":
        return False
    store.discard(row["trial"])
    return True


def schedule(
    study: Any,
    store: Store,
    rows: dict[str, Any],
    data: Any,
    fingerprint: str,
    address: str | None,
    verbose: bool,
) -> bool:
    """Run every missing trial under Ray Tune; return whether the study is complete."""
    ray = start_ray(address, verbose)
    try:
        from ray import tune

        slots = _slots(ray, study.resources)
        agenda = Agenda(study, store, rows, fingerprint, slots)
        if agenda.finished:
            return True
        searcher = _searcher(agenda)
        trainable = tune.with_resources(
            tune.with_parameters(_trainable, data=data),
            {"cpu": study.resources.cpus_per_trial, "gpu": study.resources.gpus_per_trial},
        )
        tuner = tune.Tuner(
            trainable,
            param_space={
                "out": str(store.root),
                "fingerprint": fingerprint,
                "precision": study.precision,
            },
            tune_config=tune.TuneConfig(
                search_alg=searcher,
                num_samples=-1,
                max_concurrent_trials=slots,
                reuse_actors=True,
            ),
            run_config=tune.RunConfig(
                name="tune",
                storage_path=str(store.ray),
                verbose=1 if verbose else 0,
                failure_config=tune.FailureConfig(max_failures=study.resources.max_failures),
            ),
        )
        tuner.fit()
        return agenda.finished
    except KeyboardInterrupt:
        return False
    finally:
        ray.shutdown()


def start_ray(address: str | None, verbose: bool) -> Any:
    """Start or join a Ray runtime, silently unless ``verbose``; return the module."""
    os.environ.update(
        RAY_AIR_NEW_OUTPUT="0",
        RAY_USAGE_STATS_ENABLED="0",
        TUNE_DISABLE_AUTO_CALLBACK_LOGGERS="1",
        TUNE_DISABLE_SIGINT_HANDLER="1",
        TUNE_DISABLE_STRICT_METRIC_CHECKING="1",
        TUNE_WARN_EXCESSIVE_EXPERIMENT_CHECKPOINT_SYNC_THRESHOLD_S="0",
    )
    os.environ.setdefault("RAY_AUTH_MODE", "disabled" if address is None else "token")
    import optuna
    import ray

    if not verbose:
        optuna.logging.set_verbosity(optuna.logging.WARNING)
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
    if not verbose:
        logging.getLogger("ray").setLevel(logging.CRITICAL)
    return ray


def _slots(ray: Any, resources: Any) -> int:
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


def _trainable(config: dict[str, Any], data: Any) -> None:
    """Run one trial in a worker."""
    import torch
    from ray import tune

    from study.spec import TrialSpec
    from study.trial import run_trial

    torch.set_num_threads(max(1, int(os.environ.get("OMP_NUM_THREADS", "1"))))
    row = run_trial(
        TrialSpec.model_validate_json(config["spec"]),
        data,
        Store(config["out"]),
        fingerprint=config["fingerprint"],
        name=config["name"],
        precision=config["precision"],
    )
    tune.report({"trial": row["trial"], "status": row["status"]})


class Agenda:
    """What is to be run next: walks through the stages and keeps the rows."""

    def __init__(
        self, study: Any, store: Store, rows: dict[str, Any], fingerprint: str, slots: int
    ) -> None:
        from study.progress import Progress
        from study.stages import Stage, stages

        self.store, self.rows, self.fingerprint = store, rows, fingerprint
        self.progress = Progress(slots)
        self.stages: Iterator[Stage] = stages(study, store, rows)
        self.stage: Stage | None = None
        self.jobs: dict[str, Any] = {}
        self.waiting: Any = None
        self._advance()

    @property
    def finished(self) -> bool:
        """Whether no stage is left."""
        return self.stage is None

    def next(self) -> Any:
        """Return the next job, None while running ones must end first."""
        job, self.waiting = self.waiting, None
        while job is None and self.stage is not None:
            job = self.stage.next()
            if job is None and not self.stage.finished:
                return None
            if job is None:
                self._advance()
        if job is not None:
            self.progress.started(job.spec.trial)
        return job

    def end(self, job: Any, died: bool) -> None:
        """Take the end of a job; a worker that died leaves a row with the reason."""
        from study.trial import new_row

        row = self.store.row(job.spec.trial)
        if row is None:
            reason = "worker died or could not start" if died else "ended without a row"
            row = new_row(job.spec, self.fingerprint, job.name)
            row |= {"status": "failed", "reason": reason}
            self.store.commit(job.spec.trial, row)
        self.rows[job.spec.trial] = row
        assert self.stage is not None
        self.stage.end(row)
        self.progress.ended(row)
        if self.waiting is None and self.stage.finished:
            self._advance()

    def _advance(self) -> None:
        """Go to the first stage that has something to run."""
        self.progress.close()
        for stage in self.stages:
            self.stage = stage
            self.waiting = stage.next()
            self.progress.enter(stage, _done(stage, self.rows))
            if self.waiting is not None:
                return
        self.stage = None


def _done(stage: Any, rows: dict[str, Any]) -> int:
    return sum(row["stage"] == stage.name for row in rows.values())


def _searcher(agenda: Agenda) -> Any:
    """Return a Tune searcher that only hands on what the agenda says."""
    import json

    from ray.tune.search import Searcher

    class StudySearcher(Searcher):
        """Ask and tell between Tune and the agenda; it has no state of its own to save."""

        def suggest(self, trial_id: str) -> Any:
            if agenda.finished:
                return Searcher.FINISHED
            job = agenda.next()
            if job is None:
                return Searcher.FINISHED if agenda.finished else None
            agenda.jobs[trial_id] = job
            return {"spec": job.spec.to_json(), "name": job.name}

        def on_trial_complete(
            self, trial_id: str, result: Any = None, error: bool = False
        ) -> None:
            agenda.end(agenda.jobs.pop(trial_id), error)

        def save(self, checkpoint_path: str) -> None:
            Path(checkpoint_path).write_text(json.dumps(None))

        def restore(self, checkpoint_path: str) -> None:
            pass

    return StudySearcher()


def judge(store: Store) -> int:
    """Write report and verdict in a process of their own and copy the report to analysis/."""
    command = [sys.executable, "-m", "analysis.report", "--runs", str(store.root)]
    result = subprocess.run([*command, "--out", str(store.report)], check=False)
    latest = Path("analysis/report.html")
    if result.returncode == 0 and latest.parent.is_dir():
        latest.write_bytes(store.report.read_bytes())
        print(f"report: {latest} (and {store.report})")
    return result.returncode


if __name__ == "__main__":
    sys.exit(main())
