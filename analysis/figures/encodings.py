"""What the charts share: encodings, guides, small multiples, tags that do not cover each other.

Colours, fonts, widths and dark mode are no part of a chart: the page sets them when it draws
(report.js), so a chart names the domains of its scales and the styles of its guides only.

Columns that mean the same everywhere: ``arm`` (the key that a selection links across figures),
``tag`` (its short name on marks), ``label``, ``method``, ``panel`` (title of a small multiple).
Rows are drawn in the order of the frame.
"""

from collections.abc import Sequence
from json import dumps
from math import isfinite
from textwrap import wrap
from typing import Any, Literal

import altair as alt
import numpy as np
import polars as pl
from polars import selectors as cs

Chart = alt.LayerChart | alt.FacetChart

F = ".2f"
FEW, NARROW = 4, 20
"""Columns of panels up to which their titles stay on one line; letters of a line of the others."""
LABELLED = 44
"""Rows up to which a label has room for two lines."""
ABREAST = 520
"""Room for a chart, px, from which long names have room beside it."""
OF_NAME, OF_NARROW, TWO_LINES = 35, 21, 11
"""Letters of a line of such a label, the same where there is less room, and its height, px."""
LINEAR = (-0.5, 1.5)
"""Recoveries between which their axis is linear."""
BEND = 0.3
"""How fast it bends to a logarithm beyond; smaller is faster."""

Frame = pl.DataFrame
Facets = alt.FacetChart
Tip = tuple[str, str, str]
Spot = tuple[Any, float, float, float]

SELECTED = alt.param(name="sel", value=[])
ROOM = alt.param(name="room", value=ABREAST)
"""The width that there is for the chart, px; the page sets it."""
CHOSEN = "{metric}"
"""Title of an axis that is called after the choice which the reader has made."""
TICKS = [0.125, 0.25, 0.5, 1, 2, 4, 8, 16, 32, 64, 128]


def tidy(rows: Frame) -> Frame:
    """Return the frame as JSON can hold it: no NaN, no infinity, five significant digits."""
    floats = cs.float().cast(pl.Float64)
    return rows.with_columns(pl.when(floats.is_finite()).then(floats.round_sig_figs(5)))


def panels(
    chart: Any, rows: Frame, columns: int, least: int, free: Sequence[str] = (), **cell: float
) -> Facets:
    """Facet by ``panel``, with scales of its own for each channel in ``free``.

    The page gives every cell ``least`` to ``most`` px, and ``height`` or ``ratio`` of its width.
    """
    header = alt.Header(labelExpr="split(datum.label, '\\n')")
    if columns > FEW:
        lines = pl.col("panel").map_elements(_wrapped, pl.String)
        rows = rows.with_columns(panel=lines)
    facet = alt.Facet("panel:N", sort=order(rows, "panel"), title=None, header=header)
    layers = chart.add_params(SELECTED, ROOM).properties(
        width=least, height=cell.get("height", 200)
    )
    facets: Facets = layers.facet(
        facet,
        data=tidy(rows),
        columns=min(columns, rows["panel"].n_unique()),
        usermeta={"columns": columns, "least": least, **cell},
        resolve=alt.Resolve(scale=dict.fromkeys(free, "independent"), axis={"x": "independent"}),
    )
    return facets


def _wrapped(title: str) -> str:
    return "\n".join("\n".join(wrap(line, NARROW)) for line in title.split("\n"))


def positioned(rows: Frame, *columns: str) -> Frame:
    """Add where each recovery stands on its axis (see ``at``), under ``_<column>``."""
    return rows.with_columns(at(pl.col(column)).alias(f"_{column}") for column in columns)


def at(value: pl.Expr) -> pl.Expr:
    """Return the place of a recovery: itself within ``LINEAR``, beyond it logarithmic."""
    low, high = LINEAR
    above = high + BEND * ((value - high) / BEND).log1p()
    below = low - BEND * ((low - value) / BEND).log1p()
    return pl.when(value > high).then(above).when(value < low).then(below).otherwise(value)


def guides(
    margin: float, axis: type[Any], domain: Sequence[float], title: str = "recovery"
) -> list[alt.Chart]:
    """Return the band of ±margin and the lines of single network and Deep Ensemble."""
    x2 = "x2" if axis is alt.X else "y2"
    band = alt.Chart(pl.DataFrame({"from": [-margin], "to": [margin]})).mark_rect(style="band")
    lines = alt.Chart(pl.DataFrame({"at": [0, 1]})).mark_rule(style="ref")
    return [
        band.encode(recovery(axis, "from", domain, title)).encode(**{x2: "to:Q"}),
        lines.encode(recovery(axis, "at", domain, title)),
    ]


def recovery(axis: type[Any], field: str, domain: Sequence[float], title: str = "recovery") -> Any:
    """Return a channel for places of recovery, the same in every figure."""
    values = [n / 2 for n in range(-1, 4)]
    values += [sign * n * 10**p for p in range(6) for n in (2, 5, 10) for sign in (1, -1)]
    places = pl.DataFrame({"value": values}).select(at(pl.col("value"))).to_series()
    low, high = LINEAR
    over = f"{high}+{BEND}*(exp((datum.value-{high})/{BEND})-1)"
    under = f"{low}-{BEND}*(exp(({low}-datum.value)/{BEND})-1)"
    value = f"datum.value>{high}?{over}:datum.value<{low}?{under}:datum.value"
    # A title along a low axis has no room for more.
    beyond = axis is alt.X and (domain[0] < low or domain[1] > high)
    return axis(
        f"{field}:Q",
        title=f"{title} (log ends)" if beyond else title,
        scale=alt.Scale(domain=list(domain), nice=False),
        axis=alt.Axis(
            values=sorted({v for v in places if domain[0] <= v <= domain[1]}),
            labelExpr=f"format({value}, '.2~r')",
            grid=False,
        ),
    )


def frame(rows: Frame, margin: float, *columns: str) -> tuple[float, float]:
    """Return the range of places that holds all columns, both baselines and the band."""
    seen = rows.select(pl.col(c).cast(pl.Float64) for c in ("estimate", *columns))
    known = [value for column in seen for value in column if value is not None and isfinite(value)]
    ends = pl.DataFrame({"value": [min([-margin, *known]), max([1.0, *known])]})
    low, high = ends.select(at(pl.col("value"))).to_series()
    return round(low - 0.1, 3), round(high + 0.1, 3)


def across(rows: Frame, domain: Sequence[float], level: str) -> Frame:
    """Let an interval without bounds reach from edge to edge of the frame (``_unbounded``)."""
    lost = pl.col("estimate").is_not_null() & pl.col(f"low{level}").is_null()
    if "kind" in rows.columns:
        lost &= pl.col("kind").is_in(["tuned", "own"])
    return rows.with_columns(
        pl.when(lost).then(pl.lit(edge)).otherwise(f"_{end}{level}").alias(f"_{end}{level}")
        for end, edge in zip(("low", "high"), domain, strict=True)
    ).with_columns(lost.alias(f"_unbounded{level}"))


def arrows(base: alt.Chart, domain: Sequence[float], dy: float = 0) -> list[alt.Chart]:
    """Return arrow heads at both edges, where an interval has no end."""
    marks: Sequence[tuple[str, str, Literal["left", "right"]]]
    marks = (("_low", "\u25c4", "left"), ("_high", "\u25ba", "right"))
    return [
        base.transform_filter("datum._unbounded")
        .mark_text(text=text, align=align, baseline="middle", dy=dy, fontSize=10)
        .encode(x=recovery(alt.X, end, domain))
        for end, text, align in marks
    ]


PLACES: Sequence[tuple[int, int, Literal["left", "right"]]] = tuple(
    (sign * dx, dy, "left" if sign > 0 else "right")
    for dx in (8, 22)
    for dy in (0, -9, 9)
    for sign in (1, -1)
)


def placed(
    rows: Frame,
    x: str,
    domain: Sequence[float],
    size: tuple[int, int],
    lines: Sequence[float] = (),
) -> Frame:
    """Give every row the number of the place at which its tag covers the fewest others.

    Args:
        rows: estimate, tag, ``x`` and, where there are several, panel.
        x: Column of the horizontal place.
        domain: Ends of the vertical axis.
        size: Width and height of a panel, px; in other sizes the places only come close.
        lines: Heights of lines across the panel, on which no tag should lie.
    """
    values = rows[x].to_numpy()
    wide, high = size
    width = max(float(np.ptp(values)), 1e-9) if len(values) else 1.0
    height = domain[1] - domain[0]
    panels = rows["panel"] if "panel" in rows.columns else [None] * len(rows)
    levels = rows["_estimate"] if "_estimate" in rows.columns else rows["estimate"]
    points = [
        (panel, wide * at / width, high * level / height, 6.0)
        for panel, at, level in zip(panels, values, levels, strict=True)
    ]
    taken, places = list(points), []
    for (panel, at, level, _), tag in zip(points, rows["tag"], strict=True):
        half = 4.0 * len(tag)
        spots = [
            (panel, at + dx + (half if dx > 0 else -half), level - dy, half) for dx, dy, _ in PLACES
        ]
        crowd = [
            _covered(spot, taken) + sum(abs(spot[2] - high * at / height) < 6 for at in lines)
            for spot in spots
        ]
        places.append(crowd.index(min(crowd)))
        taken.append(spots[places[-1]])
    return rows.with_columns(_place=pl.Series(places, dtype=pl.Int64))


def _covered(spot: Spot, others: Sequence[Spot]) -> int:
    """Return how many of the others a tag at ``spot`` (panel, x, y, half its width, px) touches."""
    panel, x, y, half = spot
    return sum(p == panel and abs(a - x) < half + h and abs(b - y) < 10 for p, a, b, h in others)


def labels(base: alt.Chart, y: alt.Y) -> list[alt.Chart]:
    """Return the tags beside their points, one layer per place."""
    return [
        base.transform_filter(f"datum._place=={number}")
        .mark_text(align=align, dx=dx, dy=dy, fontWeight=600, clip=True)
        .encode(y=y, text="tag:N")
        for number, (dx, dy, align) in enumerate(PLACES)
    ]


def order(rows: Frame, column: str) -> list[Any]:
    """Return the distinct values of a column in the order of the rows."""
    return rows[column].drop_nulls().unique(maintain_order=True).to_list()


def arms(rows: Frame) -> alt.Y:
    """Return a row for each arm, in the order of the frame; long names take two lines."""
    names = order(rows, "label")
    axis = alt.Axis(grid=True, labelOverlap="greedy")
    if len(names) <= LABELLED:
        wide, narrow = (lines(names, letters) for letters in (OF_NAME, OF_NARROW))
        axis = alt.Axis(
            grid=True,
            labelOverlap=False,
            labelLineHeight=TWO_LINES,
            labelExpr=f"({either(dumps(wide), dumps(narrow))})[datum.label]",
            labelOffset=alt.condition(
                f"indexof({either(dumps(_long(wide)), dumps(_long(narrow)))},datum.value)>=0",
                alt.value(-TWO_LINES / 2),
                alt.value(0),
            ),
        )
    return alt.Y("label:N", sort=names, title=None, axis=axis)


def lines(names: Sequence[str], letters: int) -> dict[str, list[str]]:
    """Return each name in at most two lines of so many letters."""
    return {name: wrap(name, letters, max_lines=2, placeholder=" …") for name in names}


def _long(names: dict[str, list[str]]) -> list[str]:
    return [name for name, own in names.items() if len(own) > 1]


def either(wide: str, narrow: str) -> str:
    """Return an expression that is the first where there is room, else the second."""
    return f"(room>={ABREAST}?{wide}:{narrow})"


def colour(methods: Sequence[str]) -> alt.Color:
    """Return the methods' colours; the page's key stands for a legend."""
    return alt.Color("method:N", scale=alt.Scale(domain=list(methods)), legend=None)


def shape(methods: Sequence[str]) -> alt.Shape:
    """Return the methods' shapes, in the order of the colours."""
    return alt.Shape("method:N", scale=alt.Scale(domain=list(methods)), legend=None)


def dim() -> Any:
    """Return the opacity that fades what is not selected."""
    chosen = "length(sel)==0||indexof(sel,datum.arm)>=0"
    return alt.condition(chosen, alt.value(1), alt.value(0.13))


def tips(fields: Sequence[Tip]) -> list[alt.Tooltip]:
    """Return tooltips of (field, title, format); without a format the field is text."""
    return [
        alt.Tooltip(f"{field}:{'Q' if form else 'N'}", title=title, format=form or alt.Undefined)
        for field, title, form in fields
    ]
