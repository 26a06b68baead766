"""The space that a study takes on the disk, and whether it is there."""

import math
import shutil
from pathlib import Path
from typing import Final

from study import pilot
from study.datasets import Dataset
from study.schema import StudyError
from study.space import Study
from study.store import Store

RESERVE: Final = 5e7
"""Bytes that must be free for a run to go on."""
MEMBERS: Final = 6
"""Sets of logits of a confirmed trial, on average: its members and the controls."""


def free_space(store: Store) -> float:
    """Return the bytes that are free where the store lies; an object store is never full."""
    return shutil.disk_usage(store.root).free if isinstance(store.root, Path) else math.inf


def refuse_full(store: Store) -> None:
    """Refuse to go on when the disk is as good as full.

    Raises:
        StudyError: With what is free.
    """
    free = free_space(store)
    if free < RESERVE:
        raise StudyError(
            f"--out {store.root}: {RESERVE / 1e6:.0f} MB must be free, but there are "
            f"{free / 1e6:.1f}; free some and give the same command again: nothing that was "
            "finished is lost"
        )


def estimate(study: Study, data: Dataset) -> float:
    """Return about how many bytes the finished study takes; at most, where the seeds are auto."""
    protocol = study.protocol
    seeds = pilot.MOST if protocol.seeds == "auto" else protocol.seeds
    width = 2 if study.precision == "float16" else 4
    rows = len(data.test[1]) + len(data.shift.labels) + sum(map(len, data.ood.values()))
    arms = protocol.shortlist * len(study.candidates) + len(study.spaces) + 3
    return seeds * arms * rows * MEMBERS * data.classes * width


def shortage(study: Study, data: Dataset, store: Store) -> str | None:
    """Return a line when what is free is not likely to suffice."""
    free = free_space(store)
    if free == math.inf:
        return None
    there = sum(file.stat().st_size for file in store.root.glob("trials/*/*.parquet"))
    missing = estimate(study, data) - there
    if missing <= free - RESERVE:
        return None
    return (
        f"note: --out {store.root}: the study may take {missing / 1e6:,.0f} MB more, but "
        f"{free / 1e6:,.0f} are free; it will stop, and can go on, where the disk is nearly full"
    )
