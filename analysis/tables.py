"""The report's tables: configurations, excluded trials, tuning budgets, provenance."""

import json
import platform
from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import datetime
from importlib.metadata import version
from typing import Any, Final

import polars as pl

from analysis.declared import command_of
from analysis.load import Run
from analysis.robustness import METHODS
from analysis.scene import Scene
from analysis.search import flatten

Json = dict[str, Any]

MOST_PARAMETERS: Final = 6
"""Parameters below an arm's name; the full specifications have the others."""
OF_THE_TRIAL: Final = frozenset({"role", "stage", "replicate", "seed"})
"""Keys of a spec that tell trials apart, not configurations."""
MOST_ROWS: Final = 40
"""Rows of the table of excluded trials."""


def number(value: float | None, digits: int = 2) -> str:
    """Return a number with a true minus sign, or a dash where there is none."""
    if value is None:
        return "–"
    return f"{round(value, digits) + 0.0:.{digits}f}".replace("-", "−")


def interval(effect: Json) -> str:
    """Return the interval of an effect that decides, as text."""
    if effect["low"] is None:
        return "[unbounded]"
    return f"[{number(effect['low'])}, {number(effect['high'])}]"


def configurations(scene: Scene, run: Run, verdict: Json) -> Json | None:
    """Return columns and rows of all measured arms, or None before there is one."""
    trials = scene.measures.replicates.select("arm", "trial", "nll", "accuracy").join(
        run.trials.select("trial", "spec"), on="trial"
    )
    if trials.is_empty():
        return None
    keys, labels = verdict["protocol"]["endpoints"], verdict["protocol"]["labels"]
    judged = {arm["arm"]: arm for arm in verdict["arms"]}
    plain = ["Other tests agree", "DE equivalent", "NLL", "Accuracy", "Runs"]
    columns = [{"title": name, "numeric": False} for name in ("Configuration", "Verdict")]
    columns += [{"title": f"Recovery, {labels[key]}", "numeric": True} for key in keys]
    columns += [{"title": name, "numeric": True} for name in plain]
    rows: list[Json] = []
    specs: dict[str, Json] = {}
    for arm in scene.arms.to_dicts():
        own = trials.filter(pl.col("arm") == arm["arm"])
        entry = judged.get(arm["arm"], {})
        if own.is_empty():
            continue
        specs[arm["arm"]] = flatten(own["spec"][0] or "{}")
        effects = [entry.get("endpoints", {}).get(key) for key in keys]
        cells = [_effect_cell(effect) for effect in effects]
        cells += [_robustness_cell(entry.get("robustness")), _equivalent_cell(entry)]
        cells += [_cell(own["nll"].mean(), 4), _cell(own["accuracy"].mean(), 3), _cell(len(own), 0)]
        rows.append(
            {
                "arm": arm["arm"],
                "tag": arm["tag"],
                "name": arm["label"].removeprefix(f"{arm['tag']} · "),
                "verdict": arm["verdict"],
                "tone": "inconclusive" if verdict["withheld"] else arm["verdict"],
                "because": _because(entry),
                "reason": entry.get("reason"),
                "cells": cells,
                "spec": _spec(own["spec"][0]),
            }
        )
    pools = [row for row in rows if row["arm"].startswith("deep_ensemble-")]
    for row in pools[1:]:  # sizes of one pool have one specification
        row["spec"] = ""
    for row in rows:
        row["parameters"] = "" if row in pools else _differences(specs, row["arm"])
    return {"columns": columns, "rows": rows}


def _spec(text: str | None) -> str:
    """Return a configuration's specification, indented; nothing where none is known."""
    spec = {k: v for k, v in json.loads(text or "{}").items() if k not in OF_THE_TRIAL}
    return json.dumps(spec, indent=1, sort_keys=True) if spec else ""


def _because(entry: Json) -> str:
    """Return the sub-label of a verdict, and what the seeds detect or how many are needed."""
    parts = [entry["label"]] if entry.get("label") else []
    found = [effect["detectable"] for effect in entry.get("endpoints", {}).values()]
    needed = entry.get("needed") if entry.get("verdict") == "inconclusive" else None
    if needed:
        escape, track = (needed[key] or "very many" for key in ("escape", "track"))
        parts.append(
            f"needs {escape} seeds to show R = {needed['recovery']:g}, {track} to show tracking"
        )
    elif entry.get("verdict") in ("tracks", "inconclusive") and found and None not in found:
        parts.append(f"smallest recovery these seeds detect: {max(found):.2f}")
    return " · ".join(parts)


def _effect_cell(effect: Json | None) -> dict[str, Any]:
    if effect is None or effect["recovery"] is None:
        return {"text": "–", "sort": "", "range": ""}
    value = effect["recovery"]
    return {"text": number(value), "sort": f"{value:.9g}", "range": interval(effect)}


def _robustness_cell(found: Json | None) -> dict[str, str]:
    """Return how many of the other tests agree with the verdict, and which do not."""
    said = {name: found[name] for name in METHODS if found[name]} if found else {}
    if not said:
        return {"text": "–", "sort": "", "range": ""}
    against = [METHODS[name] for name, answer in said.items() if not answer["agrees"]]
    agree = len(said) - len(against)
    return {
        "text": f"{agree} of {len(said)}",
        "sort": str(agree),
        "range": f"not by {', '.join(against)}" if against else "",
    }


def _equivalent_cell(entry: Json) -> dict[str, str]:
    """Return the Deep Ensemble equivalent with its interval."""
    found = entry.get("equivalent")
    if found is None:
        return {"text": "–", "sort": "", "range": ""}
    beyond = f"> {found['largest']}"
    text, low, high = (
        beyond if found[key] is None else number(found[key], 1)
        for key in ("members", "low", "high")
    )
    value = found["largest"] + 1 if found["members"] is None else found["members"]
    return {"text": text, "sort": f"{value:.9g}", "range": f"[{low}, {high}]"}


def _cell(value: Any, digits: int) -> dict[str, str]:
    if value is None:
        return {"text": "–", "sort": "", "range": ""}
    return {"text": number(value, digits), "sort": f"{value:.9g}", "range": ""}


def _differences(specs: Mapping[str, Json], arm: str) -> str:
    """Return what tells an arm's spec from most others that have the same parameters, as text."""
    own = {key: value for key, value in specs[arm].items() if value is not None}
    apart = {
        key: sum(other.get(key, value) != value for other in specs.values())
        for key, value in own.items()
    }
    most = sorted(own, key=lambda key: (-apart[key], key))[:MOST_PARAMETERS]
    return " · ".join(f"{key} {plain(own[key])}" for key in sorted(most) if apart[key])


def plain(value: Any) -> str:
    """Return a parameter's value as text."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def excluded(scene: Scene) -> list[Json]:
    """Return how many trials did not complete, by stage, arm, status and reason."""
    labels = dict(scene.arms.select("arm", "label").iter_rows())
    keys = ["stage", "arm", "status", "reason"]
    order = {"confirm": 0, "pilot": 1, "rescore": 2, "search": 3}
    frame = scene.measures.excluded
    # In the search every configuration is an arm of its own: only how trials ended is of interest.
    arm = pl.when(pl.col("stage") == "confirm").then("arm").otherwise(pl.lit("configurations"))
    rows = frame.with_columns(arm=arm).group_by(keys).agg(trials=pl.len()).sort(keys).to_dicts()
    rows.sort(key=lambda row: order.get(row["stage"], 3))
    return [
        row | {"label": labels.get(row["arm"], row["arm"]), "reason": row["reason"] or "none given"}
        for row in rows
    ]


def excluded_note(scene: Scene) -> str:
    """Return the line above the table of excluded trials."""
    rows, trials = len(excluded(scene)), len(scene.measures.excluded)
    shown = f"; the first {MOST_ROWS} of {rows} reasons" if rows > MOST_ROWS else ""
    return (
        f"{trials} of {len(scene.trials)} trials{shown}. A failed run in the confirm stage keeps "
        "its arm from any verdict; it is never dropped in silence."
    )


def provenance(run: Run, verdict: Json, now: datetime) -> list[tuple[str, str]]:
    """Return where everything on the page came from, as names and values."""
    trials = run.trials
    plan = verdict["plan"] or {}
    if run.given:
        return _given(run, plan, now)
    seconds = trials["seconds"].fill_nan(None).sum()
    versions = [json.loads(text) for text in trials["versions"].unique().sort()]
    changed = f"; its content now gives {plan.get('content_hash')}"
    same = plan.get("content_hash") in (plan.get("hash"), None)
    return [
        ("Report made", now.isoformat(timespec="seconds")),
        ("Run folder", run.folder.name),
        ("Command", command_of(run.folder) or "unknown"),
        ("Plan", f"{plan.get('hash', 'none')}{'' if same else changed}"),
        ("Declared", str(plan.get("declared") or "–")),
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


def _given(run: Run, plan: Json, now: datetime) -> list[tuple[str, str]]:
    """Return what is known of predictions alone."""
    trials = run.trials
    return [
        ("Report made", now.isoformat(timespec="seconds")),
        ("Predictions", str((run.plan or {}).get("study"))),
        ("Protocol", str(plan.get("hash", "none declared"))),
        ("Runs", f"{len(trials)} on {trials['seed'].n_unique()} seeds"),
        ("Judged with", _judged_with()),
    ]


def _judged_with() -> str:
    ours = ("polars", "numpy", "scipy", "statsmodels", "altair", "scikit-learn")
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
