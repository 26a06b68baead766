"""The training itself: learning curves of each method's best, median and worst trial."""

from typing import Final

import altair as alt
import polars as pl

from analysis.figures import encodings
from analysis.figures.context import Figure, FigureContext
from analysis.figures.encodings import Facets, Frame
from analysis.text.names import title

METRICS: Final = {"val_nll": "Validation NLL (nats)", "loss": "Training loss (nats)"}
SCHEDULE: Final = "lr"
"""What is drawn below either."""
MOST: Final = 4
"""Panels abreast."""
RANKS: Final = ("best", "median", "worst")
DRAWN: Final = 100
"""Epochs of a curve that are drawn, about."""
LAST: Final = 0.75
"""Share of the epochs after which a training is looked at for whether it still improves."""
CHANGE: Final = 0.02
"""Change of the validation NLL, relative, that counts as one."""
STATES: Final = ("improving", "past", "level")


def curves_figure(context: FigureContext) -> Figure | None:
    """Return the learning curves of three trials of each method, None without any curve."""
    states = convergence(context.curves)
    ended = context.trials.join(states, on="trial").filter(pl.col("val_nll").is_finite())
    searched = pl.col("stage") == "search"
    has_search = searched.any().over("method")
    # The Deep Ensemble is not searched: it has the single network's values.
    ended = ended.filter(pl.when(has_search).then(searched).otherwise(pl.lit(value=True)))
    if ended.is_empty():
        return None
    own = [m for m in context.methods if m in ended["method"].to_list()]
    first = next((a["method"] for a in context.arms.to_dicts() if a["role"] == "candidate"), own[0])
    own = [first, *(m for m in own if m != first)] if first in own else own
    frames = [_three(ended.filter(pl.col("method") == m)) for m in own]
    panels = {m: f"{title(m)}\n{_said(_counts(ended, m))}".replace("g, ", "g,\n") for m in own}
    rates = {m: f"{title(m)}\nlearning rate" for m in own}
    index = ["trial", "method", "rank", "end", "epoch"]
    step = (pl.col("epoch").max().over("trial") / DRAWN).ceil().cast(pl.Int32)
    drawn = (pl.col("epoch") % step == 0) | pl.col("val_nll").is_not_null()
    rows = (
        pl.concat(frames)
        .join(context.curves.filter(drawn), on="trial", maintain_order="left")
        .unpivot([*METRICS, SCHEDULE], index=index, variable_name="metric")
        .filter(pl.col("value") > 0)  # The axis is logarithmic.
        .with_columns(
            panel=pl.when(pl.col("metric") == SCHEDULE)
            .then(pl.col("method").replace_strict(rates))
            .otherwise(pl.col("method").replace_strict(panels))
        )
        .sort(pl.col("metric") == SCHEDULE, maintain_order=True)
    )
    return Figure(
        "curves",
        "Training",
        _claim(title(own[0]), _counts(ended, own[0])),
        f"{len(ended)} complete trials, of the search where the method has one; validation NLL of "
        "the ensemble at a few epochs, on up to 1,000 examples; of members that are trained one "
        "after another, the mean of their own. Values of 0 and below are not drawn.",
        curves_chart(rows, context.methods),
        choices=tuple(METRICS.items()),
        legend=("solid: best", "dashed: median", "dotted: worst"),
    )


def convergence(curves: pl.DataFrame) -> pl.DataFrame:
    """Return trial and state: whether its validation NLL fell until the end, or rose before.

    Trials that were looked at once have none.

    ``improving``: over the last quarter of the epochs it fell by more than 2 %; ``past``: its least
    value lies more than 2 % below its last; else ``level``.
    """
    looks = curves.drop_nulls("val_nll").filter(pl.len().over("trial") > 1).sort("trial", "epoch")
    late = pl.col("epoch") > LAST * pl.col("epoch").max()
    found = looks.group_by("trial", maintain_order=True).agg(
        last=pl.col("val_nll").last(),
        least=pl.col("val_nll").min(),
        before=pl.coalesce(
            pl.col("val_nll").filter(~late).last(), pl.col("val_nll").filter(late).first()
        ),
    )
    state = (
        pl.when(pl.col("least") < (1 - CHANGE) * pl.col("last"))
        .then(pl.lit("past"))
        .when(pl.col("last") < (1 - CHANGE) * pl.col("before"))
        .then(pl.lit("improving"))
        .otherwise(pl.lit("level"))
    )
    return found.select("trial", state=state)


def _three(trials: pl.DataFrame) -> pl.DataFrame:
    """Return trial, method, end (final validation NLL) and rank of the best, median and worst."""
    ordered = trials.sort("val_nll", "trial")
    places = dict.fromkeys((0, len(ordered) // 2, len(ordered) - 1))
    own = ordered.select("trial", "method", end="val_nll")[list(places)]
    ranks = RANKS if len(places) == len(RANKS) else (RANKS[0], RANKS[-1])[: len(places)]
    return own.with_columns(rank=pl.Series(ranks))


def _counts(ended: pl.DataFrame, method: str) -> dict[str, int]:
    """Return how many of a method's trials are in which state."""
    states = ended.filter(pl.col("method") == method)["state"].to_list()
    return {state: states.count(state) for state in STATES}


def _said(counts: dict[str, int]) -> str:
    total = sum(counts.values())
    return f"{counts['improving']} of {total} still improving, {counts['past']} past their best"


def _claim(name: str, counts: dict[str, int]) -> str:
    total = sum(counts.values())
    if counts["improving"] > total / 2:
        return f"Most trials of {name} were still improving when training ended: {_said(counts)}"
    if counts["past"] > total / 2:
        return f"Most trials of {name} were trained past their best: {_said(counts)}"
    return f"Of {total} trials of {name} {counts['level']} had converged: {_said(counts)}"


def curves_chart(rows: Frame, methods: list[str]) -> Facets:
    """Draw learning curves, a panel for each method, and one for its learning rate.

    Args:
        rows: trial, method, panel, rank, end (final validation NLL, nats), epoch, metric, value.
        methods: Domain of colour.
    """
    dash = alt.Scale(domain=list(RANKS), range=[[1, 0], [5, 3], [1, 3]])
    tips = [("rank", "Trial", ""), ("trial", "Id", ""), ("epoch", "Epoch", "d")]
    tips += [("value", "Value", ".4~g"), ("end", "Final NLL", ".4f")]
    base = (
        alt.Chart()
        .transform_filter(f"datum.metric==metric||datum.metric=='{SCHEDULE}'")
        .encode(
            x=alt.X("epoch:Q", title="epoch", axis=alt.Axis(grid=False, tickCount=5, format="d")),
            color=encodings.colour(methods),
            detail="trial:N",
        )
    )
    y = alt.Y(
        "value:Q",
        title="",
        scale=alt.Scale(type="log", nice=False, padding=6),
        # Labels of one width keep the panels of two rows below one another.
        axis=alt.Axis(
            tickCount=5, minExtent=40, labelExpr="format(datum.value,datum.value<1e-3?'~e':'~g')"
        ),
    )
    chart = alt.layer(
        base.mark_line(size=1.8).encode(
            y=y, strokeDash=alt.StrokeDash("rank:N", scale=dash, legend=None)
        ),
        base.mark_point(filled=True, size=40, opacity=0).encode(y=y, tooltip=encodings.tips(tips)),
    ).add_params(alt.param(name="metric", value=next(iter(METRICS))))
    columns = min(MOST, rows["method"].n_unique())
    return encodings.panels(chart, rows, columns=columns, least=200, height=150, free=("y",))
