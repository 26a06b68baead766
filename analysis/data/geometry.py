"""The geometry files of the confirmed ensembles, as one frame."""

from collections.abc import Mapping
from functools import partial
from typing import Any, Final

import polars as pl
import pyarrow as pa

from analysis.data.files import read_published
from analysis.data.predictions import predictions_file
from analysis.data.roles import arm_key
from analysis.data.run import Run
from study.run_folder.paths import map_paths

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
    done = pl.col("stage") == "confirm", pl.col("status") == "complete"
    trials = run.trials.filter(*done).sort("role", "configuration", "replicate").to_dicts()
    files = [predictions_file(run, trial["trial"], "geometry") for trial in trials]
    there = [(trial, file) for trial, file in zip(trials, files, strict=True) if file.exists()]
    if not there:
        return pl.DataFrame(schema=_COLUMNS)
    read = partial(read_published, schema_name="GEOMETRY", remedy=run.remedy)
    tables = list(map_paths(read, [file for _, file in there]))
    about = [
        (_arm(trial), trial["role"], trial["replicate"], len(table))
        for (trial, _), table in zip(there, tables, strict=True)
    ]
    keys = pl.DataFrame(about, schema=["arm", "role", "replicate", "rows"], orient="row")
    of_rows = keys.select(pl.exclude("rows").repeat_by("rows").explode())
    frame = pl.from_arrow(pa.concat_tables(tables))
    assert isinstance(frame, pl.DataFrame)
    found = pl.concat([of_rows, frame], how="horizontal")
    return found.select(pl.col(name).cast(kind) for name, kind in _COLUMNS.items())


def _arm(trial: Mapping[str, Any]) -> str:
    arm = arm_key(trial["role"], trial["configuration"])
    return f"{arm}-{trial['members']}" if arm == "deep_ensemble" else arm
