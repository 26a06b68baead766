"""Nothing outlives the tests, however they end: a watcher clears up after them.

All processes that the tests start inherit a mark in their environment, and all temporary files lie
in one folder. The watcher, a process in a session of its own, waits until the tests' process ends,
by itself or by a signal that no process can handle, kills what bears the mark and removes the
folder. Hosts that are namespaces end by themselves (see :mod:`tests.clusters.hosts`).
"""

import os
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

MARK = "ESCAPE_STUDY_TESTS"
KEEP = "ESCAPE_STUDY_TESTS_KEEP"
"""Set it to keep the temporary folder, for a look at what a failed test has left there."""


def watch() -> subprocess.Popen[bytes]:
    """Mark this process and those that it will start; start the watcher."""
    folder = tempfile.mkdtemp(
        prefix="tests-"
    )  # Short: a socket of Ray's has 107 bytes for its path.
    Path(folder).chmod(
        0o755
    )  # PostgreSQL, which refuses root, has its files there as another user.
    watcher = subprocess.Popen(
        [sys.executable, __file__, folder, str(os.getpid())],
        stdin=subprocess.PIPE,
        start_new_session=True,  # Ctrl-C in a terminal goes to the tests alone.
    )
    os.environ[MARK] = os.environ["TMPDIR"] = folder
    tempfile.tempdir = None  # It was looked up, and kept, above.
    return watcher


def end(watcher: subprocess.Popen[bytes]) -> None:
    """Let the watcher clear up now, and wait for it."""
    watcher.communicate(b".", timeout=300)  # Much is removed, on a busy disk.


def marked(mark: str) -> list[int]:
    """Return the processes that bear a mark."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if f"{MARK}={mark}".encode() in (process / "environ").read_bytes().split(b"\0"):
                found.append(int(process.name))
        except OSError:
            continue
    return found


def clear(folder: str, tests: int) -> None:
    """Kill what bears the folder's name as its mark, but the tests' own process; remove the folder."""
    deadline = time.monotonic() + 20
    while (left := set(marked(folder)) - {tests}) and time.monotonic() < deadline:
        for pid in left:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
        time.sleep(0.1)
    for line in Path("/proc/mounts").read_text().splitlines():
        if line.split()[1].startswith(f"{folder}/"):
            subprocess.run(["umount", "--lazy", line.split()[1]], check=False)
    if KEEP not in os.environ:
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    here, tests = sys.argv[1], int(sys.argv[2])
    select.select([os.pidfd_open(tests), sys.stdin], [], [])
    clear(here, tests)
