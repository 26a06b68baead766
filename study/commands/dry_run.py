"""``--dry-run``: check everything that can be checked without a training run, and estimate cost."""

from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from study import datasets
from study.commands.notes import notes
from study.datasets import Dataset
from study.errors import StudyError
from study.progress.tally import duration
from study.run_folder.store import RunFolder
from study.search.points import SAMPLES, enqueued_points, sampled_points
from study.search.storage import silence
from study.space.configuration import configuration
from study.space.domain import Point
from study.space.study import MethodSpace, Study
from study.spec import canonical
from study.stages import anchors, estimate
from study.stages import pilot as pilot_stage
from study.training.batches import default_device
from study.training.fit import DivergenceError
from study.trials.rehearsal import one_step

CONSUMED_BY = 256
"""Sampled configurations among which each searched parameter must be used at least once."""
HOPELESS = 64
"""Sampled configurations after which none is expected to be within the method's own limit."""
FEW = 16
"""Examples that suffice to see which parameters a method reads."""
SLOW = 0.5
"""Seconds of a step above which it is timed on a few examples and scaled."""


def dry_run(study: Study, store: RunFolder, root: Path | None) -> int:
    """Show the space, build sampled configurations, check that each parameter is used.

    Raises:
        StudyError: For data that cannot be loaded, values that do not go together, a parameter
            that no configuration uses, or an output folder that cannot be written.
    """
    console = Console()
    store.check_writable()
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
    seconds = {}
    for space in study.spaces:
        if space.method == "deep_ensemble":
            continue
        console.print(_space_table(space))
        points = list(sampled_points(space, CONSUMED_BY))
        for number, point in enumerate(points[:SAMPLES]):
            console.print(f"  sample {number}: {canonical(point)}", highlight=False, soft_wrap=True)
        seconds[space.method] = _check_consumption(space, [*enqueued_points(space), *points], data)
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
    if protocol.anchors == "matched":
        judged = protocol.shortlist * len(study.candidates) + len(study.others) - 1
        tried = budget.anchor_seeds * (anchors.OWN + judged)
        of_four = 4 * anchors.pool_seeds(seeds)
        total += single * (tried + judged * (anchors.MORE * seeds + of_four) + seeds * judged**0.5)
    unit = "core" if default_device().type == "cpu" else "GPU"
    return (
        f"estimate: {duration(total)} of one {unit} of this machine for training alone, "
        f"{estimate.estimate(study, data) / 1e6:.0f} MB on disk at most; nothing was trained"
    )
