"""``--dry-run``: check everything that can be checked without a training run, and estimate cost."""

from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from study import datasets
from study.cluster.nodes import refuse_too_large
from study.cluster.runtime import Runtime
from study.commands.notes import notes
from study.datasets import Dataset
from study.diagnostics.cost import flops
from study.diagnostics.curve import LOOKS
from study.errors import StudyError
from study.progress.tally import duration
from study.run_folder.free_space import refuse_full
from study.run_folder.store import RunFolder
from study.search.points import SAMPLES, enqueued_points, sampled_points
from study.search.storage import silence
from study.space.configuration import configuration
from study.space.domain import Point
from study.space.settings import MethodSpace, Study
from study.spec import canonical
from study.stages import estimate
from study.training.batches import WATCHED, default_device
from study.training.fit import DivergenceError
from study.trials.rehearsal import one_step
from study.trials.trial import build

CONSUMED_BY = 256
"""Sampled configurations among which each searched parameter must be used at least once."""
HOPELESS = 64
"""Sampled configurations after which none is expected to be within the method's own limit."""
HERE = Runtime()
FEW = 16
"""Examples that suffice to see which parameters a method reads."""
SLOW = 0.5
"""Seconds of a step above which it is timed on a few examples and scaled."""


class TrialCost(NamedTuple):
    """What a trial of a method takes: seconds of training here, and FLOPs (nan: not counted)."""

    seconds: float
    flops: float


def dry_run(study: Study, store: RunFolder, root: Path | None, runtime: Runtime = HERE) -> int:
    """Show the space, build sampled configurations, check that each parameter is used.

    Whether a trial fits on a machine of the run comes last: the hours are of use without one.

    Raises:
        StudyError: For data that cannot be loaded, values that do not go together, a parameter
            that no configuration uses, an output folder that cannot be written or is full, a
            cluster that cannot be joined, or trials that fit on no machine.
    """
    console = Console(markup=False)
    store.check_writable()
    refuse_full(store)
    data = datasets.load(study.dataset, root)
    console.print(
        f"{study.name}: {data.classes} classes, images {data.shape}; train {len(data.train[1])}, "
        f"val {len(data.val[1])}, test {len(data.test[1])}, shifted {len(data.shift.labels)}, "
        f"out of distribution {', '.join(data.ood) or 'none'}; fingerprint {data.fingerprint}",
        highlight=False,
    )
    for line in notes(study, data):
        console.print(line, highlight=False, soft_wrap=True)
    silence()
    torch.set_num_threads(1)
    costs = {}
    for space in study.spaces:
        if space.method == "deep_ensemble":
            continue
        console.print(_space_table(space))
        points = list(sampled_points(space, CONSUMED_BY))
        for number, point in enumerate(points[:SAMPLES]):
            console.print(f"  sample {number}: {canonical(point)}", highlight=False, soft_wrap=True)
        costs[space.method] = _check_consumption(study, space, points, data)
    short = estimate.shortage(study, data, store)
    for line in [*_estimate(study, costs, data), *([short] if short else [])]:
        console.print(line, highlight=False, soft_wrap=True)
    refuse_too_large(study, store, runtime)
    return 0


def _space_table(space: MethodSpace) -> Table:
    table = Table(title=f"{space.method} ({space.file})", title_justify="left")
    for heading in ("parameter", "values", "only when"):
        table.add_column(heading)
    for key, value in space.fixed.items():
        table.add_row(key, str(value), "fixed")
    for key, _, domain in space.conditional():
        values = list(domain.choice or domain.bounds or ())
        shown = f"{values}{' log' if domain.log else ''}"
        when = ", ".join(f"{k} in {list(v)}" for k, v in domain.when.items())
        table.add_row(key, shown, when)
    return table


def _check_consumption(
    study: Study, space: MethodSpace, sampled: list[Point], data: Dataset
) -> TrialCost:
    """Train the first points for a step, and more until every parameter was read.

    Points beyond a limit of the method's own are built, but neither trained nor timed.

    Returns:
        The median seconds of a trial here, and where the study asks for GPUs its mean FLOPs.
    """
    missing, first = set(space.search), SAMPLES + len(space.enqueue)
    seconds: list[float] = []
    counted: list[float] = []
    points = [*enqueued_points(space), *sampled]
    excesses: list[float] = []
    diverged: list[str] = []
    for number, point in enumerate(points):
        if number >= first and seconds and not missing & set(point):
            continue  # Enough are timed, and every parameter of this one has been read.
        if number >= HOPELESS and not seconds:
            break
        where = f"{space.file}: {space.method} at {canonical(point)}"
        try:
            read, excess = one_step(space, point, data, FEW)[:2]
            missing -= read & set(point)
            if excess > 0:
                excesses.append(excess)
            elif len(seconds) < first:
                seconds.append(_seconds_per_trial(space, point, data))
                if study.resources.gpus_per_trial:
                    counted.append(flops_per_trial(space, point, data))
        except DivergenceError as error:
            diverged.append(str(error))  # Some corners of a wide space do; the search records them.
        except StudyError as error:
            raise StudyError(
                str(error) if space.file in str(error) else f"{where}: {error}"
            ) from None
        except Exception as error:
            why = f"{type(error).__name__}: {' '.join(str(error).split())}"
            raise StudyError(f"{where} fails with {why}; fix it") from error
    tried = len(excesses) + len(diverged)
    if not seconds and diverged:
        raise StudyError(
            f"{space.file}: {space.method}: {len(diverged)} of {tried} sampled configurations "
            f"diverge, the others exceed its limit ({diverged[0]}); lower training.lr or fix it"
        )
    if not seconds:
        raise StudyError(
            f"{space.file}: {space.method}: all {tried} sampled configurations exceed the "
            f"method's own limit, the nearest by {100 * min(excesses):.3g} %; raise the limit or "
            "narrow the space"
        )
    if missing:
        raise StudyError(
            f"{space.file}: {', '.join(sorted(missing))}: searched, but no sampled configuration "
            f"of {space.method} uses it; remove it or fix its condition"
        )
    return TrialCost(float(np.median(seconds)), float(np.mean(counted or [np.nan])))


def _seconds_per_trial(space: MethodSpace, point: Point, data: Dataset) -> float:
    """Time a step, at full batch size unless that is slow, and multiply it out."""
    training = configuration(space, point).training
    size = min(training.batch_size, len(data.train[1]))
    few = min(FEW, size)
    step = one_step(space, point, data, few)[2] * size / few
    if step < SLOW:
        step = one_step(space, point, data, size)[2]
    return step * (len(data.train[1]) // size) * training.epochs


def flops_per_trial(space: MethodSpace, point: Point, data: Dataset) -> float:
    """Count the FLOPs of a trial that is confirmed; one of the search predicts on fewer images."""
    own = configuration(space, point)
    training, examples = own.training, len(data.train[1])
    size = min(training.batch_size, examples)
    method = build(own.trial_of("candidate", "confirm", 0, 0), data.shape, data.classes)
    cost = flops(method.to(default_device()), data.shape, default_device(), size)
    sets = [data.val[1], data.val_shift.labels, data.test[1], data.shift.labels]
    predicted = sum(map(len, sets)) + sum(map(len, data.ood.values()))
    watched = min(LOOKS, training.epochs) * min(WATCHED, len(data.val[1]))
    trained = training.epochs * (examples // size) * size
    return cost.train_flops * trained + cost.infer_flops * (predicted + watched)


def _estimate(study: Study, costs: dict[str, TrialCost], data: Dataset) -> list[str]:
    """Return lines with the core time, GPU hours and disk that the study is likely to take."""
    seconds = estimate.total(study, {method: cost.seconds for method, cost in costs.items()})
    unit = "core" if default_device().type == "cpu" else "GPU"
    lines = [
        f"estimate: {duration(seconds)} of one {unit} of this machine for training alone, "
        f"{estimate.estimate(study, data) / 1e6:.0f} MB on disk at most; nothing was trained"
    ]
    if study.resources.gpus_per_trial:
        every = estimate.total(study, {method: cost.flops for method, cost in costs.items()})
        precision = study.spaces[0].fixed.get("training.precision", "float32")
        hours = estimate.gpu_hours(every, precision)
        lines.append(
            f"estimate: {hours:.1f} hours of one H100 at most, for {every:.1e} FLOPs of training "
            f"and prediction, if it does {100 * estimate.UTILISATION:.0f} % of its peak of "
            f"{estimate.PEAK[precision] / 1e12:.0f} TFLOP/s in {precision}: an assumption that no "
            "GPU has confirmed yet"
        )
    return lines
