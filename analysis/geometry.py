"""Where the members of the confirmed ensembles lie: their geometry files as one frame, two figures.

Descriptive: nothing here feeds a verdict.
"""

from functools import partial
from typing import Any, Final

import polars as pl

from analysis import geometry_charts
from analysis.load import Run, open_parquet, predictions_file, read_parquet
from analysis.measure import arm_key
from analysis.scene import Figure, Scene, over_seeds
from analysis.tables import number
from study import schema
from study.place import Place, each
from study.schema import StudyError

WEIGHTS: Final = {
    "cosine": "Cosine of two members' weights",
    "sign_disagreement": "Weights of opposite sign",
}
NETWORKS: Final = {
    "barrier": "Barrier on the line between two members (nats)",
    "cka": "Similarity of features (linear CKA)",
}
CLOSER: Final = 0.01
"""Rise of the cosine from which members are said to come closer."""
ONE_BASIN: Final = 0.05
"""A barrier below this share of the single model's loss is called none."""
TAGGED: Final = 10
"""Arms, from the first, whose lines have a tag, beside those of the anchor and the control."""
TAG_GAP: Final = 0.055
"""Least distance of two tags, as a share of the panel's range."""

_COLUMNS: Final[dict[str, Any]] = {
    **{"arm": pl.String, "role": pl.String, "replicate": pl.Int32, "quantity": pl.String},
    **{"epoch": pl.Int32, "layer": pl.String, "i": pl.Int16, "j": pl.Int16, "value": pl.Float64},
}


def geometry(run: Run) -> pl.DataFrame:
    """Return the geometry of the confirm stage's complete trials; empty where none was stored.

    Returns:
        arm, role, replicate, and quantity, epoch, layer, i, j, value as in
        ``study.schema.GEOMETRY``. A Deep Ensemble's arm is that of its whole pool.

    Raises:
        StudyError: When a file is damaged or breaks the format.
    """
    done = pl.col("stage") == "confirm", pl.col("status") == "complete"
    frames = [pl.DataFrame(schema=_COLUMNS)]
    trials = run.trials.filter(*done).sort("role", "configuration", "replicate").to_dicts()
    files = [predictions_file(run, trial["trial"], "geometry") for trial in trials]
    there = [(trial, file) for trial, file in zip(trials, files, strict=True) if file.exists()]
    found = each(partial(_read, remedy=run.remedy), (file for _, file in there))
    for (trial, _), own in zip(there, found, strict=True):
        arm = arm_key(trial["role"], trial["configuration"])
        if arm == "deep_ensemble":
            arm = f"{arm}-{trial['members']}"
        keys = {"arm": arm, "role": trial["role"], "replicate": trial["replicate"]}
        rows = own.with_columns(**{key: pl.lit(value) for key, value in keys.items()})
        frames.append(rows.select(pl.col(name).cast(kind) for name, kind in _COLUMNS.items()))
    return pl.concat(frames)


def _read(file: Place, remedy: str) -> pl.DataFrame:
    """Return a checked geometry file."""
    parquet = open_parquet(file, remedy, page_checksum_verification=True)
    table = read_parquet(file, parquet, remedy)
    schema.check_version(table.schema, str(file))
    if not table.schema.equals(schema.GEOMETRY):
        found = ", ".join(f"{field.name}: {field.type}" for field in table.schema)
        raise StudyError(
            f"{file}: columns must be those of GEOMETRY in study/schema.py, but are {found}; "
            "write it with that schema"
        )
    frame = pl.from_arrow(table)
    assert isinstance(frame, pl.DataFrame)
    return frame


def trajectory_figure(scene: Scene) -> Figure | None:
    """Return how the members' weights differ from the start of training to its end."""
    rows = per_arm(scene, WEIGHTS, ["arm", "quantity", "epoch"])
    if rows.is_empty():
        return None
    last = pl.col("epoch") == pl.col("epoch").max().over("arm")
    rows = rows.with_columns(end=last).sort("panel_order", "place", "epoch")
    anchor = pl.col("role").is_in(["deep_ensemble", "negative_control"])
    tagged = rows.filter("end", anchor | (pl.col("place") < TAGGED))
    ends = pl.concat(_tags_apart(panel) for _, panel in tagged.group_by("panel"))
    rows = rows.join(ends, on=["arm", "panel", "epoch"], how="left", maintain_order="left")
    kept = ["arm", "tag", "label", "method", "panel", "epoch", "mean", "low", "high", "end", "at"]
    return Figure(
        "trajectory",
        "Members",
        _travelled(scene, rows),
        f"{replicates(scene, rows)} replicates per arm, means over seeds and pairs of members; "
        f"effective weights of all layers together. Closer: by more than {CLOSER:g}.",
        geometry_charts.trajectory(rows.select(kept), scene.methods),
    )


def landscape_figure(scene: Scene) -> Figure | None:
    """Return what lies between two members: a barrier of the loss, and how alike features are."""
    rows = per_arm(scene, NETWORKS, ["arm", "quantity"])
    if rows.is_empty():
        return None
    anchor = scene.trials.filter(
        pl.col("stage") == "confirm", pl.col("role") == "single", pl.col("status") == "complete"
    )["val_nll"].mean()
    basin = ONE_BASIN * anchor if isinstance(anchor, float) else None
    is_barrier = pl.col("quantity") == "barrier"
    rows = rows.sort("place", "panel_order").with_columns(
        low=pl.when(is_barrier).then(pl.col("low").clip(0)).otherwise("low"),
        high=pl.when(is_barrier).then("high").otherwise(pl.col("high").clip(upper_bound=1)),
        mark=pl.when(is_barrier & is_barrier.is_first_distinct()).then(basin),
    )
    kept = ["arm", "label", "method", "panel", "mean", "low", "high", "mark"]
    return Figure(
        "landscape",
        "Members",
        _separated(rows, basin),
        f"{replicates(scene, rows)} replicates per arm, at the end of training, on validation "
        "images; whiskers are 95 % t-intervals over seeds.",
        geometry_charts.landscape(rows.select(kept), scene.methods),
    )


def per_arm(scene: Scene, panels: dict[str, str], by: list[str]) -> pl.DataFrame:
    """Return mean, low and high over seeds of whole-network quantities, with the arms' names."""
    whole = pl.col("layer").is_null() & pl.col("i").is_null() & pl.col("quantity").is_in([*panels])
    found = over_seeds(scene.geometry.filter(whole), by, "value")
    shown = scene.arms.filter(~pl.col("role").is_in(["single", "positive_control"]))
    order = {quantity: number for number, quantity in enumerate(panels)}
    return (
        shown.with_row_index("place")
        .join(found, on="arm")
        .with_columns(
            panel=pl.col("quantity").replace_strict(panels, return_dtype=pl.String),
            panel_order=pl.col("quantity").replace_strict(order, return_dtype=pl.Int32),
        )
    )


def _tags_apart(ends: pl.DataFrame) -> pl.DataFrame:
    """Return arm, panel, epoch and the height of each tag, pushed up where two would touch."""
    ends = ends.sort("mean", "place")
    gap = TAG_GAP * (max(ends["mean"].to_list()) - min([0.0, *ends["mean"].to_list()]))
    heights: list[float] = []
    for value in ends["mean"]:
        heights.append(max(value, heights[-1] + gap) if heights else value)
    return ends.select("arm", "panel", "epoch").with_columns(
        at=pl.Series(heights, dtype=pl.Float64)
    )


def _travelled(scene: Scene, rows: pl.DataFrame) -> str:
    """Say from where to where the leading arm's members went, and how many others did alike."""
    cosine = rows.filter(pl.col("quantity") == "cosine")
    ends = cosine.group_by("arm", "role", "tag", maintain_order=True).agg(
        start=pl.col("mean").sort_by("epoch").first(), end=pl.col("mean").sort_by("epoch").last()
    )
    own = ends.filter(pl.col("role").is_in(["candidate", "comparison"]))
    if own.is_empty():
        return "How the members' weights move apart or together in training"
    lead = own.row(0, named=True)
    closer = len(own.filter(pl.col("end") - pl.col("start") > CLOSER))
    return (
        f"The members of {lead['tag']} start at a cosine of {number(lead['start'])} and end at "
        f"{number(lead['end'])}; those of {closer} of {len(own)} configurations come closer in "
        "training"
    )


def _separated(rows: pl.DataFrame, basin: float | None) -> str:
    """Say between the members of how many arms there is no barrier."""
    barrier = rows.filter(pl.col("quantity") == "barrier")
    own = barrier.filter(pl.col("role").is_in(["candidate", "comparison"]))
    deep = barrier.filter(pl.col("role") == "deep_ensemble")["mean"].to_list()
    if own.is_empty() or basin is None:
        return "What lies between two members"
    claim = f"In {len(own.filter(pl.col('mean') < basin))} of {len(own)} configurations no barrier "
    claim += "parts the members"
    return claim + (f"; in the deep ensemble one of {max(deep):.2f} nats does" if deep else "")


def replicates(scene: Scene, rows: pl.DataFrame) -> str:
    """Return how many replicates stand behind the rows' arms: one number or its range."""
    counts = (
        scene.geometry.filter(pl.col("arm").is_in(rows["arm"].unique().to_list()))
        .group_by("arm")
        .agg(pl.col("replicate").n_unique())["replicate"]
    ).to_list()
    return f"{max(counts)}" if min(counts) == max(counts) else f"{min(counts)} to {max(counts)}"
