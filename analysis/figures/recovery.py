"""What goes with recovery: disagreement, averaged members, a growing Deep Ensemble."""

from collections.abc import Sequence

import altair as alt
import polars as pl
from scipy import stats

from analysis.figures import encodings
from analysis.figures.context import Figure, FigureContext, over_seeds, reference_ensemble
from analysis.figures.encodings import Chart, F, Facets, Frame
from analysis.text.numbers import number

BEYOND = 0.5
"""How far right of the largest Deep Ensemble stands what is worth more."""


def diversity_figure(context: FigureContext) -> Figure | None:
    """Return recovery against the members' disagreement."""
    if context.primary is None:
        return None
    spread = over_seeds(context.measures.replicates, ["arm"], "disagreement")
    rows = (
        context.judged()
        .join(context.recovery.filter(pl.col("endpoint") == context.primary), on="arm")
        .join(spread.select("arm", disagreement="mean"), on="arm", maintain_order="left")
    )
    anchors = (
        context.arms.filter(pl.col("role").is_in(["single", "deep_ensemble"]))
        .join(spread.select("arm", disagreement="mean"), on="arm", how="left")
        .with_columns(
            pl.col("disagreement").fill_null(0.0),
            estimate=pl.when(pl.col("role") == "single").then(0.0).otherwise(1.0),
        )
    )
    rows = rows.drop_nulls(["disagreement", "estimate"])
    if rows.is_empty():
        return None
    rho = None
    if len(rows) >= 4 and rows["disagreement"].n_unique() > 1 and rows["estimate"].n_unique() > 1:
        rho = float(stats.spearmanr(rows["disagreement"], rows["estimate"]).statistic)
    claim = f"{len(rows)} points are too few to say whether disagreement pays"
    if rho is not None:
        some = "goes with more" if rho > 0 else "goes with less"
        how = some if abs(rho) > 0.3 else "does not predict"
        claim = f"Disagreement {how} recovery (rank correlation {number(rho)})"
    kept = ["arm", "tag", "label", "method", "disagreement", "estimate", "low", "high"]
    return Figure(
        "diversity",
        "Recovery",
        claim,
        f"{context.counted(rows['arm'].to_list())}, mean over seeds; whiskers are "
        f"{context.levels[0]} intervals. The correlation is descriptive.",
        diversity_chart(
            pl.concat([rows, anchors], how="diagonal_relaxed").select(kept),
            context.margin,
            context.methods,
            context.axis(),
            context.levels[0],
        ),
        wide=False,
    )


def diversity_chart(
    rows: Frame, margin: float, methods: Sequence[str], title: str, level: str
) -> Chart:
    """Draw recovery against the members' disagreement.

    Args:
        rows: arm, tag, label, method, disagreement, estimate, low, high.
        margin: Half width of the band around the single network.
        methods: Domain of colour and shape.
        title: Which recovery.
        level: What its interval covers, in words.
    """
    domain = encodings.frame(rows, margin, "low", "high")
    rows = encodings.positioned(rows, "estimate", "low", "high")
    right = max(rows["disagreement"].to_list(), default=0.1)
    rows = encodings.placed(rows, "disagreement", domain, (430, 310), (0, 1))
    base = alt.Chart(encodings.tidy(rows)).encode(
        x=alt.X(
            "disagreement:Q",
            title="pairwise disagreement of members",
            axis=alt.Axis(format="~%", grid=False, tickCount=6),
            scale=alt.Scale(domain=[-0.04 * right, 1.08 * right], nice=False),
        ),
        color=encodings.colour(methods),
        opacity=encodings.dim(),
    )
    y = encodings.recovery(alt.Y, "_estimate", domain, title)
    tips = [("label", "Configuration", ""), ("disagreement", "Disagreement", ".2%")]
    tips += [("estimate", "Recovery", F)]
    tips += [("low", f"{level} from", F), ("high", f"{level} to", F)]
    chart = alt.layer(
        *encodings.guides(margin, alt.Y, domain, title),
        base.mark_rule(size=1.5, clip=True).encode(
            y=encodings.recovery(alt.Y, "_low", domain, title), y2="_high:Q"
        ),
        base.mark_point(filled=True, size=90, clip=True)
        .encode(y=y, shape=encodings.shape(methods), tooltip=encodings.tips(tips))
        .add_params(alt.selection_interval(name="brush")),
        *encodings.labels(base, y),
    )
    return chart.add_params(encodings.SELECTED).properties(width="container", height=340)


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
        anchor = context.arms.filter(pl.col("arm").is_in(["single", reference_ensemble(context)]))
        for kind, arms, values in (
            ("full", pair.drop("other"), per_arm),
            ("collapsed", pair.drop("other"), alone),
            ("anchor", anchor.with_columns(label=pl.lit(None, pl.String)), per_arm),
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
    first = rows.filter(pl.col("panel") == rows["panel"][0], pl.col("kind") == "collapsed")
    first = first.filter(pl.col("role") == "candidate")
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

    def x(field: str) -> alt.X:
        return alt.X(f"{field}:Q", title="NLL (nats)", scale=scale, axis=axis)

    y = encodings.arms(rows)
    base = alt.Chart().encode(y=y, color=encodings.colour(methods), opacity=encodings.dim())
    full, single_pass = (f"datum.kind=='{kind}'" for kind in ("full", "collapsed"))
    tips = [("label", "Configuration", ""), ("kind", "Kind", ""), ("nll", "NLL", ".4f")]
    tips += [("low", "95 % from", ".4f"), ("high", "95 % to", ".4f")]
    anchor = alt.Chart().encode(x=x("nll"), tooltip=encodings.tips([tips[1], tips[2]]))
    chart = alt.layer(
        anchor.transform_filter("datum.kind=='single'").mark_rule(style="single"),
        anchor.transform_filter("datum.kind=='Deep Ensemble'").mark_rule(style="ensemble"),
        base.transform_filter(single_pass).mark_rule(size=2).encode(x=x("nll"), x2="other:Q"),
        base.transform_filter(f"{full}||{single_pass}")
        .mark_rule(size=1, strokeDash=[2, 2])
        .encode(x=x("low"), x2="high:Q"),
        base.transform_filter(single_pass)
        .mark_point(style="hollow", size=85)
        .encode(x=x("nll"), shape=encodings.shape(methods), tooltip=encodings.tips(tips)),
        base.transform_filter(full)
        .mark_point(filled=True, size=85)
        .encode(x=x("nll"), shape=encodings.shape(methods), tooltip=encodings.tips(tips)),
    )
    height = max(306, 26 * rows["label"].drop_nulls().n_unique())
    return encodings.panels(chart, rows, columns=2, least=250, height=height, free=("x",))


def growth_figure(context: FigureContext) -> Figure | None:
    """Draw calibrated NLL against the number of members, and every arm where it meets the curve."""
    curve = over_seeds(context.measures.curve, ["members"], "cll").sort("members")
    cll = over_seeds(context.measures.replicates, ["arm"], "cll").select("arm", "mean")
    rows = (
        context.judged()
        .drop("members")
        .join(context.equivalents, on="arm", maintain_order="left")
        .join(cll, on="arm", maintain_order="left")
        .drop_nulls("mean")
    )
    if len(curve) < 2 or rows.is_empty():
        return None
    largest = int(curve["members"][-1])
    rows = rows.with_columns(
        beyond=pl.col("members").is_null(),
        at=pl.col("members").fill_null(largest + BEYOND),
        low=pl.col("low").fill_null(largest + BEYOND),
        high=pl.col("high").fill_null(largest + BEYOND),
        said=pl.when(pl.col("members").is_null())
        .then(pl.lit(f"more than {largest}"))
        .otherwise(pl.col("members").map_elements("{:.1f}".format, pl.String)),
    )
    lead = rows.row(0, named=True)
    ends = (lead["low"], lead["high"])
    low, high = (f"more than {largest}" if end > largest else f"{end:.1f}" for end in ends)
    kept = ["arm", "tag", "label", "method", "mean", "at", "low", "high", "beyond", "said"]
    return Figure(
        "growth",
        "Recovery",
        f"{lead['tag']} is worth a Deep Ensemble of {lead['said']} members in calibrated NLL "
        f"({low} to {high})",
        f"{int(curve['n'].to_numpy().min())} Deep Ensembles of 1 to {largest} members, "
        f"{context.seeds(rows['arm'].to_list())} seeds each; the band is a 95 % "
        f"t-interval, whiskers are {context.levels[0]} bootstrap intervals over the seeds of both.",
        growth_chart(curve, rows.select(kept), context.methods),
        wide=False,
    )


def growth_chart(curve: pl.DataFrame, rows: pl.DataFrame, methods: list[str]) -> Chart:
    """Draw the growing Deep Ensemble as a curve, and every arm where it meets it."""
    largest = int(curve["members"][-1])
    title = "calibrated NLL (nats)"
    seen = [*curve["low"].drop_nulls(), *curve["high"].drop_nulls(), *curve["mean"], *rows["mean"]]
    scale = alt.Scale(domain=[min(seen), max(seen)], nice=True, padding=10)
    axis = alt.Axis(tickCount=5)
    x_axis = alt.Axis(grid=False, values=list(range(1, largest + 1)), format="d")
    ends = alt.Scale(domain=[0.7, largest + 2 * BEYOND], nice=False)

    def x(field: str) -> alt.X:
        return alt.X(f"{field}:Q", title="members of a Deep Ensemble", scale=ends, axis=x_axis)

    grown = alt.Chart(encodings.tidy(curve)).encode(x=x("members"))
    tips = [("members", "Members", "d"), ("mean", "NLL", ".4f")]
    tips += [("low", "95 % from", ".4f"), ("high", "95 % to", ".4f")]
    placed = encodings.placed(
        rows.with_columns(estimate="mean"), "at", (min(seen), max(seen)), (430, 300)
    ).drop("estimate")
    own = alt.Chart(encodings.tidy(placed)).encode(
        color=encodings.colour(methods), opacity=encodings.dim()
    )
    y = encodings.y("mean", title, scale, axis)
    about = [("label", "Configuration", ""), ("mean", "NLL", ".4f"), ("said", "Worth", "")]
    chart = alt.layer(
        grown.mark_area(style="ribbon").encode(
            y=encodings.y("low", title, scale, axis), y2="high:Q"
        ),
        grown.mark_line(style="ensemble").encode(y=y),
        grown.mark_point(style="ensemble", filled=True, size=50, opacity=1).encode(
            y=y, tooltip=encodings.tips(tips)
        ),
        own.mark_rule(size=1.5).encode(y=y, x=x("low"), x2="high:Q"),
        own.mark_point(filled=True, size=85).encode(
            y=y, x=x("at"), shape=encodings.shape(methods), tooltip=encodings.tips(about)
        ),
        *encodings.labels(own.encode(x=x("at")), y),
    )
    return chart.add_params(encodings.SELECTED).properties(width="container", height=340)
