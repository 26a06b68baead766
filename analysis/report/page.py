"""Compute, then render: from a run and its result to every text of the page."""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, Final

import polars as pl

from analysis.data.run import Run
from analysis.figures.context import Figure, FigureContext, lead_order
from analysis.report import fairness_tables, measures_table, missing_trials, tables
from analysis.report.fairness_tables import Context
from analysis.text import numbers
from analysis.text.names import title
from analysis.verdict.schema import ALL_TRACK, INCONCLUSIVE, SOME_ESCAPES, Verdict

STAGES: Final = ("search", "rescore", "pilot", "confirm")
VALIDATED: Final = Path(__file__).parents[1] / "validation" / "results.json"
MOST_DISAGREEMENTS: Final = 3
"""Disagreements that are spelled out beside the verdict."""


def content(
    context: FigureContext, run: Run, verdict: Verdict, drawn: Sequence[Figure], now: datetime
) -> Context:
    """Return every text of the page."""
    sections = dict.fromkeys(figure.section for figure in drawn)
    used = [m for m in context.methods if m in run.trials["method"].to_list()]
    return {
        "study": (run.plan and run.plan.study) or run.folder.name,
        "question": _question(run),
        "subtitle": _subtitle(run, verdict),
        "banners": _banners(run, verdict),
        "margin": f"{context.margin:g}",
        "level": context.levels[0],
        "verdict": _verdict(context, verdict, "confirm" in run.trials["stage"]),
        "key": [{"method": m, "title": title(m), "order": context.methods.index(m)} for m in used],
        "sections": [
            {"name": name, "figures": [f for f in drawn if f.section == name]} for name in sections
        ],
        "table": tables.configurations(context, run, verdict),
        "declared": _declared(run, verdict),
        "decided": verdict,
        "validated": json.loads(VALIDATED.read_text()),
        "given": run.given,
        "measures": measures_table.table(context, verdict.measures),
        "fairness": None if run.given else fairness_tables.tables(context, verdict),
        "excluded": tables.excluded(context)[: tables.MOST_ROWS],
        "excluded_note": tables.excluded_note(context),
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


def _banners(run: Run, verdict: Verdict) -> list[tuple[str, str]]:
    banners = []
    if run.given:
        text = (
            "Only predictions were given. How the ensembles were trained, tuned and chosen is not "
            "known here; one that was chosen by its results on this test set looks too good."
        )
        banners.append(("AS GIVEN", text))
    unequal = fairness_tables.warning(verdict.fairness)
    if unequal:
        banners.append(("UNEQUAL", unequal))
    nothing = "confirm" not in run.trials["stage"]
    lines = missing_trials.lacking(run)
    if nothing or lines:
        begin = (
            "Nothing has been confirmed yet: this page shows the search alone, and no verdict."
            if nothing
            else "The study is not finished, and the verdict can still change."
        )
        banners.append(("PARTIAL", " ".join([begin, *map(_as_sentence, lines)])))
    return banners


def _as_sentence(line: str) -> str:
    return f"{line[:1].upper()}{line[1:]}."


def tone(verdict: Verdict) -> str:
    """Return the colour of a verdict, by the name that the style has for it."""
    tones = {SOME_ESCAPES: "escapes", ALL_TRACK: "tracks", INCONCLUSIVE: "inconclusive"}
    return tones[verdict.verdict]


def _verdict(context: FigureContext, verdict: Verdict, confirmed: bool) -> Context:
    kind = verdict.verdict
    return {
        "label": f"{kind} · exploratory" if verdict.exploratory and confirmed else kind,
        "tone": tone(verdict),
        "sentence": verdict.sentence.replace(" %", "\u00a0%").replace("p < ", "p\u00a0<\u00a0"),
        "checks": _checks(verdict) if confirmed else {},
        "kpis": _kpis(context, verdict) if confirmed else [],
    }


def _checks(verdict: Verdict) -> dict[str, str]:
    """Return lines on controls, anchors, other tests and limits, with the state of each."""
    checks = {}
    for name, control in verdict.controls:
        if control is None:
            checks[f"no {name} control was run"] = "na"
        else:
            proved = control.verdict == control.expected
            checks[control.line] = "yes" if proved else "na" if control.ok else "no"
    closed = [gate for gate in verdict.gates if not gate.open]
    if verdict.gates and not closed:
        text = "single model and deep ensemble differ on every endpoint, so recovery is measurable"
        checks[text] = "yes"
    checks |= {f"{gate.members} members: {gate.reason}": "no" for gate in closed}
    checks |= _robust(verdict)
    known = list(checks)
    for reason in verdict.reasons:
        # What the sentence, or a check above, says already is not said again.
        core = reason.removeprefix("withheld: ")
        told = any(text in reason or core in text for text in known)
        if not told and reason not in verdict.sentence:
            checks[reason] = "na"
    return checks


def _robust(verdict: Verdict) -> dict[str, str]:
    """Return whether permutation and both bootstraps agree with the verdicts."""
    asked = [arm for arm in verdict.arms if arm.robustness]
    against = verdict.robustness.disagreements
    if not asked:
        return {}
    if not against:
        return {f"permutation and bootstraps agree with the tests on all {len(asked)} arms": "yes"}
    shown = against[:MOST_DISAGREEMENTS]
    more = f" (and {len(against) - len(shown)} more, in the table)" if against[len(shown) :] else ""
    return {"; ".join(shown) + more: "na"}


def _kpis(context: FigureContext, verdict: Verdict) -> list[tuple[str, str]]:
    """Return the figures beside the verdict: a value, and what it is."""
    counts, protocol, seeds = verdict.counts, verdict.protocol, verdict.seeds
    passed = f"configurations escape; {counts.tracks} track a single model"
    if verdict.withheld:
        passed = "would pass, but a control withholds the verdict"
    kpis = [(f"{counts.escapes} of {counts.candidates}", passed)]
    # The weakest endpoint says nothing where some endpoint could not be assessed.
    whole = [arm for arm in verdict.arms if len(arm.endpoints) == len(protocol.endpoints)]
    candidates = [arm for arm in whole if arm.role == "candidate"]
    lead = min(candidates, key=lead_order, default=None)
    if lead is not None and lead.weakest is not None:
        effect = lead.endpoints[lead.weakest]
        tag = context.arms.filter(pl.col("arm") == lead.arm)["tag"].item()
        text = (
            f"recovery of {tag}, the best, on its weakest endpoint "
            f"({protocol.labels[lead.weakest]}), {context.levels[0]} {numbers.interval(effect)}"
        )
        kpis.append((numbers.number(effect.recovery), text))
    found = verdict.detectable_effect
    if found.worst is not None:
        text = "smallest recovery on every endpoint that these seeds detect with power "
        kpis.append((numbers.number(found.worst), f"{text}{found.power:g}"))
    planned = f", {seeds.planned} declared" if seeds.planned else ""
    kpis.append((seeds.span.replace(" to ", "–"), f"complete replicates per arm{planned}"))
    return kpis


def _declared(run: Run, verdict: Verdict) -> str:
    plan = verdict.plan
    if plan and run.given:
        return f"Declared in a file beside the predictions, at a time unknown: {plan.hash}."
    if plan and not verdict.exploratory:
        return f"Declared {plan.declared}, before the test set was opened: {plan.hash}."
    return f"Exploratory: {'; '.join(verdict.exploratory_reasons)}."
