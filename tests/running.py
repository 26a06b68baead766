"""The command as its users run it: in a process of its own, with a real Ray."""

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from study.parquet_format import TrialRow
from study.run_folder.store import RunFolder
from study.stages import plan

ROOT = Path(__file__).parents[1]
SMOKE = ROOT / "search_spaces" / "smoke.yaml"


class Finished(NamedTuple):
    """A study that nothing disturbed: its run folder, and what the command printed."""

    out: Path
    printed: str


def start(out: Any, *more: str, space: Path | None = SMOKE) -> "subprocess.Popen[str]":
    """Start a study in the folder above ``out``."""
    spaces = [] if space is None else ["--space", str(space)]
    return subprocess.Popen(
        [sys.executable, "-m", "study.run", *spaces, "--out", str(out), *more],
        cwd=out.parent,
        env=os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), str(out.parent)])},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        process_group=0,  # For tests that end all processes of a study at once.
    )


def finish(process: "subprocess.Popen[str]", timeout: float = 600) -> tuple[int, str]:
    """Wait for a study; return its exit status and what it printed."""
    try:
        printed, _ = process.communicate(timeout=timeout)
    except subprocess.TimeoutExpired as expired:
        process.kill()
        said = (expired.stdout or b"").decode(errors="replace")
        raise AssertionError(f"not at its end after {timeout} s:\n{said}") from None
    return process.returncode, printed


def wait_for(
    condition: Callable[[], Any], process: "subprocess.Popen[str]", timeout: float = 600
) -> None:
    """Wait until something holds while a process runs, for what takes seconds at rest."""
    end = time.monotonic() + timeout
    while time.monotonic() < end:
        if condition():
            return
        assert process.poll() is None, process.communicate()[0]
        time.sleep(0.1)
    process.kill()
    raise AssertionError("what was waited for did not come")


def committed(out: Path, stage: str | None = None) -> set[str]:
    """Return the trials that are committed, of one stage or of all."""
    rows = RunFolder(out).rows().values() if (out / "trials").exists() else []
    return {r.trial for r in rows if stage is None or r.stage == stage}


def content(rows: dict[str, TrialRow]) -> dict[str, list[Any]]:
    """Return what each trial's row says of its results, without when and where it ran."""
    keys = ("status", "spec", "val_nll", "val_gain", "stage", "role", "name")
    return {trial: [getattr(row, key) for key in keys] for trial, row in rows.items()}


def is_whole(out: Path | str) -> bool:
    """Tell whether every replicate that the plan declares is committed."""
    store = RunFolder(out)
    declared = plan.read(store)
    confirmed = [row for row in store.rows().values() if row.stage == "confirm"]
    return declared is not None and len(confirmed) == sum(map(declared.seeds_of, declared.arms))
