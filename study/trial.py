"""Trials from spec to committed files: seed, build, fit, predict, commit. A plain call."""

import logging
import math
import resource
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache, lru_cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from study import backbones, methods, schema
from study.batches import Splits, default_device, evenly
from study.cost import flops, size
from study.datasets import Dataset
from study.evidence import IMAGES, evidence_rows
from study.geometry import Row, Trajectory, weight_cosine, when
from study.landscape import Probe, mean_network, member_networks, network_rows
from study.methods import Method, single
from study.methods._stack import MOST, best_size, joined
from study.place import StoreError
from study.predictions import Precision, clean_table, ood_table, shift_table
from study.spec import Execution, TrialSpec, canonical, derive_seed
from study.store import Store
from study.train import DivergenceError, OnEpoch, fit, is_out_of_memory, passes_of, predict

DEFAULT = Execution()


@dataclass
class Run:
    """A trial under way, and what is known of it so far."""

    spec: TrialSpec
    method: Method
    row: Row
    path: Trajectory


def run_trial(spec: TrialSpec, dataset: Dataset, store: Store, **options: Any) -> Row:
    """Run one trial and commit it: see :func:`run_trials`."""
    return run_trials([spec], dataset, store, **options)[0]


def run_trials(
    specs: Sequence[TrialSpec],
    dataset: Dataset,
    store: Store,
    *,
    fingerprint: str,
    name: str | None = None,
    on_epoch: OnEpoch = lambda epoch: None,
    execution: Execution = DEFAULT,
) -> list[Row]:
    """Run replicates of one configuration and commit each; committed ones are only read.

    Several are trained as one where their method can be, and one by one where it cannot or where
    that fails. If any is missing all are trained, so that numbers do not depend on interruptions.

    Args:
        specs: What to run; they differ in seeds alone.
        dataset: The data that the specs name.
        store: Where predictions and rows go.
        fingerprint: Of the dataset (costly, so computed once by the caller).
        name: The configuration's name for readers.
        on_epoch: Called with the number of epochs done (of each separately trained part).
        execution: How to train and to store.

    Returns:
        The committed rows. Divergence and exceptions are a status with a reason, not raised.
    """
    rows = [store.row(spec.trial) for spec in specs]
    if None not in rows:
        return rows  # type: ignore[return-value]
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    splits = _splits(dataset, fingerprint)
    runs = _trained_as_one(specs, splits, on_epoch, execution) if len(specs) > 1 else {}
    for number, (spec, row) in enumerate(zip(specs, rows, strict=True)):
        if row is None:
            known = new_row(spec, fingerprint, name)
            rows[number] = _run(
                spec, known, runs.get(spec.trial), splits, store, on_epoch, execution
            )
    return rows  # type: ignore[return-value]


def _run(
    spec: TrialSpec,
    row: Row,
    run: Run | None,
    splits: Splits,
    store: Store,
    on_epoch: OnEpoch,
    execution: Execution,
) -> Row:
    """Train one trial, unless that is done, predict, and commit it."""
    start, epochs = time.perf_counter(), 0

    def count(epoch: int) -> None:
        nonlocal epochs
        epochs = epoch
        on_epoch(epoch)

    try:
        if run is None:
            run = _trained(spec, splits, count, execution)
        if (done := store.row(spec.trial)) is not None:
            return done  # By a node that was thought lost, and was only cut off.
        row |= run.row
        if "status" not in run.row:
            row |= _predicted(run, splits, store, execution.precision)
    except DivergenceError as error:
        row |= {"status": "diverged", "reason": str(error)}
    except StoreError:
        raise  # No fault of the trial: it is to be run again.
    except Exception as error:
        # Whatever a method of the user's own raises ends its trial, not the study.
        row |= {"status": "failed", "reason": f"{type(error).__name__}: {error}"}
    row |= {
        "epochs": epochs or row["epochs"],
        "seconds": row["seconds"] + time.perf_counter() - start,
        "peak_bytes": _peak_bytes(),
        "finished": datetime.now(UTC),
    }
    store.commit(spec.trial, row)
    return row


def _trained(spec: TrialSpec, splits: Splits, on_epoch: OnEpoch, execution: Execution) -> Run:
    """Return the trained run; out of memory it is begun again, with less at a time.

    That is one member after another, or else each batch in two halves.
    """
    tries = [(execution.low_memory, 1), (True, 1), (True, 2)]
    for number, (one_by_one, pieces) in enumerate(tries):
        run = _prepared(spec, splits)
        if "status" in run.row:
            break
        passes = len(passes_of(run.method, spec.regulariser)) if one_by_one else 1
        if (number, passes) == (1, 1):
            continue  # Its members are not to be had one by one.
        try:
            parts = joined(_parts([run]), execution.most if number == 0 else 1)
            _train([run], parts, splits, on_epoch, pieces, one_by_one)
        except Exception as error:
            if pieces == 2 or not is_out_of_memory(error):
                raise
            del run, error
            torch.cuda.empty_cache()
        else:
            run.row["pieces"] = pieces * passes
            break
    return run


def _trained_as_one(
    specs: Sequence[TrialSpec], splits: Splits, on_epoch: OnEpoch, execution: Execution
) -> dict[str, Run]:
    """Return the trained runs by trial; none where they cannot be trained as one, or that fails.

    A failure is not theirs all: each is then to be found out alone.
    """
    start = time.perf_counter()
    try:
        runs = [_prepared(spec, splits) for spec in specs]
        if any("status" in run.row for run in runs):
            return {}
        parts = joined(_parts(runs), execution.most)
        if len(parts) > 1:
            return {}
        _train(runs, parts, splits, on_epoch)
    except Exception:
        logging.getLogger(__name__).warning("not trained as one", exc_info=True)
        return {}
    seconds = (time.perf_counter() - start) / len(runs)
    together = {"stack": [spec.trial for spec in specs], "seconds": seconds, "pieces": 1}
    for run in runs:
        run.row |= together | {"epochs": run.spec.training.epochs}
    return {run.spec.trial: run for run in runs}


def new_row(spec: TrialSpec, fingerprint: str, name: str | None) -> Row:
    """Return a row with what is known before the trial runs; all else is null or zero."""
    row: Row = dict.fromkeys(schema.TRIAL.names)
    return row | {
        "trial": spec.trial,
        "configuration": spec.configuration,
        "name": name,
        "method": spec.method,
        "role": spec.role,
        "stage": spec.stage,
        "replicate": spec.replicate,
        "seed": spec.seed,
        "members": spec.members,
        "spec": spec.to_json(),
        "status": "complete",
        "epochs": 0,
        "seconds": 0.0,
        "train_seconds": 0.0,
        "device": device_name(),
        "host": socket.gethostname(),
        "versions": versions(),
        "commit": commit(),
        "data": fingerprint,
        "finished": datetime.now(UTC),
    }


def build(spec: TrialSpec, shape: tuple[int, int, int], classes: int) -> Method:
    """Build the spec's method around its backbone, initialised from the spec's seed."""
    return methods.build(
        spec.method,
        spec.params,
        lambda: backbones.build(spec.backbone, shape, classes),
        spec.seed,
    )


def replicates_as_one(
    spec: TrialSpec, shape: tuple[int, int, int], classes: int, most: int | None = None
) -> int:
    """Return how many replicates of the spec are best trained as one, at most ``most``."""
    parts = build(spec, shape, classes).parts()
    return min(max(1, best_size(parts[0][0]) // len(parts)), most or MOST)


def _prepared(spec: TrialSpec, splits: Splits) -> Run:
    """Build the method; what exceeds a limit of its own already has a status."""
    dataset = splits.dataset
    method = build(spec, dataset.shape, dataset.classes).to(splits.device)
    row: Row = {
        "members": method.members,
        "comparable": method.comparable,
        "excess": method.excess(),
        "cosine_init": weight_cosine(method),
    }
    if (row["excess"] or 0) > 0:
        reason = f"exceeds the method's own limit by {100 * row['excess']:.3g} %"
        row |= {"status": "pruned", "reason": reason}
    path = Trajectory(method, when(spec.training.epochs) if spec.stage == "confirm" else ())
    return Run(spec, method, row, path)


def _parts(runs: list[Run]) -> list[tuple[Method, int]]:
    """Return what is trained apart, each with the seed of its batches."""
    return [
        (part, run.spec.seed if seed is None else seed)
        for run in runs
        for part, seed in run.method.parts()
    ]


def _train(
    runs: list[Run],
    parts: list[tuple[Method, int]],
    splits: Splits,
    on_epoch: OnEpoch,
    pieces: int = 1,
    one_by_one: bool = False,
) -> None:
    """Train the runs' parts, or stacks of them; note what it cost, in equal shares."""
    first = runs[0].spec
    cost = flops(runs[0].method, splits.dataset.shape, splits.device, first.training.batch_size)

    def after(epoch: int) -> None:
        on_epoch(epoch)
        if len(parts) == 1:  # Parts that are trained apart are at the same epoch at the ends alone.
            for run in runs:
                run.path.record(epoch)

    for run in runs:
        run.path.record(0)
    looking = sum(run.path.seconds for run in runs)
    start = time.perf_counter()
    for part, seed in parts:
        train, labels = splits.train
        fit(part, train, labels, first.training, first.regulariser, seed, after, pieces, one_by_one)
    seconds = time.perf_counter() - start - sum(run.path.seconds for run in runs) + looking
    for run in runs:
        run.path.record(first.training.epochs)
        cosine = {"cosine": weight_cosine(run.method)}
        run.row |= cost | {"train_seconds": seconds / len(runs)} | cosine | size(run.method)


def _predicted(run: Run, splits: Splits, store: Store, precision: Precision) -> Row:
    """Predict with a trained method, write the predictions and return the row's results."""
    spec, method, dataset = run.spec, run.method, splits.dataset
    logits = predict(method, splits.pixels(dataset.val[0]))
    row = objectives(logits, torch.tensor(dataset.val[1]))
    shifted = predict(method, splits.pixels(dataset.val_shift.images))
    row["val_shift_nll"] = nll(shifted, torch.tensor(dataset.val_shift.labels))
    if not all(map(math.isfinite, (row["val_nll"], row["val_shift_nll"]))):
        raise DivergenceError("predictions on val are not finite")
    if spec.stage != "confirm":
        store.write_predictions(spec.trial, "val", clean_table(logits, dataset.val[1], precision))
        return row
    networks = member_networks(method)
    probe = _probe(splits)
    path = run.path
    path.rows += network_rows(method, networks, probe, spec.training.epochs)
    seen = splits.some(dataset.test[0], IMAGES)
    chance = torch.Generator().manual_seed(derive_seed(spec.seed, "evidence"))
    path.rows += evidence_rows(networks, seen, chance, spec.training.epochs)
    if path.rows:
        store.write_geometry(spec.trial, path.rows)
    models = {"": method} | _controls(method, networks, probe)
    _predict_test(spec, models, splits, store, precision)
    return row


def _probe(splits: Splits) -> Probe:
    val, labels = splits.dataset.val
    few = torch.tensor(labels[evenly(len(labels), 300)], device=splits.device)
    return Probe(splits.some(splits.dataset.train[0], 1000), splits.some(val, 300), few)


def _controls(method: Method, networks: list[nn.Module], probe: Probe) -> dict[str, Method]:
    """Return the one-member controls of a method, each under the prefix of its files."""
    controls = {schema.COLLAPSED: method.collapsed()}
    if len(networks) > 1 and not method.trained_apart:
        mean = mean_network(networks, probe.train)
        controls[schema.MEAN_WEIGHTS] = single.Ensemble(single.Params(), lambda: mean, 0)
    return {prefix: control for prefix, control in controls.items() if control is not None}


def _predict_test(
    spec: TrialSpec,
    models: dict[str, Method],
    splits: Splits,
    store: Store,
    precision: Precision,
) -> None:
    dataset, pixels = splits.dataset, splits.pixels
    for prefix, model in models.items():
        test = predict(model, pixels(dataset.test[0]))
        table = clean_table(test, dataset.test[1], precision)
        store.write_predictions(spec.trial, f"{prefix}test", table)
        shift = predict(model, pixels(dataset.shift.images))
        table = shift_table(shift, dataset.shift, precision)
        store.write_predictions(spec.trial, f"{prefix}shift", table)
    if dataset.ood:
        ood = {name: predict(models[""], pixels(images)) for name, images in dataset.ood.items()}
        store.write_predictions(spec.trial, "ood", ood_table(ood, precision))


def log_ensemble(logits_MNC: Tensor) -> Tensor:
    """Return the log of the members' averaged probabilities, (N, C)."""
    return logits_MNC.double().log_softmax(-1).logsumexp(0) - math.log(len(logits_MNC))


def nll(logits_MNC: Tensor, y_N: Tensor) -> float:
    """Return the ensemble's mean negative log-likelihood, in nats."""
    return torch.nn.functional.nll_loss(log_ensemble(logits_MNC), y_N).item()


def objectives(logits_MNC: Tensor, y_N: Tensor) -> Row:
    """Return what the search looks at on clean validation data."""
    ensemble = nll(logits_MNC, y_N)
    members = sum(nll(own.unsqueeze(0), y_N) for own in logits_MNC) / len(logits_MNC)
    right = log_ensemble(logits_MNC).argmax(-1) == y_N
    return {
        "val_nll": ensemble,
        "val_gain": members - ensemble,
        "val_accuracy": right.double().mean().item(),
    }


def _peak_bytes() -> int:
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated()
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


@lru_cache(maxsize=1)
def _kept(fingerprint: str) -> list[Splits]:
    return []


def _splits(dataset: Dataset, fingerprint: str) -> Splits:
    """Return the dataset on the device; the last one stays there for the next trial."""
    kept = _kept(fingerprint)
    if not kept:
        kept.append(Splits(dataset, default_device()))
    return kept[0]


@cache
def device_name() -> str:
    """Return ``cpu`` or the accelerator's name."""
    return torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu"


@cache
def versions() -> str:
    """Return the versions of Python and the packages that decide the numbers, as JSON."""
    packages = ("torch", "numpy", "pyarrow", "optuna", "ray")
    found = {package: version(package) for package in packages}
    return canonical(found | {"python": sys.version.split()[0]})


@cache
def commit() -> str | None:
    """Return the commit of the code, with ``+dirty`` for local changes; None outside git."""
    folder = Path(__file__).parent

    def git(*args: str) -> str:
        command = ["git", "-C", str(folder), *args]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    try:
        dirty = "+dirty" if git("status", "--porcelain", "--untracked-files=no") else ""
        return git("rev-parse", "HEAD") + dirty
    except (OSError, subprocess.CalledProcessError):
        return None
