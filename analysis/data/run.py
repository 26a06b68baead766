"""From a run folder to its committed trials and its plan; what is wrong is said in one line."""

import json
from dataclasses import dataclass
from functools import cached_property
from typing import get_args

import polars as pl
import pyarrow as pa

from analysis.data import coerce
from analysis.data.files import check_columns, first_line, open_parquet, read_parquet
from analysis.data.protocol import Plan, read_plan
from study.errors import StudyError
from study.parquet_format import TRIAL, Role, Stage, Status, check_version, completed
from study.run_folder.paths import AnyPath, ObjectPath, any_path, map_paths

OBJECTS = {"spec": ("dataset", "backbone", "training", "params", "regulariser"), "versions": ()}
REDO = "delete the trial's folder and give the command of the study again"


@dataclass(frozen=True)
class Run:
    """A run folder, or predictions that were given without one.

    Attributes:
        folder: Where it lies; if in an object store, as it was there when it was loaded.
        trials: All committed rows (columns of ``study.parquet_format.TRIAL``), sorted by trial.
        plan: What was declared before the test set was opened, or None.
        given: Whether it is predictions alone (see ``analysis.data.external``): a trial is
            ``arm/seed``, what only a study knows is null, and files may have any program's types.
        begun: Trials that were begun and are not committed.
    """

    folder: AnyPath
    trials: pl.DataFrame
    plan: Plan | None
    given: bool = False
    begun: int = 0

    @cached_property
    def members(self) -> dict[str, int]:
        """Ensemble size of each committed trial."""
        return dict(self.trials.select("trial", "members").iter_rows())

    def checksums(self, trial: str) -> list[dict[str, str]]:
        """Names and SHA-256 of a trial's files, as they were committed."""
        own = self.trials.filter(pl.col("trial") == trial)["files"].to_list()
        return list(own[0] or ())

    @property
    def remedy(self) -> str:
        """What to do about a file that is not as it should be."""
        return coerce.AGAIN if self.given else REDO


def load(address: str | AnyPath) -> Run:
    """Read all committed trials and the plan of a run: a folder, or an address (``s3://…``).

    A trial's folder without ``trial.parquet`` is not committed and only counted. The study may be
    at work meanwhile.

    Raises:
        StudyError: When there is no such folder, nothing in it, or a file breaks the format.
    """
    folder = any_path(address) if isinstance(address, str) else address
    if isinstance(folder, ObjectPath):
        folder = _listed(folder)
    begun = [path for path in folder.glob("trials/*") if path.is_dir()]
    files: list[AnyPath] = sorted(folder.glob("trials/*/trial.parquet"), key=str)
    rows = [row for row in map_paths(_committed, files) if row is not None]
    if not rows:
        started = (folder / "study.json").exists()
        remedy = "give the folder that the study wrote, or run the study first"
        raise StudyError(
            f"{folder}: a run folder must hold trials/<trial>/trial.parquet, but none is there; "
            f"{'give the command again when the first trial has ended' if started else remedy}"
        )
    trials = pl.from_arrow(pa.concat_tables(rows).combine_chunks())  # One row each: slow in parts.
    assert isinstance(trials, pl.DataFrame)
    open_ = {path.name for path in begun} - set(trials["trial"])
    return Run(folder, trials, read_plan(folder / "plan.json"), begun=len(open_))


def vanished(run: Run) -> bool:
    """Tell whether a trial was taken away since the run was loaded, as a study at work may do."""
    folder = _listed(run.folder) if isinstance(run.folder, ObjectPath) else run.folder
    rows = (folder / "trials" / trial / "trial.parquet" for trial in run.trials["trial"])
    return not run.given and not all(row.exists() for row in rows)


def _listed(folder: ObjectPath) -> ObjectPath:
    try:
        return folder.within(0).listed()
    except OSError as error:
        raise StudyError(f"{folder}: must be readable, but {error.strerror}") from None


def _committed(file: AnyPath) -> pa.Table | None:
    """Return the row of a file, None when it is gone since it was listed."""
    try:
        return _trial_row(file)
    except StudyError:
        there = file.renewed() if isinstance(file, ObjectPath) else file
        if there.exists():
            raise
        return None


def _trial_row(file: AnyPath) -> pa.Table:
    """Return the one checked row of a trial file."""
    parquet = open_parquet(file, REDO)
    check_version(parquet.schema_arrow, str(file))
    table = completed(read_parquet(file, parquet, REDO))
    check_columns(file, table.column_names, TRIAL.names)
    if table.num_rows != 1:
        raise StudyError(f"{file}: a trial must be one row, but there are {table.num_rows}; {REDO}")
    try:
        table = table if table.schema.equals(TRIAL) else table.cast(TRIAL)
    except (pa.ArrowException, ValueError) as error:
        raise StudyError(
            f"{file}: the row must have the types of study/parquet_format.py, but "
            f"{first_line(error)}; write it with that schema"
        ) from None
    allowed = {
        "role": Role,
        "stage": Stage,
        "status": Status,
    }
    row = table.select([*allowed, *OBJECTS, "trial"]).to_pylist()[0]
    for column, literal in allowed.items():
        if row[column] not in get_args(literal):
            raise StudyError(
                f"{file}: {column} must be one of {', '.join(get_args(literal))}, "
                f"but is {row[column]!r}; write it with study/parquet_format.py"
            )
    for column, sections in OBJECTS.items():
        if not _is_object(row[column], sections):
            raise StudyError(
                f"{file}: {column} must be a JSON object, as must its sections, "
                f"but is {row[column]!r:.80}; write it as the study does"
            )
    if row["trial"] != file.parent.name:
        raise StudyError(
            f"{file}: trial must be the folder's name, but is {row['trial']!r}; "
            "put the folder back under its own name"
        )
    return table


def _is_object(text: str, sections: tuple[str, ...]) -> bool:
    """Tell whether a text is a JSON object, and each of these keys in it one, if it is there."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return False
    known = isinstance(value, dict)
    return known and all(isinstance(value.get(name, {}), dict) for name in sections)
