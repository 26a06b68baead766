"""What the search stage tells by itself: its history and, descriptively, which parameter mattered.

Nothing here feeds a verdict: the search looked at validation data, once per configuration.
"""

import json
from collections.abc import Iterable
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import polars as pl
from scipy import stats
from sklearn.ensemble import RandomForestRegressor
from sklearn.inspection import permutation_importance
from sklearn.model_selection import KFold

from analysis import exploration_charts
from analysis.scene import Figure, Scene

FLOATS = npt.NDArray[np.float64]
FOLDS: Final = 4
SHUFFLES: Final = 5
LEAST_TRIALS: Final = 30
"""Fewer complete search trials say nothing about which parameter matters."""
NOT_SEARCHED: Final = frozenset({"role", "stage", "replicate", "seed", "method"})


def history(trials: pl.DataFrame) -> tuple[pl.DataFrame, float]:
    """Return search trials in order of finishing with the best so far, and the frame's top.

    Args:
        trials: Trial rows of any stage.

    Returns:
        trial, method, order (from 1, per method), val_nll, best, shown (where the mark stands),
        kind (status, or ``beyond the frame``); and the largest NLL to show: the best plus 2.5
        times its distance to the third quartile. No row if no trial is complete.
    """
    done = (pl.col("status") == "complete") & pl.col("val_nll").is_finite()
    searched = trials.filter(pl.col("stage") == "search").sort("finished", "trial")
    complete = searched.filter(done)["val_nll"].to_numpy()
    if complete.size == 0:
        return searched.clear(), 0.0
    best = float(complete.min())
    top = best + max(2.5 * (float(np.quantile(complete, 0.75)) - best), 1e-6)
    status = pl.col("status")
    rows = searched.with_columns(
        order=pl.int_range(1, pl.len() + 1).over("method"),
        counted=pl.when(done).then("val_nll"),
    ).with_columns(
        best=pl.col("counted").cum_min().forward_fill().over("method"),
        shown=pl.col("counted").fill_null(top).clip(upper_bound=top),
        kind=pl.when(pl.col("counted") > top).then(pl.lit("beyond the frame")).otherwise(status),
    )
    return rows.sort("method", "order"), top


def flatten(spec: str) -> dict[str, Any]:
    """Return the leaves of a spec's JSON by dotted key, without what tells replicates apart."""

    def walk(value: Any, at: str) -> Iterable[tuple[str, Any]]:
        if isinstance(value, dict):
            for key, inner in value.items():
                yield from walk(inner, f"{at}.{key}" if at else key)
        else:
            yield at.removeprefix("params.").removeprefix("training."), value

    return dict(walk({k: v for k, v in json.loads(spec).items() if k not in NOT_SEARCHED}, ""))


def importances(trials: pl.DataFrame, objective: str) -> tuple[pl.DataFrame, float]:
    """Return what a random forest's held-out R² loses when a parameter is shuffled.

    The forest predicts the rank of a trial's objective from its spec.

    Args:
        trials: One method's complete search trials (spec, objective), sorted by something stable.
        objective: Column with a number for every trial.

    Returns:
        parameter, mean, low, high (10 % and 90 % quantile over shuffles and folds), most important
        first; and the mean held-out R².
    """
    specs = [flatten(spec) for spec in trials["spec"]]
    encoded = {key: encode([spec.get(key) for spec in specs]) for key in _keys(specs)}
    encoded = {key: values for key, values in encoded.items() if np.ptp(values) > 0}
    if not encoded or trials[objective].n_unique() < 2:
        return pl.DataFrame(), 0.0
    X = np.stack(list(encoded.values()), 1)
    y = stats.rankdata(trials[objective].to_numpy()) / len(trials)
    fits, losses = [], []
    for train, test in KFold(FOLDS, shuffle=True, random_state=0).split(X):
        forest = RandomForestRegressor(60, min_samples_leaf=2, random_state=0)
        forest.fit(X[train], y[train])
        fits.append(forest.score(X[test], y[test]))
        found = permutation_importance(forest, X[test], y[test], n_repeats=SHUFFLES, random_state=0)
        losses.append(found.importances)
    loss = np.concatenate(losses, 1)
    low, high = np.quantile(loss, [0.1, 0.9], axis=1)
    columns = {"parameter": list(encoded), "mean": loss.mean(1), "low": low, "high": high}
    return pl.DataFrame(columns).sort("mean", descending=True), float(np.mean(fits))


def encode(values: list[Any]) -> FLOATS:
    """Return numbers as they are and others as codes; what is absent lies below all."""
    known = [value for value in values if value is not None]
    if not all(isinstance(value, int | float) for value in known):
        texts = [json.dumps(value, sort_keys=True) for value in values]
        order = sorted(set(texts))
        return np.array([order.index(text) for text in texts], float)
    floor = min(map(float, known), default=0.0) - 1.0
    return np.array([floor if value is None else float(value) for value in values])


def _keys(specs: list[dict[str, Any]]) -> list[str]:
    return sorted({key for spec in specs for key in spec})


def history_figure(scene: Scene) -> Figure | None:
    """Return the figure of the search's history, None without a complete trial."""
    rows, top = history(scene.trials)
    if rows.is_empty():
        return None
    rows = rows.with_columns(panel=pl.col("method").replace_strict(scene.titles))
    complete = rows.drop_nulls("counted")
    best = complete.sort("counted").row(0, named=True)
    total = len(rows.filter(pl.col("method") == best["method"]))
    kept = ["trial", "method", "panel", "order", "val_nll", "best", "shown", "kind"]
    return Figure(
        "history",
        "Search",
        f"The best validation NLL ({best['counted']:.3f}) came at trial {best['order']} of the "
        f"{total} of {best['panel']}",
        f"{len(rows)} search trials, {len(complete)} complete; one seed each, validation data "
        "only: the line is optimistic, hence the confirmation on fresh seeds.",
        exploration_charts.history(rows.select(kept), scene.methods, top),
    )
