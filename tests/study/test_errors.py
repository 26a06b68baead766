"""Whatever a line holds, it can be printed: in any locale, and of any file's name."""

import os
import subprocess
import sys

import pytest
from rich.console import Console

from study.errors import print_anything

PRINT = r"""
import os, sys
from study.errors import StudyError, print_anything
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
