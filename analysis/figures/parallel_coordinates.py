"""The search as parallel coordinates: which values do the best trials have in common?"""

from collections.abc import Sequence
from typing import Any, Final

import altair as alt
import numpy as np
import polars as pl

from analysis.figures import encodings
from analysis.figures.context import Figure, FigureContext
from analysis.figures.encodings import Chart
from analysis.figures.search import SearchedParameter, declared
from analysis.text.names import title

WIDTH: Final = 44
"""Letters that fit below a panel."""

OBJECTIVE: Final = "validation NLL"
AXES: Final = 10
KEPT: Final = 0.2
"""Share of the trials that is drawn at first."""
FEW: Final = 3
"""Choices whose names fit on a telephone."""
LEAST: Final = 10
"""Fewer trials have nothing in common."""
TENTH: Final = 0.1


def parallel_figure(
    context: FigureContext, trials: pl.DataFrame, parameters: Sequence[SearchedParameter]
) -> Figure | None:
    """Draw every complete search trial of the first candidate's method as a line.

    Args:
        context: What is drawn from.
        trials: Complete search trials: trial, method, configuration, val_nll.
        parameters: As seen, the most important first if that is known.
    """
    candidates = [space.method for space in context.spaces if space.candidate]
    if len(context.recovery):
        candidates.insert(0, context.lead()["method"])
    method = next((m for m in candidates if any(p.method == m for p in parameters)), None)
    if method is None:
        return None
    own = trials.filter(pl.col("method") == method).sort("val_nll", "trial")
    axes = [p for p in parameters if p.method == method and p.values][:AXES]
    if len(own) < LEAST or not axes:
        return None
    share = np.arange(1, len(own) + 1) / len(own)
    ranked = own.select("trial", "val_nll", arm="configuration").with_columns(share=share)
    rows = pl.DataFrame(
        [row for number, axis in enumerate(axes) for row in _axis(axis, number + 1)],
        infer_schema_length=None,
    )
    losses = own["val_nll"].to_numpy()
    reach = max(float(np.quantile(losses, 0.9) - losses[0]), 1e-9)
    first = ranked.with_columns(
        axis=pl.lit(OBJECTIVE),
        row=pl.lit(0),
        at=((pl.col("val_nll") - losses[0]) / reach).clip(upper_bound=1.0),
        value=pl.col("val_nll").map_elements("{:.4f}".format, pl.String),
    )
    lines = pl.concat(
        [first, rows.filter(pl.col("kind") == "trial").join(ranked, on="trial")],
        how="diagonal_relaxed",
    )
    ends = [(0.0, "left", f"{losses[0]:.3g}"), (1.0, "right", f"{losses[0] + reach:.3g} and above")]
    ticks = [
        {"axis": OBJECTIVE, "row": 0, "kind": kind, "at": at, "value": said}
        for at, kind, said in ends
    ]
    texts = pl.concat(
        [pl.DataFrame(ticks), rows.filter(pl.col("kind") != "trial")], how="diagonal_relaxed"
    )
    every = _gaps(lines, ranked, axes)
    return Figure(
        "parallel",
        "Search",
        _claim(method, axes, ranked),
        f"{len(own)} complete search trials of {title(method or '')}, one seed each, validation "
        "data only. The title names the choice that differs most: by chance, some always does.",
        _chart(pl.concat([every, texts], how="diagonal_relaxed")),
        slider=("best", "Keep the best", KEPT),
    )


def _axis(one: SearchedParameter, row: int) -> list[dict[str, Any]]:
    """Return the rows of one axis: the trials in which it was active, and its labels."""
    common = {"axis": one.parameter, "row": row}
    found: list[dict[str, Any]] = [
        {"kind": "trial", "trial": trial, "at": beside(one, value, n)}
        | {"value": declared_value(value)}
        for n, (trial, value) in enumerate(zip(one.trials, one.values, strict=True))
    ]
    ticks = [{"few": one.domain.slots <= FEW} | tick for tick in axis_ticks(one)]
    return [common | each for each in (*found, *ticks)]


def _gaps(
    lines: pl.DataFrame, ranked: pl.DataFrame, axes: Sequence[SearchedParameter]
) -> pl.DataFrame:
    """Return the lines with an empty place where a trial's parameter was not active."""
    grid = pl.DataFrame(
        {
            "axis": [OBJECTIVE, *(axis.parameter for axis in axes)],
            "row": range(len(axes) + 1),
        }
    ).join(ranked, how="cross")
    kept = lines.select("trial", "axis", "at", "value")
    return grid.join(kept, on=["trial", "axis"], how="left", maintain_order="left").with_columns(
        kind=pl.lit("trial")
    )


def _claim(method: str, axes: Sequence[SearchedParameter], ranked: pl.DataFrame) -> str:
    """Say which choice's share among the best tenth is the furthest above that among all."""
    best = set(ranked.filter(pl.col("share") <= max(TENTH, 5 / len(ranked)))["trial"])
    lead: tuple[float, str] = (0.0, "")
    for one in axes:
        slots = np.array([one.domain.slot(value) for value in one.values])
        among = np.array([trial in best for trial in one.trials])
        if among.sum() < 3:
            continue
        for slot in np.unique(slots[among]):
            inside, outside = (slots[among] == slot).mean(), (slots == slot).mean()
            if inside - outside > lead[0] and one.domain.choices:
                said = f"{one.parameter} {declared_value(one.domain.choices[slot])}"
                lead = (
                    inside - outside,
                    f"Of the best {among.sum()} trials of {title(method)}, "
                    f"{(slots[among] == slot).sum()} have {said}; of all, {outside:.0%}",
                )
    return lead[1] or f"What the best trials of {title(method)} have in common"


def _chart(rows: pl.DataFrame) -> Chart:
    order = rows.filter(pl.col("kind") == "trial").sort("row")["axis"].unique(maintain_order=True)
    x = alt.X("at:Q", axis=None, scale=alt.Scale(domain=[0, 1], nice=False, padding=8))
    y = alt.Y("axis:N", sort=order.to_list(), title=None, axis=alt.Axis(grid=True, labelLimit=170))
    tips = [("trial", "Trial", ""), ("val_nll", "NLL", ".4f"), ("axis", "Parameter", "")]
    tips += [("value", "Value", "")]
    quality = alt.Color(
        "good:Q",
        scale=alt.Scale(domain=[0, 1], nice=False),
        legend=alt.Legend(title="rank of the trial", orient="top", gradientLength=160,
            values=[0, 1], labelExpr="datum.value?'best':'worst'"),
    )  # fmt: skip
    base = alt.Chart(encodings.tidy(rows)).encode(x=x, y=y)
    trials = base.transform_filter("datum.kind=='trial'&&datum.share<=best").transform_calculate(
        good="1-datum.share"
    )
    own = alt.layer(
        trials.mark_line(size=1.3).encode(
            detail="trial:N", order="row:Q", color=quality, opacity=encodings.dim()
        ),
        trials.mark_point(filled=True, size=26).encode(
            color=quality, opacity=encodings.dim(), tooltip=encodings.tips(tips)
        ),
        *(
            base.transform_filter(
                f"datum.kind=='{align}'&&(room>520||'{align}'!='center'||datum.few)"
            )
            .mark_text(style=style, align=align, baseline="bottom", dy=-5)
            .encode(text="value:N")
            for style in ("halo", "quiet")
            for align in ("left", "center", "right")
        ),
    )
    shown = alt.param(name="best", value=KEPT), alt.param(name="room", value=1000)
    own = own.add_params(encodings.SELECTED, *shown)
    return own.properties(width="container", height=38 * len(order))


def declared_value(value: Any) -> str:
    """Return a parameter's value as text."""
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def beside(one: SearchedParameter, value: Any, number: int) -> float:
    """Return where a trial stands: values of a choice are spread evenly within their slot."""
    at = one.domain.position(value)
    if not one.domain.stepped:
        return at
    return at + (number * 0.618034 % 1 - 0.5) * 0.6 / one.domain.slots


def axis_ticks(one: SearchedParameter) -> list[dict[str, Any]]:
    """Return the labels below a panel: choices, or the ends and the middle of a range."""
    domain = one.domain
    if domain.choices:
        room = WIDTH // domain.slots
        texts = declared(domain).split(", ")
        short = [text if len(text) <= room else f"{text[: room - 1]}…" for text in texts]
        return [
            {"kind": "center", "at": (n + 0.5) / domain.slots, "value": text}
            for n, text in enumerate(short)
        ]
    return [
        {"kind": kind, "at": at, "value": f"{domain.at(at):.2g}"}
        for at, kind in ((0.0, "left"), (0.5, "center"), (1.0, "right"))
    ]
