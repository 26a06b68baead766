"""Write a folder of predictions as a stranger would: plain columns, no study, no metadata.

The logits are those of ``make_run``'s noise model.
"""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import polars as pl

from tests.analysis.make_run import Arm, Data, simulate

ARMS: dict[str, tuple[int, float]] = {
    "single": (1, 0.0),
    "deep_ensemble": (4, 1.0),
    "positive_control": (4, 1.0),
    "negative_control": (4, 0.0),
    "escaping": (4, 0.9),
    "tracking": (4, 0.0),
}
"""Members and diversity of each arm."""


def frame(
    logits_MNC: np.ndarray, keys: Mapping[str, np.ndarray], split: str = "test"
) -> pl.DataFrame:
    """Return what a user of polars has: int64, strings, lists of floats."""
    members, rows, classes = logits_MNC.shape
    columns: dict[str, object] = {
        "member": np.repeat(np.arange(members), rows),
        "example": np.tile(keys["example"], members),
    }
    if split != "ood":
        columns["label"] = np.tile(keys["label"], members)
    if split != "test":
        columns["condition"] = np.tile(keys["condition"], members).tolist()
    if split == "shift":
        columns["severity"] = np.tile(keys["severity"], members)
    return pl.DataFrame(columns | {"logits": logits_MNC.reshape(members * rows, classes)})


def make_predictions(
    folder: Path,
    arms: Mapping[str, tuple[int, float]] = ARMS,
    seeds: int = 6,
    data: Data | None = None,
    splits: tuple[str, ...] = ("test",),
) -> Path:
    """Write ``folder/<arm>/<seed>/<split>.parquet`` and return the folder."""
    data = data or Data(test=200, shift=40, ood=30, severities=2)
    for number, (name, (members, diversity)) in enumerate(arms.items()):
        arm = Arm("candidate", name, members=members, diversity=diversity)
        for seed in range(seeds):
            here = folder / name / str(seed)
            here.mkdir(parents=True)
            for split in splits:
                logits = simulate(arm, data, split, 1000 * number + seed)
                frame(logits, data.keys(split), split).write_parquet(here / f"{split}.parquet")
    return folder
