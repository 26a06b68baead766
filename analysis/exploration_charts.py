"""Charts of the search: its history, which parameter mattered, where its trials lay."""

from collections.abc import Mapping, Sequence
from typing import Final, Literal

import altair as alt
import polars as pl

from analysis import marks

Frame = pl.DataFrame
Facets = alt.FacetChart

TITLES: Final = {"val_nll": "NLL", "val_gain": "Gain"}


def history(rows: Frame, methods: Sequence[str], top: float) -> Facets:
    """Draw every search trial's validation NLL in order of finishing, and the best so far.

    Args:
        rows: trial, method, panel, order, val_nll, best, shown (val_nll or the frame's top), kind
            (complete, pruned, diverged, failed, beyond the frame).
        methods: Domain of colour and shape.
        top: Upper end of the frame.
    """
    bottom = min(rows["shown"].to_list())
    scale = alt.Scale(domain=[bottom, top], nice=False, padding=6)
    y = marks.y("shown", "validation NLL (nats)", scale, alt.Axis(tickCount=5))
    base = alt.Chart().encode(
        x=alt.X(
            "order:Q",
            title="trial",
            scale=alt.Scale(domain=[0, max(rows["order"].to_list())], nice=False, padding=3),
            axis=alt.Axis(grid=False, tickCount=5),
        ),
        color=marks.colour(methods),
    )
    tips = [("trial", "Trial", ""), ("order", "Order", ""), ("val_nll", "NLL", ".4f")]
    tips += [("best", "Best so far", ".4f"), ("kind", "Status", "")]
    chart = alt.layer(
        base.transform_filter("datum.kind=='complete'")
        .mark_point(filled=True, size=28, opacity=0.45)
        .encode(y=y, shape=marks.shape(methods), tooltip=marks.tips(tips)),
        base.transform_filter("datum.kind!='complete'")
        .mark_text(text="×", fontSize=14, baseline="middle")
        .encode(y=y, tooltip=marks.tips(tips)),
        base.mark_line(interpolate="step-after", size=2, clip=True).encode(
            y=marks.y("best", "validation NLL (nats)", scale, alt.Axis(tickCount=5))
        ),
    )
    return marks.panels(chart, rows, columns=3, least=250, height=230)


def importance(rows: Frame) -> Facets:
    """Draw how much a forest's held-out fit loses when one parameter is shuffled.

    Args:
        rows: panel, parameter, mean, low, high.
    """
    # Unseen marks keep one parameter's rows in two panels apart: each panel has its own order.
    blank = pl.lit("\u200b").repeat_by(pl.col("panel").rank("dense")).list.join("")
    rows = rows.with_columns(_row=pl.col("parameter") + blank)
    order = marks.order(rows, "_row")
    y = alt.Y("_row:N", sort=order, title=None, axis=alt.Axis(grid=True))
    x = alt.X("mean:Q", title="loss of held-out R² when shuffled", axis=alt.Axis(tickCount=4))
    base = alt.Chart().encode(y=y)
    tips = [
        ("parameter", "Parameter", ""),
        ("mean", "Mean", ".2f"),
        ("low", "From", ".2f"),
        ("high", "To", ".2f"),
    ]
    chart = alt.layer(
        base.mark_bar(style="bar", height=10).encode(x=x, tooltip=marks.tips(tips)),
        base.mark_rule(style="whisker").encode(
            x=alt.X("low:Q", title="loss of held-out R² when shuffled"), x2="high:Q"
        ),
    )
    most = rows.group_by("panel").len()["len"].max()
    assert isinstance(most, int)
    return marks.panels(chart, rows, columns=2, least=250, height=22 * most, free=("y",))


def coverage(rows: Frame) -> Facets:
    """Draw how many trials fell into each part of each parameter's declared domain.

    Args:
        rows: panel, parameter, declared, what (the part in words), trials, low, high (its ends,
            0 to 1), share (parts with a trial, in words).
    """
    rows, most = _aligned(rows)
    y = alt.Y("_row:N", sort=marks.order(rows, "_row"), title=None, axis=alt.Axis(grid=False))
    title = "declared range or choices"
    axis = alt.Axis(
        values=[0, 1], grid=False, labelFlush=True, labelExpr="datum.value?'highest, last':'lowest'"
    )

    def x(field: str) -> alt.X:
        scale = alt.Scale(domain=[0, 1.17], nice=False)
        return alt.X(f"{field}:Q", title=title, scale=scale, axis=axis)

    tips = [("parameter", "Parameter", ""), ("declared", "Declared", ""), ("what", "Part", "")]
    tips += [("trials", "Trials", "d")]
    legend = alt.Legend(title="complete trials", orient="top", gradientLength=160, tickMinStep=1)
    base = alt.Chart().encode(y=y)
    chart = alt.layer(
        base.mark_text().encode(text=alt.value("")),  # Every row, empty ones too, has its place.
        base.transform_filter("datum.trials>0")
        .transform_calculate(_from="datum.low+0.0015", _to="datum.high-0.0015")
        .mark_bar(height=13, opacity=1)
        .encode(
            x=x("_from"),
            x2="_to:Q",
            color=alt.Color("trials:Q", scale=alt.Scale(domainMin=0), legend=legend),
            tooltip=marks.tips(tips),
        ),
        base.transform_filter("datum.trials==0")
        .transform_calculate(_middle="(datum.low+datum.high)/2")
        .mark_text(style="quiet", baseline="middle")
        .encode(x=x("_middle"), text=alt.value("0"), tooltip=marks.tips(tips)),
        base.transform_filter("datum.low==0")
        .transform_calculate(_end="1.03")
        .mark_text(style="quiet", align="left", baseline="middle")
        .encode(x=x("_end"), text="share:N"),
    )
    return marks.panels(chart, rows, columns=2, least=300, height=21 * most, free=("y",))


def _aligned(rows: Frame) -> tuple[Frame, int]:
    """Give every panel as many rows (column ``_row``), empty ones last, and return how many.

    Unseen marks keep the rows of two panels apart, so that each panel has its own order.
    """
    names = {
        panel: marks.order(own, "parameter")
        for (panel,), own in rows.group_by("panel", maintain_order=True)
    }
    most = max(map(len, names.values()))
    number = {panel: "\u200b" * (n + 1) for n, panel in enumerate(names)}
    fill = [
        {"panel": panel, "_row": number[panel] + "\u200c" * (n + 1)}
        for panel, own in names.items()
        for n in range(most - len(own))
    ]
    labels = pl.col("parameter") + pl.col("panel").replace_strict(number)
    return pl.concat([rows.with_columns(_row=labels), pl.DataFrame(fill)], how="diagonal"), most


def slices(
    rows: Frame, methods: Sequence[str], frames: Mapping[str, tuple[float, float]]
) -> Facets:
    """Draw an objective against one parameter per panel, with the medians of the domain's parts.

    Args:
        rows: panel, method, kind (``trial``, ``median``, or ``left``, ``center``, ``right`` for the
            labels of the axis); at (0 to 1 along the declared domain; a median from there to
            ``high``); value (in words), and a column per objective.
        methods: Domain of colour and shape.
        frames: Objective -> lowest and highest value to show; the first is shown first, the page
            switches the parameter ``metric``.
    """
    scale = alt.Scale(zero=False, nice=True, padding=6)
    y = marks.y("_shown", marks.CHOSEN, scale, alt.Axis(tickCount=4))
    names = [*frames]
    within = [f"clamp(datum.{name},{low:.6g},{high:.6g})" for name, (low, high) in frames.items()]
    shown = f"metric=='{names[0]}'?{within[0]}:{within[1]}"

    def x(field: str) -> alt.X:
        return alt.X(f"{field}:Q", axis=None, scale=alt.Scale(domain=[0, 1], nice=False, padding=5))

    def of(kind: str) -> alt.Chart:
        known = f"datum.kind=='{kind}'&&isValid(datum[metric])"
        return base.transform_filter(known).transform_calculate(_shown=shown)

    base = alt.Chart().encode(x=x("at"))
    tips = [("value", "Value", ""), *((name, title, ".4f") for name, title in TITLES.items())]
    aligned: Sequence[Literal["left", "center", "right"]] = ("left", "center", "right")
    ticks = [
        base.transform_filter(f"datum.kind=='{align}'")
        .mark_text(style="quiet", align=align, baseline="top", dy=5)
        .encode(y=alt.value("height"), text="value:N")
        for align in aligned
    ]
    chart = alt.layer(
        of("trial")
        .mark_point(filled=True, size=26, opacity=0.5)
        .encode(
            y=y,
            color=marks.colour(methods),
            shape=marks.shape(methods),
            tooltip=marks.tips(tips),
        ),
        of("median").mark_rule(style="ensemble").encode(x2="high:Q", y=y),
        *ticks,
    )
    chart = chart.add_params(alt.param(name="metric", value=names[0]))
    return marks.panels(chart, rows, columns=3, least=250, height=170)
