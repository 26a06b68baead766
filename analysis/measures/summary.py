"""Every measure of every arm, in numbers: what the endpoints leave out. Nothing here is tested."""

from datetime import timedelta
from typing import NamedTuple

from analysis.measures.columns import METRICS
from analysis.measures.measure import Measures
from analysis.verdict.schema import Mean

Means = dict[str, dict[str, Mean]]


def summarise_measures(measures: Measures) -> Means:
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
