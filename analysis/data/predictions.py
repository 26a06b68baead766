"""One trial's stored predictions as checked arrays.

Nothing downstream of this module checks a shape again.
"""

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from analysis.data import coerce
from analysis.data.files import check_columns, open_parquet, read_parquet, read_published
from analysis.data.run import Run
from study import parquet_format
from study.errors import StudyError
from study.run_folder.paths import AnyPath, map_paths

IntArray = npt.NDArray[np.integer[Any]]
WIDE = 2**32
LONE = (parquet_format.COLLAPSED, parquet_format.MEAN_WEIGHTS)


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


def predictions_file(run: Run, trial: str, split: str) -> AnyPath:
    """Return where a trial's predictions on ``split`` lie (or would)."""
    return run.folder / predictions_name(run, trial, split)


def predictions_name(run: Run, trial: str, split: str) -> str:
    """Return the file's path inside the run."""
    return f"{'' if run.given else 'trials/'}{trial}/{split}.parquet"


def published(run: Run, trials: Iterable[str], name: str) -> dict[str, pa.Table]:
    """Return a file of each trial that has it, by trial: ``curve`` or ``geometry``.

    Raises:
        StudyError: When a file is damaged or breaks the format.
    """
    files = {trial: predictions_file(run, trial, name) for trial in trials}
    there = {trial: file for trial, file in files.items() if file.exists()}
    read = partial(read_published, schema_name=name.upper(), remedy=run.remedy)
    return dict(zip(there, map_paths(read, [*there.values()]), strict=True))


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
    refuse_nulls(file, table, ("member", "example", "logits"), remedy)
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


def _typed(run: Run, file: AnyPath, split: str) -> pa.Table:
    """Return the columns of ``study.parquet_format.predictions``, in its types or wider ones."""
    parquet = open_parquet(file, run.remedy, read_dictionary=["condition"])
    if run.given:
        return coerce.typed(file, read_parquet(file, parquet, run.remedy), split)
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


def _check_predictions_schema(file: AnyPath, found: pa.Schema) -> None:
    """Refuse another version, other columns or other types."""
    parquet_format.check_version(found, str(file))
    wanted = parquet_format.predictions(1)
    check_columns(file, found.names, wanted.names)
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


def _wrong_type(file: AnyPath, name: str, wanted: str, found: pa.Schema) -> None:
    raise StudyError(
        f"{file}: column {name} must be {wanted}, but is {found.field(name).type}; "
        "write it with study/parquet_format.py"
    )


def refuse_nulls(file: AnyPath, table: pa.Table, names: Iterable[str], remedy: str) -> None:
    """Refuse a column of these that has a null.

    Raises:
        StudyError: With the first such column.
    """
    for name in names:
        if nulls := table[name].null_count:
            raise StudyError(f"{file}: column {name} must have no null, but has {nulls}; {remedy}")


def _members_of(run: Run, trial: str) -> int:
    if trial not in run.members:
        raise StudyError(f"{run.folder}: no committed trial {trial!r}; see the ids under trials/")
    return run.members[trial]


def _check_members(file: AnyPath, member: IntArray, size: int, remedy: str) -> tuple[int, int]:
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


def _same_per_member(file: AnyPath, name: str, key: IntArray, members: int) -> IntArray:
    per_member = key.reshape(members, -1)
    wrong = np.flatnonzero((per_member != per_member[0]).any(1))
    if wrong.size:
        raise StudyError(
            f"{file}: every member must have the same rows in the same order, but column {name} "
            f"of member {wrong[0]} differs from member 0's; give all members the same rows"
        )
    return np.ascontiguousarray(per_member[0])


def _check_labels(file: AnyPath, labels: IntArray, nulls: int, classes: int, split: str) -> None:
    if nulls and coerce.base(split) != "ood":
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


def _check_distinct(file: AnyPath, keys: Mapping[str, IntArray], remedy: str) -> None:
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


def _logits(file: AnyPath, column: Any, remedy: str) -> npt.NDArray[np.float32]:
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


def refuse_other_rows(found: Iterable[tuple[str, dict[str, str]]]) -> None:
    """Refuse trials whose rows or labels of one split are not the same.

    Args:
        found: Each trial's file and its ``Predictions.fingerprints()``, all of one split.

    Raises:
        StudyError: With both files and what differs.
    """
    first: tuple[str, dict[str, str]] | None = None
    for file, marks in found:
        first = first or (file, marks)
        for what, mark in marks.items():
            if mark != first[1][what]:
                raise StudyError(
                    f"{file}: {what} of a split must be the same, in the same order, in every "
                    f"trial, but differ from {first[0]}; run both on the same data"
                )
