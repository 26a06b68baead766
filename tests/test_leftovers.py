"""What a test run leaves behind: nothing, whatever ends it."""

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.running import ROOT

TESTS = """
import signal, subprocess, tempfile, time
from tests import leftovers

signal.signal(signal.SIGINT, signal.default_int_handler)  # A job in the background ignores it.
leftovers.watch()
started = subprocess.Popen(["sleep", "1000"], start_new_session=True)
print(tempfile.mkdtemp(), started.pid, flush=True)
time.sleep(1000)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="needs Linux, whose /proc has all processes")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_processes_and_folders_end_with_the_tests(number):
    tests = subprocess.Popen(
        [sys.executable, "-c", TESTS],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    folder, pid = tests.stdout.readline().split()
    assert Path(folder).exists()
    assert Path("/proc", pid).exists()
    tests.send_signal(number)
    tests.communicate(timeout=60)
    deadline = time.monotonic() + 20
    while Path("/proc", pid).exists() or Path(folder).parent.exists():
        assert time.monotonic() < deadline
        time.sleep(0.1)
