"""Figures for a paper, drawn without a browser: SVG and PDF, as wide as a column and as a page.

A figure is laid out as on the report's page and then made smaller as a whole, so that marks, gaps
and text keep their proportions; the page's key of methods becomes a legend.
"""

import re
from collections.abc import Sequence
from copy import deepcopy
from math import ceil
from pathlib import Path
from textwrap import wrap
from typing import Any, Final

import vl_convert

from analysis.data.files import write
from analysis.figures import encodings, theme
from analysis.figures.context import Figure
from analysis.report import paper_tables
from analysis.report.html import VEGA_LITE
from analysis.report.missing_trials import lacking
from analysis.result import Result

INCHES: Final = {"column": 3.3, "page": 6.8}
POINTS: Final = 72
SCALE: Final = 0.65
"""Of the page's px in points: its text of 11.5 px becomes one of 7.5 points."""
GAP: Final = 20
PASSES: Final = 5
TALLEST: Final = 8.5 * POINTS
FLATTEST: Final = 0.5
"""What is taller than a page is made flatter, down to this share of its height."""
LETTER: Final = 6.3
"""Mean width of a letter of a title, px."""
LINES: Final = 3
NARROW: Final = 200
"""Width of a panel, px, below which not every number fits on its axis."""


def write_paper(own: Result, place: Path) -> None:
    """Write all figures and tables of a run into a folder.

    Raises:
        StudyError: When a file cannot be written.
    """
    open_ = lacking(own.run)
    partial = f"PARTIAL: {'; '.join(open_)}. " if open_ else ""
    write_figures(own.drawn, place, partial, own.context.arms["label"].to_list())
    for name, text in paper_tables.files(own.context, own.verdict, partial):
        write(place / name, text)


def write_figures(
    drawn: Sequence[Figure], place: Path, partial: str = "", arms: Sequence[str] = ()
) -> None:
    """Write every figure at both widths, each of its choices on its own, and their captions.

    Args:
        drawn: The figures.
        place: Folder.
        partial: What the captions begin with.
        arms: What the letters in the figures stand for.

    Raises:
        StudyError: When a file cannot be written.
    """
    captions = []
    for figure in drawn:
        names = []
        for choice, said in figure.choices or (("", ""),):
            name = f"{figure.key}_{choice}" if choice else figure.key
            names.append(name)
            for width, inches in INCHES.items():
                svg, scale = picture(figure, inches, (choice, said) if choice else None)
                write(place / f"{name}_{width}.svg", _sized(svg, scale, "pt"))
                # To the converter a px is a point.
                pdf = vl_convert.svg_to_pdf(_sized(svg, scale, "px"))
                write(place / f"{name}_{width}.pdf", pdf)
        text = f"{partial}{figure.claim}. {figure.sample}"
        captions.append(f"**{', '.join(names)}**: {paper_tables.plain(text)}\n")
    if captions and arms:
        captions.append(f"**Arms**: {paper_tables.plain('; '.join(arms))}\n")
    if captions:
        write(place / "captions.md", "\n".join(captions))


def picture(
    figure: Figure, inches: float, choice: tuple[str, str] | None = None
) -> tuple[str, float]:
    """Return a figure as SVG, and by what to scale it for the width.

    Args:
        figure: What to draw.
        inches: Its width in print.
        choice: Value of its parameter ``metric``, and the name of that.
    """
    spec = figure.spec()
    room = inches * POINTS / SCALE
    hint, datasets = spec.get("usermeta") or {}, spec["datasets"]
    panels = len({row.get("panel") for row in max(datasets.values(), key=len)})
    if choice:
        for param in spec["params"]:
            if param["name"] == "metric":
                param["value"] = choice[0]
        spec["title"] = choice[1]
        for encoding in theme.encodings_of(spec):
            for channel in encoding.values():
                if isinstance(channel, dict) and isinstance(channel.get("title"), str):
                    channel["title"] = channel["title"].replace(encodings.CHOSEN, choice[1])
    if not hint.get("columns"):
        theme.add_legend(spec, room)
        spec |= {"width": room, "autosize": {"type": "fit-x", "contains": "padding"}}
        svg = _draw(spec, room, room)
        return svg, _scale(svg, inches)
    columns = max(1, min(panels, hint["columns"], int(room / hint["least"])))
    columns = ceil(panels / ceil(panels / columns))  # No panel alone in the last row.
    most = hint.get("most", room)
    cell = min(most, int((room - 60) / columns - GAP))
    flat = 1.0
    svg = ""
    for _ in range(PASSES):
        spec["columns"] = columns
        theme.add_legend(spec, columns * cell)
        _thin_out(spec, cell)
        height = flat * (cell * hint["ratio"] if hint.get("ratio") else hint["height"])
        spec["spec"] |= {"width": cell, "height": round(height)}
        svg = _draw(_wrapped(spec, cell), room, cell)
        spare, surplus = room - _size(svg, "width"), _size(svg, "height") - TALLEST / SCALE
        if surplus > 0 and flat == 1:
            flat = max(FLATTEST, 1 - surplus / (ceil(panels / columns) * height))
        elif spare >= 0 and (spare < columns + 3 or cell == most):
            break
        cell = max(1, min(most, cell + int(spare // columns)))
    return svg, _scale(svg, inches)


def _draw(spec: dict[str, Any], room: float, cell: float) -> str:
    # Labels of an axis are as long as on the page at most, or half of a narrow figure.
    config = theme.config(min(210.0, room * 0.5), cell)
    drawn = vl_convert.vegalite_to_svg(
        {key: value for key, value in spec.items() if key not in ("config", "usermeta")},
        vl_version=VEGA_LITE,
        config=config,
    )
    return str(drawn)


def _size(svg: str, side: str) -> float:
    found = re.search(rf'<svg[^>]* {side}="([\d.]+)"', svg)
    assert found
    return float(found.group(1))


def _scale(svg: str, inches: float) -> float:
    """Return by what to multiply px for points; what came out too wide becomes smaller."""
    return min(SCALE, inches * POINTS / _size(svg, "width"))


def _sized(svg: str, scale: float, unit: str) -> str:
    """Return the SVG with its size on paper."""
    head, end, rest = svg.partition(">")
    sized = re.sub(
        r'(?<= )(width|height)="([\d.]+)"',
        lambda m: f'{m[1]}="{float(m[2]) * scale:.2f}{unit}"',
        head,
    )
    return sized + end + rest


# --- what the page has beside its charts, or leaves to its reader


def _thin_out(spec: dict[str, Any], cell: float) -> None:
    """Leave a narrow axis its whole numbers, so that those of both anchors stay."""
    for encoding in theme.encodings_of(spec):
        axis = (encoding.get("x") or {}).get("axis") or {}
        whole = [value for value in axis.get("values", []) if value == int(value)]
        if cell < NARROW and len(whole) > 1:
            axis["values"] = whole


def _wrapped(spec: dict[str, Any], cell: float) -> dict[str, Any]:
    """Return the spec with the titles of panels on as many lines as they need."""
    spec = deepcopy(spec)
    rows = [row for own in spec["datasets"].values() for row in own if row.get("panel")]
    names = {row["panel"]: _lines(row["panel"], int(cell / LETTER)) for row in rows}
    if len(set(names.values())) < len(names):
        return spec
    for row in rows:
        row["panel"] = names[row["panel"]]
    for channel in [spec.get("facet"), *(c for e in theme.encodings_of(spec) for c in e.values())]:
        own = isinstance(channel, dict) and channel.get("field") == "panel"
        if own and isinstance(channel.get("sort"), list):
            channel["sort"] = [names.get(name, name) for name in channel["sort"]]
    return spec


def _lines(title: str, letters: int) -> str:
    """Return a title whose lines have at most so many letters, each of its own three at most."""
    return "\n".join(
        "\n".join(wrap(line, max(8, letters), max_lines=LINES, placeholder=" …"))
        for line in title.split("\n")
    )
