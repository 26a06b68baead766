"""What every figure is drawn from, and what a figure is."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl
from scipy import stats

from analysis.charts import Chart
from analysis.declared import Space
from analysis.measure import Measures


@dataclass(frozen=True)
class Scene:
    """What every figure draws from.

    Attributes:
        measures: Frames of the confirm stage.
        trials: All trial rows.
        geometry: Where members lie (see ``analysis.geometry``); empty if it was not stored.
        arms: arm, tag, label, method, role, members, reference, verdict; best candidate first, then
            comparisons, controls, anchors.
        recovery: arm, endpoint, panel, estimate, low, high, low_wide, high_wide; primary endpoints.
        equivalents: arm, members, low, high: the size of the Deep Ensemble that is as good in
            calibrated NLL; null where none in the pool is.
        methods: Domain of colour: deep_ensemble, single, then the others by name.
        titles: Method -> readable name.
        margin: Half width of the band around the single model.
        primary: The first endpoint of performance on which there is a recovery, or None.
        levels: What the intervals of recovery cover, in words: the one that decides, the wider one.
        tally: How many candidates escape, track, stay open, in words.
        spaces: What was searched, candidates first; none if that is not known.
    """

    measures: Measures
    trials: pl.DataFrame
    geometry: pl.DataFrame
    arms: pl.DataFrame
    recovery: pl.DataFrame
    equivalents: pl.DataFrame
    methods: list[str]
    titles: dict[str, str]
    margin: float
    primary: str | None
    levels: tuple[str, str]
    tally: str
    spaces: Sequence[Space] = ()

    def judged(self) -> pl.DataFrame:
        """Return the arms that have a recovery, best candidate first."""
        return self.arms.filter(pl.col("arm").is_in(self.recovery["arm"].unique().to_list()))

    def lead(self) -> dict[str, Any]:
        """Return the first candidate, or the first judged arm if there is no candidate."""
        return self.judged().row(0, named=True)

    def seeds(self, arms: Sequence[str]) -> str:
        """Return how many replicates the arms have: one number, or the range."""
        replicates = self.measures.replicates.filter(pl.col("arm").is_in(arms))
        counts = replicates.group_by("arm").len()["len"].to_list()
        least, most = min(counts), max(counts)
        return f"{most}" if least == most else f"{least} to {most}"

    def axis(self) -> str:
        """Return the title of an axis of recovery on the primary endpoint."""
        own = self.recovery.filter(pl.col("endpoint") == self.primary)
        return f"recovery, {own['panel'][0]}"

    def estimate(self, arm: str) -> float | None:
        """Return the recovery of ``arm`` on the primary endpoint."""
        found = self.recovery.filter((pl.col("arm") == arm) & (pl.col("endpoint") == self.primary))
        return found["estimate"].item() if len(found) else None


@dataclass(frozen=True)
class Figure:
    """One figure.

    ``choices`` are the values of its parameter ``metric``; ``slider`` names a parameter from 0 to 1
    that the reader sets, what stands before it, and where it stands at first.

    How to read it stands in ``reading.html.j2`` under its ``key``.
    """

    key: str
    section: str
    claim: str
    sample: str
    chart: Chart
    wide: bool = True
    choices: tuple[tuple[str, str], ...] = ()
    slider: tuple[str, str, float] | None = None


def over_seeds(rows: pl.DataFrame, by: Sequence[str], value: str) -> pl.DataFrame:
    """Return mean, low, high (95 % t-interval over the rows) and n of ``value`` per group."""
    frame = (
        rows.drop_nulls(value)
        .group_by(by, maintain_order=True)
        .agg(mean=pl.col(value).mean(), sd=pl.col(value).std(), n=pl.len())
    )
    half = np.array(
        [
            float(stats.t.ppf(0.975, n - 1)) * sd / n**0.5 if n > 1 and sd is not None else np.nan
            for sd, n in frame.select("sd", "n").iter_rows()
        ]
    )
    return frame.with_columns(half=pl.Series(half, dtype=pl.Float64).fill_nan(None)).with_columns(
        low=pl.col("mean") - pl.col("half"), high=pl.col("mean") + pl.col("half")
    )
