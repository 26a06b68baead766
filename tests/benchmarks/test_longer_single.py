"""A published study's single network, trained for longer, lies on that study's own scale."""

import json
import shutil
from pathlib import Path

import polars as pl
import pytest

from analysis.publication import RESULTS
from benchmarks.longer_single import FILE, longer_single, main

PUBLISHED = sorted(RESULTS.glob(f"*/{FILE}"))


def test_it_is_placed_between_the_anchors_of_the_study(tmp_path: Path) -> None:
    folder = shutil.copytree(RESULTS / "digits", tmp_path / "digits")
    plan = json.loads((folder / "plan.json").read_text())
    for arm in plan["arms"]:
        arm["spec"]["training"]["epochs"] = 1
    (folder / "plan.json").write_text(json.dumps(plan))
    found = longer_single(folder, None, seeds=2)
    assert found["endpoint"].to_list() == ["cll"] * 3 + ["shift_nll"] * 3
    assert found["epochs"].to_list() == found["times"].to_list() == [1, 2, 4] * 2
    published = pl.read_parquet(folder / "replicates.parquet")
    for key, mean, recovery in found.select("endpoint", "mean", "recovery").iter_rows():
        single, deep = (
            published.filter(arm=arm)[key].mean() for arm in ("single", "deep_ensemble-4")
        )
        assert recovery == pytest.approx((single - mean) / (single - deep))


@pytest.mark.parametrize("file", PUBLISHED, ids=lambda file: file.parent.name)
def test_as_long_as_in_the_study_it_is_what_it_was_there(file: Path) -> None:
    same = pl.read_csv(file).filter(times=1)
    assert len(same) == 2
    assert ((same["low"] < 0) & (same["high"] > 0)).all()


def test_an_unknown_study_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["never"]) == 2
    assert capsys.readouterr().err.count("\n") == 1
