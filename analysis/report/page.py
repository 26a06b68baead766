"""Compute, then render: from a run and its result to every text of the page."""

import json
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Final

import polars as pl

from analysis.data.run import Run
from analysis.figures.context import Figure, FigureContext
from analysis.report import fairness_tables, measures_table, missing_trials, tables
from analysis.report.fairness_tables import Context
from analysis.report.gallery import gallery
from analysis.text.names import title
from analysis.verdict import wording
from analysis.verdict.doubts import doubts
from analysis.verdict.schema import ALL_TRACK, INCONCLUSIVE, SOME_ESCAPES, Verdict

VALIDATED: Final = Path(__file__).parents[1] / "validation" / "results.json"


def content(
    context: FigureContext, run: Run, verdict: Verdict, drawn: Sequence[Figure], now: datetime
) -> Context:
    """Return every text of the page."""
    sections = dict.fromkeys(figure.section for figure in drawn if figure.section != "Verdict")
    used = [m for m in context.methods if m in run.trials["method"].to_list()]
    return {
        "study": (run.plan and run.plan.study) or run.folder.name,
        "question": _question(run, verdict),
        "subtitle": _subtitle(run, verdict),
        "banners": _banners(run, verdict),
        "margin": f"{context.margin:g}",
        "level": context.levels[0],
        "verdict": _verdict(verdict, "confirm" in run.trials["stage"], drawn),
        "key": [{"method": m, "title": title(m), "order": context.methods.index(m)} for m in used],
        "sections": [
            {"name": name, "figures": [f for f in drawn if f.section == name]} for name in sections
        ],
        "recovery": "Recovery" in sections,
        "table": tables.configurations(context, verdict),
        "declared": _declared(run, verdict),
        "decided": verdict,
        "validated": json.loads(VALIDATED.read_text(encoding="utf-8")),
        "given": run.given,
        "trials": len(run.trials),
        "gallery": gallery(context, run),
        "measures": measures_table.table(context, verdict.measures),
        "fairness": None if run.given else fairness_tables.tables(context, verdict),
        "excluded": tables.excluded(context)[: tables.MOST_ROWS],
        "excluded_note": tables.excluded_note(context),
        "provenance": tables.provenance(run, verdict, now),
    }


def _question(run: Run, verdict: Verdict) -> str:
    candidates = sorted({arm.method for arm in verdict.arms if arm.role == "candidate"})
    if not candidates:
        every = run.trials.filter(pl.col("role") == "candidate")["method"]
        candidates = sorted(every.unique().to_list())
    if run.given:
        what = candidates[0] if len(candidates) == 1 else "any of these ensembles"
    else:
        known = title(candidates[0]) if len(candidates) == 1 else "an efficient ensemble"
        what = f"any configuration of {known}"
    return f"Does {what} escape single\u2011model behaviour?"


def _subtitle(run: Run, verdict: Verdict) -> str:
    judged = wording.counted(arm.role for arm in verdict.arms)
    if run.given:
        seeds = run.trials["replicate"].n_unique()
        what = f"{judged}, on {seeds} seeds" if judged else f"{len(run.trials)} runs"
        return f"{what}: judged from predictions alone."
    data, backbones = (named(run, section) for section in ("dataset", "backbone"))
    searched = len(run.trials.filter(pl.col("stage") == "search"))
    looked = f" {searched} training runs looked for good settings." if searched else ""
    if not judged:
        return f"On {data}, with {backbones}.{looked}"
    fresh = f"{verdict.seeds.span} fresh seeds each"
    return f"On {data}, with {backbones}.{looked} {judged} were trained on {fresh} and tested."


def named(run: Run, section: str) -> str:
    """Return the names that a section of the trials' specifications has, joined."""
    specs = [json.loads(text) for text in run.trials["spec"].unique()]
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
        told = (f"{line[:1].upper()}{line[1:]}." for line in lines)
        banners.append(("PARTIAL", " ".join([begin, *told])))
    return banners


def tone(verdict: Verdict) -> str:
    """Return the colour of a verdict, by the name that the style has for it."""
    tones = {SOME_ESCAPES: "escapes", ALL_TRACK: "tracks", INCONCLUSIVE: "inconclusive"}
    return tones[verdict.verdict]


def _verdict(verdict: Verdict, confirmed: bool, drawn: Sequence[Figure]) -> Context:
    decided = confirmed and verdict.verdict != INCONCLUSIVE
    kind = "no verdict" if verdict.withheld or not confirmed else verdict.verdict
    lines = wording.headline(verdict) if confirmed else [verdict.sentence]
    return {
        "label": f"{kind} · exploratory" if verdict.exploratory and confirmed else kind,
        "tone": tone(verdict),
        "headline": [line.replace(" %", "\u00a0%") for line in lines],
        "details": wording.details(verdict) if decided else [],
        "doubts": doubts(verdict) if confirmed else [],
        "ruler": [figure for figure in drawn if figure.section == "Verdict"],
    }


def _declared(run: Run, verdict: Verdict) -> str:
    plan = verdict.plan
    if plan and run.given:
        return f"Declared in a file beside the predictions, at a time unknown: {plan.hash}."
    if plan and not verdict.exploratory:
        return f"Declared {plan.declared}, before the test set was opened: {plan.hash}."
    return f"Exploratory: {'; '.join(verdict.exploratory_reasons)}."
