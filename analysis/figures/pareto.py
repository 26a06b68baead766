"""What the search weighs against each other, and its Pareto front, per method.

Descriptive: one seed each, on validation data.
"""

from typing import Final

import altair as alt
import numpy as np
import polars as pl

from analysis.figures import encodings
from analysis.figures.context import Figure, FigureContext
from analysis.figures.encodings import Facets, Frame
from analysis.figures.search import history
from analysis.text.names import title

SIGNS: Final = {"val_nll": 1, "val_shift_nll": 1, "val_gain": -1}
"""The search's objectives, with the sign that makes less of each better."""


def pareto_figure(context: FigureContext) -> Figure | None:
    """Return the figure of the search's objectives, None without a method that has several."""
    complete = context.trials.filter(
        pl.col("stage") == "search",
        pl.col("status") == "complete",
        pl.col("method") != "single",
        *(pl.col(name).is_finite() for name in SIGNS),
    )
    if complete.is_empty():
        return None
    _, top = history(context.trials)
    frames = [
        own.with_columns(front=pl.Series(front(own.select([*SIGNS]).to_numpy())))
        for _, own in complete.sort("method", "trial").group_by("method", maintain_order=True)
    ]
    rows = pl.concat(frames).with_columns(
        panel=pl.col("method").map_elements(title, pl.String),
        shown=pl.col("val_nll").clip(upper_bound=top),
    )
    kept = ["trial", "method", "panel", *SIGNS, "shown", "front"]
    judged = context.trials.filter(pl.col("role") == "candidate")["method"].unique().to_list()
    first = next((own for own in frames if own["method"][0] in judged), frames[0])
    name = title(first["method"][0])
    beyond = len(rows.filter(pl.col("val_nll") > top))
    cut = f" {beyond} trials beyond the frame stand at its top." if beyond else ""
    return Figure(
        "pareto",
        "Search",
        f"{first['front'].sum()} of {len(first)} trials of {name} are on the Pareto front of "
        "validation NLL, shifted validation NLL and ensemble gain",
        f"{len(rows)} complete search trials, one seed each, validation data only.{cut}",
        pareto_chart(rows.select(kept), context.methods),
        folded=True,
    )


def front(values: np.ndarray) -> np.ndarray:
    """Tell which rows of (N, 3) objectives, in the order of ``SIGNS``, no other row dominates.

    A row dominates another that it nowhere is worse than and somewhere is better than.
    """
    losses = values * np.array(list(SIGNS.values()))
    as_good = (losses[:, None] <= losses[None]).all(-1)
    better = (losses[:, None] < losses[None]).any(-1)
    kept: np.ndarray = ~(as_good & better).any(0)
    return kept


def pareto_chart(rows: Frame, methods: list[str]) -> Facets:
    """Draw validation NLL over ensemble gain, a panel for each method, the front filled.

    Args:
        rows: trial, method, panel, val_nll, val_shift_nll, val_gain (nats), shown (val_nll, or the
            top of the frame), front.
        methods: Domain of colour and shape.
    """
    scale = alt.Scale(zero=False, nice=False, padding=8)
    tips = [("trial", "Trial", ""), ("val_nll", "Validation NLL", ".4f")]
    tips += [("val_shift_nll", "Shifted", ".4f"), ("val_gain", "Gain", ".4f")]
    base = alt.Chart().encode(
        x=alt.X(
            "val_gain:Q",
            title="ensemble gain (nats)",
            scale=scale,
            axis=alt.Axis(grid=False, tickCount=4),
        ),
        y=alt.Y("shown:Q", title="validation NLL (nats)", scale=scale, axis=alt.Axis(tickCount=5)),
        color=encodings.colour(methods),
        shape=encodings.shape(methods),
        tooltip=encodings.tips(tips),
    )
    chart = alt.layer(
        base.transform_filter("!datum.front").mark_point(filled=False, size=28, opacity=0.6),
        base.transform_filter("datum.front").mark_point(filled=True, size=44),
    )
    return encodings.panels(chart, rows, columns=3, least=250, height=230, free=("x", "y"))
