"""The search: its history, and how much of the declared space it tried.

Descriptive: the trials were proposed from one another's results, on one seed and validation data.
"""

import json
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import altair as alt
import numpy as np
import polars as pl

from analysis.data.search_space import Domain, Space
from analysis.figures import encodings
from analysis.figures.context import Figure, FigureContext
from analysis.figures.encodings import Facets, Frame
from analysis.text.names import title
from study.errors import StudyError


def history_figure(context: FigureContext) -> Figure | None:
    """Return the figure of the search's history, None without a complete trial."""
    rows, top = history(context.trials)
    if rows.is_empty():
        return None
    rows = rows.with_columns(panel=pl.col("method").map_elements(title, pl.String))
    complete = rows.drop_nulls("counted")
    best = complete.sort("counted").row(0, named=True)
    total = len(rows.filter(pl.col("method") == best["method"]))
    kept = ["trial", "method", "panel", "order", "val_nll", "best", "shown", "kind"]
    return Figure(
        "history",
        "Search",
        f"The best validation NLL ({best['counted']:.3f}) came at trial {best['order']} of the "
        f"{total} of {best['panel']}",
        f"{len(rows)} search trials, {len(complete)} complete; one seed each, validation data "
        "only: the line is optimistic, hence the confirmation on fresh seeds.",
        history_chart(rows.select(kept), context.methods, top),
        legend=(
            "\u25cf trial, one seed",
            "\u2500 best so far",
            "\u00d7 pruned, diverged, failed or beyond the frame",
        ),
        folded=True,
    )


def history(trials: pl.DataFrame) -> tuple[pl.DataFrame, float]:
    """Return search trials in order of finishing with the best so far, and the frame's top.

    Args:
        trials: Trial rows of any stage.

    Returns:
        trial, method, order (from 1, per method), val_nll, best, shown (where the mark stands),
        kind (status, or ``beyond the frame``); and the largest NLL to show: the best plus 2.5
        times its distance to the third quartile. No row if no trial is complete.
    """
    done = (pl.col("status") == "complete") & pl.col("val_nll").is_finite()
    searched = trials.filter(pl.col("stage") == "search").sort("finished", "trial")
    complete = searched.filter(done)["val_nll"].to_numpy()
    if complete.size == 0:
        return searched.clear(), 0.0
    best = float(complete.min())
    top = best + max(2.5 * (float(np.quantile(complete, 0.75)) - best), 1e-6)
    status = pl.col("status")
    rows = searched.with_columns(
        order=pl.int_range(1, pl.len() + 1).over("method"),
        counted=pl.when(done).then("val_nll"),
    ).with_columns(
        best=pl.col("counted").cum_min().forward_fill().over("method"),
        shown=pl.col("counted").fill_null(top).clip(upper_bound=top),
        kind=pl.when(pl.col("counted") > top).then(pl.lit("beyond the frame")).otherwise(status),
    )
    return rows.sort("method", "order"), top


def history_chart(rows: Frame, methods: Sequence[str], top: float) -> Facets:
    """Draw every search trial's validation NLL in order of finishing, and the best so far.

    Args:
        rows: trial, method, panel, order, val_nll, best, shown (val_nll or the frame's top), kind
            (complete, pruned, diverged, failed, beyond the frame).
        methods: Domain of colour and shape.
        top: Upper end of the frame.
    """
    bottom = min(rows["shown"].to_list())
    scale = alt.Scale(domain=[bottom, top], nice=False, padding=6)
    y = partial(alt.Y, title="validation NLL (nats)", scale=scale, axis=alt.Axis(tickCount=5))
    base = alt.Chart().encode(
        x=alt.X(
            "order:Q",
            title="trial",
            scale=alt.Scale(domain=[0, max(rows["order"].to_list())], nice=False, padding=3),
            axis=alt.Axis(grid=False, tickCount=5),
        ),
        color=encodings.colour(methods),
    )
    tips = [("trial", "Trial", ""), ("order", "Order", ""), ("val_nll", "NLL", ".4f")]
    tips += [("best", "Best so far", ".4f"), ("kind", "Status", "")]
    chart = alt.layer(
        base.transform_filter("datum.kind=='complete'")
        .mark_point(filled=True, size=28, opacity=0.45)
        .encode(y=y("shown:Q"), shape=encodings.shape(methods), tooltip=encodings.tips(tips)),
        base.transform_filter("datum.kind!='complete'")
        .mark_text(text="×", fontSize=14, baseline="middle")
        .encode(y=y("shown:Q"), tooltip=encodings.tips(tips)),
        base.mark_line(interpolate="step-after", size=2, clip=True).encode(y=y("best:Q")),
    )
    return encodings.panels(chart, rows, columns=3, least=250, height=230)


@dataclass
class SearchedParameter:
    """One parameter of one method as the search saw it: its domain and each active trial's value.

    Alternatives of a parameter that are all choices are one domain of all their choices; each
    range stands for itself.
    """

    method: str
    parameter: str
    domain: Domain
    values: list[Any] = field(default_factory=list)


def coverage_figure(context: FigureContext) -> Figure | None:
    """Return how much of its declared space the search tried."""
    done = (pl.col("stage") == "search") & (pl.col("status") == "complete")
    trials = context.trials.filter(done, pl.col("val_nll").is_finite()).sort("trial")
    rows = coverage(seen(context.spaces, trials))
    if rows.is_empty() or rows["trials"].sum() == 0:
        return None
    each = rows.unique(["method", "parameter"], keep="first", maintain_order=True)
    drawn = {space.method for space in context.spaces if space.candidate} & {*rows["method"]}
    drawn = drawn or {*rows["method"]}
    methods = encodings.order(each, "method")
    tried = {method: _tried(each.filter(pl.col("method") == method)) for method in methods}
    first = next(method for method in tried if method in drawn)
    own = each.filter(pl.col("method") == first).with_columns(
        share=pl.col("covered") / pl.col("slots")
    )
    least = own.sort("share", maintain_order=True).row(0, named=True)
    claim = (
        f"The search of {title(first)} tried {100 * tried[first]:.0f}\u00a0% of the parts of its "
        "declared ranges and choices"
    )
    if least["covered"] < least["slots"]:
        claim += f"; least of {least['parameter']}: {least['covered']} of {least['slots']}"
    counts = trials["method"].to_list()
    complete = ", ".join(f"{title(method)} {counts.count(method)}" for method in tried)
    others = ", ".join(
        f"{title(method)} {100 * share:.0f}\u00a0%"
        for method, share in tried.items()
        if method not in drawn
    )
    kept = ["panel", "parameter", "declared", "what", "trials", "low", "high", "share"]
    rows = rows.filter(pl.col("method").is_in(drawn)).with_columns(
        panel=pl.col("method").map_elements(title, pl.String),
        low=pl.col("slot") / pl.col("slots"),
        high=(pl.col("slot") + 1) / pl.col("slots"),
        share=pl.format("{}/{}", "covered", "slots"),
    )
    return Figure(
        "coverage",
        "Search",
        claim,
        f"Complete search trials: {complete}; a conditional parameter counts those in which it was "
        f"active. {f'Parts tried by the others: {others}. ' if others else ''}A null result speaks "
        "about this space alone, and each parameter is counted by itself: of their combinations "
        "far less was seen.",
        coverage_chart(rows.select(kept)),
        folded=True,
    )


def _tried(own: pl.DataFrame) -> float:
    return float(own["covered"].to_numpy().sum() / own["slots"].to_numpy().sum())


def seen(spaces: Sequence[Space], trials: pl.DataFrame) -> list[SearchedParameter]:
    """Return every parameter that could vary, in the order of the file.

    Args:
        spaces: As declared.
        trials: Complete search trials: trial, method, spec.
    """
    found: list[SearchedParameter] = []
    for space in spaces:
        own = {(key, n): SearchedParameter(space.method, *each) for key, n, each in _domains(space)}
        rows = trials.filter(pl.col("method") == space.method).select("trial", "spec")
        for trial, spec in rows.iter_rows():
            for key, (domain, value) in _active(space, trial, json.loads(spec)).items():
                at = (key, -1 if domain.choices else space.search[key].index(domain))
                if at in own:
                    own[at].values.append(value)
        found += own.values()
    return found


def _active(space: Space, trial: str, spec: dict[str, Any]) -> dict[str, tuple[Domain, Any]]:
    """Return domain and value of what is active in a trial, all of them within the domain."""
    try:
        found = space.active(spec)
        for domain, value in found.values():
            domain.position(value)
    except (KeyError, TypeError, ValueError) as error:
        raise StudyError(
            f"study.json: must be the study of the trials beside it, but trial {trial} of "
            f"{space.method} is not within its space ({error}); restore the file"
        ) from None
    return found


def _domains(space: Space) -> Iterator[tuple[str, int, tuple[str, Domain]]]:
    """Yield key, number (-1 for the choices) and name with domain, of all that can vary."""
    for key, domains in space.search.items():
        name = key.removeprefix("params.").removeprefix("training.")
        choices = tuple(dict.fromkeys(c for d in domains for c in d.choices))
        ranges = [(n, domain) for n, domain in enumerate(domains) if not domain.choices]
        if len(choices) > 1:
            label = f"{name} (choice)" if ranges else name
            yield key, -1, (label, Domain(choices, (0, 0), False, False, {}))
        for n, domain in ranges:
            yield key, n, (name if len(ranges) == 1 else f"{name} ({n + 1})", domain)


def coverage(parameters: Sequence[SearchedParameter]) -> pl.DataFrame:
    """Return how many trials fell into each slot of each parameter's declared domain.

    Returns:
        method, parameter, declared (range or choices in words), slot, what (the slot in words),
        trials, covered (slots with a trial), slots (of the domain).
    """
    rows = []
    for one in parameters:
        counts: dict[int, int] = defaultdict(int)
        for value in one.values:
            counts[one.domain.slot(value)] += 1
        common = {
            "method": one.method,
            "parameter": one.parameter,
            "declared": declared(one.domain),
            "covered": len(counts),
            "slots": one.domain.slots,
        }
        rows += [
            common | {"slot": slot, "what": _slot_text(one.domain, slot), "trials": counts[slot]}
            for slot in range(one.domain.slots)
        ]
    schema: dict[str, Any] = dict.fromkeys(("method", "parameter", "declared", "what"), pl.String)
    schema |= dict.fromkeys(("slot", "trials", "covered", "slots"), pl.Int64)
    return pl.DataFrame(rows, schema=schema)


def declared(domain: Domain) -> str:
    """Return a domain in words."""
    if domain.choices:
        return ", ".join(map(_text, domain.choices))
    low, high = map(_text, domain.bounds)
    return f"{low} to {high}{' (log)' if domain.log else ''}"


def _slot_text(domain: Domain, slot: int) -> str:
    if domain.choices:
        return _text(domain.choices[slot])
    if domain.stepped:
        return _text(domain.bounds[0] + slot)
    ends = (domain.at(slot / domain.slots), domain.at((slot + 1) / domain.slots))
    return " to ".join(f"{end:.3g}" for end in ends)


def _text(value: Any) -> str:
    if value is None:
        return "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:g}" if isinstance(value, int | float) else str(value)


def coverage_chart(rows: Frame) -> Facets:
    """Draw how many trials fell into each part of each parameter's declared domain.

    Args:
        rows: panel, parameter, declared, what (the part in words), trials, low, high (its ends,
            0 to 1), share (parts with a trial, in words).
    """
    rows, most = _aligned(rows)
    y = alt.Y("_row:N", sort=encodings.order(rows, "_row"), title=None, axis=alt.Axis(grid=False))
    axis = alt.Axis(
        values=[0, 1], grid=False, labelFlush=True, labelExpr="datum.value?'highest, last':'lowest'"
    )
    scale = alt.Scale(domain=[0, 1.17], nice=False)
    x = partial(alt.X, title="declared range or choices", scale=scale, axis=axis)
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
            x=x("_from:Q"),
            x2="_to:Q",
            color=alt.Color("trials:Q", scale=alt.Scale(domainMin=0), legend=legend),
            tooltip=encodings.tips(tips),
        ),
        base.transform_filter("datum.trials==0")
        .transform_calculate(_middle="(datum.low+datum.high)/2")
        .mark_text(style="quiet", baseline="middle")
        .encode(x=x("_middle:Q"), text=alt.value("0"), tooltip=encodings.tips(tips)),
        base.transform_filter("datum.low==0")
        .transform_calculate(_end="1.03")
        .mark_text(style="quiet", align="left", baseline="middle")
        .encode(x=x("_end:Q"), text="share:N"),
    )
    return encodings.panels(chart, rows, columns=2, least=300, height=21 * most, free=("y",))


def _aligned(rows: Frame) -> tuple[Frame, int]:
    """Give every panel as many rows (column ``_row``), empty ones last, and return how many.

    Unseen marks keep the rows of two panels apart, so that each panel has its own order.
    """
    names = {
        panel: encodings.order(own, "parameter")
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
