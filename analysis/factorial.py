"""Which factors decide recovery, in a published factorial: ``python -m analysis.factorial``.

    python -m analysis.factorial why_mnist1d params.init params.fast_decay backbone.width
    python -m analysis.factorial      # compute all published effects again, and compare

A factorial crosses a few settings; every cell is a configuration. Recovery is that against each
cell's own anchors, which are trained with the same backbone and hyperparameters. A main effect is
the mean recovery over all cells of one level less that over all cells of another; the interaction
of the first two factors is shown as the mean of each pair of their levels. Intervals are 95 %
percentiles of a bootstrap over seeds, of n seeds n - 1 at a time (Rao & Wu 1988): cells are drawn
anew each by itself, anchors once for all cells that share them, and Deep Ensembles of several sizes
at the seeds of their pool. They hold for training seeds and the data at hand, and are not corrected
for the number of effects.
"""

import argparse
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any, Final

import altair as alt
import numpy as np
import numpy.typing as npt
import polars as pl

from analysis.data.files import write
from analysis.data.protocol import ENDPOINTS
from analysis.data.roles import arm_key
from analysis.figures import encodings
from analysis.figures.theme import colours
from analysis.publication import RESULTS, read_frame
from analysis.stats.resampling import seed_weights
from analysis.verdict.arms import pool_of
from study.errors import StudyError

LEVEL: Final = 0.95
EFFECTS: Final = "effects.csv"
DIGITS: Final = 4
"""Decimals of the published effects."""
COLUMNS: Final = (
    "endpoint",
    "kind",
    "factor",
    "level",
    "against",
    "cells",
    "estimate",
    "low",
    "high",
)
Floats = npt.NDArray[np.float64]
Levels = tuple[str, ...]


@dataclass(frozen=True)
class Cell:
    """A configuration of the factorial: its arm, its levels, and its own anchors' arms."""

    arm: str
    levels: Levels
    single: str
    deep_ensemble: str


def effects(folder: Path, factors: Sequence[str]) -> pl.DataFrame:
    """Return means, main effects and the first two factors' interaction.

    Args:
        folder: A published result.
        factors: Dotted keys of a configuration, as ``params.init``.

    Returns:
        endpoint, kind (``mean`` of a level, ``effect`` of one level against another, ``pair`` of
        two factors' levels), factor, level, against, cells (how many), estimate, low, high (in
        units of recovery).

    Raises:
        StudyError: When the folder is no published result, or the cells are no factorial.
    """
    cells = read_cells(folder, factors)
    replicates = read_frame(folder, "replicates")
    endpoints = _json(folder, "verdict.json")["protocol"]["endpoints"]
    rows: list[tuple[Any, ...]] = []
    for endpoint in endpoints:
        means = Means(replicates, endpoint)
        recovery = {cell.levels: means.recovery(cell) for cell in cells}
        rows += [(endpoint, *row) for row in _rows(recovery, factors)]
    return pl.DataFrame(rows, schema=list(COLUMNS), orient="row")


def read_cells(folder: Path, factors: Sequence[str]) -> list[Cell]:
    """Return the candidates of a published plan with their levels.

    Raises:
        StudyError: Unless every combination of levels is there once.
    """
    own = {arm["arm"]: arm["own"] for arm in _json(folder, "verdict.json")["arms"]}
    cells = []
    for arm in _json(folder, "plan.json")["arms"]:
        if arm["role"] != "candidate":
            continue
        key = arm_key(arm["role"], arm["configuration"])
        levels = tuple(_level(arm["spec"], factor) for factor in factors)
        if not own.get(key):
            raise StudyError(
                f"{folder}: every configuration must be judged against anchors of its own, but "
                f"{key} is not; run the study with protocol.anchors=matched"
            )
        cells.append(Cell(key, levels, own[key]["single"], own[key]["deep_ensemble"]))
    every = {*product(*map(set, zip(*(cell.levels for cell in cells), strict=True)))}
    if len(cells) != len(every) or {cell.levels for cell in cells} != every:
        raise StudyError(
            f"{folder}: each of the {len(every)} combinations of {', '.join(factors)} must be one "
            f"configuration, but there are {len(cells)}; name all factors, and no other"
        )
    return cells


def _json(folder: Path, name: str) -> dict[str, Any]:
    try:
        found: dict[str, Any] = json.loads((folder / name).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise StudyError(f"{folder}: must be a published result, but {name}: {error}") from None
    return found


def _level(spec: Mapping[str, Any], factor: str) -> str:
    section, _, name = factor.partition(".")
    try:
        return str(spec[section][name])
    except (KeyError, TypeError):
        raise StudyError(
            f"{factor}: a factor must be a key of the configurations, as params.init; fix it"
        ) from None


class Means:
    """Mean losses on one endpoint, as measured (first) and in each resample.

    Args:
        replicates: The measures of every replicate.
        endpoint: A column of theirs.
    """

    def __init__(self, replicates: pl.DataFrame, endpoint: str) -> None:
        self.endpoint = endpoint
        known = replicates.sort("replicate").group_by("arm", maintain_order=True)
        self.values = {str(arm): own[endpoint].to_numpy() for (arm,), own in known}
        self.sign = ENDPOINTS[endpoint].sign

    def of(self, arm: str) -> Floats:
        """Return the means of an arm, (1 + RESAMPLES,).

        Raises:
            StudyError: When it has less than two seeds, or one of them has no value.
        """
        values = self.values.get(arm, np.empty(0))
        n = len(values)
        if n < 2 or not np.isfinite(values).all():
            raise StudyError(
                f"arm {arm} must have two seeds or more, and {self.endpoint} of each, but has "
                f"{np.isfinite(values).sum()} of {n}; let the study end first"
            )
        # Sizes of a Deep Ensemble are made of the same runs.
        weights = seed_weights(n, "factorial", pool_of(arm), self.endpoint)
        return self.sign * np.concatenate([[values.mean()], weights @ values])

    def recovery(self, cell: Cell) -> Floats:
        """Return the recovery of a cell, (1 + RESAMPLES,); NaN where the gap is not shown."""
        single, deep = self.of(cell.single), self.of(cell.deep_ensemble)
        gap = single - deep
        # Where draws put the anchors in the wrong order, a ratio is without meaning.
        if (gap <= 0).mean() > (1 - LEVEL) / 2:
            return np.full_like(gap, np.nan)
        return (single - self.of(cell.arm)) / gap


def _rows(recovery: Mapping[Levels, Floats], factors: Sequence[str]) -> Iterator[tuple[Any, ...]]:
    """Yield kind, factor, level, against, cells, estimate, low, high."""

    def over(chosen: Mapping[int, str]) -> tuple[Floats, int]:
        own = [
            r for levels, r in recovery.items() if all(levels[n] == v for n, v in chosen.items())
        ]
        return np.mean(own, axis=0), len(own)

    for number, factor in enumerate(factors):
        levels = list(dict.fromkeys(key[number] for key in recovery))
        for level in levels:
            found, cells = over({number: level})
            yield "mean", factor, level, None, cells, *_summary(found)
        first, cells = over({number: levels[0]})
        for level in levels[1:]:
            found, _ = over({number: level})
            yield "effect", factor, level, levels[0], cells, *_summary(found - first)
    if len(factors) > 1:
        pairs = dict.fromkeys(key[:2] for key in recovery)
        for pair in pairs:
            found, cells = over(dict(enumerate(pair)))
            yield "pair", " × ".join(factors[:2]), " × ".join(pair), None, cells, *_summary(found)


def _summary(found: Floats) -> tuple[float, float, float]:
    tail = (1 - LEVEL) / 2
    low, high = np.quantile(found[1:], [tail, 1 - tail])
    return float(found[0]), float(low), float(high)


def chart(found: pl.DataFrame, labels: Mapping[str, str]) -> alt.FacetChart:
    """Return the mean recovery of every level with its interval, a panel for each endpoint."""
    rows = encodings.tidy(found.filter(pl.col("kind") != "effect")).with_columns(
        row=pl.format("{}: {}", pl.col("factor").str.replace_all(r"\w+\.", ""), pl.col("level")),
        panel=pl.col("endpoint").replace_strict(labels),
    )
    base = alt.Chart().encode(
        y=alt.Y("row:N", sort=rows["row"].unique(maintain_order=True).to_list(), title=None)
    )
    x = alt.X("estimate:Q", title="recovery against own anchors")
    chart = alt.layer(
        *(
            alt.Chart().mark_rule(strokeDash=[4, 3], color=colours()["ref"]).encode(x=alt.datum(at))
            for at in (0, 1)
        ),
        base.mark_rule(size=1.5).encode(x=alt.X("low:Q"), x2="high:Q"),
        base.mark_point(filled=True, size=60, opacity=1).encode(x=x),
    ).properties(width=230)
    facets: alt.FacetChart = chart.facet(
        alt.Facet("panel:N", title=None, sort=list(labels.values())), data=rows, columns=3
    ).resolve_scale(x="independent")
    return facets


def is_as_published(folder: Path) -> bool:
    """Tell whether the effects beside a published result are what today's code gives."""
    published = pl.read_csv(folder / EFFECTS)
    factors = published.filter(pl.col("kind") == "mean")["factor"].unique(maintain_order=True)
    # In the last of the digits written, machines may round differently.
    return within(published, effects(folder, factors.to_list()), 2 * 10**-DIGITS)


def within(published: pl.DataFrame, found: pl.DataFrame, tolerance: float) -> bool:
    """Tell whether two tables of effects have the same rows and, up to a tolerance, numbers."""
    numbers = ["estimate", "low", "high"]
    texts = [name for name in COLUMNS if name not in numbers]
    if published.columns != found.columns or not published[texts].equals(found[texts]):
        return False
    old, new = (frame[numbers].cast(pl.Float64).to_numpy() for frame in (published, found))
    return bool(np.allclose(old, new, rtol=0, atol=tolerance, equal_nan=True))


def compare_all() -> int:
    """Print of each published factorial whether it is as published; return the exit status."""
    published = sorted(RESULTS.glob(f"*/{EFFECTS}"))
    agree = {file.parent.name: is_as_published(file.parent) for file in published}
    for name, same in agree.items():
        print(f"{name}: effects {'as published' if same else 'differ from those published'}")
    return 0 if all(agree.values()) else 1


def main(arguments: Sequence[str] | None = None) -> int:
    """Write effects.csv and effects.svg beside a published result; return the exit status."""
    given = parser().parse_args(arguments)
    try:
        if given.name is None:
            return compare_all()
        if not given.factor:
            raise StudyError("factors must be given, but there are none; name dotted keys")
        folder = RESULTS / given.name
        found = effects(folder, given.factor)
        labels = _json(folder, "verdict.json")["protocol"]["labels"]
        write(folder / EFFECTS, found.write_csv(float_precision=DIGITS))
        chart(found, labels).save(folder / "effects.svg")
    except (StudyError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    shown = found.filter(pl.col("kind") == "effect")
    for row in shown.iter_rows(named=True):
        print(
            f"{row['endpoint']:>10}  {row['factor']}: {row['level']} against {row['against']}: "
            f"{row['estimate']:+.2f} [{row['low']:+.2f}, {row['high']:+.2f}]"
        )
    return 0


def parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    found = argparse.ArgumentParser(
        prog="python -m analysis.factorial",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    found.add_argument("name", nargs="?", help="folder in analysis/results; none to compare all")
    found.add_argument("factor", nargs="*", help="dotted key, as params.init")
    return found


if __name__ == "__main__":
    sys.exit(main())
