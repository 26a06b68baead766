"""The page's tables of fairness: costs, compute-matched, tuning budgets."""

from collections import Counter
from collections.abc import Mapping
from typing import Final

from analysis.figures.context import FigureContext
from analysis.text.names import title
from analysis.text.numbers import number, size, three_digits, times
from analysis.verdict.schema import Amount, Budget, ComputeMatched, Fairness, Verdict

HEADINGS: Final = {
    "parameters": "Parameters",
    "stored_bytes": "Stored bytes",
    "train_flops": "Train FLOPs per example",
    "total_train_flops": "Train FLOPs in all",
    "infer_flops": "Infer FLOPs per example",
    "train_seconds": "Train s, wall",
}
BUDGETS: Final[dict[Budget, str]] = {"train": "training", "infer": "inference"}
FINDINGS: Final = {"better": "better", "worse": "worse", "open": "not told apart", None: ""}
Context = dict[str, object]
"""What a template is filled with."""
Cells = dict[str, list[dict[str, str]]]


def tables(context: FigureContext, verdict: Verdict) -> Context | None:
    """Return the texts of the section, or None where nothing is known of costs and tuning."""
    fair = verdict.fairness
    if fair is None:
        return None
    known = any(cost.train_flops.value is not None for cost in fair.costs)
    if not known and not fair.tuning:
        return None
    return {
        "warnings": fair.warnings,
        "costs": _costs(context, fair) if known else None,
        "epochs": _epochs(context, fair) if fair.epoch_matched else None,
        "compute": _compute(context, fair) if fair.compute_matched else None,
        "tuning": _tuning(fair),
    }


def warning(fair: Fairness | None) -> str | None:
    """Return the text of the page's banner, None where nothing is amiss."""
    lines = fair.warnings if fair else ()
    return f"Not on equal terms: {'; '.join(lines)}." if lines else None


def cell(text: str, small: str = "", sort: float | None = None) -> dict[str, str]:
    """Return a cell of numbers: its text, a smaller second line, what it is sorted by."""
    return {"text": text, "range": small, "sort": "" if sort is None else f"{sort:.9g}"}


def _rows(context: FigureContext, cells: Cells) -> list[Context]:
    """Return a row for each arm with cells, in the order of the page."""
    return [
        {"arm": arm, "tag": tag, "name": label.removeprefix(f"{tag} · "), "cells": cells[arm]}
        for arm, tag, label in context.without_tail(context.arms)
        .select("arm", "tag", "label")
        .iter_rows()
        if arm in cells
    ]


def _costs(context: FigureContext, fair: Fairness) -> Context:
    cells = {}
    for entry in fair.costs:
        spent: dict[str, Amount] = {name: getattr(entry, name) for name in HEADINGS}
        own = [
            cell(
                _seconds(cost.value) if name == "train_seconds" else size(cost.value),
                times(cost.multiple),
                cost.value if cost.value is not None else cost.multiple,
            )
            for name, cost in spent.items()
        ]
        epochs = "–" if entry.epochs is None else f"{entry.epochs:g}"
        cells[entry.arm] = [*own, cell(epochs, sort=entry.epochs)]
    examples = {entry.examples for entry in fair.costs}
    counted = (
        f"the {examples.pop():,} training examples".replace(",", "\u202f")
        if len(examples) == 1 and None not in examples
        else "the training examples, whose number the study does not name"
    )
    columns = [*HEADINGS.values(), "Epochs"]
    return {"counted": counted, "columns": columns, "rows": _rows(context, cells)}


def _seconds(value: float | None) -> str:
    return "–" if value is None else three_digits(value)


def _epochs(context: FigureContext, fair: Fairness) -> Context:
    known = set(context.arms["arm"])  # Matched anchors are none of what is counted.
    told = [entry for entry in fair.epoch_matched if entry.arm in known]
    matched = [entry.arm for entry in told if entry.matched]
    single = next((entry.epochs for entry in fair.costs if entry.arm == "single"), None)
    unlike = {e.arm: "; ".join(e.differences) for e in told if not e.matched}
    return {
        "heading": f"{len(matched)} of {len(told)} saw the same data as the single "
        f"network: {single or 0:g} epochs, every member every example",
        "odd": _grouped(context, unlike),
    }


def _compute(context: FigureContext, fair: Fairness) -> Context:
    known = {(entry.arm, entry.kind): entry for entry in fair.compute_matched}
    cells = {
        arm: [one for kind in BUDGETS for one in _against(known.get((arm, kind)))]
        for arm, _ in known
    }
    candidates = set(context.arms.filter(context.arms["role"] == "candidate")["arm"])
    found = Counter(
        entry.finding
        for entry in fair.compute_matched
        if entry.kind == "train" and entry.arm in candidates and _sound(entry)
    )
    columns = [
        heading
        for budget in BUDGETS.values()
        for heading in (
            f"DE members for equal {budget}",
            f"Calibrated NLL less DE's ({budget})",
        )
    ]
    odd = []
    for kind, word in BUDGETS.items():
        notes = {e.arm: e.note for e in fair.compute_matched if e.note and e.kind == kind}
        odd += [f"{word}, {line}" for line in _grouped(context, notes)]
    return {
        "heading": f"Compute-matched: of {len(candidates & cells.keys())} candidates, "
        f"{found['better']} {'is' if found['better'] == 1 else 'are'} better and {found['worse']} "
        "worse than a Deep Ensemble of equal training compute",
        "level": f"{100 * fair.level:g} %",
        "columns": columns,
        "rows": _rows(context, cells),
        "odd": odd,
    }


def _grouped(context: FigureContext, lines: Mapping[str, str]) -> list[str]:
    """Return each line once, behind the tags of the arms that it is said of."""
    tags = dict(context.arms.select("arm", "tag").iter_rows())
    known = [arm for arm in tags if arm in lines]
    distinct = dict.fromkeys(lines[arm] for arm in known)
    return [
        f"{', '.join(tags[arm] for arm in known if lines[arm] == line)}: {line}"
        for line in distinct
    ]


def _sound(entry: ComputeMatched) -> bool:
    """Tell whether a finding holds for equal compute, although the pool's end was compared."""
    if entry.note is None:
        return True
    cheaper = entry.compared < entry.members
    return entry.finding == ("worse" if cheaper else "better")


def _against(entry: ComputeMatched | None) -> list[dict[str, str]]:
    """Return the two cells of one comparison."""
    if entry is None:
        return [cell("–")] * 2
    small = f"compared with {entry.compared:g}" if entry.note else ""
    members = cell(number(entry.members), small, entry.members)
    if entry.difference is None:
        return [members, cell("–")]
    bounds = f"[{number(entry.low, 4)}, {number(entry.high, 4)}] {FINDINGS[entry.finding]}"
    return [members, cell(number(entry.difference, 4), bounds, entry.difference)]


def _tuning(fair: Fairness) -> Context:
    tuned = [entry for entry in fair.tuning if entry.tuned]
    budgets = {entry.planned or entry.done for entry in tuned}
    if fair.warnings:
        heading = "Tuning and anchors are not on equal terms"
    elif not tuned:
        heading = "Tuning budgets"
    elif len(budgets) == 1:
        heading = f"Every tuned method got {budgets.pop()} search trials"
    else:
        heading = "Every tuned method got its search trials"
    rows = [
        {
            "title": title(entry.method),
            "planned": "–" if entry.planned is None else str(entry.planned),
            "done": str(entry.done),
            "complete": f"{entry.complete}"
            + (f" ({entry.complete / entry.done:.0%})" if entry.done else ""),
        }
        for entry in fair.tuning
    ]
    return {"heading": heading, "rows": rows, "notes": fair.notes}
