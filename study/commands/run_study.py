"""Run a study: do what is missing, then judge it."""

import json
import os
import subprocess
import sys
import tempfile
import uuid
from pathlib import Path
from typing import Any, Final

from study.cluster.runtime import Runtime
from study.errors import StudyError
from study.parquet_format import TrialRow
from study.run_folder.paths import write_atomically
from study.run_folder.store import RunFolder
from study.space.settings import Protocol, Study

CHECKOUT: Final = Path(__file__).parents[2]


def run(
    study: Study,
    store: RunFolder,
    root: Path | None,
    *,
    command: str,
    runtime: Runtime,
    mixed: bool = False,
) -> int:
    """Do what is missing of the study, then judge it.

    A cluster is joined first, so that nothing is written where that fails.
    """
    from study import datasets
    from study.cluster.ray_start import start_ray
    from study.cluster.trackers import refuse_missing
    from study.cluster.tuner import schedule
    from study.commands import power
    from study.commands.notes import notes
    from study.run_folder.free_space import refuse_full
    from study.run_folder.integrity import sound_rows
    from study.stages.estimate import shortage

    refuse_missing(runtime.log)
    if runtime.address is not None:
        start_ray(runtime.address, runtime.verbose)
    store.create()
    with store.locked():
        refuse_full(store)
        check_same_study(study, store)
        study = as_begun(study, store)
        found = sound_rows(store)
        rows = {t: row for t, row in found.items() if not _is_to_be_retried(store, row)}
        data = datasets.load(study.dataset, root)
        for note in notes(study, data):
            print(note)
        fingerprint = data.fingerprint
        check_same_data(rows, fingerprint)
        if not mixed:
            check_same_versions(rows)
        if (line := shortage(study, data, store)) is not None:
            print(line)
        asked = study.model_dump(mode="json", by_alias=True)
        earlier = store.read_json(store.study) or {}
        run_id = earlier.get("id") or uuid.uuid4().hex[:12]
        store.write_json(store.study, asked | {"command": command, "id": run_id})
        if not schedule(study, store, rows, data, fingerprint, runtime, power):
            raise KeyboardInterrupt
        if not store.images.exists():
            store.write_images(datasets.sample(data))
        return judge(store)


def check_same_study(study: Study, store: RunFolder) -> None:
    """Refuse a run folder of another study; more trials or seeds are no difference.

    Without a committed trial the folder is free: a start that failed does not keep the mended
    study out.
    """
    earlier = store.read_json(store.study)
    if earlier is None:
        return
    now = study.model_dump(mode="json", by_alias=True)
    free = ("budget", "protocol", "resources", "storage", "note")
    for key in now:
        if key not in free and earlier.get(key) != now[key]:
            if not store.committed():
                store.forget()
                return
            raise StudyError(
                f"--out {store.root}: the folder belongs to another study: "
                f"{_difference(key, earlier.get(key), now[key])}; choose another --out"
            )


def as_begun(study: Study, store: RunFolder) -> Study:
    """Return the study with the anchors that its folder was begun with, unless it asks for others.

    Other ones would be declared after the test set was opened. Before there was a choice nothing
    said which: they were the tuned ones.
    """
    earlier = store.read_json(store.study)
    if earlier is None or study.protocol.anchors != Protocol().anchors:
        return study
    begun = earlier.get("protocol", {}).get("anchors", "tuned")
    protocol = study.protocol.model_copy(update={"anchors": begun})
    return study.model_copy(update={"protocol": protocol})


def _difference(path: str, old: Any, new: Any) -> str:
    """Name the first place where two JSON values differ."""
    if isinstance(old, dict) and isinstance(new, dict):
        for key in sorted({*old, *new}):
            if old.get(key) != new.get(key):
                return _difference(f"{path}.{key}", old.get(key), new.get(key))
    if isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        for number, pair in enumerate(zip(old, new, strict=True)):
            if pair[0] != pair[1]:
                return _difference(f"{path}[{number}]", *pair)
    return f"{path} is {old!r} there and {new!r} here"


def check_same_data(rows: dict[str, TrialRow], fingerprint: str) -> None:
    """Refuse to mix trials of different data."""
    for row in rows.values():
        if row.data != fingerprint:
            raise StudyError(
                f"the data's fingerprint is {fingerprint}, but trial {row.trial} was run on "
                f"{row.data}; restore the data or choose another --out"
            )


DECIDING: Final = ("torch", "numpy", "optuna")
"""Packages whose version may change a trial's numbers or what is proposed."""


def check_same_versions(rows: dict[str, TrialRow]) -> None:
    """Refuse to mix trials of different versions of what decides their numbers."""
    from study.trials.new_row import versions

    now = json.loads(versions())
    for row in rows.values():
        then = json.loads(row.versions)
        other = [f"{p} {then.get(p)}, now {now[p]}" for p in DECIDING if then.get(p) != now[p]]
        if other:
            raise StudyError(
                f"trial {row.trial} was run with {'; '.join(other)}: restore that environment "
                "or choose another --out, or allow the mixture with --mixed (the report lists both)"
            )


def _is_to_be_retried(store: RunFolder, row: TrialRow) -> bool:
    """Discard the trial and return True if it failed in an earlier run.

    Once the plan is declared, what it was chosen from stays as it is.
    """
    if row.status != "failed" or (row.stage != "confirm" and store.plan.exists()):
        return False
    store.discard(row.trial)
    return True


def judge(store: RunFolder) -> int:
    """Write report and verdict in a process of their own.

    In a checkout of this project the report is copied to its ``analysis/`` as well; any other
    folder of that name is the user's own.
    """
    command = [sys.executable, "-m", "analysis.report", "--runs", str(store.root)]
    # Altair reads docstrings, which PYTHONOPTIMIZE=2 takes away.
    env = {name: value for name, value in os.environ.items() if name != "PYTHONOPTIMIZE"}
    with tempfile.TemporaryDirectory() as folder:
        page = store.report if isinstance(store.report, Path) else Path(folder) / "report.html"
        result = subprocess.run([*command, "--out", str(page)], env=env, check=False)
        if result.returncode == 0:
            if page != store.report:
                store.report.write_bytes(page.read_bytes())
            print(f"report: {store.report}")
            if CHECKOUT.resolve() == Path.cwd() and os.access(CHECKOUT / "analysis", os.W_OK):
                write_atomically(CHECKOUT / "analysis" / "report.html", page.read_bytes())
    return result.returncode
