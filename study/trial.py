"""One trial from spec to committed files: seed, build, fit, predict, commit. A plain call."""

import math
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor, nn

from study import backbones, methods, schema
from study.batches import Pixels, channel_statistics
from study.cost import flops, size
from study.datasets import Dataset, Shifted
from study.evidence import IMAGES, evidence_rows
from study.geometry import Row, Trajectory, weight_cosine, when
from study.landscape import Probe, evenly, mean_network, member_networks, network_rows
from study.methods import Method, single
from study.spec import TrialSpec, canonical, derive_seed
from study.store import Store
from study.train import DivergenceError, OnEpoch, fit, predict

Precision = Literal["float16", "float32"]

MakePixels = Callable[[np.ndarray[Any, Any]], Pixels]


def run_trial(
    spec: TrialSpec,
    dataset: Dataset,
    store: Store,
    *,
    fingerprint: str,
    name: str | None = None,
    precision: Precision = "float16",
    on_epoch: OnEpoch = lambda epoch: None,
) -> Row:
    """Run one trial and commit it; a trial that is already committed is only read.

    Args:
        spec: What to run.
        dataset: The data that the spec names.
        store: Where predictions and the row go.
        fingerprint: Of the dataset (costly, so computed once by the caller).
        name: The configuration's name for readers.
        precision: Type of the stored logits; float32 is used where float16 would overflow.
        on_epoch: Called with the number of epochs done (of each separately trained part).

    Returns:
        The committed row. Divergence and exceptions are a status with a reason, not raised.
    """
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    done = store.row(spec.trial)
    if done is not None:
        return done
    row = new_row(spec, fingerprint, name)
    start = time.perf_counter()
    epochs = 0

    def count(epoch: int) -> None:
        nonlocal epochs
        epochs = epoch
        on_epoch(epoch)

    try:
        row |= _train_and_predict(spec, dataset, store, precision, count)
    except DivergenceError as error:
        row |= {"status": "diverged", "reason": str(error)}
    except Exception as error:
        # Whatever a method of the user's own raises ends its trial, not the study.
        row |= {"status": "failed", "reason": f"{type(error).__name__}: {error}"}
    row |= {
        "epochs": epochs,
        "seconds": time.perf_counter() - start,
        "peak_bytes": _peak_bytes(),
        "finished": datetime.now(UTC),
    }
    store.commit(spec.trial, row)
    return row


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
        "members": spec.params.get("members", 1),
        "spec": spec.to_json(),
        "status": "complete",
        "epochs": 0,
        "seconds": 0.0,
        "train_seconds": 0.0,
        "device": device_name(),
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


def _train_and_predict(
    spec: TrialSpec, dataset: Dataset, store: Store, precision: Precision, on_epoch: OnEpoch
) -> Row:
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    method = build(spec, dataset.shape, dataset.classes).to(device)
    statistics = channel_statistics(dataset.train[0])

    def pixels(images: np.ndarray[Any, Any]) -> Pixels:
        return Pixels(images, *statistics, device)

    row: Row = {
        "members": method.members,
        "comparable": method.comparable,
        "excess": method.excess(),
        "cosine_init": weight_cosine(method),
    }
    if (row["excess"] or 0) > 0:
        return row | {
            "status": "pruned",
            "reason": f"exceeds the method's own limit by {100 * row['excess']:.3g} %",
        }
    row |= flops(method, dataset.shape, device, spec.training.batch_size)
    labels = torch.tensor(dataset.train[1], device=device)
    train = pixels(dataset.train[0])
    path = Trajectory(method, when(spec.training.epochs) if spec.stage == "confirm" else ())
    path.record(0)
    seconds = _train(spec, method, train, labels, path, on_epoch)
    path.record(spec.training.epochs)
    row |= {"train_seconds": seconds, "cosine": weight_cosine(method)} | size(method)
    del train

    logits = predict(method, pixels(dataset.val[0]))
    row |= objectives(logits, torch.tensor(dataset.val[1]))
    shifted = predict(method, pixels(dataset.val_shift.images))
    row["val_shift_nll"] = nll(shifted, torch.tensor(dataset.val_shift.labels))
    if not all(map(math.isfinite, (row["val_nll"], row["val_shift_nll"]))):
        raise DivergenceError("predictions on val are not finite")
    if spec.stage != "confirm":
        store.write_predictions(spec.trial, "val", clean_table(logits, dataset.val[1], precision))
        return row
    networks = member_networks(method)
    probe = _probe(dataset, pixels)
    path.rows += network_rows(method, networks, probe, spec.training.epochs)
    seen = _some(dataset.test[0], IMAGES, pixels)
    chance = torch.Generator().manual_seed(derive_seed(spec.seed, "evidence"))
    path.rows += evidence_rows(networks, seen, chance, spec.training.epochs)
    if path.rows:
        store.write_geometry(spec.trial, path.rows)
    models = {"": method} | _controls(method, networks, probe)
    _predict_test(spec, models, dataset, store, precision, pixels)
    return row


def _train(
    spec: TrialSpec,
    method: Method,
    train: Pixels,
    labels: Tensor,
    path: Trajectory,
    on_epoch: OnEpoch,
) -> float:
    """Train every part; return the seconds that this took without looking at the weights."""
    parts = method.parts()

    def after(epoch: int) -> None:
        on_epoch(epoch)
        if len(parts) == 1:  # Parts that are trained apart are at the same epoch at the ends alone.
            path.record(epoch)

    start = time.perf_counter() - path.seconds
    for part, seed in parts:
        part_seed = spec.seed if seed is None else seed
        fit(part, train, labels, spec.training, spec.regulariser, part_seed, after)
    return time.perf_counter() - start - path.seconds


def _some(images: np.ndarray[Any, Any], most: int, pixels: MakePixels) -> Tensor:
    few = pixels(images[evenly(len(images), most)])
    return few.batch(torch.arange(len(few), device=few.images.device))


def _probe(dataset: Dataset, pixels: MakePixels) -> Probe:
    train, val = _some(dataset.train[0], 1000, pixels), _some(dataset.val[0], 300, pixels)
    labels = dataset.val[1][evenly(len(dataset.val[1]), 300)]
    return Probe(train, val, torch.tensor(labels, device=val.device))


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
    dataset: Dataset,
    store: Store,
    precision: Precision,
    pixels: MakePixels,
) -> None:
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


def clean_table(logits: Tensor, labels: np.ndarray[Any, Any], precision: Precision) -> pa.Table:
    """Return the predictions of a clean split as a table; logits (M, N, C), labels (N,)."""
    return _table(logits, precision, example=np.arange(len(labels)), label=labels)


def shift_table(logits: Tensor, shifted: Shifted, precision: Precision) -> pa.Table:
    """Return the predictions on corrupted copies as a table; logits (M, R, C)."""
    return _table(
        logits,
        precision,
        example=shifted.example,
        label=shifted.labels,
        condition=shifted.condition,
        severity=shifted.severity,
    )


def ood_table(logits: dict[str, Tensor], precision: Precision) -> pa.Table:
    """Return the predictions on out-of-distribution sets, by name, as a table."""
    sizes = {name: part.shape[1] for name, part in logits.items()}
    return _table(
        torch.cat(list(logits.values()), dim=1),
        precision,
        example=np.concatenate([np.arange(n) for n in sizes.values()]),
        condition=np.repeat(list(sizes), list(sizes.values())),
    )


def _table(logits: Tensor, precision: Precision, **columns: np.ndarray[Any, Any]) -> pa.Table:
    m, rows, classes = logits.shape
    if precision == "float16" and logits.abs().max() > torch.finfo(torch.float16).max:
        precision = "float32"
    table_schema = schema.predictions(classes, precision)
    flat = logits.numpy().astype(precision).ravel()
    arrays = {
        "member": pa.array(np.repeat(np.arange(m), rows), pa.int16()),
        "logits": pa.FixedSizeListArray.from_arrays(pa.array(flat), classes),
    }
    for name in ("example", "label", "condition", "severity"):
        type_ = table_schema.field(name).type
        if name in columns:
            arrays[name] = pa.array(np.tile(columns[name], m), type_)
        else:
            arrays[name] = pa.nulls(m * rows, type_)
    return pa.table([arrays[name] for name in table_schema.names], schema=table_schema)


def _peak_bytes() -> int:
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated()
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


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
