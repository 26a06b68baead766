"""From stored predictions to frames of numbers: one pass over the confirm stage's files.

The frames are all that the statistics and the charts ever see.
"""

from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field, replace
from functools import partial
from multiprocessing import get_context
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import polars as pl

from analysis import metrics
from analysis.load import Predictions, Run, predictions, predictions_file, refuse_other_rows
from study.schema import COLLAPSED, StudyError

SPLITS: Final = ("test", "shift", "ood")
METRICS: Final = (
    *("nll", "cll", "brier", "ece", "accuracy", "gain", "member_nll", "predictive_entropy"),
    *("mutual_information", "disagreement", "kl", "shift_nll", "shift_accuracy", "shift_ece"),
    *("shift_gain", "ood_auroc_entropy", "ood_auroc_msp", "ood_auroc_mi", "cosine"),
    *("cosine_init", "collapsed_nll", "collapsed_cll", "collapsed_shift_nll"),
)
ANCHORS: Final = ("single", "deep_ensemble")
CONTROLS: Final = ("negative_control", "positive_control")
UNDECLARED: Final = "not an arm of the plan"
CLL_SEED: Final = 20_260_123
"""The halves of ``cll`` are the same for every trial: common random numbers."""
WORTH_A_PROCESS: Final = 50
"""Trials per process below which another process costs more than it saves."""

_KEYS = {
    "arm": pl.String,
    "role": pl.String,
    "method": pl.String,
    "configuration": pl.String,
    "name": pl.String,
    "trial": pl.String,
    "replicate": pl.Int32,
    "members": pl.Int16,
}
_SCHEMAS: Final[dict[str, dict[str, Any]]] = {
    "replicates": {**_KEYS, **dict.fromkeys(METRICS, pl.Float64)},
    "severities": {
        **{"arm": pl.String, "replicate": pl.Int32, "condition": pl.String, "severity": pl.Int8},
        **dict.fromkeys(("nll", "accuracy", "ece"), pl.Float64),
    },
    "reliability": {
        **{"arm": pl.String, "replicate": pl.Int32, "bin": pl.Int8, "count": pl.Int64},
        **dict.fromkeys(("confidence", "accuracy"), pl.Float64),
    },
    "pairs": {"arm": pl.String, "i": pl.Int16, "j": pl.Int16, "disagreement": pl.Float64},
}


@dataclass(frozen=True)
class Measures:
    """What was measured on the confirm stage.

    An *arm* is one configuration in one role; its key is ``<role>`` for the anchors and controls
    (the anchor Deep Ensemble of size M: ``deep_ensemble-M``) and ``<configuration>`` otherwise.
    A Deep Ensemble's trial is a pool of members; it has one row per size that another arm needs.

    Attributes:
        replicates: One row per arm and replicate: arm, role, method, configuration, name, trial,
            replicate, members, and a Float64 column per metric (null where it is undefined):
            nll, cll, brier, ece, accuracy, gain, member_nll, predictive_entropy,
            mutual_information, disagreement, kl, shift_nll, shift_accuracy, shift_ece,
            shift_gain, ood_auroc_entropy, ood_auroc_msp, ood_auroc_mi, cosine, cosine_init,
            collapsed_nll, collapsed_cll, collapsed_shift_nll.
        severities: arm, replicate, condition, severity, nll, accuracy, ece.
        reliability: arm, replicate, bin (0-14), count, confidence, accuracy.
        pairs: arm, i, j, disagreement (mean over replicates; members i < j).
        excluded: trial, arm, stage, status, reason: every trial that is not complete (a failed
            pool of a Deep Ensemble stands under ``deep_ensemble``, without a size), and every
            complete confirm trial whose arm the plan does not declare (reason ``UNDECLARED``,
            arm: its configuration).
    """

    replicates: pl.DataFrame
    severities: pl.DataFrame
    reliability: pl.DataFrame
    pairs: pl.DataFrame
    excluded: pl.DataFrame


@dataclass
class _Part:
    """What one trial adds to the frames."""

    replicates: list[dict[str, Any]] = field(default_factory=list)
    severities: list[dict[str, Any]] = field(default_factory=list)
    reliability: list[dict[str, Any]] = field(default_factory=list)
    pairs: list[dict[str, Any]] = field(default_factory=list)
    fingerprints: dict[str, tuple[str, dict[str, str]]] = field(default_factory=dict)


def arm_key(role: str, configuration: str) -> str:
    """Return the key of an arm; a Deep Ensemble's is completed by its size."""
    return role if role in ANCHORS + CONTROLS else configuration


def measure(run: Run, workers: int = 1) -> Measures:
    """Compute every metric of the confirm stage's complete trials.

    Each file is read once and let go.

    Args:
        run: The run folder.
        workers: Processes to use at most (fewer where starting them would not repay itself). With
            more than one, a script needs ``if __name__ == "__main__":``. The result is the same.

    Raises:
        StudyError: When a file breaks the format, a split is missing in some trials only, trials
            hold other rows or labels, or two trials claim the same arm and replicate.
    """
    trials = run.trials.with_columns(declared=_declared(run))
    complete = pl.col("stage") == "confirm", pl.col("status") == "complete", pl.col("declared")
    rows = trials.filter(*complete).sort("role", "configuration", "replicate", "trial").to_dicts()
    _refuse_twins(run, rows)
    splits = _splits(run, rows)
    sizes = _sizes(rows)
    parts = _each(partial(_trial, _bare(run), splits, sizes), rows, workers)
    for split in splits:
        marks = {part.fingerprints[split][0]: part.fingerprints[split] for part in parts}
        refuse_other_rows(marks)
    frames = {name: _frame(name, (getattr(part, name) for part in parts)) for name in _SCHEMAS}
    frames["pairs"] = (
        frames["pairs"]
        .group_by("arm", "i", "j", maintain_order=True)
        .agg(pl.col("disagreement").mean())
    )
    return Measures(**frames, excluded=_excluded(trials))


def _bare(run: Run) -> Run:
    """Return the run without what is costly to send to another process."""
    return replace(run, trials=run.trials.select("trial", "members"), plan=None)


def _each(
    work: Callable[[dict[str, Any]], _Part], rows: list[dict[str, Any]], workers: int
) -> list[_Part]:
    workers = min(workers, len(rows) // WORTH_A_PROCESS)
    if workers < 2:
        return [work(row) for row in rows]
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        return list(pool.map(work, rows, chunksize=8))


def _frame(name: str, parts: Iterable[list[dict[str, Any]]]) -> pl.DataFrame:
    rows = [row for part in parts for row in part]
    return pl.DataFrame(rows, schema=_SCHEMAS[name], orient="row")


def _declared(run: Run) -> pl.Series:
    """Return of each trial whether it is of the plan; all are without one, or before confirm."""
    arms = None if run.plan is None else {(a["role"], a["configuration"]) for a in run.plan["arms"]}
    keys = run.trials.select("stage", "role", "configuration").iter_rows()
    known = [arms is None or stage != "confirm" or (role, c) in arms for stage, role, c in keys]
    return pl.Series(known, dtype=pl.Boolean)


def _excluded(trials: pl.DataFrame) -> pl.DataFrame:
    own_key = pl.col("role").is_in([*ANCHORS, *CONTROLS]) & pl.col("declared")
    undeclared = (pl.col("status") == "complete") & ~pl.col("declared")
    return (
        trials.filter((pl.col("status") != "complete") | undeclared)
        .select(
            "trial",
            pl.when(own_key).then("role").otherwise("configuration").alias("arm"),
            "stage",
            "status",
            pl.when(undeclared).then(pl.lit(UNDECLARED)).otherwise("reason").alias("reason"),
        )
        .sort("stage", "arm", "trial")
    )


def _refuse_twins(run: Run, rows: list[dict[str, Any]]) -> None:
    """Refuse two trials of one arm and replicate, and two configurations of one arm."""
    seen: dict[tuple[str, int], str] = {}
    configurations: dict[str, str] = {}
    for row in rows:
        arm = arm_key(row["role"], row["configuration"])
        other = configurations.setdefault(arm, row["configuration"])
        if other != row["configuration"]:
            raise StudyError(
                f"{run.folder}: {arm} must be one configuration, but is both {other} and "
                f"{row['configuration']}; keep studies with other anchors in folders of their own"
            )
        twin = seen.setdefault((arm, row["replicate"]), row["trial"])
        if twin != row["trial"]:
            raise StudyError(
                f"{run.folder}: arm {arm} must have one trial of replicate {row['replicate']}, but "
                f"has {twin} and {row['trial']}; remove the one that does not belong to the study"
            )


def _splits(run: Run, rows: list[dict[str, Any]]) -> list[str]:
    """Return the splits that were stored; a split must be there for all trials or for none."""
    stored = []
    for split in SPLITS:
        files = [predictions_file(run, row["trial"], split) for row in rows]
        missing = [file for file in files if not file.exists()]
        if missing and (split == "test" or len(missing) < len(files)):
            raise StudyError(
                f"{missing[0]}: must exist, as the trial is complete"
                f"{'' if split == 'test' else ' and others have it'}, but does not; "
                "delete the trial's folder and give the command of the study again"
            )
        if files and not missing:
            stored.append(split)
    return stored


def _sizes(rows: list[dict[str, Any]]) -> list[int]:
    """Return the sizes at which a Deep Ensemble is needed: those of the judged arms above 1.

    One member alone is the single model itself. With nothing else to judge, the whole pool.
    """
    judged = {row["members"] for row in rows if row["role"] not in ANCHORS} - {1}
    pools = {row["members"] for row in rows if row["role"] == "deep_ensemble"}
    return sorted(judged or pools)


def _trial(run: Run, splits: list[str], sizes: list[int], row: dict[str, Any]) -> _Part:
    """Measure one trial; a pool of a Deep Ensemble at every size that it can give."""
    part = _Part()
    logp: dict[str, npt.NDArray[Any]] = {}
    data: dict[str, Predictions] = {}
    for split in splits:
        data[split] = found = predictions(run, row["trial"], split)
        file = str(predictions_file(run, row["trial"], split))
        part.fingerprints[split] = (file, found.fingerprints())
        # The many shifted rows stay in float32; per-example values are summed in float64.
        exact = np.float32 if split == "shift" else np.float64
        logp[split] = metrics.log_softmax(found.logits.astype(exact, copy=False))
    arm = arm_key(row["role"], row["configuration"])
    keys = {key: row[key] for key in (*_KEYS, "cosine", "cosine_init") if key != "arm"}
    keys |= _collapsed(run, row["trial"], data)
    pool = row["role"] == "deep_ensemble"
    for size in [s for s in sizes if s <= row["members"]] if pool else [row["members"]]:
        keys |= {"arm": f"{arm}-{size}" if pool else arm, "members": size}
        _ensemble(part, keys, {split: logp[split][:size] for split in logp}, data)
    return part


def _ensemble(
    part: _Part,
    keys: dict[str, Any],
    logp: Mapping[str, npt.NDArray[Any]],
    data: Mapping[str, Predictions],
) -> None:
    """Add the measures of one ensemble, given its members' log-probabilities by split."""
    mean = {split: metrics.ensemble(logp[split]) for split in logp}
    labels = data["test"].labels
    values = _on_test(logp["test"], mean["test"], labels)
    here = {"arm": keys["arm"], "replicate": keys["replicate"]}
    part.reliability += [here | bin_ for bin_ in _bins(mean["test"], labels)]
    part.pairs += [{"arm": keys["arm"]} | pair for pair in _pairs(logp["test"])]
    if "shift" in logp:
        cells = _cells(logp["shift"], mean["shift"], data["shift"])
        part.severities += [here | {k: c[k] for k in c if k != "gain"} for c in cells]
        for name in ("nll", "accuracy", "ece", "gain"):
            values[f"shift_{name}"] = float(np.mean([cell[name] for cell in cells]))
    if "ood" in logp:
        values |= _aurocs(logp, mean, data["ood"])
    part.replicates.append(dict.fromkeys(METRICS) | keys | values)


def _on_test(
    logp_MNC: npt.NDArray[Any], logq_NC: npt.NDArray[Any], y_N: npt.NDArray[Any]
) -> dict[str, float | None]:
    several = len(logp_MNC) > 1
    choice_MN = logp_MNC.argmax(-1)
    return {
        "nll": metrics.nll(logq_NC, y_N),
        "cll": _cll(logq_NC, y_N),
        "brier": metrics.brier(logq_NC, y_N),
        "ece": metrics.ece(logq_NC, y_N),
        "accuracy": metrics.accuracy(logq_NC, y_N),
        "gain": metrics.gain(logp_MNC, y_N),
        "member_nll": metrics.member_nll(logp_MNC, y_N),
        "predictive_entropy": float(metrics.predictive_entropy(logq_NC).mean()),
        "mutual_information": float(metrics.mutual_information(logp_MNC).mean()),
        "disagreement": metrics.disagreement(choice_MN, logq_NC.shape[-1]) if several else None,
        "kl": metrics.pairwise_kl(logp_MNC) if several else None,
    }


def _cll(logq_NC: npt.NDArray[Any], y_N: npt.NDArray[Any]) -> float | None:
    """Return ``cll`` on the halves that every trial shares; None for a single example."""
    return metrics.cll(logq_NC, y_N, np.random.default_rng(CLL_SEED)) if len(y_N) > 1 else None


def _bins(logq_NC: npt.NDArray[Any], y_N: npt.NDArray[Any]) -> list[dict[str, Any]]:
    columns = zip(*metrics.reliability(logq_NC, y_N), strict=True)
    return [
        {
            "bin": at,
            "count": int(count),
            "confidence": float(confidence) if count else None,
            "accuracy": float(right) if count else None,
        }
        for at, (count, confidence, right) in enumerate(columns)
    ]


def _pairs(logp_MNC: npt.NDArray[Any]) -> list[dict[str, Any]]:
    matrix = metrics.pairwise_disagreement(logp_MNC.argmax(-1))
    i, j = np.triu_indices(len(matrix), 1)
    pairs = zip(i.tolist(), j.tolist(), matrix[i, j].tolist(), strict=True)
    return [{"i": a, "j": b, "disagreement": d} for a, b, d in pairs]


def _cells(
    logp_MNC: npt.NDArray[Any], logq_NC: npt.NDArray[Any], data: Predictions
) -> list[dict[str, Any]]:
    """Return NLL, accuracy, ECE and gain of every condition and severity, from one pass."""
    cell = data.condition * 128 + data.severity
    codes, cell = np.unique(cell, return_inverse=True)
    count = np.bincount(cell)
    right = logq_NC.argmax(-1) == data.labels
    confidence = np.exp(logq_NC.max(-1).astype(np.float64))
    at = cell * metrics.BINS + metrics.confidence_bins(confidence)
    gap = np.bincount(at, right - confidence, len(codes) * metrics.BINS)
    means = {
        "nll": np.bincount(cell, metrics.example_nll(logq_NC, data.labels)) / count,
        "accuracy": np.bincount(cell, right) / count,
        "ece": np.abs(gap).reshape(-1, metrics.BINS).sum(1) / count,
        "gain": np.bincount(cell, metrics.example_gain(logp_MNC, data.labels)) / count,
    }
    names = (*data.conditions, None)
    return [
        {
            "condition": names[code // 128],
            "severity": code % 128 or None,
            **{name: float(mean[i]) for name, mean in means.items()},
        }
        for i, code in enumerate(codes.tolist())
    ]


def _aurocs(
    logp: Mapping[str, npt.NDArray[Any]], mean: Mapping[str, npt.NDArray[Any]], ood: Predictions
) -> dict[str, float | None]:
    """Return the AUROC of three scores, each a mean over the out-of-distribution sets."""
    scores = {
        "entropy": {split: metrics.predictive_entropy(mean[split]) for split in ("test", "ood")},
        "msp": {split: -mean[split].max(-1) for split in ("test", "ood")},
    }
    if len(logp["test"]) > 1:
        scores["mi"] = {s: metrics.mutual_information(logp[s]) for s in ("test", "ood")}
    found: dict[str, float | None] = {"ood_auroc_mi": None}
    for name, score in scores.items():
        each = [
            metrics.auroc(score["test"], score["ood"][ood.condition == condition])
            for condition in np.unique(ood.condition)
        ]
        found[f"ood_auroc_{name}"] = float(np.mean(each))
    return found


def _collapsed(run: Run, trial: str, data: Mapping[str, Predictions]) -> dict[str, float]:
    """Return the measures of the one-member control with averaged fast weights, if it is there."""
    values = {}
    for split in ("test", "shift"):
        name = COLLAPSED + split
        if split not in data or not predictions_file(run, trial, name).exists():
            continue
        found = predictions(run, trial, name)
        file = str(predictions_file(run, trial, name))
        other = str(predictions_file(run, trial, split))
        pair = {"a": (other, data[split].fingerprints()), "b": (file, found.fingerprints())}
        refuse_other_rows(pair)
        logp_MNC = metrics.log_softmax(found.logits.astype(np.float64))
        if split == "test":
            values["collapsed_nll"] = metrics.nll(logp_MNC[0], found.labels)
            calibrated = _cll(logp_MNC[0], found.labels)
            values |= {} if calibrated is None else {"collapsed_cll": calibrated}
        else:
            cells = _cells(logp_MNC, logp_MNC[0], found)
            values["collapsed_shift_nll"] = float(np.mean([cell["nll"] for cell in cells]))
    return values
