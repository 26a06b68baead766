"""Compute, then render: from a run, its measures and its judgement to what the page shows.

``scene`` is what the figures draw from, ``page`` a plain dict of strings for the template.
"""

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from itertools import product
from pathlib import Path
from string import ascii_uppercase
from typing import Any, Final

import polars as pl

from analysis import fairness_tables, progress, secondary, tables
from analysis.declared import spaces
from analysis.geometry import geometry
from analysis.load import Run
from analysis.measure import Measures
from analysis.scene import Figure, Scene
from analysis.titles import title
from analysis.verdict import ALL_TRACK, INCONCLUSIVE, SOME_ESCAPES, Arm, Counts, Verdict
from analysis.wording import names

Context = dict[str, object]
"""What a template is filled with."""
STAGES: Final = ("search", "rescore", "pilot", "confirm")
MOST_DISAGREEMENTS: Final = 3
"""Disagreements that are spelled out beside the verdict."""
OTHERS: Final = {
    "negative_control": ("−", "Negative control"),
    "positive_control": ("+", "Positive control"),
    "single": ("S", "Single model"),
}


def scene(run: Run, measures: Measures, verdict: Verdict) -> Scene:
    """Put names, order and recovery to the arms that were judged."""
    protocol = verdict.protocol
    seen = set(run.trials["method"].to_list()) - {"deep_ensemble", "single"}
    methods = ["deep_ensemble", "single", *sorted(seen)]
    bounds = ("low", "high", "low_wide", "high_wide")
    effects = [
        {"arm": arm.arm, "endpoint": key, "panel": label, "estimate": effect.recovery}
        | {name: getattr(effect, name) for name in bounds}
        for key, label in protocol.labels.items()
        for arm in verdict.arms
        if (effect := arm.endpoints.get(key)) and effect.recovery is not None
    ]
    columns = dict.fromkeys(("arm", "endpoint", "panel"), pl.String) | dict.fromkeys(
        ("estimate", *bounds), pl.Float64
    )
    known = {effect["endpoint"] for effect in effects}
    performance = [key for key, kind in protocol.kinds.items() if kind == "performance"]
    return Scene(
        measures=measures,
        trials=run.trials,
        geometry=geometry(run),
        arms=_arms(verdict),
        recovery=pl.DataFrame(effects, schema=columns),
        equivalents=_equivalents(verdict),
        methods=methods,
        titles={method: title(method) for method in methods},
        margin=protocol.delta,
        primary=next((key for key in performance if key in known), None),
        levels=(f"{100 * protocol.level:g} %", f"{100 * protocol.level_wide:g} %"),
        tally=tally(verdict.counts, verdict.withheld),
        spaces=() if run.given else spaces(run.folder),
    )


def _arms(verdict: Verdict) -> pl.DataFrame:
    """Return one row per judged arm, best candidate first, then the anchors (see ``Scene``)."""
    rows: list[tuple[str | int, ...]] = []
    letters, called = _tags(), names(verdict.arms)
    for arm in sorted(verdict.arms, key=_leads):
        tag, name = OTHERS.get(arm.role) or (next(letters), called[arm.arm])
        row = (arm.arm, tag, name, arm.method, arm.role, arm.reference, arm.verdict, arm.members)
        rows.append(row)
    sizes = sum(anchor.role == "deep_ensemble" for anchor in verdict.anchors)
    for one in verdict.anchors:
        tag, name = OTHERS["single"]
        if one.role == "deep_ensemble":
            tag, name = f"DE{one.members}" if sizes > 1 else "DE", f"Deep ensemble of {one.members}"
        rows.append((one.arm, tag, name, one.role, one.role, one.arm, "reference", one.members))
    texts = ("arm", "tag", "label", "method", "role", "reference", "verdict")
    columns = dict.fromkeys(texts, pl.String) | {"members": pl.Int64}
    frame = pl.DataFrame(rows, schema=columns, orient="row")
    return frame.with_columns(label=pl.format("{} · {}", "tag", "label"))


def _equivalents(verdict: Verdict) -> pl.DataFrame:
    """Return each arm's Deep Ensemble equivalent (see ``Scene``)."""
    rows = [
        (arm.arm, found.members, found.low, found.high)
        for arm in verdict.arms
        if (found := arm.equivalent)
    ]
    columns = {"arm": pl.String} | dict.fromkeys(("members", "low", "high"), pl.Float64)
    return pl.DataFrame(rows, schema=columns, orient="row")


def _leads(arm: Arm) -> tuple[int, bool, bool]:
    """Return the sort key that puts what escapes first and what is not whole last of its role."""
    roles = ("candidate", "comparison", "positive_control", "negative_control")
    return roles.index(arm.role), arm.verdict != "escapes", arm.failed > 0


def _tags() -> Iterator[str]:
    for length in (1, 2):
        yield from map("".join, product(ascii_uppercase, repeat=length))


def tally(counts: Counts, withheld: bool) -> str:
    """Return how many candidates escape, track, are worse and stay open, in words."""
    total, escape = counts.candidates, counts.escapes
    if withheld:
        return f"Withheld because of a control: {escape} of {total} configurations would pass"
    parts = [f"{escape or 'None'} of {total} configurations escape{'s' * (escape == 1)}"]
    for number, one, many in (
        (counts.tracks, "tracks a single model", "track a single model"),
        (counts.worse, "is worse than one", "are worse than one"),
        (counts.inconclusive, "stays open", "stay open"),
    ):
        if number:
            parts.append(f"{number} {one if number == 1 else many}")
    return ", ".join(parts)


def page(
    scene: Scene, run: Run, verdict: Verdict, drawn: Sequence[Figure], now: datetime
) -> Context:
    """Return every text of the page."""
    sections = dict.fromkeys(figure.section for figure in drawn)
    used = [m for m in scene.methods if m in run.trials["method"].to_list()]
    return {
        "study": (run.plan and run.plan.study) or run.folder.name,
        "question": _question(run),
        "subtitle": _subtitle(run, verdict),
        "banners": _banners(run, verdict),
        "margin": f"{scene.margin:g}",
        "level": scene.levels[0],
        "verdict": _verdict(scene, verdict, "confirm" in run.trials["stage"]),
        "key": [{"method": m, "title": title(m), "order": scene.methods.index(m)} for m in used],
        "sections": [
            {"name": name, "figures": [f for f in drawn if f.section == name]} for name in sections
        ],
        "table": tables.configurations(scene, run, verdict),
        "protocol": _protocol(run, verdict),
        "given": run.given,
        "measures": secondary.table(scene, verdict.measures),
        "fairness": None if run.given else fairness_tables.tables(scene, verdict),
        "excluded": tables.excluded(scene)[: tables.MOST_ROWS],
        "excluded_note": tables.excluded_note(scene),
        "provenance": tables.provenance(run, verdict, now),
    }


def _question(run: Run) -> str:
    candidates = run.trials.filter(pl.col("role") == "candidate")["method"].unique().sort()
    if run.given:
        what = candidates[0] if len(candidates) == 1 else "any of these ensembles"
    else:
        known = title(candidates[0]) if len(candidates) == 1 else "an efficient ensemble"
        what = f"any configuration of {known}"
    return f"Does {what} escape single\u2011model behaviour?"


def _subtitle(run: Run, verdict: Verdict) -> str:
    arms = len(verdict.arms)
    between = f" {arms} arm{'s' * (arms != 1)} between the two anchors." if arms else ""
    if run.given:
        seeds = run.trials["replicate"].n_unique()
        return f"Predictions of {len(run.trials)} runs on {seeds} seeds, as given.{between}"
    specs = [json.loads(text) for text in run.trials["spec"].unique().sort()]
    stages = Counter(run.trials["stage"].to_list())
    trials = ", ".join(f"{stages[s]} {s}" for s in STAGES if stages[s])
    data, backbones = (named(specs, key) for key in ("dataset", "backbone"))
    return f"{data} with {backbones}. Trials: {trials}.{between}"


def named(specs: Sequence[Mapping[str, Any]], section: str) -> str:
    """Return the names that a section of the specifications has, joined."""
    names = {spec.get(section, {}).get("name", "unknown") for spec in specs}
    return " and ".join(sorted(map(str, names)))


def _banners(run: Run, verdict: Verdict) -> list[dict[str, str]]:
    banners = []
    if run.given:
        text = (
            "Only predictions were given. How the ensembles were trained, tuned and chosen is not "
            "known here; one that was chosen by its results on this test set looks too good."
        )
        banners.append({"kind": "AS GIVEN", "text": text})
    unequal = fairness_tables.warning(verdict.fairness)
    if unequal:
        banners.append({"kind": "UNEQUAL", "text": unequal})
    nothing = "confirm" not in run.trials["stage"]
    lines = progress.lacking(run)
    if nothing or lines:
        begin = (
            "Nothing has been confirmed yet: this page shows the search alone, and no verdict."
            if nothing
            else "The study is not finished, and the verdict can still change."
        )
        banners.append({"kind": "PARTIAL", "text": " ".join([begin, *map(_as_sentence, lines)])})
    return banners


def _as_sentence(line: str) -> str:
    return f"{line[:1].upper()}{line[1:]}."


def tone(verdict: Verdict) -> str:
    """Return the colour of a verdict, by the name that the style has for it."""
    tones = {SOME_ESCAPES: "escapes", ALL_TRACK: "tracks", INCONCLUSIVE: "inconclusive"}
    return tones[verdict.verdict]


def _verdict(scene: Scene, verdict: Verdict, confirmed: bool) -> Context:
    kind, protocol = verdict.verdict, verdict.protocol
    names = ", ".join(protocol.labels.values())
    return {
        "label": f"{kind} · exploratory" if verdict.exploratory and confirmed else kind,
        "tone": tone(verdict),
        "sentence": verdict.sentence.replace(" %", "\u00a0%").replace("p < ", "p\u00a0<\u00a0"),
        "rule": (
            f"Rule: a configuration escapes when its recovery lies above {protocol.delta:g} on "
            f"every endpoint ({names}), at one-sided level {protocol.alpha:g} after Holm's "
            f"correction; it tracks a single model when equivalence within "
            f"±{protocol.delta:g} is shown."
        ),
        "checks": _checks(verdict) if confirmed else [],
        "kpis": _kpis(scene, verdict) if confirmed else [],
    }


def _checks(verdict: Verdict) -> list[dict[str, str]]:
    checks = []
    for name, control in verdict.controls:
        if control is None:
            checks.append({"state": "na", "text": f"no {name} control was run"})
        else:
            proved = control.verdict == control.expected
            state = "yes" if proved else "na" if control.ok else "no"
            checks.append({"state": state, "text": control.line})
    closed = [gate for gate in verdict.gates if not gate.open]
    if verdict.gates and not closed:
        text = "single model and deep ensemble differ on every endpoint, so recovery is measurable"
        checks.append({"state": "yes", "text": text})
    for gate in closed:
        text = f"{gate.members} members: {gate.reason}"
        checks.append({"state": "no", "text": text})
    checks += _robust(verdict)
    known = [check["text"] for check in checks]
    reasons = [
        reason
        for reason in verdict.reasons
        if reason not in verdict.sentence
        and not any(text in reason or reason.removeprefix("withheld: ") in text for text in known)
    ]
    checks += [{"state": "na", "text": reason} for reason in reasons]
    return list({check["text"]: check for check in checks}.values())


def _robust(verdict: Verdict) -> list[dict[str, str]]:
    """Return whether permutation and both bootstraps agree with the verdicts."""
    asked = [arm for arm in verdict.arms if arm.robustness]
    against = verdict.robustness.disagreements
    if not asked:
        return []
    if not against:
        text = f"permutation and bootstraps agree with the tests on all {len(asked)} arms"
        return [{"state": "yes", "text": text}]
    shown = against[:MOST_DISAGREEMENTS]
    more = f" (and {len(against) - len(shown)} more, in the table)" if against[len(shown) :] else ""
    return [{"state": "na", "text": "; ".join(shown) + more}]


def _kpis(scene: Scene, verdict: Verdict) -> list[dict[str, str]]:
    counts, protocol, seeds = verdict.counts, verdict.protocol, verdict.seeds
    kpis = [
        {
            "value": f"{counts.escapes} of {counts.candidates}",
            "text": "would pass, but a control withholds the verdict"
            if verdict.withheld
            else f"configurations escape; {counts.tracks} track a single model",
        }
    ]
    # The weakest endpoint says nothing where some endpoint could not be assessed.
    whole = [arm for arm in verdict.arms if len(arm.endpoints) == len(protocol.endpoints)]
    candidates = [arm for arm in whole if arm.role == "candidate"]
    lead = min(candidates, key=_leads, default=None)
    if lead is not None and lead.weakest is not None:
        effect = lead.endpoints[lead.weakest]
        tag = scene.arms.filter(pl.col("arm") == lead.arm)["tag"].item()
        kpis.append(
            {
                "value": tables.number(effect.recovery),
                "text": f"recovery of {tag}, the best, on its weakest endpoint "
                f"({protocol.labels[lead.weakest]}), {scene.levels[0]} "
                f"{tables.interval(effect)}",
            }
        )
    found = verdict.detectable_effect
    if found.worst is not None:
        text = (
            "smallest recovery on every endpoint that these seeds detect with power "
            f"{found.power:g}"
        )
        kpis.append({"value": tables.number(found.worst), "text": text})
    done = seeds.span.replace(" to ", "–")
    planned = f", {seeds.planned} declared" if seeds.planned else ""
    kpis.append({"value": done, "text": f"complete replicates per arm{planned}"})
    return kpis


def _protocol(run: Run, verdict: Verdict) -> list[str]:
    protocol = verdict.protocol
    delta, alpha = f"{protocol.delta:g}", f"{protocol.alpha:g}"
    names = ", ".join(protocol.labels.values())
    margins = "; ".join(
        f"at {row.delta:g}: {row.verdict} ({len(row.escapes)} escape, {len(row.tracks)} track)"
        for row in verdict.sensitivity
    )
    subject = "what was given" if run.given else "the space that was searched"
    validated = json.loads((Path(__file__).parent / "validation.json").read_text())
    made = validated["made"]
    plan = verdict.plan
    declared = f"Exploratory: {'; '.join(verdict.exploratory_reasons)}."
    if plan and run.given:
        declared = f"Declared in a file beside the predictions, at a time unknown: {plan.hash}."
    elif plan and not verdict.exploratory:
        declared = f"Declared {plan.declared}, before the test set was opened: {plan.hash}."
    return [
        declared,
        "Recovery R = (single − x) / (single − deep ensemble) of the same number of members: "
        "0 is the single model, 1 the deep ensemble. The unit of replication is one complete run.",
        f"Endpoints: {names}. An endpoint counts only if the deep ensemble is better than the "
        f"single model at one-sided {protocol.gate_level:g} and by at least "
        f"{protocol.gate_ratio:g} standard deviation of a seed.",
        f"Escapes: R above {delta} on all endpoints, one-sided level {alpha} each, Holm's "
        "correction over the configurations.",
        f"Tracks: |R| below {delta} by two one-sided tests at level {alpha} on every performance "
        f"endpoint, and R below {delta} on every diversity endpoint. Anything else stays open.",
        f"Intervals are Fieller's: the {100 * protocol.level:g} % interval lies inside the "
        f"band exactly when the tests at {100 * protocol.alpha:g} % say so. They cover "
        "training seeds; data and split are fixed.",
        f"Margins (sensitivity): {margins}.",
        "Other tests agree: the same question before Holm's correction, by permutation of labels "
        f"(up to {verdict.robustness.permutations} of them; of the arm and the anchors' "
        "mixture at the margin), by the BCa bootstrap over seeds, and by a bootstrap over seeds "
        f"and test examples ({verdict.robustness.resamples} resamples each). Only the last "
        "is a claim about other test images too.",
        "DE equivalent: how many members a Deep Ensemble needs for the same calibrated NLL, "
        "interpolated; 1 is no better than one member.",
        f"Size and power of this procedure were simulated ({made['replications']} studies a row, "
        f"{made['made'][:10]}; analysis/validation.md): {validated['summary']}.",
        f"A null result speaks about {subject}, not about every configuration.",
    ]
