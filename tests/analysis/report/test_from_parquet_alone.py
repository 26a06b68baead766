"""A planted configuration that escapes is found from Parquet alone, and none where there is none.

Once from a study's run folder, once from the same predictions written as a stranger would.
"""

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from analysis.report.__main__ import main
from tests.analysis.make_run import (
    DEEP_ENSEMBLE,
    NEGATIVE,
    POSITIVE,
    SINGLE,
    Arm,
    Data,
    make_run,
    plan,
)

SEEDS = 24
DATA = Data(test=400, shift=60, ood=10, severities=2)
NULL = Arm("candidate", "batchensemble", name="null", init_std=0.3)
PLANTED = Arm("candidate", "batchensemble", name="planted", diversity=0.8)
ARMS = (SINGLE, DEEP_ENSEMBLE, POSITIVE, NEGATIVE, NULL)

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def planted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("planted") / "run"
    return make_run(place, (*ARMS, PLANTED), SEEDS, DATA)


@pytest.fixture(scope="module")
def null(planted: Path) -> Path:
    """Return the same study without what was planted."""
    place = planted.parent / "null"
    shutil.copytree(planted, place)
    for seed in range(SEEDS):
        shutil.rmtree(place / "trials" / PLANTED.spec(seed, "confirm")["trial"])
    (place / "plan.json").write_text(json.dumps(plan(ARMS, SEEDS)))
    return place


def given(run: Path, arms: Sequence[Arm]) -> Path:
    """Write a run's predictions as somebody without the project would."""
    folder = run.parent / f"given-{run.name}"
    for arm in arms:
        name = arm.name if arm.role == "candidate" else arm.role
        for seed in range(SEEDS):
            trial = run / "trials" / arm.spec(seed, "confirm")["trial"]
            here = folder / str(name) / str(1000 + seed)
            here.mkdir(parents=True)
            for split in ("test", "shift"):
                rows = pl.read_parquet(trial / f"{split}.parquet")
                rows = rows.with_columns(pl.col("member", "example", "label").cast(pl.Int64))
                rows = rows.with_columns(pl.col("logits").arr.to_list())
                rows.sample(fraction=1, shuffle=True, seed=seed).write_parquet(
                    here / f"{split}.parquet"
                )
    return folder


def judge(option: str, folder: Path, out: Path) -> Any:
    assert main([option, str(folder), "--out", str(out / "report.html")]) == 0
    beside = folder if option == "--runs" else out
    return json.loads((beside / "verdict.json").read_text())


def by_name(verdict: Any) -> dict[str, Any]:
    return {a["name"] if a["role"] == "candidate" else a["role"]: a for a in verdict["arms"]}


def same_numbers(study: Any, stranger: Any) -> None:
    ours, theirs = by_name(study), by_name(stranger)
    assert ours.keys() == theirs.keys()
    for name, arm in ours.items():
        for key in ("verdict", "p_escape", "p_holm", "p_track", "endpoints"):
            assert arm[key] == theirs[name][key], (name, key)


def test_what_was_planted_is_found(planted: Path, tmp_path: Path) -> None:
    study = judge("--runs", planted, tmp_path)
    stranger = judge("--predictions", given(planted, (*ARMS, PLANTED)), tmp_path)
    for verdict in (study, stranger):
        assert verdict["verdict"] == "some configuration escapes"
        assert by_name(verdict)["planted"]["verdict"] == "escapes"
        assert by_name(verdict)["null"]["verdict"] == "tracks"
    same_numbers(study, stranger)


def test_nothing_is_found_where_nothing_is(null: Path, tmp_path: Path) -> None:
    study = judge("--runs", null, tmp_path)
    stranger = judge("--predictions", given(null, ARMS), tmp_path)
    for verdict in (study, stranger):
        assert verdict["verdict"] == "all tested track a single model"
        assert verdict["counts"]["escapes"] == 0
    same_numbers(study, stranger)
