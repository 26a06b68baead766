"""The space that a study takes on the disk, and whether it is there."""

import math
import shutil
from pathlib import Path
from typing import Final

from study.errors import StudyError
from study.run_folder.store import RunFolder

RESERVE: Final = 5e7
"""Bytes that must be free for a run to go on."""


def free_space(store: RunFolder) -> float:
    """Return the bytes that are free where the store lies; an object store is never full."""
    if not isinstance(store.root, Path):
        return math.inf
    there = next(path for path in (store.root, *store.root.parents) if path.exists())
    return shutil.disk_usage(there).free


def refuse_full(store: RunFolder) -> None:
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
