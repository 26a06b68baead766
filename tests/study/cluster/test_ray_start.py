"""Whom a local Ray runtime, which listens to the network, lets in."""

import os
import socket
import subprocess
import sys
import tempfile

import pytest

from study.cluster import ray_start
from study.errors import StudyError
from study.run import main

STRANGER = "import sys, ray; ray.init(sys.argv[1], log_to_driver=False, logging_level=50)"
HOST = """
import os, subprocess, sys
import ray
from study.cluster.ray_start import start_ray

start_ray(None, verbose=False)
address = ray.get_runtime_context().gcs_address
token = os.environ["RAY_AUTH_TOKEN"]
wait = {"RAY_gcs_rpc_server_connect_timeout_s": "2"}
others = {"right": {}, "wrong": {"RAY_AUTH_TOKEN": "0" * 64}, "none": {"RAY_AUTH_MODE": "disabled"}}
begun = [
    subprocess.Popen(
        [sys.executable, "-c", sys.argv[1], address],
        env=os.environ | wait | how,
        stderr=subprocess.DEVNULL,
    )
    for how in others.values()
]
print(dict(zip(others, [process.wait() == 0 for process in begun])))
"""


@pytest.mark.slow
def test_only_who_has_the_token_gets_in(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"):
        monkeypatch.delenv(name, raising=False)
    ended = subprocess.run(
        [sys.executable, "-c", HOST, STRANGER],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert ended.stdout.strip() == "{'right': True, 'wrong': False, 'none': False}", ended.stderr
    assert not (tmp_path / ".ray").exists()


@pytest.fixture
def deep(tmp_path, monkeypatch):
    folder = tmp_path / ("deep" * 20)
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    monkeypatch.delenv("RAY_TMPDIR", raising=False)
    return folder


def test_sockets_lie_where_their_paths_are_short_enough(deep, monkeypatch):
    assert ray_start._short_folder() == "/tmp/ray"
    monkeypatch.setenv("RAY_TMPDIR", "/var/tmp")
    assert ray_start._short_folder() == "/var/tmp/ray"


@pytest.mark.slow
def test_ray_starts_though_the_folder_of_temporary_files_is_deep(deep):
    command = "from study.cluster.ray_start import start_ray; start_ray(None, False)"
    ended = subprocess.run([sys.executable, "-c", command], env=os.environ | {"TMPDIR": str(deep)})
    assert ended.returncode == 0


@pytest.mark.parametrize(
    ("error", "remedy"),
    [
        (
            NotADirectoryError(20, "Not a directory", "/a/ray"),
            "or name another folder in RAY_TMPDIR",
        ),
        (RuntimeError("no token"), "try without RAY_AUTH_TOKEN_PATH in the environment"),
    ],
    ids=["RAY_TMPDIR | a file", "RAY_AUTH_TOKEN_PATH | no file"],
)
def test_the_environment_is_named_when_ray_does_not_start(error, remedy, monkeypatch):
    def init(**_):
        raise error

    for name in [name for name in os.environ if name.startswith("RAY_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", "/none")
    monkeypatch.setattr(ray_start.ray, "init", init)
    with pytest.raises(StudyError, match=f"Ray could not be started .*; .*{remedy}"):
        ray_start.start_ray(None, verbose=False)


def test_an_address_where_nobody_answers_is_refused_before_anything_is_written(tmp_path, capfd):
    with socket.socket() as unheard:
        unheard.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{unheard.getsockname()[1]}"
        out = tmp_path / "run"
        assert main(["--space", "smoke", "--out", str(out), "--address", address]) == 2
    said = f"error: --address {address}: a cluster must answer there, but Connection refused; start"
    (line,) = capfd.readouterr().err.splitlines()
    assert line.startswith(said)
    assert not out.exists()


IMPATIENT = """
import sys
from study.cluster import ray_start
from study.run import main

ray_start.JOIN = 1.0
sys.exit(main(sys.argv[1:]))
"""


def test_who_takes_connections_and_says_nothing_does_not_hold_the_run(tmp_path):
    out = tmp_path / "run"
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"127.0.0.1:{silent.getsockname()[1]}"
        command = ["--space", "smoke", "--out", str(out), "--address", address]
        ended = subprocess.run(
            [sys.executable, "-c", IMPATIENT, *command],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
    assert ended.returncode == 2
    (line,) = ended.stderr.splitlines()
    assert line.startswith(f"error: --address {address}: the cluster did not let this machine join")
    assert not out.exists()


@pytest.mark.parametrize("verbose", [False, True])
def test_what_ray_says_of_each_attempt_to_join_is_kept_back(verbose, capfd):
    with ray_start._joining("head:6379", verbose):
        os.write(2, b"an attempt\n")
    os.write(2, b"the end\n")
    assert capfd.readouterr().err.splitlines() == ["an attempt"] * verbose + ["the end"]


ENDING = """
import os, signal, sys, threading, time
from study.cluster import ray_start

ray_start.LOOK_EVERY, ray_start.SHUTDOWN = 0.1, 1.0
signal.signal(signal.SIGTERM, ray_start._terminate)
with ray_start.ending_with_ray("run", lambda: print("closed")):
    try:
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(60)
    except KeyboardInterrupt:
        os.kill(os.getpid(), signal.SIGTERM)  # As schedulers may, to make sure.
        time.sleep(float(sys.argv[1]))
print("in order")
"""


@pytest.mark.parametrize(
    ("takes", "code", "said"), [(0.3, 0, "in order\n"), (60, 130, "closed\n\nstopped; nothing")]
)
def test_a_process_that_was_told_to_end_does_so_in_order_or_all_the_same(takes, code, said):
    """Whether or not Ray's processes were ended with it, or it has any."""
    ended = subprocess.run(
        [sys.executable, "-c", ENDING, str(takes)],
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )
    assert ended.returncode == code, ended.stderr
    assert ended.stdout.startswith(said)
