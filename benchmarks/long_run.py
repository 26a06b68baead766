"""Does anything grow faster than the work? ``python -m benchmarks.long_run``.

Runs one study of 2,000 short trials and looks, on the way, at the memory and open files of the
driver and its workers, at Ray's object store and session, and at the run folder. Prints a table,
one row for each tenth of the study. Linux only.
"""

import argparse
import contextlib
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

SPACE = Path(__file__).parents[1] / "search_spaces" / "smoke.yaml"
METHODS = 3
COLUMNS = (
    "trials",
    "seconds",
    "driver MB",
    "files",
    "Ray MB",
    "a worker MB",
    "files",
    "store MB",
    "session MB",
    "run MB",
)


def main(argv: list[str] | None = None) -> int:
    """Run the study and print the table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.long_run", description=__doc__)
    parser.add_argument("--trials", type=int, default=2000)
    trials = parser.parse_args(argv).trials
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "run"
        command = [sys.executable, "-m", "study.run", "--space", str(SPACE), "--out", str(out)]
        command += [
            "--set",
            f"budget.trials={trials // METHODS}",
            "--set",
            "fixed.training.epochs=1",
        ]
        log = (Path(folder) / "log").open("w")
        run = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, cwd=SPACE.parents[1])
        print(f"| {' | '.join(COLUMNS)} |\n|{' --- |' * len(COLUMNS)}")
        start, due = time.monotonic(), 1
        while run.poll() is None:
            time.sleep(1)
            done = len(list(out.glob("trials/*/trial.parquet")))
            if done >= due:
                print(
                    f"| {done} | {time.monotonic() - start:.0f} | {_look(run.pid, out)} |",
                    flush=True,
                )
                due = done + trials // 10
        print(f"\nended with status {run.returncode}\n{(Path(folder) / 'log').read_text()[-400:]}")
    return run.returncode


def _look(driver: int, out: Path) -> str:
    """Return the figures of this moment, as cells."""
    processes = dict(_descendants(driver))
    workers = [pid for pid, command in processes.items() if command.startswith("ray::")]
    ray = [pid for pid in processes if pid not in workers]
    sessions = Path("/tmp/ray/session_latest").resolve()
    cells = [
        _resident(driver),
        _files(driver),
        sum(map(_resident, ray)),
        max(map(_resident, workers), default=0),
        max(map(_files, workers), default=0),
        _size(Path("/dev/shm")),
        _size(sessions),
        _size(out),
    ]
    return " | ".join(f"{cell:.0f}" for cell in cells)


def _descendants(pid: int) -> Iterator[tuple[int, str]]:
    """Yield the processes below one, with their commands."""
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        with contextlib.suppress(OSError):
            for child in map(int, task.read_text().split()):
                command = Path(f"/proc/{child}/cmdline").read_bytes().replace(b"\0", b" ")
                yield child, command.decode()
                yield from _descendants(child)


def _resident(pid: int) -> float:
    """Return a process's own resident memory in MB, without what it shares."""
    with contextlib.suppress(OSError, StopIteration):
        rows = Path(f"/proc/{pid}/status").read_text().splitlines()
        return int(next(row for row in rows if row.startswith("RssAnon")).split()[1]) / 1e3
    return 0.0


def _files(pid: int) -> int:
    with contextlib.suppress(OSError):
        return len(os.listdir(f"/proc/{pid}/fd"))
    return 0


def _size(folder: Path) -> float:
    """Return the MB that the files of a folder take."""
    total = 0
    for path, _, names in os.walk(folder):
        for name in names:
            with contextlib.suppress(OSError):
                total += os.lstat(os.path.join(path, name)).st_blocks * 512
    return total / 1e6


if __name__ == "__main__":
    raise SystemExit(main())
