"""The first picture: each configuration's weakest result, from single network to Deep Ensemble."""

import json
from collections.abc import Iterator, Sequence
from typing import Any, Final

import altair as alt
import polars as pl

from analysis.figures import encodings
from analysis.figures.context import Figure, FigureContext
from analysis.figures.encodings import Chart, F, Frame
from analysis.text.numbers import number
from analysis.verdict.schema import Arm
from analysis.verdict.wording import BADGES, BASELINES, winner

NAMED: Final = 14
"""Configurations whose rows have a name; the others' rows are low."""
ROW, LOW_ROW = 32, 6
"""Heights of both, px."""
LINE: Final = 0.7
"""Share of a row's height at which its line stands: above it, where there is little room, its name.
"""
ENDS: Final = {"0": ["single", "network"], "1": ["Deep", "Ensemble"]}
"""Names of the ends of the axis, by their recovery."""
TICKS_APART: Final = 0.1
"""Least distance of two numbers of the axis, of its length."""
OF_NAME: Final = 40
"""Letters of a line of a name beside its row."""
FULL: Final = 820
"""Room from which verdicts stand beside their lines, px."""
LABELS: Final[dict[str, Any]] = {
    **{"title": None, "style": "names", "domain": False, "ticks": False},
    **{"labelLimit": 0, "labelLineHeight": 13, "labelOverlap": False},
}


def ruler_figure(context: FigureContext) -> Figure | None:
    """Return the least recovery of every configuration, with the interval that decides."""
    rows = _weakest(context)
    if rows["estimate"].drop_nulls().is_empty():
        return None
    best = winner(context.verdict)
    hidden = len(rows) - rows["name"].drop_nulls().len()
    more = f" The names of {hidden} more are in the table." if hidden else ""
    return Figure(
        "ruler",
        "Verdict",
        "How far each configuration gets from a single network to a Deep Ensemble, in the measure "
        "in which it does worst",
        f"{context.seeds(rows['arm'].to_list())} seeds per configuration.{more}",
        ruler_chart(rows, context.margin, best.arm if best else ""),
        legend=legend(context.margin, context.levels[0], context.verdict.covers),
    )


def legend(margin: float, level: str, covers: str) -> tuple[str, ...]:
    """Return what the marks of a ruler are."""
    return (
        f"\u25cf recovery, with its {level} interval over {covers}",
        "\u2506 a single network (0), the Deep Ensemble (1)",
        f"\u2592 like a single network (\u00b1{margin:g})",
    )


def _weakest(context: FigureContext) -> Frame:
    """Return a row for each judged arm (see ``ruler_frame``), ``name`` null of a low row."""
    judged, rows, top = context.verdict.by_arm(), [], 0.0
    shown = context.arms.filter(pl.col("arm").is_in([*judged]))
    controls = shown["role"].str.ends_with("control").to_list()
    for place, (about, control) in enumerate(zip(shown.to_dicts(), controls, strict=True)):
        arm = judged[about["arm"]]
        named = len(shown) <= NAMED or place < NAMED - 2 or control
        height = ROW if named else LOW_ROW
        rows.append(
            {key: about[key] for key in ("arm", "label", "tag")}
            | {"name": about["label"] if named else None}
            | {"_row": top + height * (LINE if named else 0.5)}
            | {"verdict": arm.verdict if context.verdict.stands else "inconclusive"}
            | least_of(arm, context.verdict.protocol.labels)
            | {"why": why_of(arm)}
        )
        top += height
    return ruler_frame(rows)


def why_of(arm: Arm) -> str:
    """Return the verdict on an arm as briefly as can be, with the reason of one that is open."""
    undecided = arm.verdict == "inconclusive" and arm.label is not None
    return f"undecided: {arm.label}" if undecided else BADGES[arm.verdict]


def ruler_frame(rows: Sequence[dict[str, Any]]) -> Frame:
    """Return rows of the ruler as a frame, null in what they do not say.

    Returns:
        arm, label, tag, name (of a row that has one), verdict, measure (the weakest), said (its
        recovery), why (the verdict), estimate, low, high, _row (height of the line, px).
    """
    schema: dict[str, Any] = dict.fromkeys(
        ("arm", "label", "tag", "name", "verdict", "measure", "said", "why"), pl.String
    )
    schema |= dict.fromkeys(("_row", "estimate", "low", "high"), pl.Float64)
    return pl.DataFrame(rows, schema=schema)


def least_of(arm: Arm, labels: dict[str, str]) -> dict[str, Any]:
    """Return the recovery that a verdict hangs on: measure, said, estimate, low, high."""
    if arm.telling is None:
        return {"said": "not measurable"}
    against, key, effect = arm.telling
    return {
        "measure": f"{labels[key]}, against {BASELINES[against]}",
        "said": number(effect.recovery),
        "estimate": effect.recovery,
        "low": effect.low,
        "high": effect.high,
    }


def ruler_chart(rows: Frame, margin: float, best: str) -> Chart:
    """Draw each configuration's least recovery in a row of its own, beside it its name.

    The page sets ``room``, the width that there is: in a narrow one the name stands above the line.

    Args:
        rows: See ``ruler_frame``.
        margin: Half width of the band around the single network.
        best: Arm whose name is bold.
    """
    domain = encodings.frame(rows, margin, "low", "high")
    rows = rows.with_columns(pl.col("_row").round(1))
    rows = encodings.across(encodings.positioned(rows, "estimate", "low", "high"), domain, "")
    height = max(rows["_row"].to_list()) + 12
    named = rows.drop_nulls("name")
    scale = alt.Scale(domain=[0, height], reverse=True, nice=False)
    y = alt.Y("_row:Q", scale=scale, axis=None)
    base = alt.Chart(encodings.tidy(rows)).encode(y=y, opacity=encodings.dim())
    coloured = base.encode(color=_verdicts(rows))
    tips = [("label", "Configuration", ""), ("why", "Verdict", ""), ("measure", "Weakest in", "")]
    tips += [("estimate", "Recovery", F), ("low", "from", F), ("high", "to", F)]
    wide = "isValid(datum.name)"
    name = (
        base.transform_filter(f"{wide}&&room<{encodings.ABREAST}")
        .mark_text(align="left", baseline="bottom", dy=-7, limit=alt.ExprRef("room-30"))
        .encode(x=alt.value(0), text="name:N")
    )
    behind, plain, bold = name.copy(), name.copy(), name.copy()
    behind.mark["style"], bold.mark["fontWeight"] = "halo", 700
    of_best = f"datum.arm=={json.dumps(best)}"
    layers = [
        *encodings.guides(margin, alt.X, domain),
        coloured.mark_rule(strokeCap="round").encode(
            x=encodings.recovery(alt.X, "_low", domain),
            x2="_high:Q",
            y=y.copy().axis(_beside(named, best)),
            size=alt.condition(wide, alt.value(4), alt.value(1.5)),
        ),
        coloured.mark_point(filled=True, opacity=1).encode(
            x=encodings.recovery(alt.X, "_estimate", domain),
            y=y.copy().axis(_said(named)),
            size=alt.condition(wide, alt.value(90), alt.value(20)),
            tooltip=encodings.tips(tips),
        ),
        *encodings.arrows(coloured, domain),
        behind,
        plain.transform_filter(f"!({of_best})"),
        bold.transform_filter(of_best),
    ]
    for layer in layers:  # An axis that layers share is the same in all.
        if isinstance(layer.encoding.x, alt.X):
            layer.encoding.x = layer.encoding.x.axis(_across(domain))
    chart = alt.layer(*layers).resolve_axis(y="independent")
    chart = chart.add_params(encodings.SELECTED, encodings.ROOM)
    return chart.properties(width="container", height=height)


def _verdicts(rows: Frame) -> alt.Color:
    """Return the colours of the verdicts, with a legend of those that there are."""
    legend = alt.Legend(
        title=None,
        orient="bottom",
        values=[kind for kind in BADGES if kind in rows["verdict"].to_list()],
        labelExpr=f"({json.dumps(BADGES)})[datum.label]",
        labelLimit=0,
        columns=alt.ExprRef(f"room<{encodings.ABREAST}?2:4"),
    )
    scale = alt.Scale(domain=[*BADGES], range="ordinal")
    return alt.Color("verdict:N", scale=scale, legend=legend)


def _across(domain: Sequence[float]) -> alt.Axis:
    """Return the axis of recovery, whose ends have names and whose numbers do not touch."""
    values = [
        0,
        1,
        0.5,
        *(sign * n * 10**p for p in range(6) for n in (1, 2, 5) for sign in (1, -1)),
    ]
    frame = pl.DataFrame({"value": [float(v) for v in dict.fromkeys(values)]})
    kept: dict[float, float] = {}
    for value, place in frame.with_columns(place=encodings.at(pl.col("value"))).iter_rows():
        apart = all(abs(place - other) > TICKS_APART * (domain[1] - domain[0]) for other in kept)
        if apart and domain[0] <= place <= domain[1]:
            kept[round(place, 4)] = value
    lines = {f"{place:g}": [f"{value:g}".replace("-", "\u2212")] for place, value in kept.items()}
    wide = {at: own + ([" ".join(ENDS[at])] if at in ENDS else []) for at, own in lines.items()}
    narrow = {at: own + ENDS.get(at, []) for at, own in lines.items()}
    labels = f"{encodings.either(json.dumps(wide), json.dumps(narrow))}[datum.value]"
    return alt.Axis(
        values=sorted(kept), labelExpr=labels, labelOverlap=False, grid=False, title=None
    )


def _beside(named: Frame, best: str) -> alt.Axis:
    """Return the axis of the names, in two lines where they are long."""
    of_rows = dict(_each(named, "name"))
    of_name = encodings.lines(list(of_rows.values()), OF_NAME)
    lines = {at: of_name[name] for at, name in of_rows.items()}
    two = [float(at) for at, own in lines.items() if len(own) > 1]
    of_best = named.filter(pl.col("arm") == best)["_row"].to_list()
    return alt.Axis(
        orient="left",
        grid=True,
        values=[float(at) for at in lines],
        labelExpr=f"room<{encodings.ABREAST}?'':({json.dumps(lines)})[datum.value]",
        labelOffset=alt.condition(f"indexof({two},datum.value)>=0", alt.value(-7), alt.value(0)),
        labelFontWeight=alt.condition(
            f"indexof({of_best},datum.value)>=0", alt.value("bold"), alt.value("normal")
        ),
        **LABELS,
    )


def _said(named: Frame) -> alt.Axis:
    """Return the axis of the recoveries and, where there is room, of what they come to."""
    short, long = dict(_each(named, "said")), dict(_each(named, "why"))
    both = {at: f"{said} \u00b7 {long[at]}" if long[at] else said for at, said in short.items()}
    expression = f"({json.dumps(both)})[datum.value]:({json.dumps(short)})[datum.value]"
    return alt.Axis(
        orient="right",
        values=[float(at) for at in short],
        labelExpr=f"room>={FULL}?{expression}",
        grid=False,
        **LABELS,
    )


def _each(named: Frame, column: str) -> Iterator[tuple[str, Any]]:
    """Yield the height of each row that has a name, as the axis has it, and a value."""
    for at, value in named.select("_row", column).iter_rows():
        yield f"{at:g}", value
