"""A path on the command line may begin with ``~``, which no shell sees in ``--out=~/x``."""

import ast
from pathlib import Path

import altair as alt

from benchmarks import scaling

ROOT = Path(__file__).parents[2]
FILES = [
    file
    for folder in ("study", "analysis", "benchmarks")
    for file in ROOT.glob(f"{folder}/**/*.py")
]


def options(file):
    """Yield the type of each option of a command line that is no hidden one."""
    for node in ast.walk(ast.parse(file.read_text())):
        given = {k.arg: ast.unparse(k.value) for k in getattr(node, "keywords", ())}
        if "type" in given and given.get("help") != "argparse.SUPPRESS":
            yield given["type"]


def test_no_option_takes_a_path_as_it_stands():
    found = {str(file.relative_to(ROOT)): set(options(file)) for file in FILES}
    assert "local_path" in found["benchmarks/time_to_verdict.py"]
    assert [file for file, types in found.items() if "Path" in types] == []


def test_results_are_written_to_the_home(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(scaling, "SIZES", {})
    monkeypatch.setattr(scaling, "chart", lambda _: alt.Chart().mark_point())
    assert scaling.main(["--out=~/lines"]) == 0
    assert (tmp_path / "lines/scaling.json").is_file()
    assert not (tmp_path / "~").exists()
