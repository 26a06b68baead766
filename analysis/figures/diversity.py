"""Whether disagreement pays: recovery against how often two members disagree."""

from collections.abc import Sequence

import altair as alt
import polars as pl
from scipy import stats

from analysis.figures import encodings
from analysis.figures.context import Figure, FigureContext, over_seeds
from analysis.figures.encodings import Chart, F, Frame
from analysis.text.numbers import number
from analysis.verdict.wording import counted


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
        context.baselines()
        .join(spread.select("arm", disagreement="mean"), on="arm", how="left")
        .with_columns(pl.col("disagreement").fill_null(0.0))
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
        f"{counted(rows['role'])}, mean over seeds; whiskers are "
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
