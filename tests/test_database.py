"""Optuna's storage in a real PostgreSQL: two runs at once, killed, resumed, the same search."""

import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
from pathlib import Path

import optuna
import pytest

from study.run_folder.store import RunFolder
from tests.running import content, finish, start, wait_for

pytestmark = pytest.mark.slow


def programs() -> Path | None:
    """Return the folder of PostgreSQL's programs."""
    found = [Path(p).parent for p in [shutil.which("initdb")] if p]
    found += sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
    needed = ("initdb", "postgres", "pg_isready", "createdb")
    return next((f for f in found if all((f / name).exists() for name in needed)), None)


@pytest.fixture(scope="module")
def database():
    """A server on loopback with one database; its URL."""
    if (folder := programs()) is None:
        pytest.skip("PostgreSQL is not installed")
    data = Path(tempfile.mkdtemp(prefix="postgres-"))
    who = {}
    if os.geteuid() == 0:  # It refuses root.
        nobody = pwd.getpwnam("nobody")
        os.chown(data, nobody.pw_uid, nobody.pw_gid)
        who = {"user": nobody.pw_uid, "group": nobody.pw_gid, "extra_groups": []}
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    how = {"cwd": data, "check": True, "stdout": subprocess.DEVNULL, **who}
    subprocess.run([folder / "initdb", "-D", data, "-U", "study", "-A", "trust", "-N"], **how)
    where = ["-h", "127.0.0.1", "-p", str(port), "-k", str(data)]
    server = subprocess.Popen(
        [folder / "postgres", "-D", data, *where],
        cwd=data,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        **who,
    )
    ready = [folder / "pg_isready", "-h", "127.0.0.1", "-p", str(port)]
    wait_for(lambda: subprocess.run(ready, stdout=subprocess.DEVNULL).returncode == 0, server)
    subprocess.run(
        [folder / "createdb", "-h", "127.0.0.1", "-p", str(port), "-U", "study", "study"], **how
    )
    yield f"postgresql+psycopg://study@127.0.0.1:{port}/study", server
    server.send_signal(signal.SIGINT)
    server.wait(60)
    shutil.rmtree(data)


def test_two_runs_share_it_and_survive_a_kill(database, finished_study, tmp_path):
    url, _ = database
    stored = ["--set", f"storage={url}", "--set", "resources.concurrency=1"]
    outs = [tmp_path / name / "run" for name in ("a", "b")]
    for out in outs:
        out.parent.mkdir()
    first, second = (start(out, *stored) for out in outs)
    wait_for(lambda: len(RunFolder(outs[0]).committed()) >= 3, first)
    first.kill()
    first.communicate()
    code, printed = finish(second)
    assert code == 0, printed
    code, printed = finish(start(outs[0], *stored))
    assert code == 0, printed
    assert not (outs[0] / "optuna.journal").exists()
    runs = (*outs, finished_study.out)
    one, two, journal = (content(RunFolder(out).rows()) for out in runs)
    # Which search trials train as one depends on what was left to do: equal but for rounding.
    assert one.keys() == two.keys() == journal.keys()
    for found in (one, two):
        for trial, values in found.items():
            for value, expected in zip(values, journal[trial], strict=True):
                rounded = isinstance(expected, float)
                assert value == (pytest.approx(expected, rel=1e-6) if rounded else expected)
    storage = optuna.storages.RDBStorage(url)
    names = optuna.get_all_study_names(storage)
    storage.remove_session()
    storage.engine.dispose()
    assert len(names) == 6
    assert len({name.rsplit("/", 1)[0] for name in names}) == 2


def test_what_does_not_answer_is_said_in_a_line(database, tmp_path):
    url, _ = database
    for storage, line in {
        f"{url.rpartition('/')[0]}/nothing": 'database "nothing" does not exist',
        "postgresql+psycopg://study@127.0.0.1:9/study": "refused",
        "nonsense://x": "the database must answer, but",
        "postgresql+psycopg://study:secret@127.0.0.1/study": "must not hold a password",
        "postgresql+psycopg://127.0.0.1/study?password=secret": "must not hold a password",
        "study.db": "must be a database as postgresql",
    }.items():
        code, printed = finish(start(tmp_path / "run", "--set", f"storage={storage}"))
        assert code == 2
        assert "Traceback" not in printed
        last = printed.strip().splitlines()[-1]
        assert last.startswith("error: ")
        assert line in last
        assert "secret" not in last


def test_a_server_that_ends_on_the_way(database, tmp_path):
    url, server = database
    run = start(tmp_path / "run", "--set", f"storage={url}", "--set", "budget.trials=60")
    wait_for(lambda: len(RunFolder(tmp_path / "run").committed()) >= 4, run)
    server.send_signal(signal.SIGQUIT)
    server.wait(60)
    code, printed = finish(run)
    assert code == 2, printed
    assert "Traceback" not in printed
    assert "give the same command again: nothing that was finished is lost" in printed
