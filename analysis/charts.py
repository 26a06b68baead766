"""From frames to Altair charts, one function per figure.

Colours, fonts, widths and dark mode are no part of a chart: the page sets them when it draws
(report.js), so a chart names the domains of its scales and the styles of its guides only.

Columns that mean the same everywhere: ``arm`` (the key that a selection links across figures),
``tag`` (its short name on marks), ``label``, ``method``, ``panel`` (title of a small multiple).
Rows are drawn in the order of the frame.
"""

from collections.abc import Sequence
from typing import Literal

import altair as alt
import polars as pl

from analysis import marks

Frame = pl.DataFrame
Chart = alt.LayerChart | alt.FacetChart
Facets = alt.FacetChart

F = ".2f"
HIGHEST = 8.0
"""Recovery above which not even the Pareto front is drawn."""
SHAPES = (
    "circle",
    "square",
    "diamond",
    "triangle-up",
    "triangle-down",
    "cross",
    "triangle-left",
)
"""Shapes of the methods in order; the page's key draws the same ones.

One more than the page has hues, so that no two of forty methods have both in common.
"""


def forest(rows: Frame, margin: float, methods: Sequence[str], levels: tuple[str, str]) -> Facets:
    """Draw recovery per arm and endpoint: thick and thin (wider) interval, band of ±margin.

    Args:
        rows: arm, label, method, panel, estimate, low, high, low_wide, high_wide.
        margin: Half width of the band around the single model.
        methods: Domain of colour and shape.
        levels: What the two intervals cover, in words.
    """
    low, high = domain = marks.frame(rows, margin)
    at = pl.col("estimate")
    drawn = {
        f"_{end}{level}": pl.col(f"{bound}{level}").fill_null(edge)
        for end, bound, edge in (("from", "low", low), ("to", "high", high))
        for level in ("", "_wide")
    }
    rows = rows.with_columns(
        **drawn,
        _edge=pl.when(at < low).then(low).when(at > high).then(high),
        _outside=pl.when(at < low)
        .then(pl.format("◄ {}", at.round(1)))
        .when(at > high)
        .then(pl.format("{} ►", at.round(1))),
    )
    y = marks.arms(rows)
    base = alt.Chart().encode(y=y, color=marks.colour(methods), opacity=marks.dim())
    tips = [("label", "Configuration", ""), ("panel", "Endpoint", ""), ("estimate", "Recovery", F)]
    for level, suffix in zip(levels, ("", "_wide"), strict=True):
        tips += [(f"low{suffix}", f"{level} from", F), (f"high{suffix}", f"{level} to", F)]
    point = base.mark_point(filled=True, size=80, clip=True).encode(
        x=marks.recovery(alt.X, "estimate", domain),
        shape=marks.shape(methods),
        tooltip=marks.tips(tips),
    )
    beside: Sequence[tuple[float, Literal["left", "right"]]] = ((low, "left"), (high, "right"))
    beyond = [
        base.transform_filter(f"isValid(datum._edge) && datum._edge=={edge}")
        .mark_text(align=align, baseline="middle", dy=-9, fontWeight=600)
        .encode(x=marks.recovery(alt.X, "_edge", domain), text="_outside:N")
        for edge, align in beside
    ]
    chart = alt.layer(
        *marks.guides(margin, alt.X, domain),
        *(
            base.mark_rule(size=size, clip=True).encode(
                x=marks.recovery(alt.X, f"_from{level}", domain), x2=f"_to{level}:Q"
            )
            for size, level in ((1.5, "_wide"), (5, ""))
        ),
        point,
        *beyond,
    )
    return marks.panels(chart, rows, columns=3, least=250, height=26 * rows["label"].n_unique())


def diversity(rows: Frame, margin: float, methods: Sequence[str], title: str, level: str) -> Chart:
    """Draw recovery against the members' disagreement.

    Args:
        rows: arm, tag, label, method, disagreement, estimate, low, high.
        margin: Half width of the band around the single model.
        methods: Domain of colour and shape.
        title: Which recovery.
        level: What its interval covers, in words.
    """
    domain = marks.frame(rows, margin, HIGHEST)
    right = max(rows["disagreement"].to_list(), default=0.1)
    rows = marks.placed(rows, "disagreement", domain)
    base = alt.Chart(marks.tidy(rows)).encode(
        x=alt.X(
            "disagreement:Q",
            title="pairwise disagreement of members",
            axis=alt.Axis(format="~%", grid=False, tickCount=6),
            scale=alt.Scale(domain=[-0.04 * right, 1.08 * right], nice=False),
        ),
        color=marks.colour(methods),
        opacity=marks.dim(),
    )
    y = marks.recovery(alt.Y, "estimate", domain, title)
    tips = [("label", "Configuration", ""), ("disagreement", "Disagreement", ".2%")]
    tips += [("estimate", "Recovery", F)]
    tips += [("low", f"{level} from", F), ("high", f"{level} to", F)]
    chart = alt.layer(
        *marks.guides(margin, alt.Y, domain, title),
        base.mark_rule(size=1.5, clip=True).encode(
            y=marks.recovery(alt.Y, "low", domain, title), y2="high:Q"
        ),
        base.mark_point(filled=True, size=90, clip=True)
        .encode(y=y, shape=marks.shape(methods), tooltip=marks.tips(tips))
        .add_params(alt.selection_interval(name="brush")),
        *marks.labels(base, y),
    )
    return chart.add_params(marks.SELECTED).properties(width="container", height=340)


def reliability(rows: Frame, methods: Sequence[str]) -> Facets:
    """Draw accuracy against confidence per arm, with a band over seeds.

    Args:
        rows: arm, method, panel, bin, confidence, accuracy, low, high, share (of all predictions).
        methods: Domain of colour.
    """
    unit = alt.Scale(domain=[0, 1], nice=False)
    axis = alt.Axis(format="%", values=[0, 0.5, 1], labelFlush=True)
    x = alt.X("confidence:Q", title="confidence", scale=unit, axis=axis)
    base = alt.Chart().encode(x=x, color=marks.colour(methods))
    diagonal = (
        alt.Chart(pl.DataFrame({"confidence": [0, 1], "accuracy": [0, 1]}))
        .mark_line(style="ref", clip=True)
        .encode(x=x, y=marks.y("accuracy", "accuracy", unit, axis))
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
        base.mark_area(style="ribbon", clip=True).encode(
            y=marks.y("low", "accuracy", unit, axis), y2="high:Q"
        ),
        base.mark_line(size=1.5).encode(y=marks.y("accuracy", "accuracy", unit, axis)),
        base.mark_point(filled=True, opacity=1).encode(
            y=marks.y("accuracy", "accuracy", unit, axis),
            size=alt.Size("share:Q", scale=alt.Scale(domain=[0, 1], range=[6, 260]), legend=None),
            tooltip=marks.tips(tips),
        ),
    )
    return marks.panels(chart, rows, columns=6, least=150, ratio=1)


def severity(rows: Frame, methods: Sequence[str], metric: str) -> Facets:
    """Draw a metric, or its difference from the single model, against the corruption's severity.

    Args:
        rows: arm, method, panel, metric, severity, value, low, high, anchor (whether it is an
            anchor, repeated in every panel).
        methods: Domain of colour.
        metric: Shown first; the page switches the parameter ``metric``.
    """
    x = alt.X("severity:O", title="severity", axis=alt.Axis(labelAngle=0, grid=False))
    title = marks.CHOSEN
    base = (
        alt.Chart()
        .transform_filter("datum.metric==metric")
        .encode(x=x, color=marks.colour(methods), detail="arm:N")
    )
    tips = [
        ("panel", "Panel", ""),
        ("severity", "Severity", ""),
        ("value", "Value", ".4f"),
    ]
    tips += [("low", "95 % from", ".4f"), ("high", "95 % to", ".4f")]
    scale = alt.Scale(zero=False)
    axis = alt.Axis(format="~g", tickCount=5)
    y = marks.y("value", title, scale, axis)
    chart = alt.layer(
        base.mark_area(style="ribbon").encode(y=marks.y("low", title, scale, axis), y2="high:Q"),
        base.mark_line(size=2).encode(y=y),
        base.mark_point(filled=True, size=45, opacity=1).encode(
            y=y, shape=marks.shape(methods), tooltip=marks.tips(tips)
        ),
    )
    chart = chart.add_params(alt.param(name="metric", value=metric))
    return marks.panels(chart, rows, columns=4, least=150, ratio=0.8)


def members(rows: Frame) -> Facets:
    """Draw which members disagree: lower triangles with the members' numbers on the diagonal.

    Args:
        rows: arm, panel, i, j (i <= j), disagreement (null on the diagonal).
    """
    base = alt.Chart().encode(
        x=alt.X("i:O", axis=None, scale=alt.Scale(paddingInner=0.06)),
        y=alt.Y("j:O", axis=None, scale=alt.Scale(paddingInner=0.06)),
    )
    legend = alt.Legend(title="disagreement", orient="top", format="%", gradientLength=160)
    tips = [("panel", "Configuration", ""), ("i", "Member", ""), ("j", "Member", "")]
    chart = alt.layer(
        base.transform_filter("datum.i<datum.j")
        .mark_rect(cornerRadius=2)
        .encode(
            color=alt.Color("disagreement:Q", scale=alt.Scale(domainMin=0), legend=legend),
            tooltip=marks.tips([*tips, ("disagreement", "Disagreement", ".2%")]),
        ),
        base.transform_filter("datum.i==datum.j").mark_text(style="quiet").encode(text="i:O"),
    )
    return marks.panels(chart, rows, columns=8, least=118, most=130, ratio=1, free=("x", "y"))


def collapsed(rows: Frame, methods: Sequence[str]) -> Facets:
    """Draw each ensemble's NLL beside that of its one-member collapse.

    Args:
        rows: arm, label, method, panel, kind (full, collapsed, single, deep ensemble), nll, low,
            high, other (the partner's NLL, on rows of kind ``collapsed``).
        methods: Domain of colour and shape.
    """
    scale = alt.Scale(zero=False, nice=True, padding=8)
    axis = alt.Axis(tickCount=4, grid=False)

    def x(field: str) -> alt.X:
        return alt.X(f"{field}:Q", title="NLL (nats)", scale=scale, axis=axis)

    y = marks.arms(rows)
    base = alt.Chart().encode(y=y, color=marks.colour(methods), opacity=marks.dim())
    full, single_pass = (f"datum.kind=='{kind}'" for kind in ("full", "collapsed"))
    tips = [("label", "Configuration", ""), ("kind", "Kind", ""), ("nll", "NLL", ".4f")]
    tips += [("low", "95 % from", ".4f"), ("high", "95 % to", ".4f")]
    anchor = alt.Chart().encode(x=x("nll"), tooltip=marks.tips([tips[1], tips[2]]))
    chart = alt.layer(
        anchor.transform_filter("datum.kind=='single'").mark_rule(style="single"),
        anchor.transform_filter("datum.kind=='deep ensemble'").mark_rule(style="ensemble"),
        base.transform_filter(single_pass).mark_rule(size=2).encode(x=x("nll"), x2="other:Q"),
        base.transform_filter(f"{full}||{single_pass}")
        .mark_rule(size=1, strokeDash=[2, 2])
        .encode(x=x("low"), x2="high:Q"),
        base.transform_filter(single_pass)
        .mark_point(style="hollow", size=85)
        .encode(x=x("nll"), shape=marks.shape(methods), tooltip=marks.tips(tips)),
        base.transform_filter(full)
        .mark_point(filled=True, size=85)
        .encode(x=x("nll"), shape=marks.shape(methods), tooltip=marks.tips(tips)),
    )
    height = max(306, 24 * rows["label"].drop_nulls().n_unique())
    return marks.panels(chart, rows, columns=2, least=250, height=height, free=("x",))


def cost(rows: Frame, margin: float, methods: Sequence[str], title: str) -> Facets:
    """Draw recovery against cost relative to the single model, high enough for the front.

    Args:
        rows: arm, tag, label, method, panel (the kind of cost), cost, estimate, low, high, front
            (whether it is on the Pareto front).
        margin: Half width of the band around the single model.
        methods: Domain of colour and shape.
        title: Which recovery.
    """
    low, high = marks.frame(rows, margin)
    front = max(rows.filter("front")["estimate"].to_list())
    domain = low, max(high, min(front + 0.3, HIGHEST))
    rows = rows.filter(pl.col("estimate").is_between(*domain))
    least, most = min(rows["cost"].to_list()), max(rows["cost"].to_list())
    rows = marks.placed(rows.with_columns(pl.col("cost").log().alias("_at")), "_at", domain)
    base = alt.Chart().encode(
        x=alt.X(
            "cost:Q",
            title="multiple of the single model",
            scale=alt.Scale(type="log", domain=[least / 1.25, most * 1.4], nice=False),
            axis=alt.Axis(
                grid=False,
                labelExpr="datum.label+'×'",
                values=[n for n in marks.TICKS if least / 1.25 <= n <= most * 1.4],
                format="~g",
            ),
        ),
        color=marks.colour(methods),
        opacity=marks.dim(),
    )
    y = marks.recovery(alt.Y, "estimate", domain, title)
    tips = [
        ("label", "Configuration", ""),
        ("cost", "Cost, × single", ".3f"),
        ("estimate", "Recovery", F),
    ]
    chart = alt.layer(
        *marks.guides(margin, alt.Y, domain, title),
        base.mark_rule(size=1, clip=True).encode(
            y=marks.recovery(alt.Y, "low", domain, title), y2="high:Q"
        ),
        alt.Chart()
        .transform_filter("datum.front")
        .mark_line(interpolate="step-after", clip=True, strokeDash=[4, 3], color="gray", size=1.5)
        .encode(x=base.encoding.x, y=y),
        base.mark_point(filled=True, size=75, clip=True).encode(
            y=y, shape=marks.shape(methods), tooltip=marks.tips(tips)
        ),
        *marks.labels(base, y),
    )
    return marks.panels(chart, rows, columns=2, least=250, height=260)
