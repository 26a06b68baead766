"""A published answer is what the code still gives, from what is published alone."""

import json
import shutil

import polars as pl
import pytest

from analysis import publication
from study.errors import StudyError

OWN = sorted(file.parent.name for file in publication.RESULTS.glob("*/verdict.json"))


@pytest.fixture(scope="module")
def once(finished_study, tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(publication, "RESULTS", tmp_path_factory.mktemp("results"))
        assert publication.main(["--runs", str(finished_study.out), "--name", "smoke"]) == 0
        return publication.RESULTS


@pytest.fixture
def published(once, tmp_path, monkeypatch):
    """A published study of which a test may change files."""
    monkeypatch.setattr(publication, "RESULTS", shutil.copytree(once, tmp_path / "results"))
    return publication.RESULTS / "smoke"


def test_a_verdict_is_drawn_again_from_what_is_published(published, capsys):
    capsys.readouterr()
    assert publication.main([]) == 0
    assert capsys.readouterr().out == "smoke: as published\n"
    names = {file.name for file in published.iterdir()}
    assert {"plan.json", "verdict.json", "recoveries.csv", "ruler.svg", "origin.json"} <= names
    assert "python -m study.run" in json.loads((published / "origin.json").read_text())["command"]
    assert sum(file.stat().st_size for file in published.iterdir()) < 1e6


def test_a_number_that_the_code_no_longer_gives_is_found(published, capsys):
    frame = pl.read_parquet(published / "replicates.parquet")
    frame.with_columns(pl.col("shift_nll") * 1.001).write_parquet(published / "replicates.parquet")
    assert publication.main([]) == 1
    assert "numbers differ, first gates[" in capsys.readouterr().out


def test_what_is_not_whole_is_one_line(published, capsys):
    (published / "costs.parquet").unlink()
    with pytest.raises(StudyError, match="smoke: must be as it was published, but"):
        publication.judge_again(published)
    assert publication.main([]) == 2
    assert capsys.readouterr().err.startswith("error: ")


@pytest.mark.parametrize(
    "name", [n if n == "digits" else pytest.param(n, marks=pytest.mark.slow) for n in OWN]
)
def test_what_the_project_has_published_is_what_its_code_gives(name):
    assert not publication.changed(publication.RESULTS / name)


def test_the_command_names_no_place_of_its_author() -> None:
    given = (
        "python -m study.run --space be --out '/home/me/my runs/x' --data-root /data --set a=[1,2]"
    )
    assert publication.portable(given) == (
        "python -m study.run --space be --out runs/x --data-root DATA --set 'a=[1,2]'"
    )
    assert (
        publication.portable("python -m study.run --space be") == "python -m study.run --space be"
    )
