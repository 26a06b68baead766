"""Several runs on one page: verdicts, anchors, best configurations side by side, never pooled."""

import re
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Final, NamedTuple
from urllib.parse import quote

import polars as pl

from analysis.figures import recovery
from analysis.figures.context import Figure
from analysis.figures.studies import studies_figure
from analysis.report import html, page, tables
from analysis.report.missing_trials import lacking
from analysis.result import Result
from analysis.text import numbers
from analysis.text.names import title
from analysis.verdict.schema import Anchor, Arm, Verdict
from study.errors import StudyError
from study.run_folder.paths import AnyPath

LONGEST: Final = 80
"""Letters of a run's name in the name of its page."""
NONE: Final = "–"


def named(folders: Sequence[AnyPath]) -> dict[str, AnyPath]:
    """Return the folders by the names of their runs; those of one name by their paths.

    Raises:
        StudyError: When a folder is given twice.
    """
    places = [folder.resolve() for folder in folders]
    for folder, place in zip(folders, places, strict=True):
        if places.count(place) > 1:
            raise StudyError(f"--runs: a folder may be given once, but {folder} is twice; drop one")
    names = [place.name for place in places]
    return {
        name if names.count(name) == 1 else str(folder): folder
        for name, folder in zip(names, folders, strict=True)
    }


def links(names: Iterable[str], out: Path) -> dict[str, str]:
    """Return the file name of each run's own page, which lies beside the comparison."""
    found: dict[str, str] = {}
    for name in names:
        safe = re.sub(r"[^A-Za-z0-9._-]+", "-", name)[:LONGEST].strip(".-") or "run"
        file, number = f"{out.stem}_{safe}.html", 2
        while file in found.values():
            file, number = f"{out.stem}_{safe}-{number}.html", number + 1
        found[name] = file
    return found


def comparison_page(found: Mapping[str, Result], files: Mapping[str, str], now: datetime) -> str:
    """Return the page of the comparison.

    Args:
        found: Name -> run.
        files: Name -> file of the run's own page.
        now: Time to print on it.
    """
    figures = drawn(found)
    first = studies_figure({name: own.verdict for name, own in found.items()})
    best = {name: own_lead.arm.method for name, own in found.items() if (own_lead := lead(own))}
    arms = {method: [n for n in best if best[n] == method] for method in _methods(found)}
    labels = _labels(found)
    content = {
        "title": f"{len(found)} studies side by side",
        "partial": [
            f"{name}: {'; '.join(open_)}"
            for name, own in found.items()
            if (open_ := lacking(own.run))
        ],
        "endpoints": list(labels.values()),
        "rows": [_row(name, own, quote(files[name]), labels) for name, own in found.items()],
        "names": list(found),
        "facts": _facts(found),
        "figures": figures,
        "ruler": first,
        "key": [
            {"method": method, "title": title(method), "order": order}
            for order, (method, own) in enumerate(arms.items())
            if own
        ],
        "made": now.isoformat(timespec="seconds"),
    }
    return html.render(
        "comparison.html.j2", content, html.payload(([first] if first else []) + figures, arms)
    )


# --- the best configuration of each run


class Lead(NamedTuple):
    """The best candidate of a run, with the letter and the label that it has there."""

    arm: Arm
    tag: str
    label: str


def lead(own: Result) -> Lead | None:
    """Return the best candidate, None before there is one."""
    candidates = own.context.judged().filter(pl.col("role") == "candidate")
    if candidates.is_empty():
        return None
    key, tag, label = candidates.select("arm", "tag", "label").row(0)
    return Lead(own.verdict.by_arm()[key], tag, label)


def _methods(found: Mapping[str, Result]) -> list[str]:
    """Return the domain of colour: the anchors, then every other method by name."""
    every = {method for own in found.values() for method in own.context.methods[2:]}
    return ["deep_ensemble", "single", *sorted(every)]


def _labels(found: Mapping[str, Result]) -> dict[str, str]:
    """Return every endpoint that any run was judged on, and what it is called."""
    return {
        key: label for own in found.values() for key, label in own.verdict.protocol.labels.items()
    }


def drawn(found: Mapping[str, Result]) -> list[Figure]:
    """Return the figure of recoveries: one for each margin and level, as each has its own rule."""
    groups: dict[tuple[float, tuple[str, str]], list[str]] = {}
    for name, own in found.items():
        if lead(own) is not None:
            groups.setdefault((own.context.margin, own.context.levels), []).append(name)
    figures = []
    for number, ((margin, levels), names) in enumerate(groups.items()):
        rows = pl.concat([_recoveries(name, found[name]) for name in names])
        panels = pl.Enum([*_labels(found).values()])
        rows = rows.sort(pl.col("panel").cast(panels), maintain_order=True)
        passed = sum(_escapes(found[name]) for name in names)
        seeds = ", ".join(f"{found[name].verdict.seeds.span} in {name}" for name in names)
        covers = sorted({found[name].verdict.covers for name in names})
        without = [name for name, own in found.items() if lead(own) is None]
        missing = f" Nothing to show yet: {', '.join(without)}." if without else ""
        figures.append(
            Figure(
                key=f"runs{number or ''}",
                section="Recovery",
                claim=f"The best configuration escapes in {passed} of {len(names)} "
                f"{'studies' if len(names) > 1 else 'study'}, at a margin of {margin:g}",
                sample=f"Seeds each: {seeds}. Intervals ({levels[0]} thick, {levels[1]} "
                f"thin) cover {' or '.join(covers)}. The best of several is shown, so it looks "
                f"better than it is; its study's verdict corrects for that.{missing}",
                chart=recovery.recovery_chart(rows, margin, _methods(found), levels),
            )
        )
    return figures


def _recoveries(name: str, own: Result) -> pl.DataFrame:
    best = lead(own)
    assert best is not None
    rows = own.context.recovery.filter(pl.col("arm") == best.arm.arm)
    return rows.with_columns(
        arm=pl.lit(name),
        label=pl.lit(name),
        method=pl.lit(best.arm.method),
        kind=pl.lit("tuned"),
    )


def _escapes(own: Result) -> bool:
    best = lead(own)
    return bool(best and best.arm.verdict == "escapes" and own.verdict.stands)


# --- the tables


def _row(name: str, own: Result, href: str, labels: Mapping[str, str]) -> dict[str, object]:
    verdict, best = own.verdict, lead(own)
    ends = best.arm.endpoints if best else {}
    anchors = [anchor for anchor in verdict.anchors if anchor.arm in verdict.measures]
    reference = best.arm.reference if best else None
    kept = [a for a in anchors if a.role == "single" or a.arm == reference] or anchors
    controls = [f"no {n} control was run" for n, c in verdict.controls if c is None]
    controls += [c.line for _, c in verdict.controls if c]
    kind = verdict.verdict
    return {
        "name": name,
        "href": href,
        "about": _about(own),
        "tone": page.tone(verdict),
        "kind": f"{kind} · exploratory" if verdict.exploratory and anchors else kind,
        "sentence": verdict.sentence,
        "best": best.label if best else NONE,
        "best_method": f"{title(best.arm.method)} of {best.arm.members}: {best.arm.verdict}"
        if best
        else "",
        "cells": [tables.effect_cell(ends.get(key)) for key in labels],
        "anchors": [_anchor(anchor, verdict) for anchor in kept],
        "seeds": verdict.seeds.span if anchors else NONE,
        "controls": controls if anchors else [],
    }


def _about(own: Result) -> str:
    known = dict(_of_run(own))
    return f"{known['Data']} with {known['Backbone']}"


def _anchor(anchor: Anchor, verdict: Verdict) -> str:
    means = verdict.measures[anchor.arm]
    nll, accuracy = (means[key].mean if key in means else None for key in ("nll", "accuracy"))
    called = f"ensemble of {anchor.members}" if anchor.role != "single" else "single"
    return f"{called}: NLL {numbers.number(nll, 4)}, accuracy {numbers.number(accuracy, 3)}"


def _facts(found: Mapping[str, Result]) -> list[dict[str, object]]:
    """Return what each run is of: a row per fact, and whether it is the same in all runs."""
    facts = [dict(_of_run(own)) for own in found.values()]
    return [
        {"name": name, "cells": cells, "same": len(set(cells)) == 1}
        for name in facts[0]
        for cells in [[fact[name] for fact in facts]]
    ]


def _of_run(own: Result) -> list[tuple[str, str]]:
    trials, verdict, protocol = own.run.trials, own.verdict, own.verdict.protocol
    candidates = trials.filter(pl.col("role") == "candidate")["method"].unique().sort()
    plan = verdict.plan.hash if verdict.plan else "none"
    why = "; ".join(verdict.exploratory_reasons)
    return [
        ("Data", page.named(own.run, "dataset")),
        ("Fingerprint of the data", tables.several(trials["data"].to_list())),
        ("Backbone", page.named(own.run, "backbone")),
        ("Candidates", f"{verdict.counts.candidates} of {_all(map(title, candidates))}"),
        ("Search trials", f"{(trials['stage'] == 'search').sum()}"),
        ("Endpoints", _all(protocol.labels.values())),
        ("Margin δ", f"{protocol.delta:g}"),
        ("Level α", f"{protocol.alpha:g}"),
        ("Seeds declared", str(verdict.seeds.planned or "none")),
        ("Plan", f"{plan}{f' (exploratory: {why})' if why else ''}"),
        ("Code", tables.several(trials["commit"].to_list())),
    ]


def _all(words: Iterable[str]) -> str:
    return ", ".join(words) or "none"
