"""The list of all trials, which the page draws when it is opened."""

import json
from collections.abc import Mapping, Sequence
from typing import Any, Final

import polars as pl

from analysis.data.search_space import Space, flatten
from analysis.figures.context import FigureContext
from analysis.report.html import pack
from analysis.text.names import title
from analysis.text.numbers import number, plain

MOST: Final = 3000
"""Trials in the list; the search's come last, so that what was confirmed is always there."""
STAGES: Final = ("confirm", "pilot", "anchor", "rescore", "search")
RESULTS: Final = {
    "val_nll": ("Validation NLL", 4),
    "val_shift_nll": ("Shifted", 4),
    "val_gain": ("Gain", 4),
    "val_accuracy": ("Accuracy", 3),
    "seconds": ("Seconds", 1),
}


def trial_list(context: FigureContext) -> dict[str, Any]:
    """Return the trials, by column, and the learning curve of each.

    Returns:
        ``titles`` and ``numeric`` of the columns; ``rows``: what each shows, by column as
        ``html.pack`` has it; ``curves``: trial -> epochs and validation NLLs; ``note``.
    """
    order = pl.col("stage").cast(pl.Enum(STAGES))
    trials = context.trials.sort(order, "method", "finished", "trial")
    shown = trials.head(MOST)
    spaces = {space.method: space for space in context.spaces}
    rows = []
    for trial in shown.iter_rows(named=True):
        stage, role = trial["stage"], trial["role"].replace("_", " ")
        stage = f"{stage}, {role}" if stage == "confirm" else stage
        about = (trial["trial"], stage, title(trial["method"]))
        settings = trial["name"] or _settings(spaces.get(trial["method"]), trial["spec"])
        ended = (
            trial["status"] if trial["reason"] is None else f"{trial['status']}: {trial['reason']}"
        )
        results = [
            number(trial[name], digits) if trial[name] is not None else ""
            for name, (_, digits) in RESULTS.items()
        ]
        rows.append([*about, settings, ended, *results])
    titles = ["Trial", "Stage", "Method", "Settings", "Status"]
    titles += [name for name, _ in RESULTS.values()]
    keyed = [dict(zip(titles, row, strict=True)) for row in rows]
    cut = f" The first {MOST} of {len(trials)}." if len(trials) > MOST else ""
    return {
        "titles": titles,
        "numeric": [name for name, _ in RESULTS.values()],
        "rows": pack(keyed),
        "curves": _looks(context.curves, shown["trial"].to_list()),
        "note": f"{len(trials)} trials of every stage.{cut}",
    }


def _settings(space: Space | None, spec: str | None) -> str:
    """Return what was searched of a trial, in words."""
    content: Mapping[str, Any] = json.loads(spec or "{}")
    if space is None or not content:
        return ", ".join(f"{key} {plain(value)}" for key, value in flatten(spec or "{}").items())
    active = space.active(content)
    return ", ".join(f"{key.partition('.')[2]} {plain(v)}" for key, (_, v) in active.items())


def _looks(curves: pl.DataFrame, trials: Sequence[str]) -> dict[str, list[list[float]]]:
    """Return epochs and validation NLLs of each trial that has a curve."""
    looks = curves.filter(pl.col("trial").is_in(trials)).drop_nulls("val_nll")
    found = looks.group_by("trial", maintain_order=True).agg(
        "epoch", pl.col("val_nll").round_sig_figs(4)
    )
    return {trial: [epochs, losses] for trial, epochs, losses in found.iter_rows()}
