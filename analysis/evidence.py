"""Whether an ensemble's members look at the same evidence, as one figure. Descriptive."""

from typing import Final

import polars as pl

from analysis import geometry_charts
from analysis.geometry import per_arm, replicates
from analysis.scene import Figure, Scene

PANELS: Final = {
    "evidence_units": "Shared units of minimal sets",
    "evidence_pixels": "Shared pixels that they rest on",
}
BOUNDS: Final = ("chance", "same")


def evidence_figure(scene: Scene) -> Figure | None:
    """Return how far members agree in their evidence, between chance and a member with itself."""
    rows = per_arm(scene, PANELS, ["arm", "quantity"])
    if rows.is_empty():
        return None
    for bound in BOUNDS:
        names = {f"{quantity}_{bound}": panel for quantity, panel in PANELS.items()}
        other = per_arm(scene, names, ["arm", "quantity"])
        rows = rows.join(
            other.select("arm", "panel", pl.col("mean").alias(bound)), on=["arm", "panel"]
        )
    rows = rows.sort("place", "panel_order")
    kept = ["arm", "label", "method", "panel", "mean", "low", "high", *BOUNDS]
    return Figure(
        "evidence",
        "Members",
        _claim(rows),
        f"{replicates(scene, rows)} replicates per arm, at the end of training, on test images; "
        "whiskers are 95 % t-intervals over seeds.",
        geometry_charts.evidence(rows.select(kept), scene.methods),
    )


def _claim(rows: pl.DataFrame) -> str:
    """Say for how many arms the agreement is nearer to a member's with itself than to chance."""
    own = rows.filter(
        pl.col("quantity") == "evidence_pixels", pl.col("role").is_in(["candidate", "comparison"])
    )
    if own.is_empty():
        return "What evidence two members share"
    nearer = own.filter(pl.col("mean") > (pl.col("chance") + pl.col("same")) / 2)
    return (
        f"In {len(nearer)} of {len(own)} configurations the pixels of two members agree nearly as "
        "one member does with itself, rather than as by chance"
    )
