"""Charts of the members themselves: their weights, what lies between them, what they look at."""

from collections.abc import Sequence

import altair as alt
import polars as pl

from analysis import marks

Frame = pl.DataFrame
Facets = alt.FacetChart


def trajectory(rows: Frame, methods: Sequence[str]) -> Facets:
    """Draw quantities of the members' weights along training, a line per arm.

    Args:
        rows: arm, tag, label, method, panel (the quantity), epoch, mean, low, high, end (whether
            it is the arm's last epoch), at (there: the height of the tag, or null).
        methods: Domain of colour and shape.
    """
    last = max(rows["epoch"].to_list())
    scale = alt.Scale(domain=[0, 1.1 * max(last, 1)], nice=False)
    steps = [round(last * part / 4) for part in range(5)]
    axis = alt.Axis(grid=False, values=sorted(set(steps)), format="d")
    base = alt.Chart().encode(
        x=alt.X("epoch:Q", title="epoch", scale=scale, axis=axis),
        color=marks.colour(methods),
        opacity=marks.dim(),
        detail="arm:N",
    )
    zero, ticks = alt.Scale(zero=True), alt.Axis(tickCount=5)
    y = marks.y("mean", "", zero, ticks)
    tips = [("label", "Configuration", ""), ("epoch", "Epoch", "d"), ("mean", "Mean", ".4f")]
    tips += [("low", "95 % from", ".4f"), ("high", "95 % to", ".4f")]
    chart = alt.layer(
        base.mark_line(size=1.5).encode(y=y),
        base.mark_point(filled=True, size=32).encode(
            y=y, shape=marks.shape(methods), tooltip=marks.tips(tips)
        ),
        base.transform_filter("datum.end&&isValid(datum.at)")
        .mark_text(align="left", dx=8, fontWeight=600)
        .encode(y=marks.y("at", "", zero, ticks), text="tag:N"),
    )
    return marks.panels(chart, rows, columns=2, least=250, height=260, free=("y",))


def landscape(rows: Frame, methods: Sequence[str]) -> Facets:
    """Draw what lies between two members of each arm, with intervals over seeds.

    Args:
        rows: arm, label, method, panel (the quantity), mean, low, high, mark (a line of reference,
            on one row of the panel that has one).
        methods: Domain of colour and shape.
    """
    scale = alt.Scale(zero=False, nice=True, padding=8)
    axis = alt.Axis(tickCount=5, grid=False)

    def x(field: str) -> alt.X:
        return alt.X(f"{field}:Q", title="", scale=scale, axis=axis)

    y = marks.arms(rows)
    base = alt.Chart().encode(y=y, color=marks.colour(methods), opacity=marks.dim())
    tips = [("label", "Configuration", ""), ("panel", "Quantity", ""), ("mean", "Mean", ".4f")]
    tips += [("low", "95 % from", ".4f"), ("high", "95 % to", ".4f")]
    # Unseen where there is none: a panel whose layer is empty would have no scale.
    rows = rows.with_columns(_mark=pl.coalesce("mark", "mean"))
    seen = alt.condition("isValid(datum.mark)", alt.value(1), alt.value(0))
    chart = alt.layer(
        alt.Chart()
        .mark_rule(style="ref")
        .encode(
            x=x("_mark"), opacity=seen, tooltip=marks.tips([("mark", "Called none below", ".4f")])
        ),
        base.mark_rule(size=1.5).encode(x=x("low"), x2="high:Q"),
        base.mark_point(filled=True, size=80).encode(
            x=x("mean"), shape=marks.shape(methods), tooltip=marks.tips(tips)
        ),
    )
    height = 24 * rows["label"].n_unique()
    return marks.panels(chart, rows, columns=2, least=250, height=height, free=("x",))


def evidence(rows: Frame, methods: Sequence[str]) -> Facets:
    """Draw the agreement of members' evidence between its two bounds.

    Args:
        rows: arm, label, method, panel, mean, low, high (over seeds), chance and same (the bounds:
            of random sets, of one member with itself).
        methods: Domain of colour and shape.
    """
    scale = alt.Scale(domainMin=0, nice=True)

    def x(field: str) -> alt.X:
        return alt.X(f"{field}:Q", title="Jaccard index", scale=scale, axis=alt.Axis(grid=False))

    y = marks.arms(rows)
    base = alt.Chart().encode(y=y, color=marks.colour(methods), opacity=marks.dim())
    tips = [("label", "Configuration", ""), ("mean", "Two members", ".3f")]
    tips += [("chance", "Random sets", ".3f"), ("same", "One member twice", ".3f")]
    chart = alt.layer(
        base.mark_rule(size=6, strokeOpacity=0.3).encode(x=x("chance"), x2="same:Q"),
        base.mark_rule(size=1.5).encode(x=x("low"), x2="high:Q"),
        base.mark_point(filled=True, size=80).encode(
            x=x("mean"), shape=marks.shape(methods), tooltip=marks.tips(tips)
        ),
    )
    height = 24 * rows["label"].n_unique()
    return marks.panels(chart, rows, columns=2, least=250, height=height, free=("x",))
