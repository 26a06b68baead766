"""The disk space that a study is likely to take, and whether it is there."""

import math
from typing import Final

from study.datasets import Dataset
from study.run_folder.free_space import RESERVE, free_space
from study.run_folder.store import RunFolder
from study.space.study import Study
from study.stages import pilot

MEMBERS: Final = 6
"""Sets of logits of a confirmed trial, on average: its members and the controls."""


def estimate(study: Study, data: Dataset) -> float:
    """Return about how many bytes the finished study takes; at most, where the seeds are auto."""
    protocol = study.protocol
    seeds = pilot.MOST if protocol.seeds == "auto" else protocol.seeds
    width = 2 if study.precision == "float16" else 4
    rows = len(data.test[1]) + len(data.shift.labels) + sum(map(len, data.ood.values()))
    judged = protocol.shortlist * len(study.candidates) + len(study.spaces)
    arms = (2 if protocol.anchors == "matched" else 1) * judged + 3
    return seeds * arms * rows * MEMBERS * data.classes * width


def shortage(study: Study, data: Dataset, store: RunFolder) -> str | None:
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
