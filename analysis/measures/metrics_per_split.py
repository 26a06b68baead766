"""The metrics of one trial on each split: test, shifted and out-of-distribution rows.

The rows pass in blocks that fit a processor's cache, so memory grows with the rows but not with the
members, and each block is reduced for every ensemble size while it is at hand.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from analysis import metrics
from analysis.data.predictions import Predictions

Json = dict[str, Any]
Array = npt.NDArray[Any]
Rows = dict[str, Array]
"""Values by name whose last axis is the split's rows."""

BLOCK: Final = 2**16
"""Logits that are reduced at once."""


def reduce(
    data: Predictions,
    sizes: Iterable[int],
    of: Callable[[Array, Array], Rows],
    exact: type[np.floating[Any]] = np.float64,
) -> dict[int, Rows]:
    """Return what ``of`` makes of the first members' log-probabilities, by ensemble size.

    Args:
        data: Predictions of at least ``max(sizes)`` members.
        sizes: Ensemble sizes.
        of: From log-probabilities (M, B, C) and labels (B,) of a block to values (..., B).
        exact: Precision of the log-probabilities.
    """
    members, rows, classes = data.logits.shape
    step = max(1, BLOCK // (members * classes))
    parts: dict[int, list[Rows]] = {size: [] for size in sizes}
    for start in range(0, rows, step):
        block = slice(start, start + step)
        logp = metrics.log_softmax(data.logits[:, block].astype(exact, copy=False))
        for size, found in parts.items():
            found.append(of(logp[:size], data.labels[block]))
    return {
        size: {name: np.concatenate([part[name] for part in found], -1) for name in found[0]}
        for size, found in parts.items()
    }


def mean_logp(logp_MBC: Array, y_B: Array) -> Rows:
    """Return the ensemble's log-probabilities alone, class by class in memory."""
    return {"logq": metrics.ensemble(logp_MBC).T}


def choice(logp_MBC: Array) -> Array:
    """Return each member's class, (M, B), in as few bytes as it takes."""
    return logp_MBC.argmax(-1).astype(np.min_scalar_type(logp_MBC.shape[-1]))


# --- test


def test_rows(logp_MBC: Array, y_B: Array) -> Rows:
    """Return what the measures on test need of each row; the mean of a block stands for its rows.

    Every array lies class by class in memory, as ``metrics`` likes it.
    """
    several = len(logp_MBC) > 1
    divergences = {"kl": metrics.pairwise_kl, "js": metrics.pairwise_js} if several else {}
    logq, p = metrics.ensemble(logp_MBC), np.exp(logp_MBC)
    return {
        "logq": logq.T,
        "gain": metrics.example_gain(logp_MBC, y_B),
        "member_nll": np.stack([metrics.example_nll(logp, y_B) for logp in logp_MBC]),
        "mutual_information": metrics.mutual_information(logp_MBC, logq, p),
        "choice": choice(logp_MBC),
        **{name: np.full(len(y_B), of(logp_MBC, p)) for name, of in divergences.items()},
    }


def on_test(rows: Rows, labels: Array) -> Json:
    """Return the measures of one ensemble on test (columns of ``Measures.replicates``)."""
    logq = rows["logq"].T
    parts = metrics.brier_decomposition(logq, labels)
    wrong, unsure = logq.argmax(-1) != labels, -logq.max(-1)
    entropy, information = metrics.predictive_entropy(logq), rows["mutual_information"]
    return {
        "nll": metrics.nll(logq, labels),
        "brier": metrics.brier(logq, labels),
        "brier_reliability": parts.reliability,
        "brier_resolution": parts.resolution,
        "ece": metrics.ece(logq, labels),
        "adaptive_ece": metrics.adaptive_ece(logq, labels),
        "classwise_ece": metrics.classwise_ece(logq, labels),
        "accuracy": metrics.accuracy(logq, labels),
        "aurc": metrics.aurc(unsure, wrong),
        "augrc": metrics.augrc(unsure, wrong),
        "chance_nll": metrics.chance_nll(labels),
        "gain": rows["gain"].mean(),
        "predictive_entropy": entropy.mean(),
        "aleatoric_entropy": (entropy - information).mean(),
        "mutual_information": information.mean(),
        **_of_members(rows, labels, logq.shape[-1]),
    }


def _of_members(rows: Rows, labels: Array, classes: int) -> Json:
    """Return what members are by themselves and to each other; one alone has no other."""
    chosen = rows["choice"]
    wrong = chosen != labels
    alone = {"member_nll": rows["member_nll"].mean(), "member_accuracy": 1 - wrong.mean()}
    if len(chosen) == 1:
        return alone
    return alone | {
        "disagreement": metrics.disagreement(chosen, classes),
        "normalised_disagreement": metrics.normalised_disagreement(chosen, labels, classes),
        "kl": rows["kl"].mean(),
        "js": rows["js"].mean(),
        "error_correlation": metrics.error_correlation(wrong),
        "q_statistic": metrics.q_statistic(wrong),
        "double_fault": metrics.double_fault(wrong),
    }


def bins(logq_NC: Array, y_N: Array) -> list[Json]:
    """Return the rows of ``Measures.reliability`` of one ensemble."""
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


def pairs(choice_MN: Array) -> list[Json]:
    """Return the disagreement of every two members."""
    matrix = metrics.pairwise_disagreement(choice_MN)
    i, j = np.triu_indices(len(matrix), 1)
    columns = zip(i.tolist(), j.tolist(), matrix[i, j].tolist(), strict=True)
    return [{"i": a, "j": b, "disagreement": d} for a, b, d in columns]


# --- shift


def shift_rows(logp_MBC: Array, y_B: Array) -> Rows:
    """Return what the measures under shift need of each row."""
    logq = metrics.ensemble(logp_MBC)
    return {
        "nll": metrics.example_nll(logq, y_B),
        "right": logq.argmax(-1) == y_B,
        "confidence": np.exp(logq.max(-1).astype(np.float64)),
        "gain": metrics.example_gain(logp_MBC, y_B),
        "mutual_information": metrics.mutual_information(logp_MBC),
        "choice": choice(logp_MBC),
    }


def cells_of(data: Predictions) -> tuple[Array, Array, Array]:
    """Return of shifted rows: codes of the cells (condition, severity), each row's cell, counts."""
    codes, cell = np.unique(data.condition * 128 + data.severity, return_inverse=True)
    return codes, cell, np.bincount(cell)


def cells(rows: Rows, data: Predictions) -> list[Json]:
    """Return the means of every condition and severity: the rows of ``Measures.severities``.

    Besides its columns: gain, mutual_information, disagreement (null for one member).
    """
    codes, cell, count = cells_of(data)
    at = cell * metrics.BINS + metrics.confidence_bins(rows["confidence"])
    gap = np.bincount(at, rows["right"] - rows["confidence"], len(codes) * metrics.BINS)
    means = {
        "accuracy": np.bincount(cell, rows["right"]) / count,
        "ece": np.abs(gap).reshape(-1, metrics.BINS).sum(1) / count,
        **{
            name: np.bincount(cell, rows[name]) / count
            for name in ("nll", "gain", "mutual_information")
        },
    }
    if len(rows["choice"]) > 1:
        classes = data.logits.shape[-1]
        each = np.split(np.argsort(cell, kind="stable"), np.cumsum(count)[:-1])
        apart = [metrics.disagreement(rows["choice"][:, own], classes) for own in each]
        means["disagreement"] = np.array(apart)
    names = (*data.conditions, None)
    return [
        {
            "condition": names[code // 128],
            "severity": code % 128 or None,
            **{name: float(mean[i]) for name, mean in means.items()},
        }
        for i, code in enumerate(codes.tolist())
    ]


def on_shift(found: Sequence[Json]) -> Json:
    """Return the mean over cells of each of their measures, as ``shift_<name>``."""
    names = [name for name in found[0] if name not in ("condition", "severity")]
    return {f"shift_{name}": np.mean([cell[name] for cell in found]) for name in names}


def shares(rows: Rows, data: Predictions) -> tuple[Array, Rows]:
    """Return the numbers of the shifted examples (sorted), and what each adds to the measures.

    An example of weight w = sum over the cells with it of 1 / (cell's rows x number of cells) adds
    the same sum of its losses: all weights together are 1, all losses the mean over cells.
    """
    _, cell, count = cells_of(data)
    example, at = np.unique(data.example, return_inverse=True)
    weight = 1 / (count[cell] * len(count))
    return example, {
        "shift_nll": np.bincount(at, weight * rows["nll"]),
        "shift_gain": np.bincount(at, weight * rows["gain"]),
        "shift_weight": np.bincount(at, weight),
    }


# --- out of distribution


def ood_rows(logp_MBC: Array, y_B: Array) -> Rows:
    """Return the scores of each row (``metrics.ood_scores``)."""
    logq = metrics.ensemble(logp_MBC)
    several = len(logp_MBC) > 1
    return metrics.ood_scores(logq, metrics.mutual_information(logp_MBC, logq) if several else None)


def on_ood(inside: Mapping[str, Array], rows: Rows, ood: Predictions) -> Json:
    """Return how well each score tells the splits apart, a mean over the out-of-distribution sets.

    Args:
        inside: The scores of the test rows.
        rows: Those of the rows out of distribution.
        ood: The rows.
    """
    sets = _sets(ood)
    measures = {"auroc": metrics.auroc, "aupr": metrics.aupr, "fpr95": metrics.fpr95}
    return {
        f"ood_{name}_{score}": np.mean([of(inside[score], rows[score][own]) for own in sets])
        for name, of in measures.items()
        for score in rows
    }


SCORE_BINS: Final = 25
"""Bins of equal width for the entropy over its largest value."""
FALSE_ALARMS: Final = np.linspace(0, 1, 41)
"""Where the ROC is looked at."""


def scores(inside: Array, outside: Array, ood: Predictions, classes: int) -> list[Json]:
    """Return how entropy is distributed in and out of distribution, and the ROC between them.

    Each is a mean over the out-of-distribution sets.

    Args:
        inside: Entropy of the test rows, in nats.
        outside: That of the rows out of distribution.
        ood: Those rows.
        classes: Their number.
    """
    sets = [outside[own] for own in _sets(ood)]
    edges = np.linspace(0, 1, SCORE_BINS + 1)

    def binned(entropy: Array) -> Array:
        parts = np.clip(entropy / np.log(max(classes, 2)), 0, 1)
        return np.histogram(parts, edges)[0] / len(parts)

    curves = {
        "in": (edges[:-1], binned(inside)),
        "out": (edges[:-1], np.mean([binned(own) for own in sets], 0)),
        "roc": (
            FALSE_ALARMS,
            np.mean([metrics.roc(inside, own, FALSE_ALARMS) for own in sets], 0),
        ),
    }
    return [
        {"kind": kind, "at": float(at), "share": float(share)}
        for kind, (places, shares) in curves.items()
        for at, share in zip(places, shares, strict=True)
    ]


def _sets(ood: Predictions) -> list[Array]:
    return [ood.condition == condition for condition in np.unique(ood.condition)]
