"""A study that is run as a command and looked at from outside: what it took, and where."""

import contextlib
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass

try:
    import psutil
except ImportError as error:
    raise SystemExit(f'{error.name} is not installed; run: pip install -e ".[test]"') from None
from study.parquet_format import TrialRow


@dataclass(frozen=True)
class Took:
    """What a study took, in seconds.

    Attributes:
        wall: By the clock.
        cpu: Of the CPU, of all processes.
        start_up: Until the first trial begins.
        fit: Of the slots: training.
        rest: Of the slots: everything else that a trial does.
        idle: Of the slots: between trials.
        closing: From the end of the last trial: verdict and report, or t-tests.
        trials: How many.
    """

    wall: float
    cpu: float
    start_up: float
    fit: float
    rest: float
    idle: float
    closing: float
    trials: int


def watched(command: Sequence[str]) -> tuple[str, float, float, float]:
    """Run a Python command; return its output, start, end and the CPU seconds of its tree.

    Raises:
        SystemExit: With the end of its output, when it fails.
    """
    # Both sides' workers get the priority of whoever measures.
    environment = os.environ | {"RAY_worker_niceness": "0", "OMP_NUM_THREADS": "1"}
    seconds: dict[tuple[int, float], float] = {}
    with tempfile.TemporaryFile("w+") as log:
        began = time.time()
        run = psutil.Popen(
            [sys.executable, *command], stdout=log, stderr=subprocess.STDOUT, env=environment
        )
        while run.poll() is None:
            for process in (run, *_descendants(run)):
                with _gone():
                    times = process.cpu_times()
                    seconds[process.pid, process.create_time()] = times.user + times.system
            time.sleep(0.2)
        ended = time.time()
        log.seek(0)
        output = log.read()
    if run.returncode:
        raise SystemExit(f"{' '.join(command)} failed:\n{output[-2000:]}")
    return output, began, ended, sum(seconds.values())


def _gone() -> AbstractContextManager[None]:
    return contextlib.suppress(psutil.NoSuchProcess, psutil.AccessDenied)


def _descendants(process: psutil.Process) -> list[psutil.Process]:
    with _gone():
        return process.children(recursive=True)
    return []


def took(
    run: tuple[float, float, float],
    trials: Sequence[tuple[float, float]],
    first: float,
    last: float,
    slots: int,
) -> Took:
    """Sum a study up.

    Args:
        run: Its start, end and CPU seconds.
        trials: What each took of a slot, and of that its training.
        first: When the first trial began.
        last: When the last one ended.
        slots: Trials at a time.
    """
    began, ended, cpu = run
    busy, fit = (sum(seconds) for seconds in zip(*trials, strict=True))
    idle = slots * (last - first) - busy
    wall = ended - began
    return Took(wall, cpu, first - began, fit, busy - fit, idle, ended - last, len(trials))


def of_rows(run: tuple[float, float, float], rows: Sequence[TrialRow], slots: int) -> Took:
    """Sum a study of this project up from its rows."""
    jobs: dict[tuple[str, ...], list[TrialRow]] = {}
    for row in rows:
        jobs.setdefault(row.stack or (row.trial,), []).append(row)
    # Of trials that were trained as one each has its share: together they have the job's time.
    first = min(
        max(row.finished.timestamp() for row in job) - sum(row.seconds for row in job)
        for job in jobs.values()
    )
    last = max(row.finished.timestamp() for row in rows)
    return took(run, [(row.seconds, row.train_seconds) for row in rows], first, last, slots)
