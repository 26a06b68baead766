"""From a run folder to checked values: what is wrong with a file is said here, in one line.

Nothing downstream of this module checks a shape again.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, get_args

import numpy as np
import numpy.typing as npt
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from analysis import lenient
from analysis.protocol import Plan, plan_of
from study import schema
from study.place import ObjectPlace, Place, StoreError, each, place, source
from study.schema import StudyError

FloatArray = npt.NDArray[np.floating[Any]]
IntArray = npt.NDArray[np.integer[Any]]

SEVERAL = ("candidate", "comparison")
WIDE = 2**32
OBJECTS = {"spec": ("dataset", "backbone", "training", "params", "regulariser"), "versions": ()}
LONE = (schema.COLLAPSED, schema.MEAN_WEIGHTS)
REDO = "delete the trial's folder and give the command of the study again"


@dataclass(frozen=True)
class Run:
    """A run folder, or predictions that were given without one.

    Attributes:
        folder: Where it lies; if in an object store, as it was there when it was loaded.
        trials: All committed trial rows (columns of ``study.schema.TRIAL``), sorted by trial.
        plan: What was declared before the test set was opened, or None.
        given: Whether it is predictions alone (see ``analysis.given``): a trial is ``arm/seed``,
            what only a study knows is null, and files may have any program's types.
        begun: Trials that were begun and are not committed.
    """

    folder: Place
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
        return lenient.AGAIN if self.given else REDO


@dataclass(frozen=True)
class Predictions:
    """One trial's outputs on one split of N rows.

    Attributes:
        logits: (M, N, C) float32, raw, in nats.
        labels: (N,) class, or -1 where there is none.
        example: (N,) number of the example in the split.
        condition: (N,) index into ``conditions``, or -1 where there is none.
        severity: (N,) 1 to 5, or 0 where there is none.
        conditions: Names of the corruptions or out-of-distribution sets, sorted.
    """

    logits: npt.NDArray[np.float32]
    labels: IntArray
    example: IntArray
    condition: IntArray
    severity: IntArray
    conditions: tuple[str, ...]

    def fingerprints(self) -> dict[str, str]:
        """Return digests of which rows these are and of their labels, to compare trials."""
        names = "\x1f".join(self.conditions).encode()
        keys = (self.example, self.condition, self.severity)
        rows = b"".join(key.astype(np.int64).tobytes() for key in keys)
        return {
            "examples": hashlib.blake2b(names + rows, digest_size=16).hexdigest(),
            "labels": hashlib.blake2b(self.labels.tobytes(), digest_size=16).hexdigest(),
        }


def load(address: str | Place) -> Run:
    """Read all committed trials and the plan of a run: a folder, or an address (``s3://…``).

    A trial's folder without ``trial.parquet`` is not committed and only counted. The study may be
    at work meanwhile.

    Raises:
        StudyError: When there is no such folder, nothing in it, or a file breaks the format.
    """
    folder = place(address) if isinstance(address, str) else address
    if isinstance(folder, ObjectPlace):
        folder = _listed(folder)
    begun = [path for path in folder.glob("trials/*") if path.is_dir()]
    files: list[Place] = sorted(folder.glob("trials/*/trial.parquet"), key=str)
    rows = [row for row in each(_committed, files) if row is not None]
    if not rows:
        started = (folder / "study.json").exists()
        remedy = "give the folder that the study wrote, or run the study first"
        raise StudyError(
            f"{folder}: a run folder must hold trials/<trial>/trial.parquet, but none is there; "
            f"{'give the command again when the first trial has ended' if started else remedy}"
        )
    trials = pl.from_arrow(pa.concat_tables(rows))
    assert isinstance(trials, pl.DataFrame)
    open_ = {path.name for path in begun} - set(trials["trial"])
    return Run(folder, trials, _plan(folder / "plan.json"), begun=len(open_))


def vanished(run: Run) -> bool:
    """Tell whether a trial was taken away since the run was loaded, as a study at work may do."""
    folder = _listed(run.folder) if isinstance(run.folder, ObjectPlace) else run.folder
    rows = (folder / "trials" / trial / "trial.parquet" for trial in run.trials["trial"])
    return not run.given and not all(row.exists() for row in rows)


def _listed(folder: ObjectPlace) -> ObjectPlace:
    try:
        return folder.within(0).listed()
    except OSError as error:
        raise StudyError(f"{folder}: must be readable, but {error.strerror}") from None


def _committed(file: Place) -> pa.Table | None:
    """Return the row of a file, None when it is gone since it was listed."""
    try:
        return _trial_row(file)
    except StudyError:
        there = file.renewed() if isinstance(file, ObjectPlace) else file
        if there.exists():
            raise
        return None


def predictions_file(run: Run, trial: str, split: str) -> Place:
    """Return where a trial's predictions on ``split`` lie (or would)."""
    return run.folder / predictions_name(run, trial, split)


def predictions_name(run: Run, trial: str, split: str) -> str:
    """Return the file's path inside the run."""
    return f"{'' if run.given else 'trials/'}{trial}/{split}.parquet"


def predictions(run: Run, trial: str, split: str) -> Predictions:
    """Read and check one trial's predictions.

    Args:
        run: The run folder.
        trial: Identity of a committed trial.
        split: ``val``, ``test``, ``shift``, ``ood``, or one of them behind ``collapsed_``.

    Raises:
        StudyError: With file, rule, value and remedy, when the file breaks the format.
    """
    file, remedy = predictions_file(run, trial, split), run.remedy
    table = _typed(run, file, split)
    _refuse_nulls(file, table, ("member", "example", "logits"), remedy)
    classes = int(table.schema.field("logits").type.list_size)
    logits = _logits(file, table["logits"], remedy).reshape(-1, classes)
    condition, conditions = _codes(table["condition"])
    keys = {
        "member": table["member"].to_numpy(),
        "example": table["example"].to_numpy().astype(np.int64),
        "label": _filled(table["label"], -1),
        "condition": condition,
        "severity": _filled(table["severity"], 0),
    }
    if run.given:
        keys, logits = _sorted(keys, logits)
    lone = split.startswith(LONE)
    size = 1 if lone else _members_of(run, trial)
    members, rows = _check_members(file, keys.pop("member"), size, remedy)
    keys = {name: _same_per_member(file, name, key, members) for name, key in keys.items()}
    _check_labels(file, keys["label"], table["label"].null_count, classes, split)
    _check_distinct(file, keys, remedy)
    return Predictions(
        logits=logits.reshape(members, rows, classes),
        labels=keys["label"],
        example=keys["example"],
        condition=keys["condition"],
        severity=keys["severity"],
        conditions=conditions,
    )


def _typed(run: Run, file: Place, split: str) -> pa.Table:
    """Return the columns of ``study.schema.predictions``, in its types or wider ones."""
    parquet = open_parquet(file, run.remedy, read_dictionary=["condition"])
    if run.given:
        return lenient.typed(file, read_parquet(file, parquet, run.remedy), split)
    _check_predictions_schema(file, parquet.schema_arrow)
    return read_parquet(file, parquet, run.remedy)


def _sorted(
    keys: dict[str, IntArray], logits: npt.NDArray[np.float32]
) -> tuple[dict[str, IntArray], npt.NDArray[np.float32]]:
    """Return the rows by member, condition, severity and example."""
    order = np.lexsort([keys[key] for key in ("example", "severity", "condition", "member")])
    if (order[1:] > order[:-1]).all():
        return keys, logits
    return {name: key[order] for name, key in keys.items()}, logits[order]


def _trial_row(file: Place) -> pa.Table:
    """Return the one checked row of a trial file."""
    parquet = open_parquet(file, REDO)
    schema.check_version(parquet.schema_arrow, str(file))
    _check_names(file, parquet.schema_arrow.names, schema.TRIAL.names)
    table = read_parquet(file, parquet, REDO)
    if table.num_rows != 1:
        raise StudyError(f"{file}: a trial must be one row, but there are {table.num_rows}; {REDO}")
    try:
        table = table.cast(schema.TRIAL)
    except (pa.ArrowException, ValueError) as error:
        raise StudyError(
            f"{file}: the row must have the types of study/schema.py, but {_line(error)}; "
            "write it with that schema"
        ) from None
    row = table.to_pylist()[0]
    allowed = {"role": schema.Role, "stage": schema.Stage, "status": schema.Status}
    for column, literal in allowed.items():
        if row[column] not in get_args(literal):
            raise StudyError(
                f"{file}: {column} must be one of {', '.join(get_args(literal))}, "
                f"but is {row[column]!r}; write it with study/schema.py"
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


def _plan(file: Place) -> Plan | None:
    try:
        plan = json.loads(file.read_text())
    except FileNotFoundError:
        return None
    except StoreError as error:
        raise StudyError(f"{file}: must be readable, but {error.strerror}") from None
    except (OSError, ValueError, RecursionError) as error:
        raise StudyError(f"{file}: must be JSON, but {error}; restore the file") from None
    if not isinstance(plan, dict):
        raise StudyError(f"{file}: must be a JSON object, but is {plan!r:.40}; restore the file")
    found = plan_of(plan, file)
    keys = [(a.role, a.configuration if a.role in SEVERAL else "") for a in found.arms]
    twice = next((" ".join(key).strip() for key in keys if keys.count(key) > 1), None)
    if twice:
        raise StudyError(
            f"{file}: an arm must be declared once, but {twice} is there twice; restore the file"
        )
    return found


def open_parquet(file: Place, remedy: str, **options: Any) -> Any:
    """Open a Parquet file; ``remedy`` ends the line on one that is not there or not whole.

    Raises:
        StudyError: When there is no such file, or it is not Parquet.
    """
    if not file.exists():
        raise StudyError(f"{file}: the file must exist, but is not there; {remedy}")
    try:
        content = source(file)
    except OSError as error:
        raise StudyError(f"{file}: must be readable, but {error.strerror}; {remedy}") from None
    try:
        return pq.ParquetFile(content, **options)
    except KeyError:  # A column that an option names is not there: whoever reads it will say so.
        return pq.ParquetFile(content)
    except (pa.ArrowException, OSError, ValueError) as error:
        raise StudyError(_not_whole(file, error, remedy)) from None


def read_parquet(
    file: Place, parquet: Any, remedy: str, columns: list[str] | None = None
) -> pa.Table:
    """Read an open file and close it.

    Raises:
        StudyError: When it is damaged.
    """
    try:
        return parquet.read(columns=columns, use_threads=False)
    except (pa.ArrowException, OSError, ValueError) as error:
        raise StudyError(_not_whole(file, error, remedy)) from None
    finally:
        parquet.close()


def _not_whole(file: Place, error: Exception, remedy: str) -> str:
    return f"{file}: must be whole Parquet, but is cut short or damaged ({_line(error)}); {remedy}"


def _line(error: Exception) -> str:
    return str(error).strip().splitlines()[0][:120]


def _check_names(file: Place, found: list[str], wanted: list[str]) -> None:
    missing = [name for name in wanted if name not in found]
    extra = [name for name in found if name not in wanted]
    if missing or extra:
        raise StudyError(
            f"{file}: columns must be those of study/schema.py, but missing: "
            f"{', '.join(missing) or 'none'}, unknown: {', '.join(extra) or 'none'}; "
            "write it with that schema"
        )


def _check_predictions_schema(file: Place, found: pa.Schema) -> None:
    """Refuse another version, other columns or other types."""
    schema.check_version(found, str(file))
    wanted = schema.predictions(1)
    _check_names(file, found.names, wanted.names)
    for name in ("member", "example", "label", "severity"):
        if found.field(name).type != wanted.field(name).type:
            _wrong_type(file, name, str(wanted.field(name).type), found)
    condition = found.field("condition").type
    text = condition.value_type if pa.types.is_dictionary(condition) else condition
    if not (pa.types.is_string(text) or pa.types.is_large_string(text)):
        _wrong_type(file, "condition", "string", found)
    logits = found.field("logits").type
    if not pa.types.is_fixed_size_list(logits) or logits.value_type not in (
        pa.float16(),
        pa.float32(),
    ):
        _wrong_type(file, "logits", "a list of float16 or float32 of fixed size C", found)


def _wrong_type(file: Place, name: str, wanted: str, found: pa.Schema) -> None:
    raise StudyError(
        f"{file}: column {name} must be {wanted}, but is {found.field(name).type}; "
        "write it with study/schema.py"
    )


def _refuse_nulls(file: Place, table: pa.Table, names: tuple[str, ...], remedy: str) -> None:
    for name in names:
        if nulls := table[name].null_count:
            raise StudyError(f"{file}: column {name} must have no null, but has {nulls}; {remedy}")


def _members_of(run: Run, trial: str) -> int:
    if trial not in run.members:
        raise StudyError(f"{run.folder}: no committed trial {trial!r}; see the ids under trials/")
    return run.members[trial]


def _check_members(file: Place, member: IntArray, size: int, remedy: str) -> tuple[int, int]:
    """Return (M, N) after a check that members are 0 to M-1 in order, with equal rows each."""
    if member.size == 0:
        raise StudyError(f"{file}: must have rows, but is empty; {remedy}")
    starts = np.r_[0, np.flatnonzero(np.diff(member)) + 1]
    order = member[starts]
    if not np.array_equal(order, np.arange(len(order))):
        raise StudyError(
            f"{file}: members must be 0 to M-1 in order, but are {_few(order)}; "
            "number them from 0 and sort the rows by member"
        )
    counts = np.diff(starts, append=member.size)
    if counts.min() != counts.max():
        raise StudyError(
            f"{file}: every member must have as many rows, but they have {_few(counts)}; {remedy}"
        )
    if len(order) != size:
        raise StudyError(
            f"{file}: must hold the trial's {size} members, but holds {len(order)}; {remedy}"
        )
    return len(order), int(counts[0])


def _few(values: IntArray) -> str:
    shown = ", ".join(map(str, values[:6]))
    return f"{shown}, …" if len(values) > 6 else shown


def _codes(column: Any) -> tuple[IntArray, tuple[str, ...]]:
    """Return codes into the sorted names, -1 for null; whatever dictionary the file used."""
    encoded = column.combine_chunks()
    if not pa.types.is_dictionary(encoded.type):
        encoded = encoded.dictionary_encode()
    if isinstance(encoded, pa.ChunkedArray):
        encoded = encoded.unify_dictionaries().combine_chunks()
    stored = encoded.dictionary.to_pylist()
    codes = _filled(encoded.indices, -1)
    used = set(np.unique(codes).tolist())
    names = tuple(sorted({name for at, name in enumerate(stored) if at in used}))
    lookup = np.array([names.index(n) if n in names else -1 for n in stored] + [-1], np.int64)
    return lookup[codes], names


def _filled(column: Any, missing: int) -> IntArray:
    """Return a column of integers as int64 with ``missing`` for null."""
    filled = column.cast(pa.int64()).fill_null(missing)
    return np.asarray(filled.to_numpy(), np.int64)


def _same_per_member(file: Place, name: str, key: IntArray, members: int) -> IntArray:
    per_member = key.reshape(members, -1)
    wrong = np.flatnonzero((per_member != per_member[0]).any(1))
    if wrong.size:
        raise StudyError(
            f"{file}: every member must have the same rows in the same order, but column {name} "
            f"of member {wrong[0]} differs from member 0's; give all members the same rows"
        )
    return np.ascontiguousarray(per_member[0])


def _check_labels(file: Place, labels: IntArray, nulls: int, classes: int, split: str) -> None:
    if nulls and lenient.base(split) != "ood":
        raise StudyError(
            f"{file}: labels may be null only out of distribution, but {nulls} are; "
            "write the labels"
        )
    known = labels[labels != -1] if nulls else labels
    wrong = known[(known < 0) | (known >= classes)]
    if wrong.size:
        raise StudyError(
            f"{file}: labels must be 0 to {classes - 1}, but one is {wrong[0]}; "
            "number the classes from 0"
        )


def _check_distinct(file: Place, keys: Mapping[str, IntArray], remedy: str) -> None:
    """Refuse an example that stands twice under the same condition and severity."""
    condition, severity, example = (keys[k] for k in ("condition", "severity", "example"))
    names = np.arange(1)
    if int(example.max()) - int(example.min()) >= WIDE:
        names, example = np.unique(example, return_inverse=True)
    first = int(example.min())
    spread = int(example.max()) - first + 1
    cell = (condition + 1) * (int(severity.max()) + 1) + severity
    values, counts = np.unique(cell * spread + (example - first), return_counts=True)
    if counts.max() > 1:
        twice = int(values[counts.argmax()] % spread) + first
        raise StudyError(
            f"{file}: an example must stand once per condition and severity, but example "
            f"{names[twice] if len(names) > 1 else twice} stands {counts.max()} times; {remedy}"
        )


def _logits(file: Place, column: Any, remedy: str) -> npt.NDArray[np.float32]:
    flat = column.combine_chunks()
    if isinstance(flat, pa.ChunkedArray):
        flat = pa.concat_arrays(flat.chunks)
    flat = flat.flatten()
    if flat.null_count:
        raise StudyError(f"{file}: logits must have no null, but have {flat.null_count}; {remedy}")
    logits = np.asarray(flat.to_numpy(zero_copy_only=False), np.float32)
    wrong = logits.size - int(np.isfinite(logits).sum())
    if wrong:
        raise StudyError(
            f"{file}: logits must be finite, but {wrong} are NaN or infinite; "
            "record such a trial as diverged, without predictions"
        )
    return logits


def refuse_other_rows(found: Mapping[str, tuple[str, dict[str, str]]]) -> None:
    """Refuse trials whose rows or labels of one split are not the same.

    Args:
        found: File by trial -> (file, its ``Predictions.fingerprints()``), all of one split.

    Raises:
        StudyError: With both files and what differs.
    """
    first: tuple[str, dict[str, str]] | None = None
    for file, marks in found.values():
        first = first or (file, marks)
        for what, mark in marks.items():
            if mark != first[1][what]:
                raise StudyError(
                    f"{file}: {what} of a split must be the same, in the same order, in every "
                    f"trial, but differ from {first[0]}; run both on the same data"
                )
