"""One trial's predictions as numbers: what is read here is reduced and let go.

Nothing here knows arms or replicates, so the result depends on the predictions and the task alone,
and may be kept (see ``analysis.measures.cache``).
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from analysis import metrics
from analysis.data.predictions import Predictions, predictions, predictions_file, refuse_other_rows
from analysis.data.run import Run
from analysis.measures import copies
from analysis.measures import metrics_per_split as per_split
from study.parquet_format import COLLAPSED, MEAN_WEIGHTS

Json = dict[str, Any]
Array = npt.NDArray[Any]

CONTROLS: Final = (COLLAPSED, MEAN_WEIGHTS)
TEST: Final = ("nll", "cll", "gain", "correct", "entropy", "mutual_information")
SHIFT: Final = ("shift_nll", "shift_gain", "shift_weight")


@dataclass(frozen=True)
class Task:
    """What to measure of one trial.

    Attributes:
        trial: Its identity.
        members: How many it has.
        sizes: Ensemble sizes, ascending; of a size m the first m members.
        splits: Those that are stored of all trials.
        curve: Whether to follow the ensemble as it grows from one member to all.
    """

    trial: str
    members: int
    sizes: tuple[int, ...]
    splits: tuple[str, ...]
    curve: bool = False


@dataclass(frozen=True)
class Examples:
    """Per-example values of one ensemble: losses on test, shares of the mean under shift.

    Attributes:
        test: Numbers of the test examples, sorted.
        shift: Numbers of the shifted examples, sorted; empty without that split.
        values: ``TEST`` by test example (``cll`` is absent for a single one), ``SHIFT`` by shifted
            one, as float32.
    """

    test: Array
    shift: Array
    values: dict[str, npt.NDArray[np.float32]]


@dataclass(frozen=True)
class TrialMeasures:
    """What was measured of one trial.

    Attributes:
        scalars: Plain JSON: ``fingerprints`` by split, ``marks`` of the members of given
            predictions (see ``analysis.measures.copies``), ``controls`` (measures of the one-member
            controls), ``curve`` (rows of members, cll, nll), and ``sizes``: by ensemble size (as
            text) ``values``, and rows of ``severities``, ``scores``, ``reliability`` and ``pairs``.
        examples: By ensemble size.
    """

    scalars: Json
    examples: dict[int, Examples]


def files(run: Run, task: Task) -> list[str]:
    """Return the names of the prediction files that a task reads, those of controls if there."""
    names = list(task.splits)
    for prefix in CONTROLS:
        lone = [prefix + name for name in ("test", "shift") if name in task.splits]
        names += [name for name in lone if predictions_file(run, task.trial, name).exists()]
    return names


def measure_trial(run: Run, task: Task) -> TrialMeasures:
    """Measure one trial at every size of its task.

    Raises:
        StudyError: When a file breaks the format, or a control was asked about other rows.
    """
    test = predictions(run, task.trial, "test")
    marks = {"test": test.fingerprints()}
    of_members = copies.marks(test.logits) if run.given else []
    rows = per_split.reduce(test, task.sizes, per_split.test_rows)
    losses = {size: calibrated(rows[size]["logq"].T, test.labels) for size in task.sizes}
    found = {size: _on_test(rows[size], losses[size], test) for size in task.sizes}
    examples = {size: _examples(rows[size], losses[size], test) for size in task.sizes}
    if "ood" in task.splits:
        data = predictions(run, task.trial, "ood")
        marks["ood"] = data.fingerprints()
        _add_ood(found, rows, data, task)
    curve = _curve(test, found) if task.curve else []
    del test, rows
    if "shift" in task.splits:
        data = predictions(run, task.trial, "shift")
        marks["shift"] = data.fingerprints()
        _add_shift(found, examples, data, task)
    controls = _controls(run, task, marks)
    sizes = {str(size): found[size] for size in task.sizes}
    scalars: Json = {"fingerprints": marks, "marks": of_members, "controls": controls}
    scalars |= {"curve": curve, "sizes": sizes}
    return TrialMeasures(_plain(scalars), examples)


def calibrated(logq_NC: Array, y_N: Array) -> Array | None:
    """Return ``example_cll``; None for a single example, which no other can calibrate."""
    return metrics.example_cll(logq_NC, y_N) if len(y_N) > 1 else None


def _mean(losses: Array | None) -> float | None:
    return None if losses is None else float(losses.mean())


def _on_test(rows: per_split.Rows, losses: Array | None, test: Predictions) -> Json:
    return {
        "values": per_split.on_test(rows, test.labels) | {"cll": _mean(losses)},
        "severities": [],
        "scores": [],
        "reliability": per_split.bins(rows["logq"].T, test.labels),
        "pairs": per_split.pairs(rows["choice"]),
    }


def _examples(rows: per_split.Rows, losses: Array | None, test: Predictions) -> Examples:
    """Return the per-example values on test, in the order of the examples' numbers.

    Where an example stands under several conditions, every row is an example of its own.
    """
    distinct = len(np.unique(test.example)) == len(test.example)
    numbers = test.example if distinct else np.arange(len(test.example))
    order = np.argsort(numbers, kind="stable")
    logq = rows["logq"].T
    values = {
        "nll": metrics.example_nll(logq, test.labels),
        **({} if losses is None else {"cll": losses}),
        "gain": rows["gain"],
        "correct": logq.argmax(-1) == test.labels,
        "entropy": metrics.predictive_entropy(logq),
        "mutual_information": rows["mutual_information"],
    }
    kept = {name: value[order].astype(np.float32) for name, value in values.items()}
    return Examples(numbers[order], np.empty(0, np.int64), kept)


def _curve(test: Predictions, known: Mapping[int, Json]) -> list[Json]:
    """Return cll and nll of the first 1, 2, ... members, all of them at last.

    Args:
        test: Predictions of all.
        known: What was found already, by ensemble size.
    """
    found, total = [], None
    for size, logits in enumerate(test.logits, 1):
        logp = metrics.log_softmax(logits.astype(np.float64))
        total = logp if total is None else np.logaddexp(total, logp, out=total)
        if size in known:
            point = {name: known[size]["values"][name] for name in ("cll", "nll")}
        else:
            logq = total - np.log(size)
            losses = calibrated(logq, test.labels)
            point = {"cll": _mean(losses), "nll": metrics.nll(logq, test.labels)}
        found.append({"members": size} | point)
    return found


def _add_ood(
    found: dict[int, Json], rows: Mapping[int, per_split.Rows], data: Any, task: Task
) -> None:
    outside = per_split.reduce(data, task.sizes, per_split.ood_rows)
    for size in task.sizes:
        logq = rows[size]["logq"].T
        inside = metrics.ood_scores(logq, rows[size]["mutual_information"])
        found[size]["values"] |= per_split.on_ood(inside, outside[size], data)
        entropy = inside["entropy"], outside[size]["entropy"]
        found[size]["scores"] = per_split.scores(*entropy, data, logq.shape[1])


def _add_shift(
    found: dict[int, Json], examples: dict[int, Examples], data: Predictions, task: Task
) -> None:
    """Add what shifted rows say; their log-probabilities stay in float32, as they are many."""
    rows = per_split.reduce(data, task.sizes, per_split.shift_rows, np.float32)
    for size in task.sizes:
        cells = per_split.cells(rows[size], data)
        found[size]["values"] |= per_split.on_shift(cells)
        kept = ("condition", "severity", "nll", "accuracy", "ece")
        found[size]["severities"] = [{name: cell[name] for name in kept} for cell in cells]
        numbers, shares = per_split.shares(rows[size], data)
        own = examples[size]
        values = own.values | {k: v.astype(np.float32) for k, v in shares.items()}
        examples[size] = Examples(own.test, numbers, values)


def _controls(run: Run, task: Task, marks: Mapping[str, dict[str, str]]) -> Json:
    """Return the measures of the one-member controls that are there."""
    values: Json = {}
    for name in files(run, task)[len(task.splits) :]:
        prefix, _, base = name.rpartition("_")
        found = predictions(run, task.trial, name)
        known = (base, marks[base]), (name, found.fingerprints())
        refuse_other_rows((str(predictions_file(run, task.trial, of)), own) for of, own in known)
        if base == "test":
            logq = per_split.reduce(found, [1], per_split.mean_logp)[1]["logq"].T
            values[f"{prefix}_nll"] = metrics.nll(logq, found.labels)
            values[f"{prefix}_cll"] = _mean(calibrated(logq, found.labels))
        else:
            rows = per_split.reduce(found, [1], per_split.shift_rows)[1]
            cells = per_split.cells(rows, found)
            values[f"{prefix}_shift_nll"] = per_split.on_shift(cells)["shift_nll"]
    return values


def _plain(value: Any) -> Any:
    """Return plain Python values; what is not finite is None."""
    if isinstance(value, dict):
        return {key: _plain(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_plain(inner) for inner in value]
    if isinstance(value, float | np.floating):
        return float(value) if math.isfinite(value) else None
    return value
