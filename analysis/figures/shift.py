"""How the arms hold up as the test images are corrupted."""

from collections.abc import Sequence
from functools import partial

import altair as alt
import polars as pl

from analysis.figures import encodings
from analysis.figures.context import Figure, FigureContext, over_seeds
from analysis.figures.encodings import Facets, Frame

SHOWN = 6
"""Configurations that have a panel, from the first."""


def _under_shift(context: FigureContext, metrics: Sequence[str]) -> pl.DataFrame:
    """Return metrics less the single network's, and as they are, under ``<metric>_itself``.

    Columns: arm, metric, severity, value, low, high.
    """
    per_seed = (
        context.measures.severities.drop_nulls("severity")
        .group_by("arm", "replicate", "severity")
        .agg(pl.col(metrics).mean())
        .unpivot(on=metrics, index=["arm", "replicate", "severity"], variable_name="metric")
        .sort("arm", "metric", "severity", "replicate")
    )
    keys = ["arm", "metric", "severity"]
    known = over_seeds(per_seed, keys, "value")
    single = known.filter(pl.col("arm") == "single").select(*keys[1:], at="mean", s="half")
    gap = known.join(single, on=keys[1:]).select(
        *keys,
        half=(pl.col("half") ** 2 + pl.col("s") ** 2).sqrt(),
        value=pl.col("mean") - pl.col("at"),
    )
    itself = known.select(*keys, "half", value="mean").with_columns(pl.col("metric") + "_itself")
    return pl.concat([gap, itself]).with_columns(
        low=pl.col("value") - pl.col("half"), high=pl.col("value") + pl.col("half")
    )


def severity_figure(context: FigureContext) -> Figure | None:
    """Return every arm's metrics against the severity of the corruption."""
    metrics = {"nll": "NLL", "accuracy": "Accuracy", "ece": "ECE"}
    values = _under_shift(context, list(metrics))
    if values.is_empty():
        return None
    panels = []
    for arm in context.judged().head(SHOWN).iter_rows(named=True):
        shown = {arm["arm"]: arm["method"], arm["reference"]: "deep_ensemble", "single": "single"}
        for key, method in shown.items():
            own = values.filter(pl.col("arm") == key)
            if key == "single":  # Its difference from itself is 0 without doubt.
                sure = ~pl.col("metric").str.ends_with("_itself")
                own = own.with_columns(pl.when(~sure).then(pl.col("low", "high")))
            who = {"method": pl.lit(method), "anchor": pl.lit(key != arm["arm"])}
            panels.append(own.with_columns(panel=pl.lit(arm["label"]), **who))
    kept = ["arm", "method", "panel", "metric", "severity", "value", "low", "high", "anchor"]
    choices = {key: f"{name} − single" for key, name in metrics.items()}
    choices |= {f"{key}_itself": name for key, name in metrics.items()}
    rows = pl.concat(panels).select(kept)
    rows = rows.sort(pl.col("metric").cast(pl.Enum([*choices])), maintain_order=True)
    top = max(rows["severity"].to_list())
    hardest = rows.filter(metric="nll", severity=top)
    lead = context.lead()
    ours = hardest.filter(arm=lead["arm"], anchor=False)["value"]
    theirs = hardest.filter(arm=lead["reference"], panel=lead["label"])["value"]
    claim = "How the gap to the single network grows with the severity of the shift"
    if len(ours) and len(theirs):
        claim = (
            f"At severity {top}, {lead['tag']} is {_by(ours.item())} than the "
            f"single network in NLL; the Deep Ensemble is {_by(theirs.item())}"
        )
    return Figure(
        "severity",
        "Shift",
        claim,
        f"{context.seeds(rows['arm'].unique().to_list())} seeds each; bands are 95 % "
        "intervals over seeds, for a difference those of both joined in quadrature.",
        severity_chart(rows, context.methods, "nll"),
        legend=(
            "\u25cf Deep Ensemble of as many members",
            "\u25a0 single network",
            *context.cut(SHOWN),
        ),
        choices=tuple(choices.items()),
    )


def _by(difference: float) -> str:
    return f"{abs(difference):.3f} nats {'better' if difference < 0 else 'worse'}"


def severity_chart(rows: Frame, methods: Sequence[str], metric: str) -> Facets:
    """Draw a metric, or its difference from the single network, against the corruption's severity.

    Args:
        rows: arm, method, panel, metric, severity, value, low, high, anchor (whether it is an
            anchor, repeated in every panel).
        methods: Domain of colour.
        metric: Shown first; the page switches the parameter ``metric``.
    """
    x = alt.X("severity:O", title="severity", axis=alt.Axis(labelAngle=0, grid=False))
    base = (
        alt.Chart()
        .transform_filter("datum.metric==metric")
        .encode(x=x, color=encodings.colour(methods), detail="arm:N")
    )
    tips = [
        ("panel", "Panel", ""),
        ("severity", "Severity", ""),
        ("value", "Value", ".4f"),
    ]
    tips += [("low", "95 % from", ".4f"), ("high", "95 % to", ".4f")]
    axis = alt.Axis(format="~g", tickCount=5)
    y = partial(alt.Y, title=encodings.CHOSEN, scale=alt.Scale(zero=False), axis=axis)
    chart = alt.layer(
        base.mark_area(style="ribbon").encode(y=y("low:Q"), y2="high:Q"),
        base.mark_line(size=2).encode(y=y("value:Q")),
        base.mark_point(filled=True, size=45, opacity=1).encode(
            y=y("value:Q"), shape=encodings.shape(methods), tooltip=encodings.tips(tips)
        ),
    )
    chart = chart.add_params(alt.param(name="metric", value=metric))
    return encodings.panels(chart, rows, columns=6, least=150, ratio=1)
