"""Compute, then render: from a run, its measures and its judgement to what the page shows.

``scene`` is what the figures draw from, ``page`` a plain dict of strings for the template.
"""

import json
import platform
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from importlib.metadata import version
from itertools import product
from string import ascii_uppercase
from typing import Any, Final

import polars as pl

from analysis.figures import Figure, Scene, costs
from analysis.load import Run
from analysis.measure import Measures, arm_key
from analysis.search import flatten

Json = dict[str, Any]

TITLES: Final = {
    "batch_ensemble": "BatchEnsemble",
    "batchensemble": "BatchEnsemble",
    "deep_ensemble": "Deep ensemble",
    "single": "Single model",
    "mc_dropout": "MC dropout",
    "lora_ensemble": "LoRA-Ensemble",
    "rank_k": "Rank-k ensemble",
    "mimo": "MIMO",
    "sve": "SVE",
}
"""Names that the key alone does not give; any other key is shown with its underscores as spaces."""
OTHERS: Final = {
    "negative_control": ("−", "Negative control"),
    "positive_control": ("+", "Positive control"),
    "single": ("S", "Single model"),
}
COSTS: Final = {
    "parameters": "Parameters",
    "stored_bytes": "Stored bytes",
    "train_flops": "Train FLOPs",
    "infer_flops": "Infer FLOPs",
}
MOST_ROWS: Final = 40
"""Rows of the table of excluded trials."""


def title(method: str) -> str:
    """Return a method's readable name."""
    key = method.rpartition(".")[2]
    words = key.replace("_", " ")
    return TITLES.get(key, words[:1].upper() + words[1:])


def scene(run: Run, measures: Measures, verdict: Json) -> Scene:
    """Put names, order and recovery to the arms that were judged."""
    protocol = verdict["protocol"]
    seen = set(run.trials["method"].to_list()) - {"deep_ensemble", "single"}
    methods = ["deep_ensemble", "single", *sorted(seen)]
    effects = [
        {"arm": arm["arm"], "endpoint": key, "panel": protocol["labels"][key]}
        | {"estimate": effect["recovery"]}
        | {name: effect[name] for name in ("low90", "high90", "low95", "high95")}
        for key in protocol["endpoints"]
        for arm in verdict["arms"]
        for effect in [arm["endpoints"].get(key)]
        if effect and effect["recovery"] is not None
    ]
    floats = ("estimate", "low90", "high90", "low95", "high95")
    texts = ("arm", "endpoint", "panel")
    columns = dict.fromkeys(texts, pl.String) | dict.fromkeys(floats, pl.Float64)
    return Scene(
        measures=measures,
        trials=run.trials,
        arms=_arms(verdict),
        recovery=pl.DataFrame(effects, schema=columns),
        methods=methods,
        titles={method: title(method) for method in methods},
        margin=protocol["delta"],
        primary=protocol["endpoints"][0],
        tally=tally(verdict["counts"]),
    )


def _arms(verdict: Json) -> pl.DataFrame:
    """Return one row per judged arm, best candidate first, then the anchors (see ``Scene``)."""
    rows, letters = [], iter(_tags())
    sizes = sum(anchor["role"] == "deep_ensemble" for anchor in verdict["anchors"])
    for arm in verdict["arms"]:
        tag, name = OTHERS.get(arm["role"]) or (
            next(letters),
            arm["name"] or f"{title(arm['method'])} {arm['configuration'][:6]}",
        )
        rows.append(arm | {"tag": tag, "label": f"{tag} · {name}"})
    for anchor in verdict["anchors"]:
        deep = anchor["role"] == "deep_ensemble"
        tag = f"DE{anchor['members']}" if deep and sizes > 1 else "DE" if deep else "S"
        label = f"Deep ensemble of {anchor['members']}" if deep else OTHERS["single"][1]
        keys = {"method": anchor["role"], "reference": anchor["arm"], "verdict": "reference"}
        rows.append(anchor | keys | {"tag": tag, "label": label})
    texts = ("arm", "tag", "label", "method", "role", "reference", "verdict")
    columns = dict.fromkeys(texts, pl.String) | {"members": pl.Int64}
    kept = [{key: row[key] for key in columns} for row in rows]
    return pl.DataFrame(kept, schema=columns)


def _tags() -> Iterator[str]:
    for length in (1, 2):
        yield from map("".join, product(ascii_uppercase, repeat=length))


def tally(counts: Mapping[str, int]) -> str:
    """Return how many candidates escape, track, are worse and stay open, in words."""
    total, escape = counts["candidates"], counts["escapes"]
    parts = [f"{escape or 'None'} of {total} configurations escape{'s' * (escape == 1)}"]
    for number, one, many in (
        (counts["tracks"], "tracks a single model", "track a single model"),
        (counts["worse"], "is worse than one", "are worse than one"),
        (counts["inconclusive"], "stays open", "stay open"),
    ):
        if number:
            parts.append(f"{number} {one if number == 1 else many}")
    return ", ".join(parts)


def page(
    scene: Scene, run: Run, verdict: Json, drawn: Sequence[Figure], now: datetime
) -> dict[str, Any]:
    """Return every text of the page."""
    sections = dict.fromkeys(figure.section for figure in drawn)
    candidates = sorted({a["method"] for a in verdict["arms"] if a["role"] == "candidate"})
    what = title(candidates[0]) if len(candidates) == 1 else "an efficient ensemble"
    used = [m for m in scene.methods if m in run.trials["method"].to_list()]
    plan = verdict["plan"] or {}
    return {
        "study": plan.get("study") or run.folder.name,
        "question": f"Does any configuration of {what} escape single-model behaviour?",
        "subtitle": _subtitle(run, verdict),
        "banners": _banners(run, verdict),
        "margin": f"{scene.margin:g}",
        "verdict": _verdict(scene, verdict),
        "key": [{"method": m, "title": title(m), "order": scene.methods.index(m)} for m in used],
        "sections": [
            {"name": name, "figures": [f for f in drawn if f.section == name]} for name in sections
        ],
        "table": _table(scene, run, verdict),
        "protocol": _protocol(verdict),
        "tuning": _tuning(run, plan.get("tuning") or {}),
        "excluded": _excluded(scene)[:MOST_ROWS],
        "excluded_note": _excluded_note(scene),
        "provenance": _provenance(run, verdict, now),
    }


def _subtitle(run: Run, verdict: Json) -> str:
    specs = [json.loads(text) for text in run.trials["spec"].unique().sort()]
    parts = (sorted({str(s[k].get("name")) for s in specs}) for k in ("dataset", "backbone"))
    stages = Counter(run.trials["stage"].to_list())
    trials = ", ".join(f"{stages[s]} {s}" for s in ("search", "rescore", "confirm") if stages[s])
    data, backbones = (" and ".join(names) for names in parts)
    arms = len(verdict["arms"])
    return f"{data} with {backbones}. Trials: {trials}. {arms} arms between the two anchors."


def _banners(run: Run, verdict: Json) -> list[dict[str, str]]:
    banners = []
    confirmed = run.trials.filter(pl.col("stage") == "confirm")
    missing = _missing(run, confirmed)
    if confirmed.is_empty():
        text = "Nothing has been confirmed yet: this page shows the search alone, and no verdict."
        banners.append({"kind": "PARTIAL", "text": text})
    elif missing:
        text = f"Declared runs that are not there yet: {missing}. The verdict can still change."
        banners.append({"kind": "PARTIAL", "text": text})
    return banners


def _missing(run: Run, confirmed: pl.DataFrame) -> str:
    """Return which declared arms lack replicates, however those ended, or nothing."""
    if run.plan is None:
        return ""
    seen = Counter(arm_key(*row) for row in confirmed.select("role", "configuration").iter_rows())
    planned, lacking = int(run.plan["seeds"]), []
    for arm in run.plan["arms"]:
        key = arm_key(arm["role"], arm["configuration"])
        if seen[key] < planned:
            lacking.append(f"{planned - seen[key]} of {planned} of {arm.get('name') or key}")
    more = f", and of {len(lacking) - 5} more arms" if len(lacking) > 5 else ""
    return ", ".join(lacking[:5]) + more


def _verdict(scene: Scene, verdict: Json) -> Json:
    kind = verdict["verdict"]
    tone = "escapes" if "escapes" in kind else "tracks" if "track" in kind else "inconclusive"
    protocol = verdict["protocol"]
    names = ", ".join(protocol["labels"][key] for key in protocol["endpoints"])
    return {
        "label": f"{kind} · exploratory" if verdict["exploratory"] else kind,
        "tone": tone,
        "sentence": verdict["sentence"].replace(" %", "\u00a0%"),
        "rule": (
            f"Rule: a configuration escapes when its recovery lies above {protocol['delta']:g} on "
            f"every endpoint ({names}), at one-sided level {protocol['alpha']:g} after Holm's "
            f"correction; it tracks a single model when equivalence within "
            f"±{protocol['delta']:g} is shown."
        ),
        "checks": _checks(verdict),
        "kpis": _kpis(scene, verdict),
    }


def _checks(verdict: Json) -> list[dict[str, str]]:
    checks = []
    for name, control in verdict["controls"].items():
        if control is None:
            checks.append({"state": "na", "text": f"no {name} control was run"})
        else:
            proved = control["verdict"] == control["expected"]
            state = "yes" if proved else "na" if control["ok"] else "no"
            checks.append({"state": state, "text": control["line"]})
    closed = [gate for gate in verdict["gates"] if not gate["open"]]
    if verdict["gates"] and not closed:
        text = "single model and deep ensemble differ on every endpoint, so recovery is measurable"
        checks.append({"state": "yes", "text": text})
    for gate in closed:
        label = verdict["protocol"]["labels"][gate["endpoint"]]
        text = f"{label}, {gate['members']} members: {gate['reason']}"
        checks.append({"state": "no", "text": text})
    known = {check["text"] for check in checks}
    reasons = [reason for reason in verdict["reasons"] if reason not in known]
    return checks + [{"state": "na", "text": reason} for reason in reasons]


def _kpis(scene: Scene, verdict: Json) -> list[dict[str, str]]:
    counts, protocol = verdict["counts"], verdict["protocol"]
    kpis = [
        {
            "value": f"{counts['escapes']} of {counts['candidates']}",
            "text": f"configurations escape; {counts['tracks']} track a single model",
        }
    ]
    lead = next((arm for arm in verdict["arms"] if arm["weakest"]), None)
    if lead is not None:
        effect = lead["endpoints"][lead["weakest"]]
        tag = scene.arms.filter(pl.col("arm") == lead["arm"])["tag"].item()
        kpis.append(
            {
                "value": _number(effect["recovery"]),
                "text": f"recovery of {tag}, the best, on its weakest endpoint "
                f"({protocol['labels'][lead['weakest']]}), 90 % {_range(effect)}",
            }
        )
    found = verdict["detectable_effect"]
    if found["worst"] is not None:
        text = f"recovery on every endpoint would have been found with power {found['power']:g}"
        kpis.append({"value": _number(found["worst"]), "text": text})
    seeds = verdict["seeds"]
    done = f"{seeds['fewest']}" if seeds["fewest"] == seeds["most"] else "{fewest}–{most}"
    planned = f", {seeds['planned']} declared" if seeds["planned"] else ""
    kpis.append({"value": done.format(**seeds), "text": f"complete replicates per arm{planned}"})
    return kpis


def _number(value: float | None, digits: int = 2) -> str:
    return "–" if value is None else f"{value:.{digits}f}".replace("-", "−")


def _range(effect: Json) -> str:
    if effect["low90"] is None:
        return "[unbounded]"
    return f"[{_number(effect['low90'])}, {_number(effect['high90'])}]"


def _table(scene: Scene, run: Run, verdict: Json) -> Json | None:
    """Return columns and rows of all measured arms, or None before there is one."""
    trials = scene.measures.replicates.select("arm", "trial", "nll", "accuracy").join(
        run.trials.select("trial", "spec", "train_seconds"), on="trial"
    )
    if trials.is_empty():
        return None
    keys, labels = verdict["protocol"]["endpoints"], verdict["protocol"]["labels"]
    judged = {arm["arm"]: arm for arm in verdict["arms"]}
    price = {row["arm"]: row for row in costs(scene).to_dicts()}
    plain = ["NLL", "Accuracy", "Runs", *COSTS.values(), "Train s"]
    columns = [{"title": name, "numeric": False} for name in ("Configuration", "Verdict")]
    columns += [{"title": f"Recovery, {labels[key]}", "numeric": True} for key in keys]
    columns += [{"title": name, "numeric": True} for name in plain]
    rows, specs = [], {}
    for arm in scene.arms.to_dicts():
        own = trials.filter(pl.col("arm") == arm["arm"])
        entry = judged.get(arm["arm"], {})
        if own.is_empty():
            continue
        specs[arm["arm"]] = flatten(own["spec"][0])
        effects = [entry.get("endpoints", {}).get(key) for key in keys]
        cells = [_effect_cell(effect) for effect in effects]
        cells += [_cell(own["nll"].mean(), 4), _cell(own["accuracy"].mean(), 3), _cell(len(own), 0)]
        cells += [_cell(price.get(arm["arm"], {}).get(cost), 2, "×") for cost in COSTS]
        cells.append(_cell(own["train_seconds"].mean(), 1))
        rows.append(
            {
                "arm": arm["arm"],
                "tag": arm["tag"],
                "name": arm["label"].removeprefix(f"{arm['tag']} · "),
                "verdict": arm["verdict"],
                "tone": arm["verdict"],
                "because": entry.get("label"),
                "reason": entry.get("reason"),
                "cells": cells,
                "spec": json.dumps(json.loads(own["spec"][0]), indent=1, sort_keys=True),
            }
        )
    for row in rows:
        row["parameters"] = _differences(specs, row["arm"])
    return {"columns": columns, "rows": rows}


def _effect_cell(effect: Json | None) -> dict[str, Any]:
    if effect is None or effect["recovery"] is None:
        return {"text": "–", "sort": "", "range": ""}
    value = effect["recovery"]
    return {"text": _number(value), "sort": f"{value:.9g}", "range": _range(effect)}


def _cell(value: Any, digits: int, unit: str = "") -> dict[str, str]:
    if value is None:
        return {"text": "–", "sort": "", "range": ""}
    return {"text": _number(value, digits) + unit, "sort": f"{value:.9g}", "range": ""}


def _differences(specs: Mapping[str, Json], arm: str) -> str:
    """Return what tells an arm's spec from the others, as text."""
    own = specs[arm]
    absent = object()
    told = {
        key
        for key in own
        if any(other.get(key, absent) not in (own[key], absent) for other in specs.values())
        or sum(key in other for other in specs.values()) < len(specs)
    }
    shown = [f"{key} {_plain(own[key])}" for key in sorted(told) if own[key] is not None]
    return " · ".join(shown)


def _plain(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _excluded(scene: Scene) -> list[Json]:
    labels = dict(scene.arms.select("arm", "label").iter_rows())
    keys = ["stage", "arm", "status", "reason"]
    order = {"confirm": 0, "rescore": 1, "search": 2}
    frame = scene.measures.excluded
    # In the search every configuration is an arm of its own: only how trials ended is of interest.
    arm = pl.when(pl.col("stage") == "confirm").then("arm").otherwise(pl.lit("configurations"))
    rows = frame.with_columns(arm=arm).group_by(keys).agg(trials=pl.len()).sort(keys).to_dicts()
    rows.sort(key=lambda row: order.get(row["stage"], 3))
    return [
        row | {"label": labels.get(row["arm"], row["arm"]), "reason": row["reason"] or "none given"}
        for row in rows
    ]


def _excluded_note(scene: Scene) -> str:
    rows, trials = len(_excluded(scene)), len(scene.measures.excluded)
    shown = f"; the first {MOST_ROWS} of {rows} reasons" if rows > MOST_ROWS else ""
    return (
        f"{trials} of {len(scene.trials)} trials{shown}. A failed run in the confirm stage keeps "
        "its arm from any verdict; it is never dropped in silence."
    )


def _tuning(run: Run, planned: Mapping[str, Any]) -> list[Json]:
    search = run.trials.filter(pl.col("stage") == "search")
    done = Counter(search["method"].to_list())
    complete = Counter(search.filter(pl.col("status") == "complete")["method"].to_list())
    return [
        {
            "title": title(method),
            "planned": (planned.get(method) or {}).get("trials", "–"),
            "done": done[method],
            "complete": complete[method],
        }
        for method in sorted({*planned, *done})
    ]


def _protocol(verdict: Json) -> list[str]:
    protocol = verdict["protocol"]
    delta, alpha = f"{protocol['delta']:g}", f"{protocol['alpha']:g}"
    names = ", ".join(protocol["labels"][key] for key in protocol["endpoints"])
    margins = "; ".join(
        f"at {row['delta']:g}: {row['verdict']} ({len(row['escapes'])} escape, "
        f"{len(row['tracks'])} track)"
        for row in verdict["sensitivity"]
    )
    plan = verdict["plan"]
    declared = f"Exploratory: {'; '.join(verdict['exploratory_reasons'])}."
    if plan and not verdict["exploratory"]:
        declared = f"Declared {plan['declared']}, before the test set was opened: {plan['hash']}."
    return [
        declared,
        "Recovery R = (single − x) / (single − deep ensemble) of the same number of members: "
        "0 is the single model, 1 the deep ensemble. The unit of replication is one complete run.",
        f"Endpoints: {names}. An endpoint counts only if the deep ensemble is better than the "
        f"single model at one-sided {protocol['gate_level']:g} and by at least "
        f"{protocol['gate_ratio']:g} standard deviation of a seed.",
        f"Escapes: R above {delta} on all endpoints, one-sided level {alpha} each, Holm's "
        "correction over the configurations.",
        f"Tracks: |R| below {delta} by two one-sided tests at level {alpha} on every performance "
        f"endpoint, and R below {delta} on every diversity endpoint. Anything else stays open.",
        "Intervals are Fieller's: the 90 % interval lies inside the band exactly when the tests "
        "at 5 % say so. They cover training seeds; data and split are fixed.",
        f"Margins (sensitivity): {margins}.",
        "A null result speaks about the space that was searched, not about every configuration.",
    ]


def _provenance(run: Run, verdict: Json, now: datetime) -> list[tuple[str, str]]:
    trials = run.trials
    plan = verdict["plan"] or {}
    seconds = trials["seconds"].sum()
    ours = ("polars", "numpy", "scipy", "statsmodels", "altair", "scikit-learn")
    versions = [json.loads(text) for text in trials["versions"].unique().sort()]
    changed = f"; its content now gives {plan.get('content_hash')}"
    same = plan.get("content_hash") in (plan.get("hash"), None)
    return [
        ("Report made", now.isoformat(timespec="seconds")),
        ("Run folder", run.folder.name),
        ("Plan", f"{plan.get('hash', 'none')}{'' if same else changed}"),
        ("Declared", str(plan.get("declared") or "–")),
        ("Code", _several(trials["commit"].to_list())),
        ("Data", _several(trials["data"].to_list())),
        ("Seeds", f"{trials['seed'].n_unique()} roots of {len(trials)} trials"),
        ("Device", _several(trials["device"].to_list())),
        ("Trained with", " | ".join(_versions(found) for found in versions)),
        ("Judged with", _versions({name: version(name) for name in ours} | _python())),
        (
            "Trials finished",
            f"{_time(trials['finished'].min())} to {_time(trials['finished'].max())}",
        ),
        ("Compute", f"{seconds / 3600:.2f} hours of trials, added up"),
    ]


def _python() -> dict[str, str]:
    return {"python": platform.python_version()}


def _versions(found: Mapping[str, str]) -> str:
    return ", ".join(f"{name} {found[name]}" for name in sorted(found))


def _several(values: Sequence[str | None]) -> str:
    """Return the one value, or all with their numbers of trials."""
    count = Counter(value or "unknown" for value in values)
    if len(count) == 1:
        return next(iter(count))
    return ", ".join(f"{value} ({number} trials)" for value, number in sorted(count.items()))


def _time(value: Any) -> str:
    return value.isoformat(timespec="seconds") if isinstance(value, datetime) else "–"
