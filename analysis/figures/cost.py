"""Recovery against cost, with the Pareto front."""

from collections.abc import Sequence

import altair as alt
import polars as pl

from analysis.figures import encodings
from analysis.figures.context import Figure, FigureContext
from analysis.figures.encodings import F, Facets, Frame
from analysis.measures.costs import costs, multiples
from analysis.text.numbers import number


def cost_figure(context: FigureContext) -> Figure | None:
    """Return recovery against each kind of cost."""
    if context.primary is None:
        return None
    kinds = {
        "parameters": "Parameters",
        "train_flops": "Training FLOPs",
        "infer_flops": "Inference FLOPs",
    }
    spent = multiples(costs(context.trials, context.measures)).unpivot(
        on=list(kinds), index="arm", variable_name="kind", value_name="cost"
    )
    recovery = context.recovery.filter(pl.col("endpoint") == context.primary).drop("panel")
    judged = context.judged().join(recovery, on="arm")
    rows = (
        pl.concat([judged, context.baselines()], how="diagonal_relaxed")
        .join(spent, on="arm")
        .drop_nulls(["cost", "estimate"])
        .with_columns(panel=pl.col("kind").replace_strict(kinds))
        .pipe(with_front)
    )
    rows = rows.sort(pl.col("kind").cast(pl.Enum([*kinds])), maintain_order=True)
    if rows.is_empty():
        return None
    lead = context.lead()
    own = rows.filter(arm=lead["arm"])
    price = dict(own.select("kind", "cost").iter_rows())
    claim = "Recovery against cost"
    if {"parameters", "infer_flops"} <= price.keys():
        claim = (
            f"{lead['tag']} recovers {number(own['estimate'][0])} of the gap for "
            f"{price['parameters']:.2f}× the parameters and {price['infer_flops']:.2f}× the "
            "inference FLOPs of a single network"
        )
    kept = ["arm", "tag", "label", "method", "panel", "cost", "estimate", "low", "high", "front"]
    return Figure(
        "cost",
        "Cost",
        claim,
        f"Cost is counted, not timed; whiskers are {context.levels[0]} intervals over "
        f"{context.verdict.covers}.",
        cost_chart(rows.select(kept), context.margin, context.methods, context.axis()),
    )


def with_front(rows: pl.DataFrame) -> pl.DataFrame:
    """Add ``front``: whether no other row of the panel costs as little and recovers more.

    Args:
        rows: panel, cost, estimate.
    """
    best = pl.col("estimate").cum_max().shift(1).over("panel")
    ordered = rows.sort("panel", "cost", "estimate", descending=[False, False, True])
    return ordered.with_columns(front=(pl.col("estimate") > best).fill_null(True))


def cost_chart(rows: Frame, margin: float, methods: Sequence[str], title: str) -> Facets:
    """Draw recovery against cost relative to the single network.

    Args:
        rows: arm, tag, label, method, panel (the kind of cost), cost, estimate, low, high, front
            (whether it is on the Pareto front).
        margin: Half width of the band around the single network.
        methods: Domain of colour and shape.
        title: Which recovery.
    """
    domain = encodings.frame(rows, margin, "low", "high")
    rows = encodings.positioned(rows, "estimate", "low", "high")
    least, most = min(rows["cost"].to_list()), max(rows["cost"].to_list())
    rows = encodings.placed(
        rows.with_columns(pl.col("cost").log().alias("_at")), "_at", domain, (250, 260), (0, 1)
    )
    base = alt.Chart().encode(
        x=alt.X(
            "cost:Q",
            title="multiple of the single network",
            scale=alt.Scale(type="log", domain=[least / 1.25, most * 1.4], nice=False),
            axis=alt.Axis(
                grid=False,
                labelExpr="datum.label+'×'",
                values=[n for n in encodings.TICKS if least / 1.25 <= n <= most * 1.4],
                format="~g",
            ),
        ),
        color=encodings.colour(methods),
        opacity=encodings.dim(),
    )
    y = encodings.recovery(alt.Y, "_estimate", domain, title)
    tips = [
        ("label", "Configuration", ""),
        ("cost", "Cost, × single", ".3f"),
        ("estimate", "Recovery", F),
    ]
    chart = alt.layer(
        *encodings.guides(margin, alt.Y, domain, title),
        base.mark_rule(size=1, clip=True).encode(
            y=encodings.recovery(alt.Y, "_low", domain, title), y2="_high:Q"
        ),
        alt.Chart()
        .transform_filter("datum.front")
        .mark_line(interpolate="step-after", clip=True, strokeDash=[4, 3], color="gray", size=1.5)
        .encode(x=base.encoding.x, y=y),
        base.mark_point(filled=True, size=75, clip=True).encode(
            y=y, shape=encodings.shape(methods), tooltip=encodings.tips(tips)
        ),
        *encodings.labels(base, y),
    )
    return encodings.panels(chart, rows, columns=3, least=250, height=260)
