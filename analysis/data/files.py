"""Reading Parquet files and writing any file; what is wrong is said in one line."""

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from study import parquet_format
from study.errors import StudyError
from study.run_folder.paths import AnyPath, is_lfs_pointer, open_for_arrow, write_atomically


def open_parquet(file: AnyPath, remedy: str, **options: Any) -> Any:
    """Open a Parquet file; ``remedy`` ends the line on one that is not there or not whole.

    Raises:
        StudyError: When there is no such file, or it is not Parquet.
    """
    if not file.exists():
        raise StudyError(f"{file}: the file must exist, but is not there; {remedy}")
    if isinstance(file, Path) and file.is_dir():
        raise StudyError(f"{file}: must be one file, but is a folder, as of parts; {remedy}")
    try:
        content = open_for_arrow(file)
    except OSError as error:
        raise StudyError(f"{file}: must be readable, but {error.strerror}; {remedy}") from None
    # Reading ahead takes a sixth of the time that many small files need.
    options["pre_buffer"] = not isinstance(file, Path)
    try:
        return pq.ParquetFile(content, **options)
    except KeyError:  # A column that an option names is not there: whoever reads it will say so.
        return pq.ParquetFile(content)
    except (pa.ArrowException, OSError, ValueError) as error:
        raise StudyError(_not_whole(file, error, remedy)) from None


def read_parquet(
    file: AnyPath, parquet: Any, remedy: str, columns: list[str] | None = None
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


def read_published(file: AnyPath, schema_name: str, remedy: str) -> pa.Table:
    """Read a file that must have one of the schemas of ``study.parquet_format``, as ``CURVE``.

    Raises:
        StudyError: When it is damaged, of another version, or has other columns.
    """
    table = read_parquet(file, open_parquet(file, remedy, page_checksum_verification=True), remedy)
    parquet_format.check_version(table.schema, str(file))
    if not table.schema.equals(getattr(parquet_format, schema_name)):
        found = ", ".join(f"{field.name}: {field.type}" for field in table.schema)
        raise StudyError(
            f"{file}: columns must be those of {schema_name} in study/parquet_format.py, but are "
            f"{found}; {remedy}"
        )
    return table


def _not_whole(file: AnyPath, error: Exception, remedy: str) -> str:
    why = first_line(error)
    if is_lfs_pointer(file):
        return f"{file}: is Git LFS's pointer to the file, not the file; fetch it with git lfs pull"
    if "lists to be of size" in why:  # Before pyarrow 26 a null list of fixed size cannot be read.
        return f"{file}: logits must have no null and one length, but {why}; {remedy}"
    return f"{file}: must be whole Parquet, but is cut short or damaged ({why}); {remedy}"


def first_line(error: Exception) -> str:
    """Return the first line of an error, cut to 120 characters."""
    return str(error).strip().splitlines()[0][:120]


def check_columns(file: AnyPath, found: list[str], wanted: list[str]) -> None:
    """Refuse a file that lacks a column or has one too many.

    Raises:
        StudyError: With the file and the names.
    """
    missing = [name for name in wanted if name not in found]
    extra = [name for name in found if name not in wanted]
    if missing or extra:
        raise StudyError(
            f"{file}: columns must be those of study/parquet_format.py, but missing: "
            f"{', '.join(missing) or 'none'}, unknown: {', '.join(extra) or 'none'}; "
            "write it with that schema"
        )


def write(file: Path, content: str | bytes) -> None:
    """Write a file and the folders above it; one that was there stays whole until it is replaced.

    What a link points to is written, and what is no file, as ``/dev/stdout``, is written to.

    Raises:
        StudyError: When that is not possible.
    """
    content = content.encode() if isinstance(content, str) else content
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        if file.exists() and not file.is_file():
            file.write_bytes(content)
        else:
            write_atomically(file.resolve(), content)
    except OSError as error:
        raise StudyError(
            f"{file}: must be writable, but {error.strerror or error}; choose another place"
        ) from None
