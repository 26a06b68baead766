"""Every measure of every arm, in numbers: what the endpoints leave out. Nothing here is tested."""

from typing import Any, Final

import polars as pl

from analysis.columns import METRICS, Metric
from analysis.measure import Measures
from analysis.scene import Scene

Json = dict[str, Any]

MINUS: Final = "\u2212"
DIGITS: Final = 4
"""Significant digits of a number on the page."""
ZERO: Final = 5e-5
"""What is nearer to nought is shown as 0."""
NOT_SHOWN: Final = frozenset({"chance_nll"})
"""Measures of the data, not of an arm; they stand in ``verdict.json``."""


def secondary(measures: Measures) -> Json:
    """Return arm -> metric -> ``mean``, ``sd`` (null for one run) and ``n`` over seeds.

    A metric that is not defined for an arm is left out.
    """
    found: Json = {}
    for (arm,), own in measures.replicates.sort("arm", "replicate").group_by(
        "arm", maintain_order=True
    ):
        columns = {name: own[name].drop_nulls() for name in METRICS if name in own.columns}
        found[str(arm)] = {
            name: {"mean": values.mean(), "sd": values.std(), "n": len(values)}
            for name, values in columns.items()
            if len(values)
        }
    return found


def table(scene: Scene, found: Json) -> Json | None:
    """Return columns (arms) and rows (metrics) of the page's table, None before there is one."""
    arms = scene.arms.filter(pl.col("arm").is_in(list(found)))
    rows = [
        {"name": name, "about": _about(metric), "cells": cells}
        for name, metric in METRICS.items()
        if name not in NOT_SHOWN
        and any(cells := [cell(found[arm].get(name)) for arm in arms["arm"]])
    ]
    columns = [{"tag": tag, "label": label} for tag, label in arms["tag", "label"].iter_rows()]
    return {"columns": columns, "rows": rows} if rows else None


def _about(metric: Metric) -> str:
    better = {"none": "", "(more)": "higher is more diverse", "(less)": "lower is more diverse"}
    said = better.get(metric.better, f"{metric.better} is better")
    return "; ".join(part for part in (metric.meaning, metric.unit, said) if part)


def cell(value: Json | None) -> Json | None:
    """Return mean and standard deviation as text."""
    if value is None:
        return None
    text, spread = (_digits(value[key]) for key in ("mean", "sd"))
    return {"text": text, "spread": spread}


def _digits(value: float | None) -> str:
    if value is None:
        return ""
    if abs(value) < ZERO:
        return "0"
    power = int(f"{value:.{DIGITS - 1}e}".partition("e")[2])
    return f"{value:.{max(0, DIGITS - 1 - power)}f}".replace("-", MINUS)
