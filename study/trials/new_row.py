"""A trial's row before it has run: identity, machine, versions, commit."""

import resource
import socket
import subprocess
import sys
from dataclasses import fields
from datetime import UTC, datetime
from functools import cache
from importlib.metadata import version
from pathlib import Path

import torch

from study.parquet_format import Outcome, TrialRow
from study.spec import TrialSpec, canonical


def new_row(
    spec: TrialSpec,
    fingerprint: str,
    name: str | None,
    outcome: Outcome,
    deterministic: bool = False,
) -> TrialRow:
    """Return the row of a trial that ended just now, here."""
    return TrialRow(
        trial=spec.trial,
        configuration=spec.configuration,
        name=name,
        method=spec.method,
        role=spec.role,
        stage=spec.stage,
        replicate=spec.replicate,
        seed=spec.seed,
        spec=spec.to_json(),
        device=device_name(),
        host=socket.gethostname(),
        versions=versions(),
        commit=commit(),
        data=fingerprint,
        finished=datetime.now(UTC),
        deterministic=deterministic,
        **{field.name: getattr(outcome, field.name) for field in fields(Outcome)},
    )


def peak_bytes() -> int:
    """Return the most memory that was taken: of the GPU, or of the process."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated()
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


@cache
def device_name() -> str:
    """Return ``cpu`` or the accelerator's name."""
    return torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu"


@cache
def versions() -> str:
    """Return the versions of Python and the packages that decide the numbers, as JSON."""
    packages = ("torch", "numpy", "pyarrow", "optuna", "ray")
    found = {package: version(package) for package in packages}
    return canonical(found | {"python": sys.version.split()[0]})


@cache
def commit() -> str | None:
    """Return the commit of the code, with ``+dirty`` for local changes; None outside git."""
    folder = Path(__file__).parent

    def git(*args: str) -> str:
        command = ["git", "-C", str(folder), *args]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    try:
        dirty = "+dirty" if git("status", "--porcelain", "--untracked-files=no") else ""
        return git("rev-parse", "HEAD") + dirty
    except (OSError, subprocess.CalledProcessError):
        return None
