"""How large a Deep Ensemble every configuration is worth: the growing Deep Ensemble as a curve."""

from functools import partial

import altair as alt
import polars as pl

from analysis.figures import encodings
from analysis.figures.context import Figure, FigureContext, over_seeds
from analysis.figures.encodings import Chart

BEYOND = 0.5
"""How far right of the largest Deep Ensemble stands what is worth more."""


def growth_figure(context: FigureContext) -> Figure | None:
    """Draw calibrated NLL against the number of members, and every arm where it meets the curve."""
    curve = over_seeds(context.measures.curve, ["members"], "cll").sort("members")
    cll = over_seeds(context.measures.replicates, ["arm"], "cll").select("arm", "mean")
    rows = (
        context.judged()
        .drop("members")
        .join(context.equivalents, on="arm", maintain_order="left")
        .join(cll, on="arm", maintain_order="left")
        .drop_nulls("mean")
    )
    if len(curve) < 2 or rows.is_empty():
        return None
    largest = int(curve["members"][-1])
    rows = rows.with_columns(
        beyond=pl.col("members").is_null(),
        at=pl.col("members").fill_null(largest + BEYOND),
        low=pl.col("low").fill_null(largest + BEYOND),
        high=pl.col("high").fill_null(largest + BEYOND),
        said=pl.when(pl.col("members").is_null())
        .then(pl.lit(f"more than {largest}"))
        .otherwise(pl.col("members").map_elements("{:.1f}".format, pl.String)),
    )
    lead = rows.row(0, named=True)
    ends = (lead["low"], lead["high"])
    low, high = (f"more than {largest}" if end > largest else f"{end:.1f}" for end in ends)
    kept = ["arm", "tag", "label", "method", "mean", "at", "low", "high", "beyond", "said"]
    return Figure(
        "growth",
        "Recovery",
        f"{lead['tag']} is worth a Deep Ensemble of {lead['said']} members in calibrated NLL "
        f"({low} to {high})",
        f"{int(curve['n'].to_numpy().min())} Deep Ensembles of 1 to {largest} members, "
        f"{context.seeds(rows['arm'].to_list())} seeds each; the band is a 95 % "
        f"t-interval, whiskers are {context.levels[0]} bootstrap intervals over the seeds of both.",
        growth_chart(curve, rows.select(kept), context.methods),
        wide=False,
    )


def growth_chart(curve: pl.DataFrame, rows: pl.DataFrame, methods: list[str]) -> Chart:
    """Draw the growing Deep Ensemble as a curve, and every arm where it meets it."""
    largest = int(curve["members"][-1])
    seen = [*curve["low"].drop_nulls(), *curve["high"].drop_nulls(), *curve["mean"], *rows["mean"]]
    scale = alt.Scale(domain=[min(seen), max(seen)], nice=True, padding=10)
    y = partial(alt.Y, title="calibrated NLL (nats)", scale=scale, axis=alt.Axis(tickCount=5))
    x_axis = alt.Axis(grid=False, values=list(range(1, largest + 1)), format="d")
    ends = alt.Scale(domain=[0.7, largest + 2 * BEYOND], nice=False)
    x = partial(alt.X, title="members of a Deep Ensemble", scale=ends, axis=x_axis)
    grown = alt.Chart(encodings.tidy(curve)).encode(x=x("members:Q"))
    tips = [("members", "Members", "d"), ("mean", "NLL", ".4f")]
    tips += [("low", "95 % from", ".4f"), ("high", "95 % to", ".4f")]
    placed = encodings.placed(
        rows.with_columns(estimate="mean"), "at", (min(seen), max(seen)), (430, 300)
    ).drop("estimate")
    own = alt.Chart(encodings.tidy(placed)).encode(
        color=encodings.colour(methods), opacity=encodings.dim()
    )
    mean = y("mean:Q")
    about = [("label", "Configuration", ""), ("mean", "NLL", ".4f"), ("said", "Worth", "")]
    chart = alt.layer(
        grown.mark_area(style="ribbon").encode(y=y("low:Q"), y2="high:Q"),
        grown.mark_line(style="ensemble").encode(y=mean),
        grown.mark_point(style="ensemble", filled=True, size=50, opacity=1).encode(
            y=mean, tooltip=encodings.tips(tips)
        ),
        own.mark_rule(size=1.5).encode(y=mean, x=x("low:Q"), x2="high:Q"),
        own.mark_point(filled=True, size=85).encode(
            y=mean, x=x("at:Q"), shape=encodings.shape(methods), tooltip=encodings.tips(about)
        ),
        *encodings.labels(own.encode(x=x("at:Q")), mean),
    )
    return chart.add_params(encodings.SELECTED).properties(width="container", height=340)
