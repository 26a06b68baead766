"""Reliability diagrams."""

from collections.abc import Sequence
from functools import partial

import altair as alt
import polars as pl

from analysis.figures import encodings
from analysis.figures.context import Figure, FigureContext, over_seeds, said
from analysis.figures.encodings import Facets, Frame

SHOWN = 4
"""Configurations that have a panel, from the first, beside the baselines."""
LEAST_IN_BIN = 20
"""A bin with fewer predictions, over all seeds, is noise (said in ``how_to_read.html.j2``)."""


def reliability_figure(context: FigureContext) -> Figure | None:
    """Return the reliability diagrams of the anchors and the leading arms."""
    bins = context.measures.reliability.filter(pl.col("count") > 0)
    if bins.is_empty():
        return None
    band = over_seeds(bins, ["arm", "bin"], "accuracy")
    weight = pl.col("count")
    pooled = bins.group_by("arm", "bin").agg(
        confidence=(pl.col("confidence") * weight).sum() / weight.sum(),
        accuracy=(pl.col("accuracy") * weight).sum() / weight.sum(),
        count=weight.sum(),
    )
    pooled = pooled.with_columns(share=pl.col("count") / pl.col("count").sum().over("arm"))
    ece = over_seeds(context.measures.replicates, ["arm"], "ece").select("arm", ece="mean")
    shown = pl.concat([context.anchors(), context.judged().head(SHOWN)])
    rows = (
        shown.join(ece, on="arm", maintain_order="left")
        .with_columns(error=pl.col("ece").map_elements("{:.3f}".format, pl.String))
        .with_columns(panel=pl.format("{}\nECE {}", "label", "error"))
        .join(pooled.filter(pl.col("count") >= LEAST_IN_BIN), on="arm")
        .join(band.select("arm", "bin", "low", "high"), on=["arm", "bin"], how="left")
    )
    rows = rows.sort(pl.col("arm").cast(pl.Enum(shown["arm"])), "bin").with_columns(
        pl.col("low", "high").clip(0, 1)
    )
    by_arm = dict(ece.iter_rows())
    three = [(said(row), by_arm.get(row["arm"])) for row in shown.head(3).iter_rows(named=True)]
    kept = ["arm", "method", "panel", "bin", "confidence", "accuracy", "low", "high", "share"]
    return Figure(
        "reliability",
        "Calibration",
        "Calibration error (ECE): " + ", ".join(f"{who} {v:.3f}" for who, v in three if v),
        f"{context.seeds(shown['arm'].to_list())} seeds each, 15 bins of equal width on "
        "the test set; bands are 95 % t-intervals over seeds.",
        reliability_chart(rows.select(kept), context.methods),
        legend=context.cut(SHOWN),
    )


def reliability_chart(rows: Frame, methods: Sequence[str]) -> Facets:
    """Draw accuracy against confidence per arm, with a band over seeds.

    Args:
        rows: arm, method, panel, bin, confidence, accuracy, low, high, share (of all predictions).
        methods: Domain of colour.
    """
    unit = alt.Scale(domain=[0, 1], nice=False)
    axis = alt.Axis(format="%", values=[0, 0.5, 1], labelFlush=True)
    x = alt.X("confidence:Q", title="confidence", scale=unit, axis=axis)
    y = partial(alt.Y, title="accuracy", scale=unit, axis=axis)
    base = alt.Chart().encode(x=x, color=encodings.colour(methods))
    diagonal = (
        alt.Chart(pl.DataFrame({"confidence": [0, 1], "accuracy": [0, 1]}))
        .mark_line(style="ref", clip=True)
        .encode(x=x, y=y("accuracy:Q"))
    )
    tips = [("panel", "Configuration", ""), ("confidence", "Confidence", ".3f")]
    tips += [
        ("accuracy", "Accuracy", ".3f"),
        ("low", "95 % from", ".3f"),
        ("high", "95 % to", ".3f"),
    ]
    tips += [("share", "Share of predictions", ".1%")]
    chart = alt.layer(
        diagonal,
        base.mark_area(style="ribbon", clip=True).encode(y=y("low:Q"), y2="high:Q"),
        base.mark_line(size=1.5).encode(y=y("accuracy:Q")),
        base.mark_point(filled=True, opacity=1).encode(
            y=y("accuracy:Q"),
            size=alt.Size("share:Q", scale=alt.Scale(domain=[0, 1], range=[6, 260]), legend=None),
            tooltip=encodings.tips(tips),
        ),
    )
    return encodings.panels(chart, rows, columns=6, least=150, ratio=1)
