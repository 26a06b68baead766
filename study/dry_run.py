"""``--dry-run``: check everything that can be checked without a training run, and estimate cost."""

import contextlib
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import torch
from rich.console import Console
from rich.table import Table

from study import backbones, cost, datasets, disk, methods
from study import pilot as pilot_stage
from study.batches import Pixels, channel_statistics, default_device
from study.datasets import Dataset
from study.progress import duration
from study.schema import StudyError
from study.search import point_of, suggest
from study.space import ENTRY_KEYS, MethodSpace, Point, Study, configuration, models
from study.spec import Strict, canonical
from study.store import Store
from study.train import DivergenceError, epochs_of, fit

SAMPLES = 3
CONSUMED_BY = 256
"""Sampled configurations among which each searched parameter must be used at least once."""
HOPELESS = 64
"""Sampled configurations after which none is expected to be within the method's own limit."""
STEPS = 2
FEW = 16
"""Examples that suffice to see which parameters a method reads."""
SLOW = 0.5
"""Seconds of a step above which it is timed on a few examples and scaled."""


def dry_run(study: Study, store: Store, root: Path | None) -> int:
    """Show the space, build sampled configurations, check that each parameter is used.

    Raises:
        StudyError: For data that cannot be loaded, values that do not go together, a parameter
            that no configuration uses, or an output folder that cannot be written.
    """
    console = Console()
    store.create()
    data = datasets.load(study.dataset, root)
    console.print(
        f"{study.name}: {data.classes} classes, images {data.shape}; train {len(data.train[1])}, "
        f"val {len(data.val[1])}, test {len(data.test[1])}, shifted {len(data.shift.labels)}, "
        f"out of distribution {', '.join(data.ood) or 'none'}; fingerprint {data.fingerprint}",
        highlight=False,
    )
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    torch.set_num_threads(1)
    seconds = {}
    for space in study.spaces:
        if space.method == "deep_ensemble":
            continue
        console.print(_space_table(space))
        points = list(_sampled(space, CONSUMED_BY))
        for number, point in enumerate(points[:SAMPLES]):
            console.print(f"  sample {number}: {canonical(point)}", highlight=False, soft_wrap=True)
        seconds[space.method] = _check_consumption(space, [*_enqueued(space), *points], data)
    console.print(_estimate(study, seconds, data), highlight=False, soft_wrap=True)
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


def _sampled(space: MethodSpace, count: int) -> Iterable[Point]:
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    for _ in range(count):
        trial = study.ask()
        suggest(trial, space)
        yield point_of(study.trials[trial.number], space)


def _enqueued(space: MethodSpace) -> Iterable[Point]:
    for entry in space.enqueue:
        yield {k: v for k, v in entry.items() if k not in ENTRY_KEYS and v is not None}


def _check_consumption(space: MethodSpace, points: list[Point], data: Dataset) -> float:
    """Train the first points for a step, and more until every parameter was read.

    Points beyond a limit of the method's own are built, but neither trained nor timed.

    Returns:
        The median seconds of a trial here.
    """
    missing, first = set(space.search), SAMPLES + len(space.enqueue)
    seconds: list[float] = []
    excesses: list[float] = []
    diverged: list[str] = []
    for number, point in enumerate(points):
        if number >= first and seconds and not missing & set(point):
            continue
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
        except DivergenceError as error:
            diverged.append(str(error))  # Some corners of a wide space do; the search records them.
        except StudyError as error:
            raise StudyError(
                str(error) if space.file in str(error) else f"{where}: {error}"
            ) from None
        except Exception as error:
            why = f"{type(error).__name__}: {' '.join(str(error).split())}"
            raise StudyError(f"{where} fails with {why}; mend it") from error
    tried = len(excesses) + len(diverged)
    if not seconds and diverged:
        raise StudyError(
            f"{space.file}: {space.method}: {len(diverged)} of {tried} sampled configurations "
            f"diverge, the others exceed its limit ({diverged[0]}); lower training.lr or mend it"
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
            f"of {space.method} uses it; remove it or mend its condition"
        )
    return float(np.median(seconds))


def _seconds_per_trial(space: MethodSpace, point: Point, data: Dataset) -> float:
    """Time a step, at full batch size unless that is slow, and multiply it out."""
    training = configuration(space, point).training
    size = min(training.batch_size, len(data.train[1]))
    few = min(FEW, size)
    step = one_step(space, point, data, few)[2] * size / few
    if step < SLOW:
        step = one_step(space, point, data, size)[2]
    return step * (len(data.train[1]) // size) * training.epochs


def one_step(
    space: MethodSpace, point: Point, data: Dataset, size: int
) -> tuple[set[str], float, float]:
    """Train on a few batches with parameters that note being read.

    Returns:
        The parameters read, by how much the method exceeds its own limit (then it is not trained),
        and seconds per step.
    """
    own = configuration(space, point)
    sections = own.model_dump()
    read = {"training.epochs", "training.batch_size"}
    parsed: dict[str, Any] = {
        name: _recording(model(**sections[name]), name, read)
        for name, model in models(space.method, own.backbone["name"]).items()
    }
    method = methods.build(
        space.method,
        parsed["params"],
        lambda: backbones.build(parsed["backbone"], data.shape, data.classes),
        seed=0,
    ).to(device := default_device())
    excess = method.excess() or 0.0
    if excess > 0:
        return read, excess, 0.0
    size = min(max(size, method.members), own.training.batch_size, len(data.train[1]))
    _check_logits(method, data)
    images, labels = (np.resize(array, (STEPS * size, *array.shape[1:])) for array in data.train)
    pixels = Pixels(images, *channel_statistics(images), device)
    start, steps = time.perf_counter(), 0
    for part, _ in method.parts():
        epochs_of(part.phases(), own.training.epochs)
        epochs = sum(phase.at_least for phase in part.phases())
        short = parsed["training"].model_copy(update={"epochs": epochs, "batch_size": size})
        fit(part, pixels, torch.tensor(labels, device=device), short, parsed["regulariser"], seed=0)
        steps = steps or STEPS * epochs
    seconds = (time.perf_counter() - start) / max(1, steps)
    _look_at(method)
    return read, 0.0, seconds


def gpu_memory(study: Study, data: Dataset) -> tuple[float, float]:
    """Return bytes that a trial takes of this GPU, which it must have to itself, and those it has.

    The most that a step takes of a few configurations of each method, enqueued ones first.

    Raises:
        StudyError: When there is no GPU.
    """
    if not torch.cuda.is_available():
        raise StudyError("resources.gpus_per_trial=auto: needs a GPU, but torch sees none; set 0")
    for space in study.spaces:
        if space.method != "deep_ensemble":
            for point in [*_enqueued(space), *_sampled(space, SAMPLES)]:
                size = configuration(space, point).training.batch_size
                with contextlib.suppress(DivergenceError):
                    one_step(space, point, data, size)
    free, total = torch.cuda.mem_get_info()
    beside = total - free - torch.cuda.memory_reserved()
    return float(torch.cuda.max_memory_reserved() + beside), float(total)


def _look_at(method: methods.Method) -> None:
    """Ask the trained method for all that a confirmed trial asks for."""
    list(method.effective_weights())
    method.perturbations()
    method.collapsed()
    method.member_network(0)
    cost.size(method)


def _check_logits(method: methods.Method, data: Dataset) -> None:
    logits = method.eval()(torch.zeros(2, *data.shape, device=default_device()))
    expected = (method.members, 2, data.classes)
    if tuple(logits.shape) != expected:
        raise ValueError(
            f"logits must be (members, batch, classes) = {expected}, but are {tuple(logits.shape)}"
        )


def _recording(model: Strict, section: str, read: set[str]) -> Strict:
    """Return a copy of ``model`` that notes in ``read`` which fields are used."""
    kind = type(model)

    def noting(self: Strict, name: str) -> Any:
        if name in kind.model_fields:
            read.add(f"{section}.{name}")
        return kind.__getattribute__(self, name)

    recording: type[Strict] = type(kind.__name__, (kind,), {"__getattribute__": noting})
    return recording.model_construct(**dict(model))


def _estimate(study: Study, seconds: dict[str, float], data: Dataset) -> str:
    """Return a line with the core time and disk that the study is likely to take."""
    budget, protocol = study.budget, study.protocol
    tuned = sum(
        (budget.trials + budget.rescore * budget.rescore_seeds) * s for s in seconds.values()
    )
    single = seconds["single"]
    candidates = sum(seconds[space.method] for space in study.candidates) * protocol.shortlist
    others = sum(s for m, s in seconds.items() if m != "single")
    pilot, seeds = 0.0, protocol.seeds
    if seeds == "auto":
        pilot, seeds = 9 * single * budget.pilot_seeds, pilot_stage.MOST
    total = tuned + pilot + seeds * (candidates + others + 14 * single)
    unit = "core" if default_device().type == "cpu" else "GPU"
    return (
        f"estimate: {duration(total)} of one {unit} of this machine for training alone, "
        f"{disk.estimate(study, data) / 1e6:.0f} MB on disk at most; nothing was trained"
    )
