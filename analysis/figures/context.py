"""What every figure is drawn from, and what a figure is."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from string import ascii_uppercase
from typing import Any, Final

import altair as alt
import numpy as np
import polars as pl
from scipy import stats

from analysis.data.curves import curves
from analysis.data.geometry import geometry
from analysis.data.roles import CONTROLS, FAMILIES
from analysis.data.run import Run
from analysis.data.search_space import Space, spaces
from analysis.figures.encodings import Chart
from analysis.measures.measure import Measures
from analysis.verdict.schema import BOUNDS, Arm, Effect, Protocol, Verdict
from analysis.verdict.wording import names

SHOWN: Final = 40
"""Candidates in what only describes."""
OTHERS: Final = {
    "negative_control": ("−", "Negative control"),
    "positive_control": ("+", "Positive control"),
    "single": ("S", "Single network"),
}


@dataclass(frozen=True)
class FigureContext:
    """What every figure draws from.

    Attributes:
        measures: Frames of the confirm stage.
        trials: All trial rows.
        curves: Learning curves (see ``analysis.data.curves``); empty if none was stored.
        geometry: Where members lie (see ``analysis.data.geometry``); empty if it was not stored.
        arms: arm, tag, label, method, role, members, reference, verdict; best candidate first, then
            comparisons, controls, anchors.
        verdict: What was decided.
        recovery: arm, endpoint, panel, estimate, low, high, low_wide, high_wide, single, deep (the
            scale's ends in the endpoint's unit), against the tuned anchors.
        own: The same against anchors with an arm's own hyperparameters.
        equivalents: arm, members, low, high: the size of the Deep Ensemble that is as good in
            calibrated NLL; null where none in the pool is.
        methods: Domain of colour: deep_ensemble, single, then the others by name.
        margin: Half width of the band around the single network.
        primary: The first endpoint of performance on which there is a recovery, or None.
        levels: What the intervals of recovery cover, in words: the one that decides, the wider one.
        spaces: What was searched, candidates first; none if that is not known.
    """

    measures: Measures
    trials: pl.DataFrame
    curves: pl.DataFrame
    geometry: pl.DataFrame
    arms: pl.DataFrame
    verdict: Verdict
    recovery: pl.DataFrame
    own: pl.DataFrame
    equivalents: pl.DataFrame
    methods: list[str]
    margin: float
    primary: str | None
    levels: tuple[str, str]
    spaces: Sequence[Space] = ()

    def judged(self) -> pl.DataFrame:
        """Return the arms that have a recovery, best candidate first."""
        return self.arms.filter(pl.col("arm").is_in(self.recovery["arm"].unique().to_list()))

    def without_tail(self, arms: pl.DataFrame) -> pl.DataFrame:
        """Return the arms but for candidates beyond the first ``SHOWN``."""
        late = self.arms.filter(pl.col("role") == "candidate")["arm"].to_list()[SHOWN:]
        return arms.filter(~pl.col("arm").is_in(late))

    @property
    def tail(self) -> str:
        """What is left out, in words; nothing where all is shown."""
        number = self.verdict.counts.candidates
        return f" The first {SHOWN} of {number} configurations." if number > SHOWN else ""

    def judged_all(self) -> pl.DataFrame:
        """Return the arms that were judged, whether or not anything could be measured."""
        return self.arms.filter(pl.col("verdict") != "reference")

    def cut(self, shown: int) -> tuple[str, ...]:
        """Return a line on how many of the judged arms a figure shows; none where all."""
        total = len(self.judged())
        line = (
            f"the first {shown} of {total} configurations and controls; All metrics has the others"
        )
        return (line,) if total > shown else ()

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

    def anchors(self) -> pl.DataFrame:
        """Return the single network, and the Deep Ensemble beside the first judged arm."""
        own = self.arms.filter(pl.col("arm").is_in(["single", self.lead()["reference"]]))
        return own.sort("role", descending=True)

    def baselines(self) -> pl.DataFrame:
        """Return the anchors of all sizes with their ``estimate``: 0 and 1 by construction."""
        single = pl.col("role") == "single"
        return self.arms.filter(verdict="reference").with_columns(
            estimate=pl.when(single).then(0.0).otherwise(1.0)
        )


@dataclass(frozen=True)
class Figure:
    """One figure.

    ``choices`` are the values of its parameter ``metric``; ``legend`` says what its marks are;
    one that is ``folded`` shows its title alone until it is opened.

    How to read it stands in ``how_to_read.html.j2`` under its ``key``.
    """

    key: str
    section: str
    claim: str
    sample: str
    chart: Chart
    wide: bool = True
    choices: tuple[tuple[str, str], ...] = ()
    legend: tuple[str, ...] = ()
    folded: bool = False

    def spec(self) -> dict[str, Any]:
        """Return the chart as Vega-Lite; figures bound what they draw, not Altair its rows.

        Tests, not every page, check it against the schema.
        """
        with alt.data_transformers.disable_max_rows():
            found: dict[str, Any] = self.chart.to_dict(validate=False)
        return found


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


def said(arm: Mapping[str, Any]) -> str:
    """Return what a claim calls an arm: a baseline in words, a configuration by its letter."""
    words = {"single": "single network", "deep_ensemble": "Deep Ensemble"}
    return words.get(arm["role"], str(arm["tag"]))


def figure_context(run: Run, measures: Measures, verdict: Verdict) -> FigureContext:
    """Put names, order and recovery to the arms that were judged."""
    protocol = verdict.protocol
    seen = set(run.trials["method"].to_list()) - {"deep_ensemble", "single"}
    methods = ["deep_ensemble", "single", *sorted(seen)]
    recovery = _recoveries(protocol, {arm.arm: arm.endpoints for arm in verdict.arms})
    own = {a.arm: a.own.endpoints for a in verdict.arms if a.own and a.own.single != "single"}
    known = set(recovery["endpoint"])
    performance = [key for key, kind in protocol.kinds.items() if kind == "performance"]
    return FigureContext(
        measures=measures,
        trials=run.trials,
        curves=curves(run),
        geometry=geometry(run),
        arms=_arms(verdict),
        verdict=verdict,
        recovery=recovery,
        own=_recoveries(protocol, own),
        equivalents=_equivalents(verdict),
        methods=methods,
        margin=protocol.delta,
        primary=next((key for key in performance if key in known), None),
        levels=(f"{100 * protocol.level:g} %", f"{100 * protocol.level_wide:g} %"),
        spaces=() if run.given else spaces(run.folder),
    )


def _recoveries(protocol: Protocol, effects: Mapping[str, Mapping[str, Effect]]) -> pl.DataFrame:
    """Return the frame of recoveries, in the order of endpoints and arms."""
    rows = [
        {"arm": arm, "endpoint": key, "panel": label, "estimate": effect.recovery}
        | {name: getattr(effect, name) for name in BOUNDS}
        | {"single": effect.single, "deep": effect.deep_ensemble}
        for key, label in protocol.labels.items()
        for arm, own in effects.items()
        if (effect := own.get(key)) and effect.recovery is not None
    ]
    columns = dict.fromkeys(("arm", "endpoint", "panel"), pl.String) | dict.fromkeys(
        ("estimate", *BOUNDS, "single", "deep"), pl.Float64
    )
    return pl.DataFrame(rows, schema=columns)


def _arms(verdict: Verdict) -> pl.DataFrame:
    """Return one row per judged arm, best candidate first, then the anchors."""
    rows: list[tuple[str | int, ...]] = []
    every = (letters for n in (1, 2) for letters in product(ascii_uppercase, repeat=n))
    tags, called = map("".join, every), names(verdict.arms)
    for arm in sorted(verdict.arms, key=lead_order):
        tag, name = OTHERS.get(arm.role) or (next(tags), called[arm.arm])
        row = (arm.arm, tag, name, arm.method, arm.role, arm.reference, arm.verdict, arm.members)
        rows.append(row)
    sizes = sum(anchor.role == "deep_ensemble" for anchor in verdict.anchors)
    for one in verdict.anchors:
        tag, name = OTHERS["single"]
        if one.role == "deep_ensemble":
            tag, name = f"DE{one.members}" if sizes > 1 else "DE", f"Deep Ensemble of {one.members}"
        rows.append((one.arm, tag, name, one.role, one.role, one.arm, "reference", one.members))
    texts = ("arm", "tag", "label", "method", "role", "reference", "verdict")
    columns = dict.fromkeys(texts, pl.String) | {"members": pl.Int64}
    frame = pl.DataFrame(rows, schema=columns, orient="row")
    return frame.with_columns(label=pl.format("{} · {}", "tag", "label"))


def _equivalents(verdict: Verdict) -> pl.DataFrame:
    """Return each arm's Deep Ensemble equivalent (see ``FigureContext``)."""
    rows = [
        (arm.arm, found.members, found.low, found.high)
        for arm in verdict.arms
        if (found := arm.equivalent)
    ]
    columns = {"arm": pl.String} | dict.fromkeys(("members", "low", "high"), pl.Float64)
    return pl.DataFrame(rows, schema=columns, orient="row")


def lead_order(arm: Arm) -> tuple[int, bool, bool]:
    """Return the sort key that puts what escapes first and what is not whole last of its role."""
    return (*FAMILIES, *CONTROLS).index(arm.role), arm.verdict != "escapes", arm.failed > 0
