"""Which parameters of the search mattered, and how: importances and slices.

Descriptive: the trials were proposed from one another's results, on one seed and validation data.
"""

import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

import altair as alt
import numpy as np
import numpy.typing as npt
import polars as pl
from scipy import stats
from sklearn.ensemble import RandomForestRegressor
from sklearn.inspection import permutation_importance
from sklearn.model_selection import KFold

from analysis.data.search_space import Domain, flatten
from analysis.figures import encodings
from analysis.figures.context import Figure, FigureContext
from analysis.figures.encodings import Facets, Frame
from analysis.figures.parallel_coordinates import (
    axis_ticks,
    beside,
    declared_value,
    parallel_figure,
)
from analysis.figures.search import SearchedParameter, coverage_figure, seen
from analysis.text.names import title

FLOATS = npt.NDArray[np.float64]
FOLDS: Final = 4
SHUFFLES: Final = 5
LEAST_TRIALS: Final = 30
"""Fewer complete search trials say nothing about which parameter matters."""

OBJECTIVES: Final = {"val_nll": "validation NLL", "val_gain": "ensemble gain on validation"}
LEAST_ACTIVE: Final = 10
"""A parameter with fewer active trials is not tested."""
LEAST_GROUP: Final = 5
"""Of a choice, values with fewer trials are left out of its test."""

PANELS: Final = 6
SHOWN: Final = 8
"""Parameters per panel of importances."""
LEAST_IN_PART: Final = 3
"""A part of a domain with fewer trials has no median."""
LEAST_FIT: Final = 0.2
"""Below this held-out R² a forest has nothing to say about parameters."""
SHORT: Final = {"val_nll": "NLL", "val_gain": "gain"}

TITLES: Final = {"val_nll": "NLL", "val_gain": "Gain"}


def draw(context: FigureContext) -> list[Figure]:
    """Return every figure that the search's trials can fill."""
    done = (pl.col("stage") == "search") & (pl.col("status") == "complete")
    trials = context.trials.filter(done, pl.col("val_nll").is_finite()).sort("trial")
    rankings = list(_rankings(context, trials))
    parameters = seen(context.spaces, trials)
    figures = (
        _importance(context, rankings),
        _slices(context, trials, parameters, rankings),
        parallel_figure(
            context, trials, _most_important(context, parameters, rankings) or parameters
        ),
        coverage_figure(context, trials, parameters),
    )
    return [figure for figure in figures if figure is not None]


@dataclass(frozen=True)
class Ranking:
    """What a forest said of one method and objective: parameters by importance, held-out R²."""

    method: str
    objective: str
    ranked: pl.DataFrame
    fit: float


def _most_important(
    context: FigureContext, parameters: Sequence[SearchedParameter], rankings: Sequence[Ranking]
) -> list[SearchedParameter]:
    """Return the candidates' parameters with the best rank of importance for either objective."""
    candidates = {space.method for space in context.spaces if space.candidate}
    ranks: dict[tuple[str, str], int] = {}
    for one in rankings:
        for rank, name in enumerate(one.ranked["parameter"]):
            key = (one.method, name)
            ranks[key] = min(rank, ranks.get(key, rank))
    known = [
        (ranks[one.method, one.parameter], one)
        for one in parameters
        if one.method in candidates and (one.method, one.parameter) in ranks
    ]
    return [one for _, one in sorted(known, key=lambda pair: pair[0])]


def _rankings(context: FigureContext, trials: pl.DataFrame) -> list[Ranking]:
    found = []
    own_panels = {"single": 2} | {space.method: 0 for space in context.spaces if space.candidate}
    # Candidates first; the single model, which has no gain, last: so that pairs stay in a row.
    for method in sorted(context.methods, key=lambda method: own_panels.get(method, 1)):
        own = trials.filter(pl.col("method") == method)
        for objective in OBJECTIVES if len(own) >= LEAST_TRIALS else ():
            known = own.drop_nulls(objective)
            if len(known) >= LEAST_TRIALS:
                found.append(Ranking(method, objective, *importances(known, objective)))
    return [one for one in found if len(one.ranked)]


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


def _importance(context: FigureContext, rankings: Sequence[Ranking]) -> Figure | None:
    if not rankings:
        return None
    frames, quality = [], []
    for one in rankings:
        panel = f"{title(one.method)}, {OBJECTIVES[one.objective]}"
        frames.append(
            one.ranked.head(SHOWN).with_columns(panel=pl.lit(f"{panel}\nR² {one.fit:.2f}"))
        )
        quality.append(f"{panel} {one.fit:.2f}")
    first = [one for one in rankings if one.method == rankings[0].method]
    best = max(first, key=lambda one: one.fit)
    claim = (
        f"The search of {title(best.method)} does not tell which parameter matters "
        f"(R² {max(0.0, best.fit):.2f} on held-out trials)"
    )
    if best.fit >= LEAST_FIT:
        lead = [one for one in first if one.fit >= LEAST_FIT]
        told = [
            f"{one.ranked['parameter'][0]} best predicts the {OBJECTIVES[one.objective]} "
            f"(R² {one.fit:.2f})"
            for one in lead
        ]
        claim = f"In the search of {title(best.method)}, {' and '.join(told)}"
    return Figure(
        "importance",
        "Search",
        claim,
        f"Held-out R² of each forest above its panel. Lines span the 10 % to 90 % quantile of "
        f"{SHUFFLES} shuffles in each of {FOLDS} folds. Descriptive: no random sampling.",
        importance_chart(pl.concat(frames)),
    )


def importance_chart(rows: Frame) -> Facets:
    """Draw how much a forest's held-out fit loses when one parameter is shuffled.

    Args:
        rows: panel, parameter, mean, low, high.
    """
    # Unseen marks keep one parameter's rows in two panels apart: each panel has its own order.
    blank = pl.lit("\u200b").repeat_by(pl.col("panel").rank("dense")).list.join("")
    rows = rows.with_columns(_row=pl.col("parameter") + blank)
    order = encodings.order(rows, "_row")
    y = alt.Y("_row:N", sort=order, title=None, axis=alt.Axis(grid=True))
    x = alt.X("mean:Q", title="loss of held-out R² when shuffled", axis=alt.Axis(tickCount=4))
    base = alt.Chart().encode(y=y)
    tips = [
        ("parameter", "Parameter", ""),
        ("mean", "Mean", ".2f"),
        ("low", "From", ".2f"),
        ("high", "To", ".2f"),
    ]
    chart = alt.layer(
        base.mark_bar(style="bar", height=10).encode(x=x, tooltip=encodings.tips(tips)),
        base.mark_rule(style="whisker").encode(
            x=alt.X("low:Q", title="loss of held-out R² when shuffled"), x2="high:Q"
        ),
    )
    most = rows.group_by("panel").len()["len"].max()
    assert isinstance(most, int)
    return encodings.panels(chart, rows, columns=2, least=250, height=22 * most, free=("y",))


def _slices(
    context: FigureContext,
    trials: pl.DataFrame,
    parameters: Sequence[SearchedParameter],
    rankings: Sequence[Ranking],
) -> Figure | None:
    chosen = _most_important(context, parameters, rankings)[:PANELS]
    if not chosen:
        return None
    found = associations(parameters, trials)
    by_pair = {(r["method"], r["parameter"], r["objective"]): r for r in found.to_dicts()}
    by_trial = {row["trial"]: row for row in trials.select("trial", *OBJECTIVES).to_dicts()}
    several = len({one.method for one in chosen}) > 1
    rows: list[dict[str, Any]] = []
    for one in chosen:
        name = f"{title(one.method)}: {one.parameter}" if several else one.parameter
        tests = [by_pair.get((one.method, one.parameter, objective)) for objective in OBJECTIVES]
        panel = {"panel": f"{name}\n{_tested(tests)}", "method": one.method}
        rows += [panel | row for row in _panel(one, by_trial)]
    low = found.filter(pl.col("adjusted") < 0.05).sort("adjusted")
    claim = f"No parameter stands out: none of {len(found)} pairs has an adjusted p below 0.05"
    if len(low):
        first = low.row(0, named=True)
        claim = (
            f"{first['parameter']} of {title(first['method'])} goes with "
            f"{OBJECTIVES[first['objective']]} the clearest; {len(low)} of {len(found)} pairs have "
            "an adjusted p below 0.05"
        )
    return Figure(
        "slices",
        "Search",
        claim,
        f"Adjusted p, descriptive: Benjamini and Hochberg over all {len(found)} pairs of parameter "
        "and objective of all methods; rank correlation of a range, Kruskal and Wallis of a "
        f"choice. One seed per trial; trials {_range(len(one.values) for one in chosen)} per "
        "panel, proposed from one another's results and so not independent.",
        slices_chart(
            pl.DataFrame(rows, infer_schema_length=None), context.methods, _frames(chosen, by_trial)
        ),
        choices=tuple(OBJECTIVES.items()),
    )


def associations(parameters: Sequence[SearchedParameter], trials: pl.DataFrame) -> pl.DataFrame:
    """Return how each parameter goes with each objective, adjusted over all pairs.

    A range by Spearman's rank correlation, a choice by Kruskal's and Wallis's test of its values
    with at least ``LEAST_GROUP`` trials. ``adjusted`` is the p-value of Benjamini and Hochberg
    (1995) over all pairs of parameter and objective, of all methods. Descriptive.

    Args:
        parameters: As seen.
        trials: trial, and a column per objective.

    Returns:
        method, parameter, objective, n, rho (null for a choice), p, adjusted.
    """
    known = {row["trial"]: row for row in trials.select("trial", *OBJECTIVES).to_dicts()}
    rows = []
    for one in parameters:
        for objective in OBJECTIVES:
            pairs = [
                (value, known[trial][objective])
                for trial, value in zip(one.trials, one.values, strict=True)
                if known[trial][objective] is not None
            ]
            tested = _test(one.domain, pairs)
            if tested is not None:
                keys = {"method": one.method, "parameter": one.parameter, "objective": objective}
                rows.append(keys | {"n": len(pairs), "rho": tested[0], "p": tested[1]})
    schema: dict[str, Any] = dict.fromkeys(("method", "parameter", "objective"), pl.String)
    schema |= {"n": pl.Int64, "rho": pl.Float64, "p": pl.Float64}
    frame = pl.DataFrame(rows, schema=schema)
    adjusted = stats.false_discovery_control(frame["p"].to_numpy()) if rows else []
    return frame.with_columns(adjusted=pl.Series(adjusted, dtype=pl.Float64))


def _test(domain: Domain, pairs: list[tuple[Any, float]]) -> tuple[float | None, float] | None:
    """Return rank correlation (null for a choice) and p-value, None where nothing can be tested."""
    if len(pairs) < LEAST_ACTIVE or np.ptp([loss for _, loss in pairs]) == 0:
        return None
    if not domain.choices:
        values, losses = zip(*pairs, strict=True)
        if np.ptp(values) == 0:
            return None
        found = stats.spearmanr(values, losses)
        return float(found.statistic), float(found.pvalue)
    groups: dict[int, list[float]] = defaultdict(list)
    for value, loss in pairs:
        groups[domain.slot(value)].append(loss)
    large = [losses for losses in groups.values() if len(losses) >= LEAST_GROUP]
    if len(large) < 2 or np.ptp(np.concatenate(large)) == 0:
        return None
    return None, float(stats.kruskal(*large).pvalue)


def _tested(tests: Sequence[dict[str, Any] | None]) -> str:
    """Return what was found for each objective, short enough for a panel's title."""
    texts = []
    for test in tests:
        if test is None:
            continue
        p = "p < 0.001" if test["adjusted"] < 0.001 else f"p {test['adjusted']:.3f}"
        rho = "" if test["rho"] is None else f"ρ\u00a0{test['rho']:.2f}, ".replace("-", "−")
        texts.append(f"{SHORT[test['objective']]}: {rho}{p}")
    return " · ".join(texts) or "too few trials for a test"


def _panel(one: SearchedParameter, by_trial: dict[str, dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the rows of one panel: trials, medians of each part, and the axis."""
    losses = {name: np.array([by_trial[t][name] for t in one.trials], float) for name in OBJECTIVES}
    slots = np.array([one.domain.slot(value) for value in one.values])
    rows: list[dict[str, Any]] = [
        {"kind": "trial", "at": beside(one, value, number), "value": declared_value(value)}
        | {name: by_trial[trial][name] for name in OBJECTIVES}
        for number, (trial, value) in enumerate(zip(one.trials, one.values, strict=True))
    ]
    for slot in np.unique(slots).tolist():
        own = {name: known[(slots == slot) & ~np.isnan(known)] for name, known in losses.items()}
        middles = {n: float(np.median(v)) for n, v in own.items() if len(v) >= LEAST_IN_PART}
        ends = {"at": slot / one.domain.slots, "high": (slot + 1) / one.domain.slots}
        rows += [{"kind": "median"} | ends | middles] if middles else []
    return rows + axis_ticks(one)


def _frames(
    chosen: Sequence[SearchedParameter], by_trial: dict[str, Any]
) -> dict[str, tuple[float, float]]:
    """Return what is shown of each objective: to three quartile distances beyond the quartiles."""
    trials = {trial for one in chosen for trial in one.trials}
    found = {}
    for name in OBJECTIVES:
        known = [by_trial[trial][name] for trial in trials if by_trial[trial][name] is not None]
        low, high = np.quantile(known or [0.0], [0.25, 0.75]).tolist()
        reach = 3 * max(high - low, 1e-9)
        found[name] = (low - reach, high + reach)
    return found


def _range(counts: Any) -> str:
    least, *_, most = sorted([*counts] * 2)
    return f"{most}" if least == most else f"{least} to {most}"


def slices_chart(
    rows: Frame, methods: Sequence[str], frames: Mapping[str, tuple[float, float]]
) -> Facets:
    """Draw an objective against one parameter per panel, with the medians of the domain's parts.

    Args:
        rows: panel, method, kind (``trial``, ``median``, or ``left``, ``center``, ``right`` for the
            labels of the axis); at (0 to 1 along the declared domain; a median from there to
            ``high``); value (in words), and a column per objective.
        methods: Domain of colour and shape.
        frames: Objective -> lowest and highest value to show; the first is shown first, the page
            switches the parameter ``metric``.
    """
    scale = alt.Scale(zero=False, nice=True, padding=6)
    y = encodings.y("_shown", encodings.CHOSEN, scale, alt.Axis(tickCount=4))
    names = [*frames]
    within = [f"clamp(datum.{name},{low:.6g},{high:.6g})" for name, (low, high) in frames.items()]
    shown = f"metric=='{names[0]}'?{within[0]}:{within[1]}"

    def x(field: str) -> alt.X:
        return alt.X(f"{field}:Q", axis=None, scale=alt.Scale(domain=[0, 1], nice=False, padding=5))

    def of(kind: str) -> alt.Chart:
        known = f"datum.kind=='{kind}'&&isValid(datum[metric])"
        return base.transform_filter(known).transform_calculate(_shown=shown)

    base = alt.Chart().encode(x=x("at"))
    tips = [("value", "Value", ""), *((name, title, ".4f") for name, title in TITLES.items())]
    aligned: Sequence[Literal["left", "center", "right"]] = ("left", "center", "right")
    ticks = [
        base.transform_filter(f"datum.kind=='{align}'")
        .mark_text(style="quiet", align=align, baseline="top", dy=5)
        .encode(y=alt.value("height"), text="value:N")
        for align in aligned
    ]
    chart = alt.layer(
        of("trial")
        .mark_point(filled=True, size=26, opacity=0.5)
        .encode(
            y=y,
            color=encodings.colour(methods),
            shape=encodings.shape(methods),
            tooltip=encodings.tips(tips),
        ),
        of("median").mark_rule(style="ensemble").encode(x2="high:Q", y=y),
        *ticks,
    )
    chart = chart.add_params(alt.param(name="metric", value=names[0]))
    return encodings.panels(chart, rows, columns=3, least=250, height=170)
