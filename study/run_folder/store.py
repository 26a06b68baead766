"""The run folder: where everything lies, how it is committed, what is complete.

    <run>/study.json           the study as it was asked for
    <run>/plan.json            what is judged and how, written before the test set is opened
    <run>/optuna.journal       Optuna's storage, one study per tuned method (``optuna/`` in an
                               object store; nothing where ``storage:`` names a database)
    <run>/trials/<trial>/      val, test, shift, ood: predictions, of controls behind a prefix;
                               geometry: the members' weights; curve: the training by epoch;
                               trial.parquet: the commit mark
    <run>/images.parquet       some of the test images, for the report
    <run>/damaged/             trials whose files were not as committed, set aside
    <run>/ray/                 Ray Tune's own files
    <run>/logs/                what ``--log`` asked for
    <run>/report.html, verdict.json

The folder is on this machine, shared by several, or in an object store (the kinds of address are in
``study.run_folder.paths``). A trial's row is written last and in one step, so a trial is either
wholly there or not at all.
"""

import fcntl
import hashlib
import json
import shutil
import uuid
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from math import isfinite
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from study import parquet_format
from study.errors import StudyError
from study.parquet_format import CurveRow, File, GeometryRow, TrialRow
from study.run_folder.lease import held
from study.run_folder.paths import (
    AnyPath,
    ObjectPath,
    StoreError,
    any_path,
    map_paths,
    open_for_arrow,
    stand_in,
    write_atomically,
)

ROW = "trial.parquet"
GEOMETRY, CURVE = "geometry.parquet", "curve.parquet"
LAST_WORDS = "last_words.txt"


class DamagedError(StudyError):
    """A trial that is not as it was committed."""


class RunFolder:
    """The run folder at ``root``; nothing is created until something is written.

    Attributes:
        journal: Optuna's journal: a file, or what the names of its objects begin with.
        ray: Ray Tune's folder.
        plan: The declaration that precedes the opening of the test set.
        study: The study as it was asked for.
        report: The report of the run.
        images: Some of the images that the networks were tested on.
    """

    def __init__(self, root: str | Path) -> None:
        self.root: AnyPath = any_path(root).resolve()
        self.journal = self.root / ("optuna" if self.remote else "optuna.journal")
        self.ray, self.plan = self.root / "ray", self.root / "plan.json"
        self.images = self.root / "images.parquet"
        self.study, self.report = self.root / "study.json", self.root / "report.html"
        self.written: dict[str, dict[str, str]] = {}

    @property
    def remote(self) -> bool:
        """Whether it lies in an object store."""
        return isinstance(self.root, ObjectPath)

    @property
    def logs(self) -> Path:
        """Folder of the loggers' files, which append to them: never in an object store."""
        if isinstance(self.root, Path):
            return self.root / "logs"
        return Path("runs", self.root.key.replace("/", "-"), "logs").resolve()

    def create(self) -> None:
        """Make the folder, or say in one line why it cannot be written."""
        try:
            probe = self.root / f".write-{uuid.uuid4().hex}"
            if isinstance(probe, ObjectPath):
                probe.within(0).write_bytes(b"")
            else:
                (self.root / "trials").mkdir(parents=True, exist_ok=True)
                probe.write_text("")
            probe.unlink()
        except OSError as error:
            raise StudyError(
                f"--out {self.root}: the run folder must be writable, but {error.strerror}; "
                "choose another with --out"
            ) from None

    def check_writable(self) -> None:
        """Say in one line if the folder cannot be made or written; nothing is left of the check."""
        if isinstance(self.root, ObjectPath) or self.root.exists():
            self.create()
            return
        above = next(path for path in self.root.parents if path.exists())
        self.create()
        shutil.rmtree(above / self.root.relative_to(above).parts[0])

    def forget(self) -> None:
        """Remove what was asked for, proposed and declared, but no trial."""
        for path in (self.study, self.plan, *self.root.glob(f"{self.journal.name}*")):
            if path.exists():
                path.unlink()

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keep other drivers out of the folder, until the block or the process ends.

        In an object store, which knows no locks, it is a lease (see ``study.run_folder.lease``).
        """
        if isinstance(self.root, ObjectPath):
            with held(self.root / ".lock"):
                yield
            return
        with (self.root / ".lock").open("w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise StudyError(
                    f"--out {self.root}: another run is at work in this folder; wait for it to "
                    "end, or choose another --out"
                ) from None
            except OSError as error:
                raise StudyError(
                    f"--out {self.root}: the file system must have locks, but {error.strerror}; "
                    "mount it with them (flock), or give s3://BUCKET/NAME"
                ) from None
            yield

    def folder(self, trial: str) -> AnyPath:
        """Return the folder of one trial."""
        if not trial.isalnum():
            raise DamagedError(f"trial {trial!r}: a trial's name has letters and digits only")
        return self.root / "trials" / trial

    def last_words_file(self, trial: str) -> AnyPath:
        """Return the file that says where a trial's worker was when it ended before its time."""
        return self.folder(trial) / LAST_WORDS

    def last_words(self, trial: str) -> str:
        """Return what that file says; nothing where there is none, or the worker had no time.

        What a worker on this machine could not write into an object store is brought there.
        """
        file = self.last_words_file(trial)
        if isinstance(file, ObjectPath) and (left := stand_in(file)).exists():
            said = left.read_text(encoding="utf-8", errors="replace")
            left.unlink(missing_ok=True)
            if said:
                file.write_text(said)
        try:
            return file.read_text(encoding="utf-8")
        except FileNotFoundError:
            return ""

    def write_predictions(self, trial: str, split: str, table: pa.Table) -> None:
        """Write one split's predictions; visible to readers once the row is committed."""
        self._write(
            trial,
            f"{split}.parquet",
            table,
            compression="zstd",
            compression_level=1,
            use_dictionary=["member", "label", "condition", "severity"],
            column_encoding={"logits.list.element": "BYTE_STREAM_SPLIT"},
            write_page_checksum=True,
        )

    def write_geometry(self, trial: str, rows: list[GeometryRow]) -> None:
        """Write where the members lie; visible to readers once the row is committed."""
        table = _table(rows, parquet_format.GEOMETRY)
        self._write(trial, GEOMETRY, table, compression="zstd", write_page_checksum=True)

    def write_curve(self, trial: str, rows: list[CurveRow]) -> None:
        """Write how a trial was trained; visible to readers once the row is committed."""
        table = _table(rows, parquet_format.CURVE)
        self._write(trial, CURVE, table, compression="zstd", write_page_checksum=True)

    def curve(self, trial: str) -> list[CurveRow]:
        """Return how a trial was trained; nothing where that was not stored."""
        try:
            table = pq.read_table(open_for_arrow(self.folder(trial) / CURVE))
        except FileNotFoundError:
            return []
        return [CurveRow(**row) for row in table.to_pylist()]

    def _write(self, trial: str, name: str, table: pa.Table, **options: Any) -> None:
        folder = self.folder(trial)
        folder.mkdir(parents=True, exist_ok=True)
        content = _parquet(table, **options)
        self.written.setdefault(trial, {})[name] = hashlib.sha256(content).hexdigest()
        write_atomically(folder / name, content)

    def commit(self, row: TrialRow) -> None:
        """Write a trial's row: from now on the trial is complete."""
        folder = self.folder(row.trial)
        folder.mkdir(parents=True, exist_ok=True)
        sums = self.written.pop(row.trial, {})
        columns = {name: getattr(row, name) for name in parquet_format.TRIAL.names}
        columns["files"] = [{"name": name, "sha256": sums[name]} for name in sorted(sums)]
        table = pa.Table.from_pylist([columns], schema=parquet_format.TRIAL)
        write_atomically(folder / ROW, _parquet(table), lasting=True)

    def row(self, trial: str) -> TrialRow | None:
        """Return the trial's row, or None when it is not committed."""
        return _read_row(self.folder(trial) / ROW)

    def committed(self) -> list[str]:
        """Return every committed trial."""
        return sorted(path.parent.name for path in self.root.glob(f"trials/*/{ROW}"))

    def unfinished(self) -> list[str]:
        """Return every trial that was begun and is not committed."""
        begun = {path.name for path in self.root.glob("trials/*")}
        return sorted(begun - set(self.committed()))

    def each_row(self) -> Iterator[tuple[str, TrialRow | DamagedError | None]]:
        """Yield every committed trial with its row, or with what is wrong with that."""

        def read(path: AnyPath) -> TrialRow | DamagedError | None:
            try:
                return _read_row(path)
            except DamagedError as error:
                return error

        trials = self.committed()
        rows = map_paths(read, (self.root / "trials" / trial / ROW for trial in trials))
        yield from zip(trials, rows, strict=True)

    def rows(self) -> dict[str, TrialRow]:
        """Return every committed row by trial."""
        found = map_paths(_read_row, (self.folder(trial) / ROW for trial in self.committed()))
        return {row.trial: row for row in found if row is not None}

    def present(self) -> dict[str, set[str]]:
        """Return the names of every trial's Parquet files but its row."""
        found: dict[str, set[str]] = {}
        for path in self.root.glob("trials/*/*.parquet"):
            found.setdefault(path.parent.name, set()).add(path.name)
        return {trial: names - {ROW} for trial, names in found.items()}

    def discard(self, trial: str) -> None:
        """Remove a trial that is to be done again; its commit mark goes first."""
        folder = self.folder(trial)
        (folder / ROW).unlink(missing_ok=True)
        if isinstance(folder, ObjectPath):
            folder.rmtree()
        else:
            shutil.rmtree(folder, ignore_errors=True)

    def write_images(self, table: pa.Table) -> None:
        """Keep some of the images, for the report."""
        write_atomically(self.images, _parquet(table, compression="zstd", write_page_checksum=True))

    def write_json(self, path: AnyPath, value: object) -> None:
        """Replace the JSON file at ``path`` in one step."""
        content = (json.dumps(value, indent=2, allow_nan=False) + "\n").encode()
        write_atomically(path, content, lasting=True)

    def read_json(self, path: AnyPath) -> dict[str, Any] | None:
        """Return the content of a JSON file, None when there is no such file."""
        try:
            value = json.loads(path.read_text(encoding="utf-8"))
        except (FileNotFoundError, NotADirectoryError):
            return None
        except StoreError:
            raise
        except (OSError, ValueError) as error:
            raise StudyError(f"{path}: must be readable JSON, but {error}; restore it") from None
        if not isinstance(value, dict):
            raise StudyError(f"{path}: must be a JSON object, but is {value!r}; restore it")
        return value


def checksums(folder: AnyPath) -> dict[str, str]:
    """Return the SHA-256 of each of a trial's files but its row, by name."""
    files = sorted(path for path in folder.glob("*.parquet") if path.name != ROW)
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def _table(rows: Iterable[GeometryRow | CurveRow], fields: pa.Schema) -> pa.Table:
    """Return the rows as a table, null in place of what is not finite."""
    finite = [
        {k: None if isinstance(v, float) and not isfinite(v) else v for k, v in r._asdict().items()}
        for r in rows
    ]
    return pa.Table.from_pylist(finite, schema=fields)


def _parquet(table: pa.Table, **options: Any) -> pa.Buffer:
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, **options)
    return sink.getvalue()


def _read_row(path: AnyPath) -> TrialRow | None:
    try:
        with pq.ParquetFile(open_for_arrow(path)) as parquet:
            table = parquet.read(use_threads=False)
    except FileNotFoundError:
        return None
    except StoreError:
        raise
    except (OSError, pa.ArrowException) as error:
        raise DamagedError(_broken(path, " ".join(str(error).split()))) from None
    parquet_format.check_version(table.schema, str(path))
    table = parquet_format.completed(table)
    if len(table) != 1 or not table.schema.equals(parquet_format.TRIAL):
        raise DamagedError(_broken(path, f"it has {len(table)} rows or other columns"))
    columns: dict[str, Any] = table.to_pylist()[0]
    if columns["stack"] is not None:
        columns["stack"] = tuple(columns["stack"])
    if columns["files"] is not None:
        columns["files"] = tuple(File(**file) for file in columns["files"])
    row = TrialRow(**columns)
    if row.trial != path.parent.name:
        raise DamagedError(_broken(path, f"it is the row of trial {row.trial}"))
    return row


def _broken(path: AnyPath, why: str) -> str:
    return (
        f"{path}: must be the one row of its trial, but {why}; "
        "remove the trial's folder to have it done again"
    )
