"""Whatever a line holds, it can be printed: in any locale, and of any file's name."""

import os
import subprocess
import sys

import pytest
from optuna.storages.journal import JournalFileOpenLock, JournalFileSymlinkLock
from rich.console import Console

from study import run
from study.errors import StudyError, is_interruption, print_anything

PRINT = r"""
import os, sys
from study.errors import StudyError, is_interruption, print_anything
print_anything()
print("caf\u00e9 \u201c\u2026\u201d", os.fsdecode(b"\xff"))
print(f"error: {StudyError(os.fsdecode(bytes([255])))}", file=sys.stderr)
"""


@pytest.mark.parametrize(
    "locale",
    [
        {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
        {"LC_ALL": "C"},
        {"PYTHONIOENCODING": "latin-1"},
        {"PYTHONUTF8": "1"},
    ],
    ids=lambda given: " ".join(f"{name}={value}" for name, value in given.items()),
)
def test_every_line_can_be_printed(locale):
    env = os.environ | locale | {"PYTHONPATH": os.pathsep.join(sys.path)}
    ended = subprocess.run([sys.executable, "-c", PRINT], env=env, capture_output=True, check=False)
    assert ended.returncode == 0, ended.stderr
    assert b"caf" in ended.stdout
    assert b"error: \\udcff" in ended.stderr


def test_a_terminal_of_no_columns_shows_lines(monkeypatch):
    monkeypatch.setenv("COLUMNS", "0")
    print_anything()
    assert Console().width > 0


@pytest.mark.parametrize("error", [OSError(2, "No such file"), StudyError("a file is missing")])
@pytest.mark.parametrize("interrupted", [True, False])
def test_an_error_that_an_interrupt_led_to_is_an_interruption(
    error, interrupted, monkeypatch, capsys
):
    """Optuna's lock is let go again where Ctrl-C falls into letting it go, and is not there."""

    def fails(*arguments):
        try:
            raise KeyboardInterrupt if interrupted else ValueError
        except (KeyboardInterrupt, ValueError):
            raise error  # noqa: B904 - as Optuna does

    monkeypatch.setattr(run, "_dispatch", fails)
    assert run.main(["--space", "smoke"]) == (130 if interrupted else 2)
    assert ("to go on: " in capsys.readouterr().out) == interrupted


@pytest.mark.parametrize("kind", [JournalFileSymlinkLock, JournalFileOpenLock])
def test_an_interrupt_while_optuna_lets_its_lock_go(kind, tmp_path, monkeypatch):
    (tmp_path / "journal").touch()
    lock = kind(str(tmp_path / "journal"))
    lock.acquire()
    unlink = os.unlink

    def interrupted(path):
        monkeypatch.setattr(os, "unlink", unlink)
        unlink(path)
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "unlink", interrupted)
    with pytest.raises(OSError, match="No such file") as caught:
        lock.release()
    assert is_interruption(caught.value)
