"""The members: which disagree, where their weights lie, what lies between them, what they look at.

Descriptive: nothing here feeds a verdict.
"""

from collections.abc import Sequence
from functools import partial
from typing import Final

import altair as alt
import polars as pl

from analysis.figures import encodings
from analysis.figures.context import Figure, FigureContext, over_seeds
from analysis.figures.encodings import Facets, Frame
from analysis.text.numbers import number

WEIGHTS: Final = {
    "cosine": "Cosine of two members' weights",
    "sign_disagreement": "Weights of opposite sign",
}
NETWORKS: Final = {
    "barrier": "Barrier on the line between two members (nats)",
    "cka": "Similarity of features (linear CKA)",
}
CLOSER: Final = 0.01
"""Rise of the cosine from which members are said to come closer."""
ONE_BASIN: Final = 0.05
"""A barrier below this share of the single network's loss is called none."""
TAGGED: Final = 10
"""Arms, from the first, whose lines have a tag, beside those of the anchor and the control."""
TAG_GAP: Final = 0.055
"""Least distance of two tags, as a share of the panel's range."""

EVIDENCE: Final = {
    "evidence_units": "Shared units of minimal sets",
    "evidence_pixels": "Shared pixels that they rest on",
}
BOUNDS: Final = ("chance", "same")


def members_figure(context: FigureContext) -> Figure | None:
    """Return which members disagree, pair by pair."""
    pairs = context.measures.pairs
    anchors = context.arms.filter(pl.col("role") == "deep_ensemble")
    shown = pl.concat([anchors, context.judged()]).filter(
        pl.col("arm").is_in(pairs["arm"].unique().to_list())
    )[:12]
    if shown.is_empty():
        return None
    diagonal = (
        shown.select("arm", i=pl.int_ranges(0, pl.col("members").cast(pl.Int64)), j=None)
        .explode("i")
        .with_columns(j="i", disagreement=pl.lit(None, pl.Float64))
    )
    cells = pl.concat([pairs.select(diagonal.columns), diagonal], how="vertical_relaxed")
    mean = pairs.group_by("arm").agg(mean=pl.col("disagreement").mean())
    rows = (
        shown.join(mean, on="arm", maintain_order="left")
        .with_columns(panel=pl.format("{}\nmean {} %", "label", (pl.col("mean") * 100).round(1)))
        .join(cells, on="arm", maintain_order="left_right")
    )
    by_arm = dict(mean.iter_rows())
    lead = context.lead()
    ours, theirs = by_arm.get(lead["arm"]), by_arm.get(lead["reference"])
    claim = "How often two members predict a different class"
    if ours is not None and theirs is not None:
        claim = (
            f"Two members of {lead['tag']} disagree on {100 * ours:.1f} % of the test set, two of "
            f"the Deep Ensemble on {100 * theirs:.1f} %"
        )
    return Figure(
        "members",
        "Members",
        claim,
        f"Mean over {context.seeds(shown['arm'].to_list())} seeds each, test set; the "
        "title gives the mean over pairs.",
        members_chart(rows.select("arm", "panel", "i", "j", "disagreement")),
        folded=True,
    )


def members_chart(rows: Frame) -> Facets:
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
            tooltip=encodings.tips([*tips, ("disagreement", "Disagreement", ".2%")]),
        ),
        base.transform_filter("datum.i==datum.j").mark_text(style="quiet").encode(text="i:O"),
    )
    return encodings.panels(chart, rows, columns=8, least=118, most=130, ratio=1, free=("x", "y"))


def per_arm(context: FigureContext, panels: dict[str, str], by: list[str]) -> pl.DataFrame:
    """Return mean, low and high over seeds of whole-network quantities, with the arms' names."""
    whole = pl.col("layer").is_null() & pl.col("i").is_null() & pl.col("quantity").is_in([*panels])
    found = over_seeds(context.geometry.filter(whole), by, "value")
    shown = context.arms.filter(~pl.col("role").is_in(["single", "positive_control"]))
    shown = context.without_tail(shown)
    return (
        shown.with_row_index("place")
        .join(found, on="arm")
        .with_columns(
            pl.col("quantity").cast(pl.Enum([*panels])),
            panel=pl.col("quantity").replace_strict(panels, return_dtype=pl.String),
        )
    )


def replicates(context: FigureContext, rows: pl.DataFrame) -> str:
    """Return how many replicates stand behind the rows' arms: one number or its range."""
    counts = (
        context.geometry.filter(pl.col("arm").is_in(rows["arm"].unique().to_list()))
        .group_by("arm")
        .agg(pl.col("replicate").n_unique())["replicate"]
    ).to_list()
    return f"{max(counts)}" if min(counts) == max(counts) else f"{min(counts)} to {max(counts)}"


def trajectory_figure(context: FigureContext) -> Figure | None:
    """Return how the members' weights differ from the start of training to its end."""
    rows = per_arm(context, WEIGHTS, ["arm", "quantity", "epoch"])
    if rows.is_empty():
        return None
    last = pl.col("epoch") == pl.col("epoch").max().over("arm")
    rows = rows.with_columns(end=last).sort("quantity", "place", "epoch")
    anchor = pl.col("role").is_in(["deep_ensemble", "negative_control"])
    tagged = rows.filter("end", anchor | (pl.col("place") < TAGGED))
    ends = pl.concat(_tags_apart(panel) for _, panel in tagged.group_by("panel"))
    rows = rows.join(ends, on=["arm", "panel", "epoch"], how="left", maintain_order="left")
    kept = ["arm", "tag", "label", "method", "panel", "epoch", "mean", "low", "high", "end", "at"]
    return Figure(
        "trajectory",
        "Members",
        _travelled(rows),
        f"{replicates(context, rows)} seeds each, means over seeds and pairs of members; "
        f"effective weights of all layers together. Closer: by more than {CLOSER:g}.{context.tail}",
        trajectory_chart(rows.select(kept), context.methods),
        folded=True,
    )


def _travelled(rows: pl.DataFrame) -> str:
    """Say from where to where the leading arm's members went, and how many others did alike."""
    cosine = rows.filter(pl.col("quantity") == "cosine")
    ends = cosine.group_by("arm", "role", "tag", maintain_order=True).agg(
        start=pl.col("mean").sort_by("epoch").first(), end=pl.col("mean").sort_by("epoch").last()
    )
    own = ends.filter(pl.col("role") == "candidate")
    if own.is_empty():
        return "How the members' weights move apart or together in training"
    lead = own.row(0, named=True)
    closer = len(own.filter(pl.col("end") - pl.col("start") > CLOSER))
    return (
        f"The members of {lead['tag']} start at a cosine of {number(lead['start'])} and end at "
        f"{number(lead['end'])}; those of {closer} of {len(own)} configurations come closer in "
        "training"
    )


def _tags_apart(ends: pl.DataFrame) -> pl.DataFrame:
    """Return arm, panel, epoch and the height of each tag, pushed up where two would touch."""
    ends = ends.sort("mean", "place")
    gap = TAG_GAP * (max(ends["mean"].to_list()) - min([0.0, *ends["mean"].to_list()]))
    heights: list[float] = []
    for value in ends["mean"]:
        heights.append(max(value, heights[-1] + gap) if heights else value)
    return ends.select("arm", "panel", "epoch").with_columns(
        at=pl.Series(heights, dtype=pl.Float64)
    )


def trajectory_chart(rows: Frame, methods: Sequence[str]) -> Facets:
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
        color=encodings.colour(methods),
        opacity=encodings.dim(),
        detail="arm:N",
    )
    y = partial(alt.Y, title="", scale=alt.Scale(zero=True), axis=alt.Axis(tickCount=5))
    tips = [("label", "Configuration", ""), ("epoch", "Epoch", "d"), ("mean", "Mean", ".4f")]
    tips += [("low", "95 % from", ".4f"), ("high", "95 % to", ".4f")]
    chart = alt.layer(
        base.mark_line(size=1.5).encode(y=y("mean:Q")),
        base.mark_point(filled=True, size=32).encode(
            y=y("mean:Q"), shape=encodings.shape(methods), tooltip=encodings.tips(tips)
        ),
        base.transform_filter("datum.end&&isValid(datum.at)")
        .mark_text(align="left", dx=8, fontWeight=600)
        .encode(y=y("at:Q"), text="tag:N"),
    )
    return encodings.panels(chart, rows, columns=2, least=250, height=260, free=("y",))


def landscape_figure(context: FigureContext) -> Figure | None:
    """Return what lies between two members: a barrier of the loss, and how alike features are."""
    rows = per_arm(context, NETWORKS, ["arm", "quantity"])
    if rows.is_empty():
        return None
    anchor = context.trials.filter(stage="confirm", role="single", status="complete")
    loss = anchor["val_nll"].mean()
    basin = ONE_BASIN * loss if isinstance(loss, float) else None
    is_barrier = pl.col("quantity") == "barrier"
    rows = rows.sort("place", "quantity").with_columns(
        low=pl.when(is_barrier).then(pl.col("low").clip(0)).otherwise("low"),
        high=pl.when(is_barrier).then("high").otherwise(pl.col("high").clip(upper_bound=1)),
        mark=pl.when(is_barrier & is_barrier.is_first_distinct()).then(basin),
    )
    kept = ["arm", "label", "method", "panel", "mean", "low", "high", "mark"]
    return Figure(
        "landscape",
        "Members",
        _separated(rows, basin),
        f"{replicates(context, rows)} seeds each, at the end of training, on validation "
        f"images; whiskers are 95 % t-intervals over seeds.{context.tail}",
        landscape_chart(rows.select(kept), context.methods),
        folded=True,
    )


def _separated(rows: pl.DataFrame, basin: float | None) -> str:
    """Say between the members of how many arms there is no barrier."""
    barrier = rows.filter(pl.col("quantity") == "barrier")
    own = barrier.filter(pl.col("role") == "candidate")
    deep = barrier.filter(pl.col("role") == "deep_ensemble")["mean"].to_list()
    if own.is_empty() or basin is None:
        return "What lies between two members"
    claim = f"In {len(own.filter(pl.col('mean') < basin))} of {len(own)} configurations no loss "
    claim += "barrier separates the members"
    return claim + (f"; in the Deep Ensemble it is {max(deep):.2f} nats" if deep else "")


def landscape_chart(rows: Frame, methods: Sequence[str]) -> Facets:
    """Draw what lies between two members of each arm, with intervals over seeds.

    Args:
        rows: arm, label, method, panel (the quantity), mean, low, high, mark (a line of reference,
            on one row of the panel that has one).
        methods: Domain of colour and shape.
    """
    scale = alt.Scale(zero=False, nice=True, padding=8)
    x = partial(alt.X, title="", scale=scale, axis=alt.Axis(tickCount=5, grid=False))
    y = encodings.arms(rows)
    base = alt.Chart().encode(y=y, color=encodings.colour(methods), opacity=encodings.dim())
    tips = [("label", "Configuration", ""), ("panel", "Quantity", ""), ("mean", "Mean", ".4f")]
    tips += [("low", "95 % from", ".4f"), ("high", "95 % to", ".4f")]
    # Unseen where there is none: a panel whose layer is empty would have no scale.
    rows = rows.with_columns(_mark=pl.coalesce("mark", "mean"))
    seen = alt.condition("isValid(datum.mark)", alt.value(1), alt.value(0))
    chart = alt.layer(
        alt.Chart()
        .mark_rule(style="ref")
        .encode(
            x=x("_mark:Q"),
            opacity=seen,
            tooltip=encodings.tips([("mark", "Called none below", ".4f")]),
        ),
        base.mark_rule(size=1.5).encode(x=x("low:Q"), x2="high:Q"),
        base.mark_point(filled=True, size=80).encode(
            x=x("mean:Q"), shape=encodings.shape(methods), tooltip=encodings.tips(tips)
        ),
    )
    height = 26 * rows["label"].n_unique()
    return encodings.panels(chart, rows, columns=2, least=250, height=height, free=("x",))


def evidence_figure(context: FigureContext) -> Figure | None:
    """Return how far members agree in their evidence, between chance and a member with itself."""
    rows = per_arm(context, EVIDENCE, ["arm", "quantity"])
    if rows.is_empty():
        return None
    for bound in BOUNDS:
        names = {f"{quantity}_{bound}": panel for quantity, panel in EVIDENCE.items()}
        other = per_arm(context, names, ["arm", "quantity"])
        rows = rows.join(
            other.select("arm", "panel", pl.col("mean").alias(bound)), on=["arm", "panel"]
        )
    rows = rows.sort("place", "quantity")
    kept = ["arm", "label", "method", "panel", "mean", "low", "high", *BOUNDS]
    return Figure(
        "evidence",
        "Members",
        _shared_evidence(rows),
        f"{replicates(context, rows)} seeds each, at the end of training, on test images; "
        f"whiskers are 95 % t-intervals over seeds.{context.tail}",
        evidence_chart(rows.select(kept), context.methods),
        folded=True,
    )


def _shared_evidence(rows: pl.DataFrame) -> str:
    """Say for how many arms the agreement is nearer to a member's with itself than to chance."""
    own = rows.filter(pl.col("quantity") == "evidence_pixels", pl.col("role") == "candidate")
    if own.is_empty():
        return "What evidence two members share"
    nearer = own.filter(pl.col("mean") > (pl.col("chance") + pl.col("same")) / 2)
    some = f"In {len(nearer)} of {len(own)} configurations"
    which, how = (some, "nearly as") if len(nearer) else ("In no configuration do", "as")
    claim = f"two members rely on the same pixels {how} consistently as one member with itself"
    return f"{which} {claim}"


def evidence_chart(rows: Frame, methods: Sequence[str]) -> Facets:
    """Draw the agreement of members' evidence between its two bounds.

    Args:
        rows: arm, label, method, panel, mean, low, high (over seeds), chance and same (the bounds:
            of random sets, of one member with itself).
        methods: Domain of colour and shape.
    """
    scale = alt.Scale(domainMin=0, nice=True)
    x = partial(alt.X, title="Jaccard index", scale=scale, axis=alt.Axis(grid=False))
    y = encodings.arms(rows)
    base = alt.Chart().encode(y=y, color=encodings.colour(methods), opacity=encodings.dim())
    tips = [("label", "Configuration", ""), ("mean", "Two members", ".3f")]
    tips += [("chance", "Random sets", ".3f"), ("same", "One member twice", ".3f")]
    chart = alt.layer(
        base.mark_rule(size=6, strokeOpacity=0.3).encode(x=x("chance:Q"), x2="same:Q"),
        base.mark_rule(size=1.5).encode(x=x("low:Q"), x2="high:Q"),
        base.mark_point(filled=True, size=80).encode(
            x=x("mean:Q"), shape=encodings.shape(methods), tooltip=encodings.tips(tips)
        ),
    )
    height = 26 * rows["label"].n_unique()
    return encodings.panels(chart, rows, columns=2, least=250, height=height, free=("x",))
