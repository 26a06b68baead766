"""The learning curves of trials, as one frame."""

from typing import Any, Final

import polars as pl
import pyarrow as pa

from analysis.data.predictions import published
from analysis.data.run import Run

COLUMNS: Final[dict[str, Any]] = {
    **{"trial": pl.String, "epoch": pl.Int32},
    **dict.fromkeys(("lr", "loss", "val_nll", "val_members_nll"), pl.Float64),
}


def curves(run: Run) -> pl.DataFrame:
    """Return the curves of all complete trials; empty where none was stored.

    Returns:
        trial, and epoch, lr, loss, val_nll, val_members_nll as in ``study.parquet_format.CURVE``;
        of members that were trained one after another the means.

    Raises:
        StudyError: When a file is damaged or breaks the format.
    """
    trials = run.trials.filter(pl.col("status") == "complete")["trial"].sort().to_list()
    tables = published(run, trials, "curve")
    if not tables:
        return pl.DataFrame(schema=COLUMNS)
    found = [
        table.append_column("trial", pa.repeat(trial, len(table)).cast(pa.large_string()))
        for trial, table in tables.items()
    ]
    frame = pl.from_arrow(pa.concat_tables(found))
    assert isinstance(frame, pl.DataFrame)
    values = [name for name in COLUMNS if name not in ("trial", "epoch")]
    means = frame.group_by("trial", "epoch").agg(pl.col(values).mean())
    return means.sort("trial", "epoch").select([*COLUMNS])
