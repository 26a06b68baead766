"""``--log``: a study's jobs in TensorBoard, MLflow or Weights & Biases, through Ray's callbacks.

A run of theirs is a job, its steps are epochs; the naps that keep workers warm are left out.
"""

import logging
import os
from collections.abc import Collection, Iterable, Sequence
from importlib.util import find_spec
from pathlib import Path
from statistics import fmean
from typing import Any, Final

import pyarrow as pa

from study.errors import StudyError
from study.parquet_format import CurveRow, TrialRow
from study.run_folder.store import RunFolder
from study.spec import TrialSpec

PACKAGES: Final = {"tensorboard": "tensorboardX", "mlflow": "mlflow", "wandb": "wandb"}
"""What each needs."""
RESULTS: Final = ("val_nll", "val_shift_nll", "val_gain", "val_accuracy")
COSTS: Final = ("seconds", "train_seconds")
OF_EPOCHS: Final = ("loss", "lr", "val_nll", "val_members_nll")
FIGURES: Final = ("trials", "complete", *RESULTS, *COSTS)


def refuse_missing(names: Collection[str]) -> None:
    """Refuse to log to what is not installed."""
    for name in names:
        if find_spec(PACKAGES[name]) is None:
            raise StudyError(
                f"--log {name}: needs the package {PACKAGES[name]}, which is not installed; "
                f"pip install 'escape-study[{name}]'"
            )


def figures(rows: Sequence[TrialRow]) -> dict[str, float]:
    """Return a job's figures: counts of its trials and means over them, in nats and seconds."""
    whole = [row for row in rows if row.status == "complete"]
    counts: dict[str, float] = {"trials": len(rows), "complete": len(whole)}
    return counts | _means(whole, RESULTS) | _means(rows, COSTS)


def _means(rows: Iterable[TrialRow | CurveRow], names: Iterable[str]) -> dict[str, float]:
    """Return the mean of each column over the rows that have it."""
    found = {name: [v for row in rows if (v := getattr(row, name)) is not None] for name in names}
    return {name: fmean(values) for name, values in found.items() if values}


def curve(store: RunFolder, trials: Sequence[str]) -> list[dict[str, float]]:
    """Return a job's learning curve: of each epoch, means over its trials and their parts.

    Keys are ``training_iteration`` (the epoch) and ``curve/<column>``, as in
    ``study.parquet_format.CURVE``.
    """
    by_epoch: dict[int, list[CurveRow]] = {}
    for trial in trials:
        for row in store.curve(trial):
            by_epoch.setdefault(row.epoch, []).append(row)
    means = {epoch: _means(rows, OF_EPOCHS) for epoch, rows in sorted(by_epoch.items())}
    return [
        {"training_iteration": epoch} | {f"curve/{name}": v for name, v in own.items()}
        for epoch, own in means.items()
    ]


class Seen:
    """A Tune trial as its loggers see it: under the name and with the settings of its job.

    Attributes:
        trials: Identities of the job's trials.
        trial_id: Identity of the job's first trial.
        config: That trial's settings, without nulls.
        local_path: Folder for the logger's files.
    """

    def __init__(self, trial: Any, folder: Path) -> None:
        specs = [TrialSpec.model_validate_json(spec) for spec in trial.config["specs"]]
        content = specs[0].model_dump(exclude={"dataset"})
        flat = {"trials": len(specs), "name": trial.config["name"]}
        for key, value in content.items():
            inner = value if isinstance(value, dict) else None
            flat |= {key: value} if inner is None else {f"{key}.{k}": v for k, v in inner.items()}
        self.trials = [spec.trial for spec in specs]
        self.trial, self.trial_id = trial, self.trials[0]
        self.config = {key: value for key, value in flat.items() if value is not None}
        self.evaluated_params = self.config
        self.name = f"{content['stage']}-{content['method']}-{self.trial_id}"
        self.local_path = str(folder / self.name)

    def init_local_path(self) -> None:
        """Make the folder."""
        Path(self.local_path).mkdir(parents=True, exist_ok=True)

    def __str__(self) -> str:
        return self.name

    def __getattr__(self, name: str) -> Any:
        return getattr(self.trial, name)


def callbacks(names: Collection[str], study: str, store: RunFolder, verbose: bool) -> list[Any]:
    """Return a callback for Tune for each logger; their files go to ``logs`` in the run folder."""
    from ray.tune import Callback

    # Ray has no types: to mypy its class is any.
    class OfJobs(Callback):  # type: ignore[misc]
        """Tells a logger of Ray about jobs."""

        def __init__(self, name: str) -> None:
            self.name = name
            self.seen: dict[str, Seen] = {}

        def setup(self, **info: Any) -> None:
            self.logger = _logger(self.name, study, store)
            if not verbose:  # MLflow sets its own level when it is imported.
                for noisy in ("mlflow", "alembic"):
                    logging.getLogger(noisy).setLevel(logging.WARNING)
            self.logger.setup(**info)

        def on_trial_start(self, trial: Any, **info: Any) -> None:
            if trial.config["specs"] is not None:
                self.seen[trial.trial_id] = seen = Seen(trial, store.logs / self.name)
                if self.name == "wandb":  # It goes there without making the folder.
                    seen.init_local_path()
                self.logger.log_trial_start(seen)

        def on_trial_result(self, iteration: int, trial: Any, result: Any, **info: Any) -> None:
            if (seen := self.seen.get(trial.trial_id)) is not None:
                kept = {key: result[key] for key in FIGURES if key in result}
                points = _curve_if_there(store, seen) or [{"training_iteration": 1}]
                for point in (*points[:-1], points[-1] | kept):
                    # They ask for the settings with every result.
                    self.logger.log_trial_result(iteration, seen, {**point, "config": {}})

        def on_trial_complete(self, trial: Any, **info: Any) -> None:
            self._end(trial, failed=False)

        def on_trial_error(self, trial: Any, **info: Any) -> None:
            self._end(trial, failed=True)

        def _end(self, trial: Any, failed: bool) -> None:
            if (seen := self.seen.pop(trial.trial_id, None)) is not None:
                self.logger.log_trial_end(seen, failed=failed)

        def on_experiment_end(self, trials: Any, **info: Any) -> None:
            self.logger.on_experiment_end(trials=trials, **info)

    return [OfJobs(name) for name in dict.fromkeys(names)]


def _curve_if_there(store: RunFolder, seen: Seen) -> list[dict[str, float]]:
    """Return a job's learning curve; a logger must not end a study that can go on without it."""
    try:
        return curve(store, seen.trials)
    except (OSError, pa.ArrowException) as error:
        logging.getLogger(__name__).warning("%s is logged without its curve: %s", seen, error)
        return []


def _logger(name: str, study: str, store: RunFolder) -> Any:
    """Return Ray's own callback; variables of MLflow and Weights & Biases are heeded."""
    store.logs.mkdir(parents=True, exist_ok=True)
    if name == "tensorboard":
        from ray.tune.logger import TBXLoggerCallback

        return TBXLoggerCallback()
    if name == "mlflow":
        from ray.air.integrations.mlflow import MLflowLoggerCallback

        own = f"sqlite:///{store.logs / 'mlflow.db'}"
        return MLflowLoggerCallback(
            tracking_uri=os.environ.get("MLFLOW_TRACKING_URI", own), experiment_name=study
        )
    from ray.air.integrations.wandb import WandbLoggerCallback

    project = os.environ.get("WANDB_PROJECT", study)
    return WandbLoggerCallback(project=project, group=study)
