"""Trials from spec to committed files: seed, build, fit, predict, commit. A plain call."""

import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Final

import torch
from pydantic import ValidationError

from study import backbones, methods
from study.datasets import Dataset
from study.diagnostics.cost import flops, size
from study.diagnostics.curve import Curve
from study.diagnostics.weight_trajectory import Trajectory, weight_cosine, when
from study.errors import StudyError
from study.methods import Method
from study.parquet_format import Outcome, TrialRow
from study.run_folder.paths import StoreError
from study.run_folder.store import RunFolder
from study.spec import Execution, TrialSpec
from study.training.batches import Splits, default_device
from study.training.determinism import deterministic
from study.training.fit import (
    WHOLE_STEP,
    AtATime,
    DivergenceError,
    OnEpoch,
    epochs_of,
    fit,
    forwards_of,
)
from study.training.prediction import is_out_of_memory
from study.training.stack import Stack, best_size, joined
from study.trials.evaluation import Run, Setup, evaluate
from study.trials.new_row import new_row, peak_bytes
from study.trials.watch import Watch

DEFAULT = Execution()
KEPT: Final[dict[str, Splits]] = {}
"""The splits of the last dataset, by its fingerprint."""


@dataclass(frozen=True)
class Attempt:
    """How many networks, and how much of a step, are in memory at a time.

    Attributes:
        most: Networks that are trained as one, at most; None for as many as repay.
        at_a_time: How much of a step.
    """

    most: int | None
    at_a_time: AtATime = WHOLE_STEP

    def forwards_per_batch(self, run: Run) -> int:
        """Return in how many forward passes the members of a (micro-)batch are computed."""
        in_turn = self.at_a_time.sequential_members
        return len(forwards_of(run.method, run.spec.regulariser)) if in_turn else 1


IN_TURN: Final = Attempt(1, AtATime(sequential_members=True))
IN_HALVES: Final = Attempt(1, AtATime(accumulation_steps=2, sequential_members=True))


def run_trials(
    specs: Sequence[TrialSpec],
    dataset: Dataset,
    store: RunFolder,
    *,
    fingerprint: str,
    name: str | None = None,
    on_epoch: OnEpoch = lambda epoch: None,
    execution: Execution = DEFAULT,
) -> list[TrialRow]:
    """Run trials that differ in seeds, or as :func:`alike` allows, and commit each.

    Committed ones are only read.

    Several are trained as one where their method can be, and one by one where it cannot or where
    that fails. If any is missing all are trained, so that numbers do not depend on interruptions.

    Args:
        specs: What to run.
        dataset: The data that the specs name.
        store: Where predictions and rows go.
        fingerprint: Of the dataset (costly, so computed once by the caller).
        name: The configuration's name for readers; None where there are several.
        on_epoch: Called with the number of epochs done (of each separately trained part).
        execution: How to train and to store.

    Returns:
        The committed rows. Divergence and exceptions are a status with a reason, not raised.
    """
    rows = [store.row(spec.trial) for spec in specs]
    done = [row for row in rows if row is not None]
    if len(done) == len(specs):
        return done
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    with deterministic(execution.deterministic):
        splits = _splits(dataset, fingerprint)
        setup = Setup(splits, fingerprint, name, store, execution, on_epoch)
        runs = _trained_as_one(specs, setup) if len(specs) > 1 else {}
        return [
            row or _run(spec, setup, runs.get(spec.trial))
            for spec, row in zip(specs, rows, strict=True)
        ]


def run_trial(
    spec: TrialSpec,
    dataset: Dataset,
    folder: str | Path,
    *,
    name: str | None = None,
    on_epoch: OnEpoch = lambda epoch: None,
    execution: Execution = DEFAULT,
) -> TrialRow:
    """Run one trial in this process and commit it; one that is committed is only read.

    Args:
        spec: What to run; :meth:`study.space.settings.Study.configuration` makes one.
        dataset: The data that the spec names, from :func:`study.datasets.load`.
        folder: Run folder or address (``s3://…``); made if it is not there.
        name: The configuration's name for readers.
        on_epoch: Called with the number of epochs done (of each separately trained part).
        execution: How to train and to store.

    Returns:
        The committed row. Divergence and exceptions are a status with a reason, not raised.

    Raises:
        StudyError: When the folder cannot be written.
    """
    store = RunFolder(folder)
    store.create()
    return run_trials(
        [spec],
        dataset,
        store,
        fingerprint=dataset.fingerprint,
        name=name,
        on_epoch=on_epoch,
        execution=execution,
    )[0]


def _run(spec: TrialSpec, setup: Setup, run: Run | None) -> TrialRow:
    """Train one trial, unless that is done, predict, and commit it."""
    start, epochs, store = time.perf_counter(), 0, setup.store

    def count(epoch: int) -> None:
        nonlocal epochs
        epochs = epoch
        setup.on_epoch(epoch)

    outcome = Outcome(members=spec.members)
    try:
        if run is None:
            run = _trained(spec, replace(setup, on_epoch=count))
        if (done := store.row(spec.trial)) is not None:
            return done  # By a node that was thought lost, and was only cut off.
        outcome = run.outcome
        if outcome.status == "complete":
            outcome = evaluate(run, setup)
    except DivergenceError as error:
        outcome = replace(outcome, status="diverged", reason=str(error))
    except StoreError:
        raise  # No fault of the trial: it is to be run again.
    except Exception as error:
        # Whatever a method of the user's own raises ends its trial, not the study.
        outcome = replace(outcome, status="failed", reason=f"{type(error).__name__}: {error}")
    outcome = replace(
        outcome,
        epochs=epochs or outcome.epochs,
        seconds=outcome.seconds + time.perf_counter() - start,
        peak_bytes=peak_bytes(),
    )
    how = setup.execution.deterministic
    row = new_row(spec, setup.fingerprint, setup.name, outcome, how)
    store.commit(row)
    return row


def _trained(spec: TrialSpec, setup: Setup) -> Run:
    """Return the trained run; out of memory it is begun again, with less at a time."""
    as_asked = Attempt(setup.execution.most, AtATime(sequential_members=setup.execution.low_memory))
    tried: list[tuple[int, int]] = []
    for attempt in (as_asked, IN_TURN, IN_HALVES):
        run = _prepared(spec, setup.splits)  # From the seed: nothing of a failed attempt is kept.
        if run.outcome.status != "complete":
            return run
        parts = joined(_parts([run]), attempt.most)
        size = len(parts), attempt.forwards_per_batch(run)
        if attempt is not IN_HALVES and size in tried:
            continue  # It would take as much memory as before.
        tried.append(size)
        try:
            return _train([run], parts, setup, attempt)[0]
        except Exception as error:
            if attempt is IN_HALVES or not is_out_of_memory(error):
                raise
        del run, parts  # With the error gone, so is all that its frames held.
        torch.cuda.empty_cache()
    raise AssertionError


def _trained_as_one(specs: Sequence[TrialSpec], setup: Setup) -> dict[str, Run]:
    """Return the trained runs by trial; none where they cannot be trained as one, or that fails.

    A failure is not theirs all: each is then to be found out alone.
    """
    start, stack = time.perf_counter(), tuple(spec.trial for spec in specs)
    try:
        runs = [_prepared(spec, setup.splits) for spec in specs]
        together = Attempt(setup.execution.most)
        if any(run.outcome.status != "complete" for run in runs):
            return {}
        every = _parts(runs)
        trainings = None
        if len({spec.configuration for spec in specs}) > 1:
            each = len(every) // len(runs)
            trainings = [spec.training for spec in specs for _ in range(each)]
        parts = joined(every, together.most, trainings)
        if len(parts) > 1:
            return {}  # They are not one stack: each is trained by itself.
        runs = _train(runs, parts, setup, together)
    except Exception:
        logging.getLogger(__name__).warning("not trained as one", exc_info=True)
        return {}
    seconds = (time.perf_counter() - start) / len(runs)
    return {
        run.spec.trial: replace(
            run,
            outcome=replace(run.outcome, stack=stack, seconds=seconds),
        )
        for run in runs
    }


def build(spec: TrialSpec, shape: tuple[int, int, int], classes: int) -> Method:
    """Build the spec's method around its backbone, initialised from the spec's seed."""
    network = partial(backbones.build, spec.backbone, shape, classes)
    return methods.build(spec.method, spec.params, network, spec.seed)


def refusal(spec: TrialSpec, shape: tuple[int, int, int], classes: int) -> str | None:
    """Return why a method refuses what the spec asks of it, None where nothing is known against it.

    Known before the training: what cannot be built, exceeds a limit of the method's own, or has
    fewer epochs than its phases need.
    """
    try:
        method = build(spec, shape, classes)
        for part, _ in method.independent_members():
            epochs_of(part.phases(), spec.training.epochs)
    except (StudyError, ValidationError) as error:
        return " ".join(str(error).split())
    return _beyond(method.excess())


def _beyond(excess: float | None) -> str | None:
    """Return the reason for which a method is not trained that exceeds a limit of its own."""
    if excess is None or excess <= 0:
        return None
    return f"exceeds the method's own limit by {100 * excess:.3g} %"


def replicates_as_one(
    spec: TrialSpec,
    shape: tuple[int, int, int],
    classes: int,
    most: int | None = None,
    device: str = "cpu",
) -> int:
    """Return how many replicates of the spec are best trained as one, at most ``most``.

    Args:
        spec: One of them.
        shape: Of an image.
        classes: Number of classes.
        most: Networks, at most; None for no other limit than the device's.
        device: Type of the device to train on.
    """
    parts = build(spec, shape, classes).independent_members()
    size = max(1, best_size(parts[0][0], device=device) // len(parts))
    return min(size, most or size)


def _prepared(spec: TrialSpec, splits: Splits) -> Run:
    """Build the method; what exceeds a limit of its own already has a status."""
    dataset = splits.dataset
    method = build(spec, dataset.shape, dataset.classes).to(splits.device)
    excess = method.excess()
    outcome = Outcome(
        members=method.members,
        comparable=method.comparable,
        excess=excess,
        cosine_init=weight_cosine(method),
    )
    if (reason := _beyond(excess)) is not None:
        outcome = replace(outcome, status="pruned", reason=reason)
    trajectory = Trajectory(method, when(spec.training.epochs) if spec.stage == "confirm" else ())
    curve = Curve(spec.training.epochs, splits.watched)
    return Run(spec, method, trajectory, curve, outcome)


def _parts(runs: list[Run]) -> list[tuple[Method, int]]:
    """Return what is trained apart, each with the seed of its batches."""
    return [
        (part, run.spec.seed if seed is None else seed)
        for run in runs
        for part, seed in run.method.independent_members()
    ]


def _train(
    runs: list[Run], parts: list[tuple[Method, int]], setup: Setup, how: Attempt
) -> list[Run]:
    """Train the runs' parts, or stacks of them; add what it cost, in equal shares."""
    spec, splits = runs[0].spec, setup.splits
    training, regulariser = spec.training, spec.regulariser
    cost = flops(runs[0].method, splits.dataset.shape, splits.device, training.batch_size)

    for run in runs:
        run.trajectory.record(0)
    start, members = time.perf_counter(), 0
    watch = Watch(runs, len(parts) == 1, setup.on_epoch)
    for part, seed in parts:
        train, labels = splits.train
        apart = part.methods if isinstance(part, Stack) else (part,)
        then = partial(watch.after, apart, members)
        fit(part, train, labels, training, regulariser, seed, then, how.at_a_time)
        members += len(apart)
    seconds = time.perf_counter() - start - watch.seconds

    def trained(run: Run) -> Run:
        if run.spec.trial in watch.diverged:
            return watch.ended(run)
        run.trajectory.record(training.epochs)
        outcome = replace(
            run.outcome,
            epochs=training.epochs,
            train_seconds=seconds / len(runs),
            pieces=how.at_a_time.accumulation_steps * how.forwards_per_batch(run),
            cosine=weight_cosine(run.method),
            **cost._asdict(),
            **size(run.method)._asdict(),
        )
        return replace(run, outcome=outcome)

    return [trained(run) for run in runs]


def _splits(dataset: Dataset, fingerprint: str) -> Splits:
    """Return the dataset on the device; the last one stays there for the next trial."""
    if fingerprint not in KEPT:
        KEPT.clear()  # First, since the device may not hold both.
        KEPT[fingerprint] = Splits(dataset, default_device())
    return KEPT[fingerprint]
