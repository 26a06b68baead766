"""The geometry files of the confirmed ensembles, as one frame."""

from collections.abc import Mapping
from typing import Any, Final

import polars as pl
import pyarrow as pa

from analysis.data.predictions import published
from analysis.data.roles import arm_key
from analysis.data.run import Run

_COLUMNS: Final[dict[str, Any]] = {
    **{"arm": pl.String, "role": pl.String, "replicate": pl.Int32, "quantity": pl.String},
    **{"epoch": pl.Int32, "layer": pl.String, "i": pl.Int16, "j": pl.Int16, "value": pl.Float64},
}


def geometry(run: Run) -> pl.DataFrame:
    """Return the geometry of the confirm stage's complete trials; empty where none was stored.

    Returns:
        arm, role, replicate, and quantity, epoch, layer, i, j, value as in
        ``study.parquet_format.GEOMETRY``. A Deep Ensemble's arm is that of its whole pool.

    Raises:
        StudyError: When a file is damaged or breaks the format.
    """
    done = run.trials.filter(stage="confirm", status="complete")
    trials = done.sort("role", "configuration", "replicate").to_dicts()
    tables = published(run, [trial["trial"] for trial in trials], "geometry")
    if not tables:
        return pl.DataFrame(schema=_COLUMNS)
    about = [
        (_arm(trial), trial["role"], trial["replicate"], len(tables[trial["trial"]]))
        for trial in trials
        if trial["trial"] in tables
    ]
    keys = pl.DataFrame(about, schema=["arm", "role", "replicate", "rows"], orient="row")
    of_rows = keys.select(pl.exclude("rows").repeat_by("rows").explode())
    frame = pl.from_arrow(pa.concat_tables(tables.values()))
    assert isinstance(frame, pl.DataFrame)
    found = pl.concat([of_rows, frame], how="horizontal")
    return found.select(pl.col(name).cast(kind) for name, kind in _COLUMNS.items())


def _arm(trial: Mapping[str, Any]) -> str:
    arm = arm_key(trial["role"], trial["configuration"])
    return f"{arm}-{trial['members']}" if arm == "deep_ensemble" else arm
