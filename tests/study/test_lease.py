"""One run at a time holds an address, and who died does not hold it for long."""

import json
import subprocess
import sys
import threading
import time

import pytest

from study import lease
from study.lease import held
from study.place import place
from study.schema import StudyError


@pytest.fixture
def at(object_store, tmp_path, monkeypatch):
    for name, seconds in {"RENEW": 0.3, "LAPSE": 4.0, "SETTLE": 0.3, "LOOK_EVERY": 0.2}.items():
        monkeypatch.setattr(lease, name, seconds)
    name = f"lease-{abs(hash(str(tmp_path)))}"
    object_store.bucket(name)
    return place(f"s3://{name}/run/.lock")


def test_a_second_run_is_refused_while_the_first_lasts(at):
    with (
        held(at),
        pytest.raises(StudyError, match=r"another run \(process \d+ on .*\) is at work"),
        held(at),
    ):
        pass
    assert not at.exists()
    with held(at):
        pass


def other(at, **how):
    """Write a lease of a process elsewhere."""
    at.write_text(json.dumps({"id": "1", "host": "far", "pid": 7, "on": "else"} | how))


def test_what_is_not_renewed_lapses(at, capsys):
    other(at)
    start = time.monotonic()
    with held(at):
        assert 2 < time.monotonic() - start < 9
    assert "(process 7 on far) was at work there; waiting" in capsys.readouterr().out


def test_the_lease_of_a_dead_process_of_this_machine_is_free(at):
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    other(at, pid=dead.pid, on=lease._here())
    start = time.monotonic()
    with held(at):
        assert time.monotonic() - start < 2


def test_of_two_that_begin_at_once_one_goes_on(at):
    ends = []

    def run():
        try:
            with held(at):
                time.sleep(1)
            ends.append("ran")
        except StudyError:
            ends.append("refused")

    threads = [threading.Thread(target=run) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(ends) == ["ran", "refused", "refused"]


def test_who_has_lost_it_is_told(at):
    lost = []
    with held(at, lost.append):
        other(at)
        for _ in range(50):
            if lost:
                break
            time.sleep(0.1)
    assert lost
    assert "(process 7 on far) is at work there" in lost[0]
    assert at.exists()


@pytest.mark.parametrize("content", ["", "no JSON", "[]", '{"id": 1}'])
def test_what_is_no_lease_holds_nobody_up(at, content):
    at.write_text(content)
    with held(at):
        pass
