"""One run at a time holds an address, and who died does not hold it for long."""

import json
import subprocess
import sys
import threading
import time

import pytest

from study.errors import StudyError
from study.run_folder import lease, paths
from study.run_folder.lease import held
from study.run_folder.paths import any_path


@pytest.fixture
def at(object_store, tmp_path, monkeypatch):
    for name, seconds in {"RENEW": 0.3, "LAPSE": 4.0, "SETTLE": 0.3, "LOOK_EVERY": 0.2}.items():
        monkeypatch.setattr(lease, name, seconds)
    name = f"lease-{abs(hash(str(tmp_path)))}"
    object_store.bucket(name)
    return any_path(f"s3://{name}/run/.lock")


def test_a_second_run_is_refused_while_the_first_lasts(at):
    lost = []
    with (
        held(at, lost.append),
        pytest.raises(StudyError, match=r"another run \(process \d+ on .*\) is at work"),
        held(at),
    ):
        pass
    assert lost == []
    assert not at.exists()
    with held(at):
        pass


def test_a_lease_is_written_again_while_it_is_held(at, object_store):
    with held(at):
        before = len(object_store.requests())
        time.sleep(3 * lease.RENEW)
        assert any(r.startswith("PUT") for r in object_store.requests()[before:])


def other(at, **how):
    """Write a lease of a process elsewhere."""
    paths.ObjectPath.write_bytes(
        at, json.dumps({"id": "1", "host": "far", "pid": 7, "on": "else"} | how).encode()
    )


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
            with held(at, lambda line: ends.append("lost")):
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


def blocked(*request):
    time.sleep(6)
    raise OSError("no answer")


def test_the_holder_gives_up_before_others_may_take_over(at, monkeypatch):
    lost = []
    with held(at, lost.append):
        monkeypatch.setattr(paths.ObjectPath, "_asked", blocked)
        start = time.monotonic()
        while not lost and time.monotonic() - start < 2 * lease.LAPSE:
            time.sleep(0.05)
        assert time.monotonic() - start < lease.LAPSE
        monkeypatch.undo()
    assert "has not answered for" in lost[0]


def test_after_a_slow_write_one_looks_again_for_longer(at, monkeypatch):
    write = paths.ObjectPath.write_text

    def slow(place, content):
        time.sleep(0.3)
        other(at)
        write(place, content)
        monkeypatch.setattr(paths.ObjectPath, "write_text", write)
        threading.Timer(0.45, other, [at]).start()  # The other one renews.

    monkeypatch.setattr(paths.ObjectPath, "write_text", slow)
    with pytest.raises(StudyError, match=r"process 7 on far\) is at work"), held(at):
        pass


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
