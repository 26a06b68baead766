"""Tables for a paper: CSV with all digits, LaTeX (booktabs) and Markdown as they are printed."""

import csv
import io
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from analysis.figures.context import FigureContext
from analysis.measures.costs import COSTS
from analysis.report import measures_table
from analysis.report.fairness_tables import HEADINGS
from analysis.report.tables import effect_cell, equivalent_cell
from analysis.text.numbers import number, size
from analysis.verdict.schema import BOUNDS, Amount, Anchor, Arm, Record, Verdict

TEX: Final = {
    "\\": r"\textbackslash{}",
    **{sign: f"\\{sign}" for sign in "&%$#_{}"},
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    '"': "''",
    "−": "$-$",
    "–": "--",
    "—": "---",
    "×": r"$\times$",
    "±": r"$\pm$",
    "·": r"$\cdot$",
    "≤": r"$\le$",
    "≥": r"$\ge$",
    "α": r"$\alpha$",
    "δ": r"$\delta$",
    "ρ": r"$\rho$",
    "²": "$^2$",
    "³": "$^3$",
    "…": r"\dots{}",
    "\u00a0": "~",
    "\u2011": "-",
}
MARKDOWN: Final = re.compile(r"([\\`*_{}\[\]<>()#+!|~&$])")
ARMS: Final = 6
"""Columns of arms in one LaTeX table of measures; more would be wider than a page."""
BRACKET: Final = re.compile(r" (\[.*\])$")


@dataclass(frozen=True)
class Table:
    """A table as text.

    Attributes:
        caption: What stands above it.
        header: A title per column.
        rows: Cells as people read them.
        words: How many columns, from the first, stand left; the others stand right.
    """

    caption: str
    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    words: int = 1


def files(context: FigureContext, verdict: Verdict, partial: str = "") -> Iterator[tuple[str, str]]:
    """Yield name and content of every file of tables; none before there is an arm.

    Args:
        context: Arms with their names.
        verdict: With fairness and measures.
        partial: What the captions begin with.
    """
    arms = [arm for arm in context.arms.to_dicts() if arm["arm"] in verdict.measures]
    if not arms:
        return
    texts = {
        "configurations": [_configurations(arms, verdict, partial)],
        "costs": [_costs(arms, verdict, partial)],
        "measures": list(_measures(context, verdict, partial)),
    }
    yield "configurations.csv", table_csv(_numbers(arms, verdict))
    yield "measures.csv", table_csv(_measured(arms, verdict))
    for name, found in texts.items():
        tables = [table for table in found if table.rows]
        if tables:
            yield f"{name}.tex", "\n".join(map(latex, tables))
            yield f"{name}.md", "\n".join(map(markdown, tables))


# --- content

Named = Mapping[str, Any]  # A row of ``FigureContext.arms``.


def _judged(verdict: Verdict) -> dict[str, Arm | Anchor]:
    return verdict.by_arm() | {anchor.arm: anchor for anchor in verdict.anchors}


def _numbers(arms: Iterable[Named], verdict: Verdict) -> Iterator[Mapping[str, object]]:
    """Yield a row per arm with every number unrounded; what an anchor has not is null."""
    judged = _judged(verdict)
    costs = {entry.arm: entry for entry in verdict.fairness.costs} if verdict.fairness else {}
    equivalent = {"de_equivalent": "members", "de_equivalent_low": "low"}
    equivalent |= {"de_equivalent_high": "high", "de_largest": "largest"}
    for arm in arms:
        own, means = judged[arm["arm"]], verdict.measures[arm["arm"]]
        row = {key: arm[key] for key in ("tag", "label", "arm", "method", "role", "members")}
        row |= {"seeds": own.seeds, "failed": own.failed, "verdict": arm["verdict"]}
        row |= _of(own, {key: key for key in ("p_escape", "p_holm", "p_track")})
        for key in verdict.protocol.endpoints:
            effect = own.endpoints.get(key) if isinstance(own, Arm) else None
            row |= _of(effect, {f"{key}_{end}": end for end in ("recovery", *BOUNDS)})
        for key in ("nll", "accuracy"):
            row |= _of(means.get(key), {f"{key}_mean": "mean", f"{key}_sd": "sd"})
        row |= _of(getattr(own, "equivalent", None), equivalent)
        for cost in COSTS:
            spent = getattr(costs.get(arm["arm"]), cost, None)
            row |= _of(spent, {cost: "value", f"{cost}_multiple": "multiple"})
        yield row


def _of(found: Record | None, columns: Mapping[str, str]) -> dict[str, object]:
    """Return columns from the fields of a record, null where it has none."""
    return {column: getattr(found, field, None) for column, field in columns.items()}


def _configurations(arms: Iterable[Named], verdict: Verdict, partial: str) -> Table:
    judged, protocol, rows = _judged(verdict), verdict.protocol, []
    for arm in arms:
        own, means = judged[arm["arm"]], verdict.measures[arm["arm"]]
        effects = own.endpoints if isinstance(own, Arm) else {}
        cells = [effect_cell(effects.get(key)) for key in protocol.endpoints]
        nll, accuracy = (means[k].mean if k in means else None for k in ("nll", "accuracy"))
        rows.append(
            [
                arm["label"],
                arm["verdict"],
                *(f"{cell['text']} {cell['range']}".rstrip() for cell in cells),
                equivalent_cell(getattr(own, "equivalent", None))["text"],
                number(nll, 4),
                number(accuracy, 3),
                str(own.seeds),
            ]
        )
    caption = (
        f"{partial}{verdict.sentence} R: recovery, 0 is the single network and 1 the deep "
        f"ensemble of the same size; brackets: {100 * protocol.level:g} % intervals over "
        f"{verdict.covers}."
    )
    withheld = " The verdict is withheld because of a control." if verdict.withheld else ""
    header = ["Configuration", "Verdict", *(f"R, {label}" for label in protocol.labels.values())]
    header += ["DE equivalent", "NLL", "Accuracy", "Seeds"]
    return Table(caption + withheld, header, rows, words=2)


def _costs(arms: Iterable[Named], verdict: Verdict, partial: str) -> Table:
    entries = verdict.fairness.costs if verdict.fairness else ()
    known = {entry.arm: [getattr(entry, cost) for cost in COSTS] for entry in entries}
    rows = [
        [arm["label"], *map(_spent, known[arm["arm"]])]
        for arm in arms
        if any(amount.value is not None for amount in known.get(arm["arm"], ()))
    ]
    caption = f"{partial}What each arm costs, and in brackets as a multiple of the single network."
    return Table(caption, ["Configuration", *(HEADINGS[cost] for cost in COSTS)], rows)


def _spent(cost: Amount) -> str:
    times = "" if cost.multiple is None else f" [{number(cost.multiple)}×]"
    return size(cost.value) + times


def _measured(arms: Iterable[Named], verdict: Verdict) -> Iterator[Mapping[str, object]]:
    for arm in arms:
        for measure, found in verdict.measures[arm["arm"]].items():
            keys = {key: arm[key] for key in ("tag", "label", "arm")}
            yield keys | {"measure": measure} | dict(found)


def _measures(context: FigureContext, verdict: Verdict, partial: str) -> Iterator[Table]:
    """Yield tables of all measures, of a few arms each."""
    found = measures_table.table(context, verdict.measures)
    if found is None:
        return
    for first in range(0, len(found.columns), ARMS):
        part = slice(first, first + ARMS)
        rows = [
            [row.name, *(_mean(cell) for cell in row.cells[part])]
            for row in found.rows
            if any(row.cells[part])
        ]
        tags, labels = zip(*found.columns[part], strict=True)
        caption = f"{partial}Mean over seeds, and standard deviation in brackets: "
        yield Table(f"{caption}{'; '.join(labels)}.", ["Measure", *tags], rows)


def _mean(cell: tuple[str, str] | None) -> str:
    text, spread = cell or ("–", "")
    return f"{text} [{spread}]" if spread else text


# --- form


def table_csv(rows: Iterable[Mapping[str, Any]]) -> str:
    """Return rows with the same keys as CSV; null is an empty field."""
    found = list(rows)
    text = io.StringIO()
    writer = csv.DictWriter(text, list(found[0]) if found else [], lineterminator="\n")
    writer.writeheader()
    writer.writerows(found)
    return text.getvalue()


def latex(table: Table) -> str:
    """Return a floating table over both columns, for the package booktabs.

    What stands in brackets behind a number is set smaller.
    """
    columns = "l" * table.words + "r" * (len(table.header) - table.words)
    lines = [
        "% needs \\usepackage{booktabs}",
        r"\begin{table*}",
        r"\centering\footnotesize\setlength{\tabcolsep}{3pt}",
        rf"\caption{{{tex(table.caption)}}}",
        rf"\begin{{tabular}}{{@{{}}{columns}@{{}}}}",
        r"\toprule",
        _tex_row(table.header),
        r"\midrule",
        *map(_tex_row, table.rows),
        r"\bottomrule",
        r"\end{tabular}",
        r"\end{table*}",
    ]
    return "\n".join(lines) + "\n"


def _tex_row(cells: Sequence[str]) -> str:
    # Braces: a cell that began with [ or * would be read as an option of the line before.
    return " & ".join("{" + _tex_cell(cell) + "}" for cell in cells) + r" \\"


def _tex_cell(cell: str) -> str:
    found = BRACKET.search(cell)
    if not found:
        return tex(cell)
    return rf"{tex(cell[: found.start()])} {{\scriptsize {tex(found[1])}}}"


def tex(text: str) -> str:
    """Return text as LaTeX prints it; other letters are left to the engine."""
    return "".join(TEX.get(letter, letter) for letter in _one_line(text))


def markdown(table: Table) -> str:
    """Return a table of pipes under its caption."""
    header = [plain(cell) for cell in table.header]
    rule = ["---"] * table.words + ["---:"] * (len(header) - table.words)
    rows = [header, rule, *([plain(cell) for cell in row] for row in table.rows)]
    lines = ["| " + " | ".join(row) + " |" for row in rows]
    return "\n".join([plain(table.caption), "", *lines]) + "\n"


def plain(text: str) -> str:
    """Return text that Markdown shows as it is."""
    return MARKDOWN.sub(r"\\\1", _one_line(text))


def _one_line(text: str) -> str:
    return "".join(c if c.isprintable() or c == "\u00a0" else " " for c in text)
