"""Figures on images from elsewhere: scores in and out of distribution, ROC, and the areas below."""

from functools import partial

import altair as alt
import polars as pl

from analysis.figures import encodings
from analysis.figures.context import Figure, FigureContext, over_seeds, said
from analysis.figures.encodings import Chart
from analysis.measures.columns import SCORES

SECTION = "Detection"
MANY = 25
"""Arms above which a figure of one row each is too high to stand beside another."""
SHOWN = 4
"""Candidates whose scores are drawn, beside the anchors."""


def scores_figure(context: FigureContext) -> Figure | None:
    """Draw how entropy is distributed in and out of distribution, arm by arm."""
    found = context.measures.scores.filter(pl.col("kind") != "roc")
    if found.is_empty():
        return None
    area = _areas(context, "entropy").select("arm", area="mean")
    shown = pl.concat([context.anchors(), context.judged().head(SHOWN)]).join(
        area, on="arm", maintain_order="left"
    )
    mean = found.group_by("arm", "kind", "at", maintain_order=True).agg(pl.col("share").mean())
    rows = (
        shown.with_columns(said=pl.col("area").map_elements("{:.3f}".format, pl.String))
        .with_columns(panel=pl.format("{}\nAUROC {}", "label", "said"))
        .join(mean, on="arm", maintain_order="left_right")
    )
    if rows.is_empty():
        return None
    three = ", ".join(f"{said(row)} {row['area']:.3f}" for row in shown.head(3).to_dicts())
    return Figure(
        "scores",
        SECTION,
        f"OOD detection by predictive entropy: AUROC {three}",
        f"Filled: test images; line: foreign ones. Mean over "
        f"{context.seeds(shown['arm'].to_list())} seeds each and over the sets of foreign "
        "images.",
        _histograms(rows.select("arm", "method", "panel", "kind", "at", "share")),
        folded=True,
    )


def roc_figure(context: FigureContext) -> Figure | None:
    """Draw the ROC of every arm."""
    found = context.measures.scores.filter(pl.col("kind") == "roc")
    area = _areas(context, "entropy").select("arm", area="mean")
    shown = pl.concat([context.judged().head(MANY), context.anchors()])
    every = shown.join(area, on="arm", maintain_order="left")
    mean = found.group_by("arm", "at", maintain_order=True).agg(pl.col("share").mean())
    rows = every.join(mean, on="arm", maintain_order="left_right")
    if rows.is_empty():
        return None
    ranked = every.drop_nulls("area").sort("area", maintain_order=True)
    worst, best = ranked.row(0, named=True), ranked.row(-1, named=True)
    return Figure(
        "roc",
        SECTION,
        f"ROC by predictive entropy: AUROC from {worst['area']:.3f} ({said(worst)}) to "
        f"{best['area']:.3f} ({said(best)})",
        f"Entropy as score; {len(every)} configurations, the best first; mean over "
        f"{context.seeds(every['arm'].to_list())} seeds each at equal false positive "
        "rates.",
        _curves(rows.select("arm", "label", "method", "area", "at", "share"), context.methods),
        folded=True,
    )


def areas_figure(context: FigureContext) -> Figure | None:
    """Draw the AUROC of every arm by every score, with intervals over seeds."""
    every = pl.concat([context.judged(), context.anchors()])
    frames = [
        every.join(own, on="arm", maintain_order="left").with_columns(metric=pl.lit(score))
        for score in SCORES
        if not (own := _areas(context, score)).is_empty()
    ]
    if not frames:
        return None
    rows = pl.concat(frames)
    entropy = rows.filter(pl.col("metric") == "entropy")
    lead, single = context.lead(), entropy.filter(pl.col("arm") == "single")
    ours = entropy.filter(pl.col("arm") == lead["arm"])
    claim = "OOD detection by each score"
    if len(ours) and len(single):
        gap = ours["mean"].item() - single["mean"].item()
        claim = (
            f"OOD detection by predictive entropy: the AUROC of {lead['tag']} is {abs(gap):.3f} "
            f"{'above' if gap > 0 else 'below'} a single network's"
        )
    kept = ["arm", "label", "method", "metric", "mean", "low", "high"]
    return Figure(
        "auroc",
        SECTION,
        claim,
        f"{context.seeds(every['arm'].to_list())} seeds each; whiskers are 95 % "
        "t-intervals over seeds, with the images fixed.",
        _points(rows.select(kept), context.methods),
        choices=tuple(
            (score, NAMES[score]) for score in rows["metric"].unique(maintain_order=True)
        ),
    )


NAMES = {"entropy": "Entropy", "msp": "Largest probability", "mi": "Mutual information"}


def _areas(context: FigureContext, score: str) -> pl.DataFrame:
    return over_seeds(context.measures.replicates, ["arm"], f"ood_auroc_{score}")


def _histograms(rows: pl.DataFrame) -> encodings.Facets:
    x = alt.X(
        "at:Q",
        title="normalised entropy",
        scale=alt.Scale(domain=[0, 1], nice=False),
        axis=alt.Axis(values=[0, 0.5, 1], grid=False, labelFlush=True, format="~g"),
    )
    percent = alt.Axis(format="~%", tickCount=4)
    y = alt.Y("share:Q", title="share of images", scale=alt.Scale(), axis=percent)
    tips = [("panel", "Configuration", ""), ("kind", "Images", ""), ("at", "From", ".2f")]
    tips += [("share", "Share", ".1%")]
    base = alt.Chart().encode(x=x, y=y, opacity=encodings.dim(), tooltip=encodings.tips(tips))
    inside, outside = (base.transform_filter(f"datum.kind=='{kind}'") for kind in ("in", "out"))
    chart = alt.layer(
        inside.mark_area(interpolate="step-after", style="inside"),
        outside.mark_line(interpolate="step-after", style="outside"),
    )
    return encodings.panels(chart, rows, columns=6, least=150, ratio=0.9)


def _curves(rows: pl.DataFrame, methods: list[str]) -> Chart:
    unit, axis = alt.Scale(domain=[0, 1], nice=False), alt.Axis(format="~%", tickCount=5)
    x = alt.X("at:Q", title="false positive rate", scale=unit, axis=axis)
    y = alt.Y("share:Q", title="true positive rate", scale=unit, axis=axis)
    blind = alt.Chart(pl.DataFrame({"at": [0, 1], "share": [0, 1]})).mark_line(style="ref")
    tips = [
        ("label", "Configuration", ""),
        ("area", "AUROC", ".3f"),
        ("at", "False positives", ".0%"),
    ]
    tips += [("share", "True positives", ".1%")]
    base = alt.Chart(encodings.tidy(rows)).encode(
        x=x, y=y, color=encodings.colour(methods), opacity=encodings.dim(), detail="arm:N"
    )
    chart = alt.layer(
        blind.encode(x=x, y=y),
        base.mark_line(size=1.8),
        base.mark_point(filled=True, size=60, fillOpacity=0, strokeOpacity=0).encode(
            tooltip=encodings.tips(tips)
        ),
    )
    return chart.add_params(encodings.SELECTED).properties(width="container", height=340)


def _points(rows: pl.DataFrame, methods: list[str]) -> Chart:
    y = encodings.arms(rows)
    scale, axis = alt.Scale(zero=False, padding=8), alt.Axis(tickCount=5, grid=False)
    x = partial(alt.X, title="AUROC", scale=scale, axis=axis)
    base = (
        alt.Chart(encodings.tidy(rows))
        .transform_filter("datum.metric==metric")
        .encode(y=y, color=encodings.colour(methods), opacity=encodings.dim())
    )
    tips = [("label", "Configuration", ""), ("mean", "AUROC", ".4f")]
    tips += [("low", "95 % from", ".4f"), ("high", "95 % to", ".4f")]
    chart = alt.layer(
        base.mark_rule(size=1.5).encode(x=x("low:Q"), x2="high:Q"),
        base.mark_point(filled=True, size=80).encode(
            x=x("mean:Q"), shape=encodings.shape(methods), tooltip=encodings.tips(tips)
        ),
    )
    chart = chart.add_params(
        encodings.SELECTED, encodings.ROOM, alt.param(name="metric", value=rows["metric"][0])
    )
    return chart.properties(width="container", height=26 * rows["label"].n_unique())
