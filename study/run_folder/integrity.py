"""Whether committed trials still are what was committed; those that are not are set aside."""

import shutil
from pathlib import Path

from study.errors import StudyError
from study.parquet_format import TrialRow
from study.run_folder.store import ROW, DamagedError, RunFolder, checksums


def examine(store: RunFolder, thorough: bool = False) -> tuple[dict[str, TrialRow], dict[str, str]]:
    """Return every sound trial's row, and what is wrong with each of the others, by trial.

    Of an object store, which keeps checksums itself, the content is read only if ``thorough``.
    """
    rows, damaged = {}, {}
    present = store.present() if store.remote and not thorough else None
    for folder, row in store.each_row():
        if isinstance(row, DamagedError):
            damaged[folder] = str(row).partition("; ")[0]
        elif row is None:
            continue
        elif wrong := _wrong_files(store, row, present):
            damaged[folder] = wrong
        else:
            rows[folder] = row
    return rows, damaged


def _wrong_files(
    store: RunFolder, row: TrialRow, present: dict[str, set[str]] | None
) -> str | None:
    """Say which of a trial's files differ from what was committed, or are not ``present``."""
    then = dict(row.files or ())
    if present is not None:
        now = {name: then.get(name) for name in present.get(row.trial, ())}
    else:
        now = dict(checksums(store.folder(row.trial)))
    missing = [name for name in then if name not in now]
    other = [name for name in then if name in now and now[name] != then[name]]
    said = [
        f"{', '.join(names)} {how}"
        for names, how in ((missing, "missing"), (other, "not as committed"))
        if names
    ]
    return "; ".join(said) or None


def set_aside(store: RunFolder, trial: str) -> str:
    """Move a damaged trial out of the way, to be done again; return where it lies now."""
    folder, number = store.root / "trials" / trial, 1
    while (place := store.root / "damaged" / f"{trial}-{number}").is_dir():
        number += 1
    place.parent.mkdir(exist_ok=True)
    if isinstance(folder, Path):
        shutil.move(folder, str(place))
    else:
        for file in sorted(folder.glob("*"), key=lambda f: f.name != ROW):  # The commit mark first.
            (place / file.name).write_bytes(file.read_bytes())
            file.unlink()
        folder.rmtree()
    return f"{place.parent.name}/{place.name}"


def sound_rows(store: RunFolder) -> dict[str, TrialRow]:
    """Return every sound trial's row; set the damaged ones aside, saying so."""
    rows, damaged = examine(store)
    for trial, why in damaged.items():
        where = set_aside(store, trial)
        print(f"trial {trial} is damaged ({why}): set aside as {where}, and done again")
    return rows


def verify(store: RunFolder) -> int:
    """Print whether every committed file is what was committed; return 1 if one is not."""
    rows, damaged = examine(store, thorough=True)
    if not rows and not damaged:
        raise StudyError(f"--out {store.root}: no trial is committed there; name a run's folder")
    for trial, why in damaged.items():
        print(f"trial {trial}: {why}")
    unfinished = len(store.unfinished())
    files = sum(len(row.files or ()) for row in rows.values())
    print(
        f"{len(rows)} trials with {files} files are as they were committed, "
        f"{len(damaged)} are damaged, {unfinished} were begun and not ended"
    )
    if damaged:
        print("the command that made the run sets damaged trials aside and does them again")
    return 1 if damaged else 0
