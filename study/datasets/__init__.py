"""Image sets: one file each, named by its key in YAML, with an ``Options`` and a ``load``.

A set is split once, by a recorded seed, into train, val and test; its shifted copies are made from
val and test by :func:`shifted`, unless the set brings its own.
"""

from pathlib import Path
from typing import Any

from study.datasets._corruptions import VALIDATION, shifted
from study.datasets._inspection import inspect
from study.datasets._sample import sample
from study.datasets._types import CommonOptions, Dataset, Images, Labels, Shifted, evenly
from study.errors import StudyError
from study.plugins import load_plugin

__all__ = [
    "VALIDATION",
    "CommonOptions",
    "Dataset",
    "Images",
    "Labels",
    "Shifted",
    "evenly",
    "inspect",
    "load",
    "sample",
    "shifted",
]


def load(options: dict[str, Any], root: Path | None = None) -> Dataset:
    """Load the set that ``options`` describe (complete, as in a TrialSpec).

    Args:
        options: ``name`` and the set's own options.
        root: Folder with the raw files; sets that bring their own data ignore it.

    Raises:
        StudyError: When files are missing or damaged; says which, where, and the remedy.
    """
    module = load_plugin("study.datasets", options["name"])
    try:
        dataset = module.load(module.Options(**options), root)
    except StudyError:
        raise
    except Exception as error:
        why = f"{type(error).__name__}: {' '.join(str(error).split())}"
        raise StudyError(f"dataset {options['name']!r} fails with {why}; fix it") from error
    if not isinstance(dataset, Dataset):
        raise StudyError(
            f"dataset {options['name']!r}: load must return a study.datasets.Dataset, but returns "
            f"{type(dataset).__name__}; fix it"
        )
    return dataset
