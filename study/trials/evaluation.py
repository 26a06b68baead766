"""What is computed of a trained method: objectives, predictions, diagnostics, controls."""

import math
from dataclasses import dataclass, replace

import torch
from torch import nn

from study import parquet_format
from study.datasets import evenly
from study.diagnostics.curve import Curve
from study.diagnostics.evidence import IMAGES, evidence_rows
from study.diagnostics.landscape import Probe, mean_network, member_networks, network_rows
from study.diagnostics.objectives import nll, objectives
from study.diagnostics.weight_trajectory import Trajectory
from study.methods import Method, single
from study.parquet_format import Outcome
from study.run_folder.store import RunFolder
from study.spec import Execution, TrialSpec, derive_seed
from study.training.batches import Splits
from study.training.fit import DivergenceError, OnEpoch
from study.training.prediction import predict
from study.trials.predictions import clean_table, ood_table, shift_table


@dataclass(frozen=True)
class Setup:
    """What the trials of one call have in common: see :func:`run_trials`."""

    splits: Splits
    fingerprint: str
    name: str | None
    store: RunFolder
    execution: Execution
    on_epoch: OnEpoch


@dataclass(frozen=True)
class Run:
    """A trial under way: method, what is watched in training, and what is known of it so far."""

    spec: TrialSpec
    method: Method
    trajectory: Trajectory
    curve: Curve
    outcome: Outcome


def evaluate(run: Run, setup: Setup) -> Outcome:
    """Predict with a trained method, write the predictions and return all that was found out."""
    spec, method, splits, store = run.spec, run.method, setup.splits, setup.store
    dataset, precision = splits.dataset, setup.execution.precision
    logits = predict(method, splits.pixels(dataset.val[0]))
    clean = objectives(logits, torch.tensor(dataset.val[1]))
    shifted = predict(method, splits.pixels(dataset.val_shift.images))
    shift_nll = nll(shifted, torch.tensor(dataset.val_shift.labels))
    if not (math.isfinite(clean.val_nll) and math.isfinite(shift_nll)):
        raise DivergenceError("predictions on val are not finite")
    store.write_curve(spec.trial, run.curve.rows)
    outcome = replace(run.outcome, val_shift_nll=shift_nll, **clean._asdict())
    if spec.stage != "confirm":
        store.write_predictions(spec.trial, "val", clean_table(logits, dataset.val[1], precision))
        return outcome
    if spec.role in parquet_format.MATCHED:  # There to be compared with on the endpoints alone.
        _predict_test(spec.trial, {"": method}, setup)
        return outcome
    networks = member_networks(method)
    probe = _probe(splits)
    trajectory = run.trajectory
    trajectory.rows += network_rows(method, networks, probe, spec.training.epochs)
    seen = splits.some(dataset.test[0], IMAGES)
    chance = torch.Generator().manual_seed(derive_seed(spec.seed, "evidence"))
    trajectory.rows += evidence_rows(networks, seen, chance, spec.training.epochs)
    if trajectory.rows:
        store.write_geometry(spec.trial, trajectory.rows)
    _predict_test(spec.trial, {"": method} | _controls(method, networks, probe), setup)
    return outcome


def _probe(splits: Splits) -> Probe:
    val, labels = splits.dataset.val
    few = torch.tensor(labels[evenly(len(labels), 300)], device=splits.device)
    return Probe(splits.some(splits.dataset.train[0], 1000), splits.some(val, 300), few)


def _controls(method: Method, networks: list[nn.Module], probe: Probe) -> dict[str, Method]:
    """Return the one-member controls of a method, each under the prefix of its files."""
    controls = {parquet_format.COLLAPSED: method.collapsed()}
    if len(networks) > 1 and not method.trained_apart:
        mean = mean_network(networks, probe.train)
        controls[parquet_format.MEAN_WEIGHTS] = single.Ensemble(single.Params(), lambda: mean, 0)
    return {prefix: control for prefix, control in controls.items() if control is not None}


def _predict_test(trial: str, models: dict[str, Method], setup: Setup) -> None:
    """Write the predictions of a method and its controls, by the prefix of their files."""
    dataset, pixels = setup.splits.dataset, setup.splits.pixels
    store, precision = setup.store, setup.execution.precision
    for prefix, model in models.items():
        test = predict(model, pixels(dataset.test[0]))
        table = clean_table(test, dataset.test[1], precision)
        store.write_predictions(trial, f"{prefix}test", table)
        shift = predict(model, pixels(dataset.shift.images))
        table = shift_table(shift, dataset.shift, precision)
        store.write_predictions(trial, f"{prefix}shift", table)
    if dataset.ood:
        ood = {name: predict(models[""], pixels(images)) for name, images in dataset.ood.items()}
        store.write_predictions(trial, "ood", ood_table(ood, precision))
