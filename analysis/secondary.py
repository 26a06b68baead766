"""Every measure of every arm, in numbers: what the endpoints leave out. Nothing here is tested."""

from datetime import timedelta
from typing import Final, NamedTuple

import polars as pl

from analysis.columns import METRICS, Metric
from analysis.measure import Measures
from analysis.scene import Scene
from analysis.verdict import Mean

Means = dict[str, dict[str, Mean]]

MINUS: Final = "\u2212"
DIGITS: Final = 4
"""Significant digits of a number on the page."""
ZERO: Final = 5e-5
"""What is nearer to nought is shown as 0."""
NOT_SHOWN: Final = frozenset({"chance_nll"})
"""Measures of the data, not of an arm; they stand in ``verdict.json``."""


def secondary(measures: Measures) -> Means:
    """Return arm -> metric -> mean, deviation (null for one run) and number over seeds.

    A metric that is not defined for an arm is left out.
    """
    found: Means = {}
    for (arm,), own in measures.replicates.sort("arm", "replicate").group_by(
        "arm", maintain_order=True
    ):
        columns = {name: own[name].drop_nulls() for name in METRICS if name in own.columns}
        found[str(arm)] = {
            name: Mean(mean=mean, sd=sd, n=len(values))
            for name, values in columns.items()
            for mean, sd in [(values.mean(), values.std())]
            if isinstance(mean, float) and not isinstance(sd, timedelta)
        }
    return found


class Row(NamedTuple):
    """One metric, with mean and standard deviation as text for every arm that has it."""

    name: str
    about: str
    cells: list[tuple[str, str] | None]


class Table(NamedTuple):
    """Columns (tag and label of an arm) and rows of the page's table."""

    columns: list[tuple[str, str]]
    rows: list[Row]


def table(scene: Scene, found: Means) -> Table | None:
    """Return the page's table, None before there is one."""
    arms = scene.arms.filter(pl.col("arm").is_in(list(found)))
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
