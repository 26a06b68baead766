"""The geometry files of the confirmed ensembles, as one frame."""

from functools import partial
from typing import Any, Final

import polars as pl

from analysis.data.files import read_published
from analysis.data.predictions import predictions_file
from analysis.data.roles import arm_key
from analysis.data.run import Run
from study.run_folder.paths import AnyPath, map_paths

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
    found = map_paths(partial(_read, remedy=run.remedy), (file for _, file in there))
    for (trial, _), own in zip(there, found, strict=True):
        arm = arm_key(trial["role"], trial["configuration"])
        if arm == "deep_ensemble":
            arm = f"{arm}-{trial['members']}"
        keys = {"arm": arm, "role": trial["role"], "replicate": trial["replicate"]}
        rows = own.with_columns(**{key: pl.lit(value) for key, value in keys.items()})
        frames.append(rows.select(pl.col(name).cast(kind) for name, kind in _COLUMNS.items()))
    return pl.concat(frames)


def _read(file: AnyPath, remedy: str) -> pl.DataFrame:
    frame = pl.from_arrow(read_published(file, "GEOMETRY", remedy))
    assert isinstance(frame, pl.DataFrame)
    return frame
