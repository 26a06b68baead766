"""What a study costs against trials, members, seeds and examples.

``python -m benchmarks.scaling`` runs small studies on the digits, one size varied at a time, and
fits a line to the slots' time from the start of the first trial to the end of the last. It should
pass through the origin: what does not grow with the work is waste. Writes ``runs/scaling.json`` and
the chart ``runs/scaling.svg``.
"""

import argparse
import json
import platform
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import altair as alt
import numpy as np
import polars as pl

from study.run_folder.paths import local_path
from study.run_folder.store import RunFolder

BASE: Final[dict[str, Any]] = {
    "dataset": {"name": "digits", "train_size": 300, "shift_size": 50, "split_seed": 0},
    "fixed": {
        "backbone": {"name": "mlp", "depth": 2, "width": 64},
        "training": {"epochs": 40, "batch_size": 32},
        "params": {"members": 4, "init": "sign", "negative_share": 0.5},
    },
    "search": {"training": {"lr": {"float": [0.05, 0.2]}}},
    "method": "batch_ensemble",
}
SLOTS: Final = 2


@dataclass(frozen=True)
class Point:
    """One study: what was varied, to which size, and what it took."""

    varied: str
    size: int
    trials: int
    wall_seconds: float
    seconds: float
    train_seconds: float


def settings(varied: str, size: int) -> dict[str, Any]:
    """Return the study in which one size is other than usual."""
    sizes = {"trials": 30, "seeds": 10, "members": 4, "examples": 300} | {varied: size}
    fixed: Any = BASE["fixed"]
    return BASE | {
        "name": f"{varied}-{size}",
        "dataset": BASE["dataset"] | {"train_size": sizes["examples"]},
        "fixed": fixed | {"params": fixed["params"] | {"members": sizes["members"]}},
        "budget": {"trials": sizes["trials"], "rescore": 1, "rescore_seeds": 1},
        "protocol": {"seeds": sizes["seeds"], "shortlist": 4},
    }


def run(varied: str, size: int, folder: Path) -> Point:
    """Run one study and read from its rows what it took."""
    space, out = folder / f"{varied}-{size}.yaml", folder / f"{varied}-{size}"
    space.write_text(json.dumps(settings(varied, size)))
    concurrency = f"resources.concurrency={SLOTS}"
    command = ["-m", "study.run", "--space", str(space), "--out", str(out), "--set", concurrency]
    subprocess.run([sys.executable, *command], check=True, capture_output=True)
    rows = list(RunFolder(out).rows().values())
    seconds = [row.seconds for row in rows]
    began = min(row.finished.timestamp() - row.seconds for row in rows)
    ended = max(row.finished.timestamp() for row in rows)
    training = sum(row.train_seconds for row in rows)
    return Point(varied, size, len(rows), ended - began, sum(seconds), training)


SIZES: Final = {
    "trials": (30, 60, 120, 240),
    "seeds": (10, 20, 40, 80),
    "members": (2, 4, 8, 16),
    "examples": (150, 300, 600, 1200),
}
X: Final = {"trials": "trials", "seeds": "trials", "members": "size", "examples": "size"}


def line(points: Iterable[Point]) -> dict[str, float]:
    """Fit seconds = a + b·x, x the trials, or the size where the trials are as many."""
    every = list(points)
    x = np.array([getattr(p, X[p.varied]) for p in every], dtype=float)
    y = np.array([p.wall_seconds for p in every])
    slope, start = np.polyfit(x, y, 1)
    residuals = y - (start + slope * x)
    return {
        "start": float(start),
        "slope": float(slope),
        "r2": float(1 - residuals.var() / y.var()),
        "start_share": float(start / y.max()),
    }


def chart(points: list[Point]) -> alt.FacetChart:
    """Draw seconds against each size."""
    data = pl.DataFrame([asdict(p) | {"x": getattr(p, X[p.varied])} for p in points])
    marks = alt.Chart(data).encode(
        x=alt.X("x:Q", title=None, scale=alt.Scale(zero=True)),
        y=alt.Y("wall_seconds:Q", title="seconds after start-up", scale=alt.Scale(zero=True)),
    )
    both = marks.mark_line(opacity=0.4) + marks.mark_point(filled=True, size=60)
    facets = both.properties(width=200, height=160).facet(
        facet=alt.Facet("varied:N", title="what a study on two slots costs, against"), columns=2
    )
    return facets.resolve_scale(x="independent", y="independent")


def main(argv: list[str] | None = None) -> int:
    """Print the lines, and write the points and their chart."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.scaling", description=__doc__)
    parser.add_argument(
        "--out", type=local_path, default=Path("runs"), help="folder (default runs)"
    )
    out: Path = parser.parse_args(argv).out
    points = []
    print("| varied | sizes | seconds | per unit | at 0, of the most | R² |")
    print("| --- | --- | --- | --- | --- | --- |")
    with tempfile.TemporaryDirectory() as folder:
        for varied, sizes in SIZES.items():
            own = [run(varied, size, Path(folder)) for size in sizes]
            points += own
            fit = line(own)
            x, y = (
                [f"{v:g}" for v in values]
                for values in (
                    [getattr(p, X[varied]) for p in own],
                    [round(p.wall_seconds, 1) for p in own],
                )
            )
            unit = X[varied] if X[varied] == "trials" else varied
            print(
                f"| {varied} | {', '.join(x)} {unit} | {', '.join(y)} | {fit['slope']:.3f} | "
                f"{fit['start_share']:.0%} | {fit['r2']:.3f} |",
                flush=True,
            )
    out.mkdir(parents=True, exist_ok=True)
    found = {"machine": platform.machine(), "points": [asdict(point) for point in points]}
    (out / "scaling.json").write_text(json.dumps(found, indent=1))
    chart(points).save(out / "scaling.svg")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
