"""What takes too long is ended, and leaves word of where it was."""

import os
import signal
import subprocess
import sys
import time
from contextlib import contextmanager

import pytest
from pyarrow import fs

from study.cluster import worker
from study.run_folder.paths import ObjectPath, stand_in
from study.run_folder.store import RunFolder
from study.trials.timeout import time_limit

STUCK = """
import sys, time
from pathlib import Path
from study.trials.timeout import time_limit

def stuck():
    time.sleep(60)

with time_limit(Path(sys.argv[1]), 0.2):
    stuck()
"""


def test_a_process_that_hangs_is_ended_and_says_where_it_was(tmp_path):
    file, start = tmp_path / "trial" / "last_words.txt", time.monotonic()
    env = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    process = subprocess.run([sys.executable, "-c", STUCK, str(file)], env=env, check=False)
    assert process.returncode != 0
    assert time.monotonic() - start < 60
    assert "in stuck" in file.read_text()


CRASHES = """
import os, signal, sys
from pathlib import Path
from study.trials.timeout import time_limit

def crash():
    os.kill(os.getpid(), signal.SIGSEGV)

with time_limit(Path(sys.argv[1]), 60):
    crash()
"""


def test_a_process_that_crashes_says_by_what_and_where(tmp_path):
    file = tmp_path / "trial" / "last_words.txt"
    env = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    process = subprocess.run([sys.executable, "-c", CRASHES, str(file)], env=env, check=False)
    assert process.returncode == -signal.SIGSEGV
    assert file.read_text().startswith("Fatal Python error: Segmentation fault\n")
    assert "in crash" in file.read_text()


def test_what_ends_in_time_leaves_nothing(tmp_path):
    file = tmp_path / "trial" / "last_words.txt"
    with time_limit(file, 2.0):  # Enough for a machine under load: it would end this process.
        assert file.exists()
    assert not file.exists()
    time.sleep(2.2)  # Its time is up, and this process still there.


def test_a_job_has_the_time_of_all_its_trials(make_spec, tmp_path, monkeypatch):
    given = []

    @contextmanager
    def noted(file, seconds):
        given.append(seconds)
        raise InterruptedError
        yield

    monkeypatch.setattr(worker, "time_limit", noted)
    specs = [make_spec(seed=seed).to_json() for seed in range(3)]
    config = {"specs": specs, "out": str(tmp_path), "hours": 2.0, "gpus": 1}
    config["execution"] = {}
    with pytest.raises(InterruptedError):
        worker.trainable(config, data=None)
    assert given == [3 * 2 * 3600]


IN_A_STORE = """
import os, signal, sys
from pyarrow import fs
from study.run_folder.paths import ObjectPath
from study.trials.timeout import time_limit

def crash():
    if sys.argv[2] == "crash":
        os.kill(os.getpid(), signal.SIGSEGV)

with time_limit(ObjectPath("s3", fs.LocalFileSystem(), sys.argv[1]), 60):
    crash()
"""


def test_a_crash_leaves_word_for_an_object_store_too(tmp_path):
    (tmp_path / "trials" / "abc").mkdir(parents=True)
    store = RunFolder(tmp_path)
    store.root = ObjectPath("s3", fs.LocalFileSystem(), str(tmp_path))
    file = store.last_words_file("abc")
    here = {"PYTHONPATH": os.pathsep.join(sys.path)}
    for how, left in (("crash", 1), ("end", 0)):
        command = [sys.executable, "-c", IN_A_STORE, file.key, how]
        subprocess.run(command, env=os.environ | here, check=False)
        said = store.last_words("abc")
        assert said.startswith("Fatal Python error: Segmentation fault\n") == bool(left)
        assert file.exists() == bool(left)
        assert not stand_in(file).exists()
