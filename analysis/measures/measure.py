"""From stored predictions to frames of numbers: one pass over the confirm stage's files.

The frames are all that the statistics and the charts ever see, besides the per-example values of
one arm at a time.
"""

from collections.abc import Iterable, Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field, replace
from functools import partial
from multiprocessing import get_context
from typing import Any, Final

import numpy as np
import polars as pl

from analysis import metrics
from analysis.data.predictions import predictions_file, refuse_other_rows
from analysis.data.roles import POOLS, arm_key, ensemble_key
from analysis.data.run import Run
from analysis.measures.cache import Kept, kept_of, key_of
from analysis.measures.columns import COMPARING, KEYS, METRICS, SCHEMAS
from analysis.measures.copies import refuse_copies
from analysis.measures.per_example import ExampleValues, Source
from analysis.measures.selection import confirmed, excluded
from analysis.measures.trial import Task, files, measure_trial

Json = dict[str, Any]

SECONDS_PER_BYTE: Final = 5e-8
SECONDS_PER_TRIAL: Final = 0.01
WORTH_A_PROCESS: Final = 4.0
"""Seconds of work below which another process costs more than it saves."""


@dataclass(frozen=True)
class Measures:
    """What was measured on the confirm stage.

    An *arm* is one configuration in one role; its key is ``<role>`` for the anchors and controls
    (the anchor Deep Ensemble of size M: ``deep_ensemble-M``), ``<role>-<configuration>`` for
    matched anchors (of size M: ``matched_deep_ensemble-<configuration>-M``), and
    ``<configuration>`` otherwise.
    A Deep Ensemble's trial is a pool of members; it has one row per size that another arm needs.

    Attributes:
        replicates: One row per arm and replicate: arm, role, method, configuration, name, trial,
            replicate, members, and a Float64 column per metric, null where it is undefined
            (``analysis.measures.columns`` has the table).
        severities: arm, replicate, condition, severity, nll, accuracy, ece.
        scores: arm, replicate, kind (in, out: shares of the entropy over its largest value, in
            bins from ``at``; roc: share found ``at`` a share of false alarms), at, share.
        reliability: arm, replicate, bin (0-14), count, confidence, accuracy.
        pairs: arm, i, j, disagreement (mean over replicates; members i < j).
        excluded: trial, arm, stage, status, reason: every trial that is not complete (a failed
            pool of a Deep Ensemble stands under ``deep_ensemble``, without a size), and every
            complete confirm trial whose arm the plan does not declare (reason ``UNDECLARED``,
            arm: its configuration).
        curve: arm (``deep_ensemble``), replicate, members (1 to all of the pool), cll, nll: the
            anchor as it grows.
        source: Where ``examples`` come from.
    """

    replicates: pl.DataFrame
    severities: pl.DataFrame
    reliability: pl.DataFrame
    pairs: pl.DataFrame
    excluded: pl.DataFrame
    curve: pl.DataFrame = field(default_factory=lambda: pl.DataFrame(schema=SCHEMAS["curve"]))
    scores: pl.DataFrame = field(default_factory=lambda: pl.DataFrame(schema=SCHEMAS["scores"]))
    source: Source | None = None

    def examples(self, arm: str) -> ExampleValues | None:
        """Return what each example adds to an arm's measures; it is read when asked for.

        Examples and their order are the same for every arm. None for an unknown arm, or where the
        predictions are not at hand.
        """
        return self.source.examples(arm) if self.source else None


def measure(run: Run, workers: int = 1) -> Measures:
    """Compute every metric of the confirm stage's complete trials.

    Each file is read once and let go; what was measured is kept in the run's folder, and what is
    kept there is not measured again (see ``analysis.measures.cache``). The result is the same.

    Args:
        run: The run folder.
        workers: Processes to use at most (fewer where starting them would not repay itself). With
            more than one, a script needs ``if __name__ == "__main__":``. The result is the same.

    Raises:
        StudyError: When a file breaks the format, a split is missing in some trials only, trials
            hold other rows or labels, two trials claim the same arm and replicate, or an arm that
            was given is a copy.
    """
    rows, tasks = confirmed(run)
    kept, owner = kept_of(run)
    scalars = _scalars(_bare(run), kept, tasks, workers)
    _refuse_other_rows(run, tasks, scalars)
    if run.given:
        refuse_copies(run, rows, scalars)
    arms: dict[str, list[tuple[int, Task, int]]] = {}
    parts: dict[str, list[Json]] = {name: [] for name in SCHEMAS}
    for row, task, found in zip(rows, tasks, scalars, strict=True):
        for size in task.sizes:
            arm = _arm(row, size)
            arms.setdefault(arm, []).append((row["replicate"], task, size))
            _add(parts, row | {"arm": arm, "members": size}, found, size)
        here = {"arm": row["role"], "replicate": row["replicate"]}
        parts["curve"] += [here | point for point in found["curve"]]
    frames = _frames(parts)
    source = Source(_bare(run), kept, arms, owner)
    return Measures(**frames, excluded=excluded(run), source=source)


def _arm(row: Mapping[str, Any], size: int) -> str:
    arm = arm_key(row["role"], row["configuration"])
    return ensemble_key(arm, size) if row["role"] in POOLS else arm


def _bare(run: Run) -> Run:
    """Return the run without what is costly to send to another process."""
    return replace(run, trials=run.trials.select("trial", "members", "files"), plan=None)


# --- what to measure, and what is known already


def _scalars(run: Run, kept: Kept, tasks: list[Task], workers: int) -> list[Json]:
    """Return the scalars of every task, from what is kept or measured now."""
    found = {task.trial: kept.scalars(run, task) for task in tasks}
    missing = [task for task in tasks if found[task.trial] is None]
    work = partial(_measured, run, kept)
    workers = min(workers, int(_seconds(run, missing) / WORTH_A_PROCESS))
    if workers < 2:
        new = map(work, missing)
        found |= {task.trial: own for task, own in zip(missing, new, strict=True)}
    else:
        with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
            done = pool.map(work, missing, chunksize=max(1, min(8, len(missing) // workers)))
            found |= {task.trial: own for task, own in zip(missing, done, strict=True)}
    return [own for task in tasks if (own := found[task.trial]) is not None]


def _seconds(run: Run, tasks: Iterable[Task]) -> float:
    """Return about how long it takes to measure."""
    stored = [predictions_file(run, t.trial, name) for t in tasks for name in files(run, t)]
    size = sum(file.stat().st_size for file in stored if file.exists())
    return SECONDS_PER_TRIAL * len({file.parent for file in stored}) + SECONDS_PER_BYTE * size


def _measured(run: Run, kept: Kept, task: Task) -> Json:
    """Measure one trial, keep what was found, and return its scalars."""
    key = key_of(run, task)
    measured = measure_trial(run, task)
    kept.write(task, key, measured)
    return measured.scalars


# --- frames


def _add(parts: dict[str, list[Json]], row: Json, found: Json, size: int) -> None:
    """Add the rows of one ensemble."""
    own = found["sizes"][str(size)]
    here = {"arm": row["arm"], "replicate": row["replicate"]}
    keys = {key: row[key] for key in (*KEYS, "cosine", "cosine_init")}
    values = dict.fromkeys(METRICS) | keys | found["controls"] | own["values"]
    if row.get("comparable") is False:
        values |= dict.fromkeys(COMPARING)
    parts["replicates"].append(values)
    parts["severities"] += [here | cell for cell in own["severities"]]
    parts["reliability"] += [here | bin_ for bin_ in own["reliability"]]
    parts["scores"] += [here | point for point in own["scores"]]
    parts["pairs"] += [{"arm": row["arm"]} | pair for pair in own["pairs"]]


def _frames(parts: Mapping[str, list[Json]]) -> dict[str, pl.DataFrame]:
    frames = {
        name: pl.DataFrame(rows, schema=SCHEMAS[name], orient="row") for name, rows in parts.items()
    }
    frames["pairs"] = (
        frames["pairs"]
        .group_by("arm", "i", "j", maintain_order=True)
        .agg(pl.col("disagreement").mean())
    )
    errors = _corruption_errors(frames["severities"])
    keys = frames["replicates"].select("arm", "replicate").iter_rows()
    mce = pl.Series("mce", [errors.get(key) for key in keys], pl.Float64).fill_nan(None)
    return frames | {"replicates": frames["replicates"].with_columns(mce)}


def _corruption_errors(severities: pl.DataFrame) -> dict[tuple[str, int], float]:
    """Return ``metrics.mce`` by arm and replicate, against the mean over the single model's seeds.

    A severity that a condition has not counts nothing.
    """
    conditions, levels = (
        {value: at for at, value in enumerate(severities[name].unique(maintain_order=True))}
        for name in ("condition", "severity")
    )
    errors: dict[tuple[str, int], metrics.FloatArray] = {}
    columns = severities.select("arm", "replicate", "condition", "severity", "accuracy")
    for arm, replicate, condition, severity, accuracy in columns.iter_rows():
        own = errors.setdefault((arm, replicate), np.zeros((len(conditions), len(levels))))
        own[conditions[condition], levels[severity]] = 1 - accuracy
    single = [own for (arm, _), own in errors.items() if arm == "single"]
    if not single:
        return {}
    reference = np.mean(single, 0)
    return {key: metrics.mean_corruption_error(own, reference) for key, own in errors.items()}


def _refuse_other_rows(run: Run, tasks: list[Task], scalars: list[Json]) -> None:
    """Refuse trials whose rows or labels of a split differ."""
    for split in tasks[0].splits if tasks else ():
        refuse_other_rows(
            (str(predictions_file(run, task.trial, split)), found["fingerprints"][split])
            for task, found in zip(tasks, scalars, strict=True)
        )
