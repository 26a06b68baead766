"""The table of all measures, in numbers; nothing here is tested."""

from typing import Final

import polars as pl

from analysis.figures.context import FigureContext
from analysis.measures.columns import METRICS, Metric
from analysis.measures.summary import Means, Row, Table
from analysis.verdict.schema import Mean

MINUS: Final = "\u2212"
DIGITS: Final = 4
"""Significant digits of a number on the page."""
ZERO: Final = 5e-5
"""What is nearer to nought is shown as 0."""
NOT_SHOWN: Final = frozenset({"chance_nll"})
"""Measures of the data, not of an arm; they stand in ``verdict.json``."""


def table(context: FigureContext, found: Means) -> Table | None:
    """Return the page's table, None before there is one."""
    arms = context.without_tail(context.arms.filter(pl.col("arm").is_in(list(found))))
    rows = [
        Row(name, _about(metric), cells)
        for name, metric in METRICS.items()
        if name not in NOT_SHOWN
        and any(cells := [cell(found[arm].get(name)) for arm in arms["arm"]])
    ]
    return Table(list(arms["tag", "label"].iter_rows()), rows) if rows else None


def _about(metric: Metric) -> str:
    better = {"none": "", "(more)": "higher is more diverse", "(less)": "lower is more diverse"}
    said = better.get(metric.better, f"{metric.better} is better")
    return "; ".join(part for part in (metric.meaning, metric.unit, said) if part)


def cell(value: Mean | None) -> tuple[str, str] | None:
    """Return mean and standard deviation as text."""
    return None if value is None else (_digits(value.mean), _digits(value.sd))


def _digits(value: float | None) -> str:
    if value is None:
        return ""
    if abs(value) < ZERO:
        return "0"
    power = int(f"{value:.{DIGITS - 1}e}".partition("e")[2])
    return f"{value:.{max(0, DIGITS - 1 - power)}f}".replace("-", MINUS)
