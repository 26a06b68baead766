"""The report's tables: configurations, excluded trials, tuning budgets, provenance."""

import json
import platform
from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import datetime
from importlib.metadata import version
from typing import Any, Final

import polars as pl

from analysis.data.run import Run
from analysis.data.search_space import command_of
from analysis.figures.context import FigureContext
from analysis.text.numbers import interval, number
from analysis.verdict.schema import Arm, Effect, Equivalent, Plan, Price, Verdict
from analysis.verdict.wording import BADGES

MOST_ROWS: Final = 40
"""Rows of the table of excluded trials."""


def configurations(context: FigureContext, verdict: Verdict) -> dict[str, object] | None:
    """Return columns and rows of all measured arms, or None before there is one."""
    trials = context.measures.replicates.select("arm", "nll", "accuracy")
    if trials.is_empty():
        return None
    labels, judged = verdict.protocol.labels, verdict.by_arm()
    plain = ["Price, of a Deep Ensemble", "DE equivalent", "NLL", "Accuracy", "Seeds"]
    titles = ["Configuration", "Weakest recovery", "Verdict"]
    titles += [f"Recovery, {label}" for label in labels.values()] + plain
    words = ("Configuration", "Verdict")
    columns = [{"title": name, "numeric": name not in words} for name in titles]
    rows: list[dict[str, object]] = []
    for arm in context.arms.to_dicts():
        own = trials.filter(pl.col("arm") == arm["arm"])
        entry = judged.get(arm["arm"])
        if own.is_empty():
            continue
        cells = [_both(entry, key) for key in labels]
        cells.append(_price_cell(entry.price if entry else None))
        cells.append(equivalent_cell(entry.equivalent if entry else None))
        cells += [_cell(own["nll"].mean(), 4), _cell(own["accuracy"].mean(), 3), _cell(len(own), 0)]
        rows.append(
            {
                "arm": arm["arm"],
                "tag": arm["tag"],
                "name": arm["label"].removeprefix(f"{arm['tag']} · "),
                "verdict": BADGES.get(arm["verdict"], "baseline"),
                "weakest": _weakest(entry, labels),
                "tone": arm["verdict"] if verdict.stands or not entry else "inconclusive",
                "because": (entry and entry.label) or "",
                "cells": cells,
            }
        )
    return {"columns": columns, "rows": rows}


BESIDE: Final = {"tuned": "", "own": " (own)", "contender": " (contender)"}
"""What stands behind a measure against other baselines than the tuned ones."""


def effect_cell(effect: Effect | None) -> dict[str, str]:
    """Return the recovery with its interval."""
    if effect is None or effect.recovery is None:
        return _cell(None, 2)
    return _cell(effect.recovery, 2) | {"range": interval(effect)}


def _both(arm: Arm | None, key: str) -> dict[str, str]:
    """Return the recovery against the tuned anchors, below it that against its own."""
    found = effect_cell(arm.endpoints.get(key) if arm else None)
    if arm is None or arm.own is None or arm.own.single == "single":
        return found
    effect = arm.own.endpoints.get(key)
    return found | {"own": f"own {number(effect.recovery) if effect else '–'}"}


def _weakest(arm: Arm | None, labels: Mapping[str, str]) -> dict[str, str]:
    if arm is None or arm.least is None:
        return _cell(None, 2)
    against, key, effect = arm.least
    return effect_cell(effect) | {"own": labels[key] + BESIDE[against]}


def _price_cell(price: Price | None) -> dict[str, str]:
    """Return parameters and inference FLOPs in units of the Deep Ensemble of the same size."""
    if price is None or price.parameters is None or price.infer_flops is None:
        return _cell(None, 0)
    parameters, flops = (f"{100 * n:.3g}\u00a0%" for n in (price.parameters, price.infer_flops))
    found = _cell(price.parameters, 2) | {"text": parameters, "range": f"{flops} FLOPs"}
    return found | ({"own": "dearer"} if price.dearer else {})


def equivalent_cell(found: Equivalent | None) -> dict[str, str]:
    """Return the Deep Ensemble equivalent with its interval."""
    if found is None:
        return _cell(None, 1)
    text, low, high = (
        f"> {found.largest}" if value is None else number(value, 1)
        for value in (found.members, found.low, found.high)
    )
    value = found.largest + 1 if found.members is None else found.members
    return {"text": text, "sort": f"{value:.6g}", "range": f"[{low}, {high}]"}


def _cell(value: Any, digits: int) -> dict[str, str]:
    if value is None:
        return {"text": "–", "sort": "", "range": ""}
    return {"text": number(value, digits), "sort": f"{value:.6g}", "range": ""}


def excluded(context: FigureContext) -> list[dict[str, Any]]:
    """Return how many trials did not complete, by stage, arm, status and reason."""
    labels = dict(context.arms.select("arm", "label").iter_rows())
    keys = ["stage", "arm", "status", "reason"]
    order = {"confirm": 0, "pilot": 1, "anchor": 2, "rescore": 3, "search": 4}
    frame = context.measures.excluded
    # In the search every configuration is an arm of its own: only how trials ended is of interest.
    arm = pl.when(pl.col("stage") == "confirm").then("arm").otherwise(pl.lit("configurations"))
    rows = frame.with_columns(arm=arm).group_by(keys).agg(trials=pl.len()).sort(keys).to_dicts()
    rows.sort(key=lambda row: order.get(row["stage"], 4))
    return [
        row | {"label": labels.get(row["arm"], row["arm"]), "reason": row["reason"] or "none given"}
        for row in rows
    ]


def excluded_note(context: FigureContext) -> str:
    """Return the line above the table of excluded trials."""
    rows, trials = len(excluded(context)), len(context.measures.excluded)
    shown = f"; the first {MOST_ROWS} of {rows} reasons" if rows > MOST_ROWS else ""
    return (
        f"{trials} of {len(context.trials)} trials{shown}. A failed run in the confirm stage keeps "
        "its configuration from any verdict; it is never dropped in silence."
    )


def provenance(run: Run, verdict: Verdict, now: datetime) -> list[tuple[str, str]]:
    """Return where everything on the page came from, as names and values."""
    trials = run.trials
    plan = verdict.plan
    if run.given:
        return _given(run, plan, now)
    seconds = trials["seconds"].fill_nan(None).sum()
    versions = [json.loads(text) for text in trials["versions"].unique().sort()]
    now_gives = ""
    if plan and plan.content_hash != plan.hash:
        now_gives = f"; its content now gives {plan.content_hash}"
    return [
        ("Report made", now.isoformat(timespec="seconds")),
        ("Run folder", run.folder.name),
        ("Command", command_of(run.folder) or "unknown"),
        ("Plan", f"{plan.hash if plan else 'none'}{now_gives}"),
        ("Declared", (plan and plan.declared) or "–"),
        ("Code", several(trials["commit"].to_list())),
        ("Data", several(trials["data"].to_list())),
        ("Seeds", f"{trials['seed'].n_unique()} distinct seeds in {len(trials)} trials"),
        ("Device", several(trials["device"].to_list())),
        ("Trained with", " | ".join(_versions(found) for found in versions)),
        ("Judged with", _judged_with()),
        (
            "Trials finished",
            f"{_time(trials['finished'].min())} to {_time(trials['finished'].max())}",
        ),
        ("Compute", f"{seconds / 3600:.2f} hours of trials, added up"),
    ]


def _given(run: Run, plan: Plan | None, now: datetime) -> list[tuple[str, str]]:
    """Return what is known of predictions alone."""
    trials = run.trials
    return [
        ("Report made", now.isoformat(timespec="seconds")),
        ("Predictions", str(run.plan and run.plan.study)),
        ("Protocol", plan.hash if plan else "none declared"),
        ("Runs", f"{len(trials)} on {trials['seed'].n_unique()} seeds"),
        ("Judged with", _judged_with()),
    ]


def _judged_with() -> str:
    ours = ("polars", "numpy", "scipy", "statsmodels", "altair")
    found = {name: version(name) for name in ours}
    return _versions(found | {"python": platform.python_version()})


def _versions(found: Mapping[str, str]) -> str:
    return ", ".join(f"{name} {found[name]}" for name in sorted(found))


def several(values: Sequence[str | None]) -> str:
    """Return the one value, or all with their numbers of trials."""
    count = Counter(value or "unknown" for value in values)
    if len(count) == 1:
        return next(iter(count))
    return ", ".join(f"{value} ({number} trials)" for value, number in sorted(count.items()))


def _time(value: Any) -> str:
    return value.isoformat(timespec="seconds") if isinstance(value, datetime) else "–"
