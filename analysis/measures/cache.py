"""What was measured of a trial, kept in a file, so that it need not be measured again.

``<run>/features/<trial>.parquet``: per-example values in columns, one row group per ensemble size,
and in the file's metadata the scalars as JSON and the key. The key is a digest of all that the
values depend on; what has another key, or is damaged, counts as not there.
"""

import contextlib
import hashlib
import json
import os
import shutil
import tempfile
import weakref
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
import scipy

from analysis.data.predictions import predictions_name
from analysis.data.run import Run
from analysis.measures.trial import SHIFT, TEST, Examples, Task, TrialMeasures, files
from study.run_folder.paths import ObjectPath, map_paths

Json = dict[str, Any]

FORMAT: Final = 1
FOLDER: Final = "features"
KEY, SCALARS, SUM = b"key", b"scalars", b"sum"
ROOT: Final = Path(__file__).parents[2]
SOURCES: Final = (
    "study/parquet_format.py",
    "analysis/data/coerce.py",
    "analysis/data/files.py",
    "analysis/data/predictions.py",
    "analysis/data/run.py",
    "analysis/measures/cache.py",
    "analysis/measures/copies.py",
    "analysis/measures/metrics_per_split.py",
    "analysis/measures/trial.py",
)
"""Files beside the metrics whose change may change what is measured."""
COLUMNS: Final = pa.schema(
    [
        ("example", pa.int64()),
        *((name, pa.float32()) for name in (*TEST, *SHIFT)),
    ]
)
"""Null where an example is not of the split."""
LONGEST: Final = 200
UNREADABLE: Final = (OSError, pa.ArrowException, ValueError, KeyError, TypeError)


@cache
def code() -> str:
    """Return a digest of the code that measures, and of the libraries it computes with."""
    metrics = sorted((ROOT / "analysis" / "metrics").rglob("*.py"))
    sources = [*(ROOT / name for name in SOURCES), *metrics]
    digest = hashlib.blake2b(f"{FORMAT} {np.__version__} {scipy.__version__}".encode())
    for file in sources:
        name = file.relative_to(ROOT).as_posix()
        digest.update(name.encode() + b"\0" + file.read_bytes())
    return digest.hexdigest()[:32]


def key_of(run: Run, task: Task) -> str:
    """Return the digest of what a trial's measures depend on.

    Of the predictions: names, sizes and times of change, not the content; in an object store the
    checksums with which they were committed.
    """
    if isinstance(run.folder, ObjectPath):
        stats: list[Any] = run.checksums(task.trial)
    else:
        stats = [
            (name, stat.st_size, stat.st_mtime_ns)
            for name in files(run, task)
            if (stat := _stat(run.folder / predictions_name(run, task.trial, name)))
        ]
    what = [code(), task.trial, task.members, task.sizes, task.splits, task.curve, run.given, stats]
    return _digest(json.dumps(what).encode())


def _stat(file: Path) -> os.stat_result | None:
    with contextlib.suppress(FileNotFoundError):
        return file.stat()
    return None


def _digest(content: bytes) -> str:
    return hashlib.blake2b(content, digest_size=16).hexdigest()


@dataclass(frozen=True)
class Kept:
    """Where features are looked for, and where they are written: the first place that takes them.

    Attributes:
        places: Folders. That of the run, unless it cannot be written or was only given, and one
            that is removed with the process.
        beside: Where a copy of what is new goes, if the run lies in an object store.
    """

    places: tuple[Path, ...]
    beside: ObjectPath | None = None

    def scalars(self, run: Run, task: Task) -> Json | None:
        """Return the scalars of a trial, None unless they are kept, whole and up to date."""
        key, sizes = key_of(run, task), len(task.sizes)
        for file in self._files(task):
            with contextlib.suppress(*UNREADABLE), pq.ParquetFile(file) as parquet:
                if (found := _scalars(parquet, key, sizes)) is not None:
                    return found
        return None

    def examples(self, run: Run, task: Task, size: int) -> Examples | None:
        """Return the per-example values of one ensemble size, None unless they are kept."""
        key, sizes = key_of(run, task), len(task.sizes)
        checked = {"page_checksum_verification": True, "pre_buffer": False}
        for file in self._files(task):
            with contextlib.suppress(*UNREADABLE), pq.ParquetFile(file, **checked) as parquet:
                if _scalars(parquet, key, sizes) is not None:
                    group = task.sizes.index(size)
                    return _examples(parquet.read_row_group(group, use_threads=False))
        return None

    def _files(self, task: Task) -> Iterator[Path]:
        """Yield the files in which a trial's features may be kept."""
        files = (place / name_of(task.trial) for place in self.places)
        return (file for file in files if file.exists())

    def write(self, task: Task, key: str, measured: TrialMeasures) -> None:
        """Keep what was measured; where no place takes it, it will be measured again.

        Args:
            task: What was asked.
            key: ``key_of`` from before the predictions were read.
            measured: The answer.
        """
        for place in self.places:
            with contextlib.suppress(OSError, pa.ArrowException):
                file = place / name_of(task.trial)
                _write(file, task, key, measured)
                if self.beside:
                    (self.beside / file.name).within(0).write_bytes(file.read_bytes())
                return


def kept_of(run: Run) -> tuple[Kept, object]:
    """Return where the features of a run are kept, and an object to hold on to meanwhile."""
    beside = run.folder / FOLDER
    owner = _Owner()
    if isinstance(beside, Path) and not run.given:
        with contextlib.suppress(OSError):
            beside.mkdir(exist_ok=True)
            if os.access(beside, os.W_OK):
                return Kept((beside,)), owner
    own = Path(tempfile.mkdtemp(prefix="features-"))
    weakref.finalize(owner, shutil.rmtree, own, ignore_errors=True)
    if isinstance(beside, ObjectPath):
        _fetch(beside, own)
        return Kept((own,), beside), owner
    return Kept((own,) if run.given else (beside, own)), owner


def _fetch(beside: ObjectPath, own: Path) -> None:
    """Copy what an earlier report left there; what cannot be had is measured again."""
    files = list(beside.glob("*.parquet"))
    with contextlib.suppress(OSError):
        for file, content in zip(files, map_paths(lambda f: f.read_bytes(), files), strict=True):
            (own / file.name).write_bytes(content)


class _Owner:
    """Its end is the end of a folder."""


def name_of(trial: str) -> str:
    """Return a file name for a trial, whatever its identity holds."""
    safe = quote(trial, safe="")
    return f"{safe if len(safe) <= LONGEST else _digest(trial.encode())}.parquet"


def _scalars(parquet: Any, key: str, sizes: int) -> Json | None:
    """Return what stands in an open file's metadata, None if it is not what ``_write`` wrote."""
    schema = parquet.schema_arrow
    metadata = schema.metadata or {}
    text = metadata[SCALARS]
    mine = metadata[KEY] == key.encode() and metadata[SUM] == _digest(text).encode()
    if not (mine and schema.equals(COLUMNS) and parquet.num_row_groups == sizes):
        return None
    scalars = json.loads(text)
    assert isinstance(scalars, dict)
    return scalars


def _write(file: Path, task: Task, key: str, measured: TrialMeasures) -> None:
    """Write a file under another name and give it its own when it is whole."""
    text = json.dumps(measured.scalars, allow_nan=False).encode()
    metadata = {KEY: key.encode(), SCALARS: text, SUM: _digest(text).encode()}
    schema = COLUMNS.with_metadata(metadata)
    handle, name = tempfile.mkstemp(prefix=".", suffix=".tmp", dir=file.parent)
    try:
        with (
            os.fdopen(handle, "wb") as stream,
            pq.ParquetWriter(
                stream,
                schema,
                use_dictionary=False,
                compression="zstd",
                compression_level=1,
                write_page_checksum=True,
            ) as writer,
        ):
            for size in task.sizes:
                table = _table(measured.examples[size])
                writer.write_table(table, row_group_size=max(1, table.num_rows))
        Path(name).chmod(0o644)
        Path(name).replace(file)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def _table(examples: Examples) -> pa.Table:
    """Return a row per example of either split."""
    every = np.union1d(examples.test, examples.shift)
    columns: list[Any] = [pa.array(every)]
    for names, own in ((TEST, examples.test), (SHIFT, examples.shift)):
        at = np.searchsorted(every, own)
        absent = np.ones(len(every), bool)
        absent[at] = False
        for name in names:
            column = np.zeros(len(every), np.float32)
            if name in examples.values:
                column[at] = examples.values[name]
            missing = absent if name in examples.values else np.ones(len(every), bool)
            columns.append(pa.array(column, mask=missing))
    return pa.Table.from_arrays(columns, schema=COLUMNS)


def _examples(table: pa.Table) -> Examples:
    """Return what ``_table`` was made of."""
    every = table["example"].to_numpy()
    values: dict[str, npt.NDArray[np.float32]] = {}
    for name in (*TEST, *SHIFT):
        own = table[name].drop_null()
        if len(own):
            values[name] = own.to_numpy()
    test = table["nll"].is_valid().to_numpy()
    shift = table["shift_weight"].is_valid().to_numpy()
    return Examples(every[test], every[shift], values)
