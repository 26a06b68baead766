"""Figures of the search's parameters: which mattered, how, and how much of the space was seen."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import polars as pl

from analysis import exploration_charts
from analysis.axes import axis_ticks, beside, declared_value
from analysis.exploration import OBJECTIVES, Seen, associations, coverage, seen
from analysis.parallel import parallel_figure
from analysis.scene import Figure, Scene
from analysis.search import FOLDS, LEAST_TRIALS, SHUFFLES, importances
from analysis.titles import title

PANELS: Final = 6
SHOWN: Final = 8
"""Parameters per panel of importances."""
LEAST_IN_PART: Final = 3
"""A part of a domain with fewer trials has no median."""
LEAST_FIT: Final = 0.2
"""Below this held-out R² a forest has nothing to say about parameters."""
SHORT: Final = {"val_nll": "NLL", "val_gain": "gain"}


@dataclass(frozen=True)
class Ranking:
    """What a forest said of one method and objective: parameters by importance, held-out R²."""

    method: str
    objective: str
    ranked: pl.DataFrame
    fit: float


def draw(scene: Scene) -> list[Figure]:
    """Return every figure that the search's trials can fill."""
    done = (pl.col("stage") == "search") & (pl.col("status") == "complete")
    trials = scene.trials.filter(done, pl.col("val_nll").is_finite()).sort("trial")
    rankings = list(_rankings(scene, trials))
    parameters = seen(scene.spaces, trials)
    figures = (
        _importance(scene, rankings),
        _slices(scene, trials, parameters, rankings),
        parallel_figure(scene, trials, _most_important(scene, parameters, rankings) or parameters),
        _coverage(scene, trials, parameters),
    )
    return [figure for figure in figures if figure is not None]


def _rankings(scene: Scene, trials: pl.DataFrame) -> list[Ranking]:
    found = []
    own_panels = {"single": 2} | {space.method: 0 for space in scene.spaces if space.candidate}
    # Candidates first; the single model, which has no gain, last: so that pairs stay in a row.
    for method in sorted(scene.methods, key=lambda method: own_panels.get(method, 1)):
        own = trials.filter(pl.col("method") == method)
        for objective in OBJECTIVES if len(own) >= LEAST_TRIALS else ():
            known = own.drop_nulls(objective)
            if len(known) >= LEAST_TRIALS:
                found.append(Ranking(method, objective, *importances(known, objective)))
    return [one for one in found if len(one.ranked)]


def _importance(scene: Scene, rankings: Sequence[Ranking]) -> Figure | None:
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
        exploration_charts.importance(pl.concat(frames)),
    )


# --- slices


def _slices(
    scene: Scene, trials: pl.DataFrame, parameters: Sequence[Seen], rankings: Sequence[Ranking]
) -> Figure | None:
    chosen = _most_important(scene, parameters, rankings)[:PANELS]
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
        exploration_charts.slices(
            pl.DataFrame(rows, infer_schema_length=None), scene.methods, _frames(chosen, by_trial)
        ),
        choices=tuple(OBJECTIVES.items()),
    )


def _most_important(
    scene: Scene, parameters: Sequence[Seen], rankings: Sequence[Ranking]
) -> list[Seen]:
    """Return the candidates' parameters with the best rank of importance for either objective."""
    candidates = {space.method for space in scene.spaces if space.candidate}
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


def _panel(one: Seen, by_trial: dict[str, dict[str, Any]]) -> list[dict[str, Any]]:
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


def _frames(chosen: Sequence[Seen], by_trial: dict[str, Any]) -> dict[str, tuple[float, float]]:
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


# --- coverage


def _coverage(scene: Scene, trials: pl.DataFrame, parameters: Sequence[Seen]) -> Figure | None:
    rows = coverage(parameters)
    if rows.is_empty() or rows["trials"].sum() == 0:
        return None
    each = rows.unique(["method", "parameter"], keep="first", maintain_order=True)
    drawn = {space.method for space in scene.spaces if space.candidate} & {*rows["method"]}
    drawn = drawn or {*rows["method"]}
    tried = {method: _tried(each.filter(pl.col("method") == method)) for method in _order(each)}
    first = next(method for method in tried if method in drawn)
    own = each.filter(pl.col("method") == first).with_columns(
        share=pl.col("covered") / pl.col("slots")
    )
    least = own.sort("share", maintain_order=True).row(0, named=True)
    claim = (
        f"The search of {title(first)} tried {100 * tried[first]:.0f}\u00a0% of the parts of its "
        "declared ranges and choices"
    )
    if least["covered"] < least["slots"]:
        claim += f"; least of {least['parameter']}: {least['covered']} of {least['slots']}"
    counts = trials["method"].to_list()
    complete = ", ".join(f"{title(method)} {counts.count(method)}" for method in tried)
    others = ", ".join(
        f"{title(method)} {100 * share:.0f}\u00a0%"
        for method, share in tried.items()
        if method not in drawn
    )
    kept = ["panel", "parameter", "declared", "what", "trials", "low", "high", "share"]
    rows = rows.filter(pl.col("method").is_in(drawn)).with_columns(
        panel=pl.col("method").map_elements(title, pl.String),
        low=pl.col("slot") / pl.col("slots"),
        high=(pl.col("slot") + 1) / pl.col("slots"),
        share=pl.format("{}/{}", "covered", "slots"),
    )
    return Figure(
        "coverage",
        "Search",
        claim,
        f"Complete search trials: {complete}; a conditional parameter counts those in which it was "
        f"active. {f'Parts tried by the others: {others}. ' if others else ''}A null result speaks "
        "about this space alone, and each parameter is counted by itself: of their combinations "
        "far less was seen.",
        exploration_charts.coverage(rows.select(kept)),
    )


def _order(each: pl.DataFrame) -> list[str]:
    return each["method"].unique(maintain_order=True).to_list()


def _tried(own: pl.DataFrame) -> float:
    return float(own["covered"].to_numpy().sum() / own["slots"].to_numpy().sum())
