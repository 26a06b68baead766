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
from analysis.data.search_space import command_of, flatten
from analysis.figures.context import FigureContext
from analysis.text.numbers import interval, number, plain
from analysis.verdict.schema import Arm, Effect, Equivalent, Plan, Robustness, Verdict
from analysis.verdict.wording import METHODS

MOST_PARAMETERS: Final = 6
"""Parameters below an arm's name; the full specifications have the others."""
OF_THE_TRIAL: Final = frozenset({"role", "stage", "replicate", "seed"})
"""Keys of a spec that tell trials apart, not configurations."""
MOST_ROWS: Final = 40
"""Rows of the table of excluded trials."""


def configurations(context: FigureContext, run: Run, verdict: Verdict) -> dict[str, object] | None:
    """Return columns and rows of all measured arms, or None before there is one."""
    trials = context.measures.replicates.select("arm", "trial", "nll", "accuracy").join(
        run.trials.select("trial", "spec"), on="trial"
    )
    if trials.is_empty():
        return None
    labels, judged = verdict.protocol.labels, verdict.by_arm()
    plain = ["Other tests agree", "DE equivalent", "NLL", "Accuracy", "Runs"]
    columns = [{"title": name, "numeric": False} for name in ("Configuration", "Verdict")]
    columns += [{"title": f"Recovery, {label}", "numeric": True} for label in labels.values()]
    columns += [{"title": name, "numeric": True} for name in plain]
    rows: list[dict[str, object]] = []
    specs: dict[str, dict[str, Any]] = {}
    for arm in context.arms.to_dicts():
        own = trials.filter(pl.col("arm") == arm["arm"])
        entry = judged.get(arm["arm"])
        if own.is_empty():
            continue
        specs[arm["arm"]] = flatten(own["spec"][0] or "{}")
        cells = [effect_cell(entry.endpoints.get(key) if entry else None) for key in labels]
        cells.append(_robustness_cell(entry.robustness if entry else None))
        cells.append(equivalent_cell(entry.equivalent if entry else None))
        cells += [_cell(own["nll"].mean(), 4), _cell(own["accuracy"].mean(), 3), _cell(len(own), 0)]
        rows.append(
            {
                "arm": arm["arm"],
                "tag": arm["tag"],
                "name": arm["label"].removeprefix(f"{arm['tag']} · "),
                "verdict": arm["verdict"],
                "tone": "inconclusive" if verdict.withheld else arm["verdict"],
                "because": _because(entry) if entry else "",
                "reason": entry.reason if entry else None,
                "cells": cells,
                "spec": _spec(own["spec"][0]),
            }
        )
    pools = [key for key in specs if key.startswith("deep_ensemble-")]
    for key, row in zip(specs, rows, strict=True):
        row["parameters"] = "" if key in pools else _differences(specs, key)
        if key in pools[1:]:  # sizes of one pool have one specification
            row["spec"] = ""
    return {"columns": columns, "rows": rows}


def _spec(text: str | None) -> str:
    """Return a configuration's specification, indented; nothing where none is known."""
    spec = {k: v for k, v in json.loads(text or "{}").items() if k not in OF_THE_TRIAL}
    return json.dumps(spec, indent=1, sort_keys=True) if spec else ""


def _because(arm: Arm) -> str:
    """Return the sub-label of a verdict, and what the seeds detect or how many are needed."""
    parts = [arm.label] if arm.label else []
    found = [effect.detectable for effect in arm.endpoints.values()]
    known = [value for value in found if value is not None]
    if arm.needed and arm.verdict == "inconclusive":
        escape, track = (seeds or "very many" for seeds in (arm.needed.escape, arm.needed.track))
        recovery = arm.needed.recovery
        parts.append(f"needs {escape} seeds to show R = {recovery:g}, {track} to show tracking")
    elif arm.verdict in ("tracks", "inconclusive") and known and len(known) == len(found):
        parts.append(f"smallest recovery these seeds detect: {max(known):.2f}")
    return " · ".join(parts)


def effect_cell(effect: Effect | None) -> dict[str, str]:
    """Return the recovery with its interval."""
    if effect is None or effect.recovery is None:
        return _cell(None, 2)
    return _cell(effect.recovery, 2) | {"range": interval(effect)}


def _robustness_cell(found: Robustness | None) -> dict[str, str]:
    """Return how many of the other tests agree with the verdict, and which do not."""
    if found is None:
        return _cell(None, 0)
    against = [METHODS[name] for name, answer in found.answers.items() if not answer.agrees]
    agree, against_it = len(found.answers) - len(against), ", ".join(against)
    text = {"text": f"{agree} of {len(found.answers)}", "sort": str(agree)}
    return text | {"range": f"not by {against_it}" if against else ""}


def equivalent_cell(found: Equivalent | None) -> dict[str, str]:
    """Return the Deep Ensemble equivalent with its interval."""
    if found is None:
        return _cell(None, 1)
    text, low, high = (
        f"> {found.largest}" if value is None else number(value, 1)
        for value in (found.members, found.low, found.high)
    )
    value = found.largest + 1 if found.members is None else found.members
    return {"text": text, "sort": f"{value:.9g}", "range": f"[{low}, {high}]"}


def _cell(value: Any, digits: int) -> dict[str, str]:
    if value is None:
        return {"text": "–", "sort": "", "range": ""}
    return {"text": number(value, digits), "sort": f"{value:.9g}", "range": ""}


def _differences(specs: Mapping[str, Mapping[str, Any]], arm: str) -> str:
    """Return what tells an arm's spec from most others that have the same parameters, as text."""
    own = {key: value for key, value in specs[arm].items() if value is not None}
    apart = {
        key: sum(other.get(key, value) != value for other in specs.values())
        for key, value in own.items()
    }
    most = sorted(own, key=lambda key: (-apart[key], key))[:MOST_PARAMETERS]
    return " · ".join(f"{key} {plain(own[key])}" for key in sorted(most) if apart[key])


def excluded(context: FigureContext) -> list[dict[str, Any]]:
    """Return how many trials did not complete, by stage, arm, status and reason."""
    labels = dict(context.arms.select("arm", "label").iter_rows())
    keys = ["stage", "arm", "status", "reason"]
    order = {"confirm": 0, "pilot": 1, "rescore": 2, "search": 3}
    frame = context.measures.excluded
    # In the search every configuration is an arm of its own: only how trials ended is of interest.
    arm = pl.when(pl.col("stage") == "confirm").then("arm").otherwise(pl.lit("configurations"))
    rows = frame.with_columns(arm=arm).group_by(keys).agg(trials=pl.len()).sort(keys).to_dicts()
    rows.sort(key=lambda row: order.get(row["stage"], 3))
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
        "its arm from any verdict; it is never dropped in silence."
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
        ("Seeds", f"{trials['seed'].n_unique()} roots of {len(trials)} trials"),
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
