"""What each ensemble loses when its members are averaged into one network."""

from collections.abc import Sequence
from functools import partial

import altair as alt
import polars as pl

from analysis.figures import encodings
from analysis.figures.context import Figure, FigureContext, over_seeds
from analysis.figures.encodings import Facets, Frame


def collapsed_figure(context: FigureContext) -> Figure | None:
    """Return what each ensemble loses when its members are averaged into one."""
    frames = []
    for panel, full, lone in (
        ("Test", "nll", "collapsed_nll"),
        ("Under shift", "shift_nll", "collapsed_shift_nll"),
    ):
        per_arm = over_seeds(context.measures.replicates, ["arm"], full)
        alone = over_seeds(context.measures.replicates, ["arm"], lone)
        if alone.is_empty():
            continue
        pair = context.without_tail(context.judged()).join(
            alone.select("arm", other="mean"), on="arm"
        )
        for kind, arms, values in (
            ("full", pair.drop("other"), per_arm),
            ("collapsed", pair.drop("other"), alone),
            ("anchor", context.anchors().with_columns(label=pl.lit(None, pl.String)), per_arm),
        ):
            frames.append(
                arms.join(values, on="arm", maintain_order="left").with_columns(
                    panel=pl.lit(panel), kind=pl.lit(kind), nll="mean"
                )
            )
        frames[-2] = frames[-2].join(per_arm.select("arm", other="mean"), on="arm")
    if not frames:
        return None
    rows = pl.concat(frames, how="diagonal_relaxed").with_columns(
        kind=pl.when(pl.col("kind") != "anchor")
        .then("kind")
        .when(pl.col("role") == "single")
        .then(pl.lit("single"))
        .otherwise(pl.lit("Deep Ensemble"))
    )
    kept = ["arm", "label", "method", "panel", "kind", "nll", "low", "high", "other"]
    destroyed = _destroyed(context, rows)
    rows = rows.filter(~pl.col("arm").is_in([arm for arm, _ in destroyed]))
    first = rows.filter(panel=rows["panel"][0], kind="collapsed", role="candidate")
    loss = first.with_columns(loss=pl.col("nll") - pl.col("other")).sort("loss", descending=True)
    if loss.is_empty():
        return None
    worst = loss.row(0, named=True)
    claim = "No ensemble loses when its members are averaged into one network"
    if worst["loss"] > 0:
        claim = (
            f"Averaging the members into one network costs {worst['tag']} "
            f"{worst['loss']:.3f} nats on test, the most of {len(loss)} configurations"
        )
    tags = ", ".join(tag for _, tag in destroyed)
    sample = f"Mean over seeds; dashed lines are 95 % t-intervals over seeds.{context.tail}"
    if tags:
        sample += f" Not drawn, as averaging leaves little more than chance of them: {tags}."
    return Figure(
        "collapsed",
        "Recovery",
        claim,
        sample,
        collapsed_chart(rows.select(kept), context.methods),
        folded=True,
    )


def _destroyed(context: FigureContext, rows: Frame) -> list[tuple[str, str]]:
    """Return arm and tag of ensembles whose average is nearer to chance than to a single network.

    Of random signs, for one, nothing is left: that says nothing about the ensemble.
    """
    means = context.measures.replicates.group_by("arm").agg(pl.col("nll", "chance_nll").mean())
    single = means.filter(pl.col("arm") == "single")
    if single.is_empty() or single["chance_nll"].item() is None:
        return []
    middle = (single["nll"].item() + single["chance_nll"].item()) / 2
    gone = rows.filter(
        pl.col("kind") == "collapsed", pl.col("nll") > middle, pl.col("panel") == rows["panel"][0]
    )
    return list(gone.select("arm", "tag").iter_rows())


def collapsed_chart(rows: Frame, methods: Sequence[str]) -> Facets:
    """Draw each ensemble's NLL beside that of its one-member collapse.

    Args:
        rows: arm, label, method, panel, kind (full, collapsed, single, Deep Ensemble), nll, low,
            high, other (the partner's NLL, on rows of kind ``collapsed``).
        methods: Domain of colour and shape.
    """
    scale = alt.Scale(zero=False, nice=True, padding=8)
    axis = alt.Axis(tickCount=4, grid=False)
    x = partial(alt.X, title="NLL (nats)", scale=scale, axis=axis)
    y = encodings.arms(rows)
    base = alt.Chart().encode(y=y, color=encodings.colour(methods), opacity=encodings.dim())
    full, single_pass = (f"datum.kind=='{kind}'" for kind in ("full", "collapsed"))
    tips = [("label", "Configuration", ""), ("kind", "Kind", ""), ("nll", "NLL", ".4f")]
    tips += [("low", "95 % from", ".4f"), ("high", "95 % to", ".4f")]
    anchor = alt.Chart().encode(x=x("nll:Q"), tooltip=encodings.tips([tips[1], tips[2]]))
    chart = alt.layer(
        anchor.transform_filter("datum.kind=='single'").mark_rule(style="single"),
        anchor.transform_filter("datum.kind=='Deep Ensemble'").mark_rule(style="ensemble"),
        base.transform_filter(single_pass).mark_rule(size=2).encode(x=x("nll:Q"), x2="other:Q"),
        base.transform_filter(f"{full}||{single_pass}")
        .mark_rule(size=1, strokeDash=[2, 2])
        .encode(x=x("low:Q"), x2="high:Q"),
        base.transform_filter(single_pass)
        .mark_point(style="hollow", size=85)
        .encode(x=x("nll:Q"), shape=encodings.shape(methods), tooltip=encodings.tips(tips)),
        base.transform_filter(full)
        .mark_point(filled=True, size=85)
        .encode(x=x("nll:Q"), shape=encodings.shape(methods), tooltip=encodings.tips(tips)),
    )
    height = max(306, 26 * rows["label"].drop_nulls().n_unique())
    return encodings.panels(chart, rows, columns=2, least=250, height=height, free=("x",))
