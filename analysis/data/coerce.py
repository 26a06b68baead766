"""Predictions as any program writes them, brought to the types of the public format.

Lenient in types, as polars, pandas and pyarrow each have their own; strict in content.
"""

from collections.abc import Sequence
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from study.errors import StudyError
from study.run_folder.paths import AnyPath

AGAIN: Final = "write the file again (the README shows how)"
ALWAYS: Final = ("member", "example", "logits")
NUMBERED: Final = {
    "member": "number the members from 0",
    "example": "number the examples, alike in every file",
    "label": "number the classes from 0",
    "severity": "number the severities from 1",
}
NEEDED: Final = {
    "val": (*ALWAYS, "label"),
    "test": (*ALWAYS, "label"),
    "shift": (*ALWAYS, "label", "condition", "severity"),
    "ood": (*ALWAYS, "condition"),
}
KNOWN: Final = (*ALWAYS, "label", "condition", "severity")
LARGEST: Final = 1e10
"""Beyond it (nats), sums of squares of float32 losses are no longer exact enough to test."""
SEVERITIES: Final = 100
ROUNDED: Final = 0.015
"""By how much probabilities may miss 1 whose logarithms to base 10 or less have two digits."""


def base(split: str) -> str:
    """Return the split that a file belongs to: ``test`` of ``collapsed_test``."""
    return split.rpartition("_")[2]


def check_names(file: AnyPath, found: Sequence[str], split: str) -> None:
    """Refuse a file without the columns of its split, or with unknown ones.

    An index that pandas stored besides is no column of the user's.

    Raises:
        StudyError: With what is missing and what is unknown.
    """
    needed = NEEDED[base(split)]
    missing = [name for name in needed if name not in found]
    extra = [n for n in found if n not in KNOWN and not n.startswith("__index_level_")]
    twice = sorted({name for name in found if found.count(name) > 1})
    if missing or extra or twice:
        wrong = {"missing": missing, "unknown": extra, "twice": twice}
        said = "; ".join(f"{what}: {', '.join(names)}" for what, names in wrong.items() if names)
        raise StudyError(
            f"{file}: columns must be {', '.join(needed)}, but {said[:200]}; "
            "rename the columns, or drop what is not of this format"
        )


def typed(file: AnyPath, table: pa.Table, split: str) -> pa.Table:
    """Return the columns of ``study.parquet_format.predictions``, in its types or wider ones.

    Args:
        file: Where the table was read, for the message.
        table: Integers of any width, or floats that are whole; text of any kind; logits as lists
            of floats. ``label`` may be absent out of distribution, ``condition`` and ``severity``
            elsewhere than under shift.
        split: Which split's columns must be there.

    Raises:
        StudyError: When a column is missing, unknown, or cannot mean what its name says.
    """
    check_names(file, table.column_names, split)
    if table.num_rows == 0:
        raise StudyError(f"{file}: must have rows, but is empty; {AGAIN}")
    nothing = pa.nulls(table.num_rows)
    columns = {name: table[name] if name in table.column_names else nothing for name in KNOWN}
    whole = {name: _whole(file, name, columns[name]) for name in ("member", "example", "label")}
    condition, severity = _text(file, columns["condition"]), columns["severity"]
    if base(split) != "shift":
        severity = _constant(file, "severity", severity, split)
    if base(split) in ("test", "val"):
        condition = _constant(file, "condition", condition, split)
    severity = _whole(file, "severity", severity)
    _check_conditions(file, condition, severity, split)
    return pa.table(
        whole
        | {"condition": condition, "severity": severity, "logits": _lists(file, columns["logits"])}
    )


def _constant(file: AnyPath, name: str, column: Any, split: str) -> pa.Array:
    """Return nulls, after a check that the column held one value: it tells nothing here."""
    values = len(column.unique())
    if values > 1:
        raise StudyError(
            f"{file}: column {name} must be the same in all rows of {base(split)}, but has "
            f"{values} values; put shifted rows into shift.parquet"
        )
    return pa.nulls(len(column))


def _check_conditions(file: AnyPath, condition: Any, severity: Any, split: str) -> None:
    for name, column in (("condition", condition), ("severity", severity)):
        if name in NEEDED[base(split)] and column.null_count:
            raise StudyError(
                f"{file}: column {name} must have no null, but has {column.null_count}; "
                f"name the {name} of every row"
            )
    bounds = pc.min_max(severity).as_py()
    low, high = bounds["min"], bounds["max"]
    if low is not None and (low < 1 or high > SEVERITIES):
        raise StudyError(
            f"{file}: severity must be 1 to {SEVERITIES}, but one is {low if low < 1 else high}; "
            "number the severities from 1"
        )


def _whole(file: AnyPath, name: str, column: Any) -> Any:
    """Return a column of whole numbers as int64."""
    kinds = (pa.types.is_integer, pa.types.is_floating, pa.types.is_null)
    try:
        if any(kind(column.type) for kind in kinds):
            return column.cast(pa.int64())
        said = f"is {column.type}"
    except pa.ArrowException as error:
        said = str(error).strip().splitlines()[0][:80]
    raise StudyError(f"{file}: column {name} must hold whole numbers, but {said}; {NUMBERED[name]}")


def _text(file: AnyPath, column: Any) -> Any:
    """Return a column of text as strings, or as a dictionary of strings."""
    kind = column.type
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    if pa.types.is_null(kind) or pa.types.is_string_view(kind):
        return column.cast(pa.string())
    if not (pa.types.is_string(kind) or pa.types.is_large_string(kind)):
        raise StudyError(f"{file}: column condition must hold text, but is {kind}; {AGAIN}")
    return column


def _lists(file: AnyPath, column: Any) -> pa.FixedSizeListArray:
    """Return logits as lists of float32 of one size."""
    kind = column.type
    listed = (pa.types.is_list, pa.types.is_large_list, pa.types.is_fixed_size_list)
    if not any(is_(kind) for is_ in listed) or not pa.types.is_floating(kind.value_type):
        raise StudyError(
            f"{file}: column logits must hold lists of floats, but is {kind}; "
            "write one list of C floats in each row"
        )
    if column.null_count:
        raise StudyError(f"{file}: logits must have no null, but {column.null_count} are; {AGAIN}")
    sizes = sorted(pc.unique(pc.list_value_length(column)).to_pylist())
    if len(sizes) > 1:
        raise StudyError(
            f"{file}: logits must have one value per class in every row, but rows have "
            f"{', '.join(map(str, sizes[:5]))} values; {AGAIN}"
        )
    if sizes[0] < 2:
        raise StudyError(
            f"{file}: logits must be of 2 classes or more, but are of {sizes[0]}; "
            "for a binary classifier write the logits of both classes (0 and z)"
        )
    flat = [chunk.flatten() for chunk in column.chunks]
    if nulls := sum(part.null_count for part in flat):
        raise StudyError(f"{file}: logits must have no null, but {nulls} values are; {AGAIN}")
    with np.errstate(over="ignore"):
        parts = [part.to_numpy(zero_copy_only=False).astype(np.float32) for part in flat]
    values = np.concatenate(parts)
    _check_values(file, values, sizes[0])
    return pa.FixedSizeListArray.from_arrays(pa.array(values), sizes[0])


def _check_values(file: AnyPath, values: npt.NDArray[np.float32], classes: int) -> None:
    wrong = values.size - int((np.abs(values) <= LARGEST).sum())
    if wrong:
        raise StudyError(
            f"{file}: logits must be finite and within ±{LARGEST:g}, but {wrong} are NaN, infinite "
            "or beyond; give the logarithm of a probability of 0 a floor, and leave no failed "
            "training in"
        )
    rows = values.reshape(-1, classes)
    found = None
    if rows.size:
        found = _probabilities(rows) if rows.min() >= 0 else _other_base(rows)
    if found:
        raise StudyError(f"{file}: logits must be logits or log-probabilities, but {found}")


def _other_base(rows: npt.NDArray[np.float32]) -> str | None:
    """Say so where values can only be logarithms of probabilities to another base than e."""
    if rows.max() > 0 or rows.max(1).min() == 0:  # Where every row has a 0, any base may fit.
        return None
    off = {base: np.abs(np.power(base, rows).sum(1) - 1).max() for base in (np.e, 2, 10)}
    nearest = min(off, key=lambda base: off[base])
    if nearest == np.e or off[nearest] > ROUNDED:
        return None
    log = f"log({nearest}) = {np.log(nearest):.5f}"
    return f"they are to base {nearest}; multiply them by {log}"


def _probabilities(rows: npt.NDArray[np.float32]) -> str | None:
    """Say what values that are nowhere negative must be instead of logits, and what to write."""
    # Numbers that are rounded to two digits sum to 1 within half a digit for each class.
    loose = min(0.006 * rows.shape[1], 0.3)

    def all_near(sums: npt.NDArray[np.float32], one: float, within: float) -> bool:
        return bool(np.abs(sums - one).max() <= within * one)

    if rows.max() <= 1 and all_near(rows.sum(1), 1, loose):
        return "every row is positive and sums to 1, as probabilities do; write their logarithm"
    if rows.max() <= 100 and all_near(rows.sum(1), 100, loose):
        return (
            "every row is positive and sums to 100, as probabilities in percent do; write the "
            "logarithm of a hundredth of them"
        )
    if all_near(np.exp(-rows).sum(1), 1, 0.01):
        return "every value is positive, as -log p is; turn the sign"
    # Their softmax would hardly differ from chance; where all are equal, that may be so.
    if rows.max() <= 1 and rows.min() < rows.max():
        return (
            "every value lies from 0 to 1, as a sigmoid's scores do; write their logarithm (if "
            "they are logits after all, take each row's largest from it: the probabilities stay)"
        )
    return None
