"""The plan of seeds: its numbers are those of ``analysis.stats.power``, its mistakes one line."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from analysis.data.run import Run
from analysis.measures.measure import Measures
from analysis.plan import RunCosts, costs_of, main, planned_of
from analysis.stats.power import (
    VERDICTS,
    Aim,
    Pair,
    Spread,
    cheapest_seeds,
    power_track,
    recovery_found,
    seeds_needed,
)
from analysis.verdict.arms import study_of
from study.errors import StudyError

OPTIONS = ["--sd-single", "30", "--sd-arm", "25", "--sd-ensemble", "18", "--gap", "100"]
SPREAD = Spread(0.30, 0.25, 0.18)
LEAST = ["Seeds", "with", "the", "least"]


def test_a_plan_from_deviations(capsys: Any) -> None:
    assert main([*OPTIONS, "--n", "5", "20", "--configurations", "8"]) == 0
    text = capsys.readouterr().out
    spread = next(line for line in text.splitlines() if line.startswith("this endpoint")).split()
    assert spread[2:] == ["0.30", "0.25", "0.18"]
    lines = [line.split() for line in text.splitlines()]
    aim = Aim(configurations=8)
    escape, track = (
        seeds_needed([Pair([SPREAD])], replace(aim, verdict=verdict)) for verdict in VERDICTS
    )
    assert [str(escape), str(track)] in lines
    least = recovery_found([Pair([SPREAD])], 20, aim)
    row = next(line for line in lines if line[:1] == ["20"])
    assert row[1] == f"{least:.2f}"
    assert row[3] == f"{power_track(SPREAD, 0.0, 20):.2f}"
    assert "cannot give p below 0.004," in text  # 1 / 252
    assert "configuration (" not in text


def test_a_plan_from_a_run(study: Path, run: Run, measures: Measures, capsys: Any) -> None:
    assert main(["--runs", str(study)]) == 0
    text = capsys.readouterr().out
    assert "Margin 0.25, one-sided level 0.05; 4 configurations" in text
    assert "\n      6 " in text  # the seeds at hand
    planned, unplaced = planned_of(study_of(measures, run.plan))
    assert len(planned) == 4
    assert not unplaced
    lines = text.splitlines()
    start = next(i for i, line in enumerate(lines) if "(where it escapes least often with" in line)
    for line, own in zip(lines[start + 1 :], planned, strict=False):
        needed = seeds_needed(own.escape, Aim(configurations=4))
        assert line.split()[0] == (str(needed) if needed else "over")
        assert f"   {own.name} (" in line
        assert line.endswith(", the tuned anchors)")


def test_the_spread_of_a_run_by_hand(
    study: Path, measures: Measures, run: Run, capsys: Any
) -> None:
    def values(arm: str) -> pl.Series:
        return measures.replicates.filter(pl.col("arm") == arm)["cll"]

    single, deep = values("single"), values("deep_ensemble-4")
    gap = single.mean() - deep.mean()
    candidates = measures.replicates.filter(pl.col("role") == "candidate")
    deviations = [values(arm).std() / gap for arm in candidates["arm"].unique()]
    assert main(["--runs", str(study)]) == 0
    lines = capsys.readouterr().out.splitlines()
    row = next(line for line in lines if line.startswith("calibrated NLL"))
    numbers = row.removeprefix("calibrated NLL").split()
    assert [numbers[0], numbers[4]] == [f"{own.std() / gap:.2f}" for own in (single, deep)]
    assert numbers[1:4] == [f"{min(deviations):.2f}", "to", f"{max(deviations):.2f}"]


def test_the_cheapest_seeds_stand_beside_equal_ones(capsys: Any) -> None:
    costs = ["--costs", "360", "360", "1440"]
    assert main([*OPTIONS, *costs, "--n", "20", "--configurations", "8"]) == 0
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    spent = RunCosts(360, 360, 1440).of_study(8)
    found = cheapest_seeds([Pair([SPREAD])], spent, Aim(configurations=8))
    equal = seeds_needed([Pair([SPREAD])], Aim(configurations=8))
    assert found is not None
    assert equal is not None
    split, same = lines[next(i for i, line in enumerate(lines) if line[:4] == LEAST) + 3 :][:2]
    hours = 0.8 * found.arm + 0.5 * found.single  # 8 x 6 minutes; 6 and 24 minutes
    assert split[-3:] == [str(found.arm), str(found.single), f"{hours:.3g}"]
    assert same[-3:] == [str(equal), str(equal), f"{1.3 * equal:.3g}"]
    assert hours < 1.3 * equal


def test_without_costs_nothing_is_said_of_them(capsys: Any) -> None:
    assert main([*OPTIONS, "--n", "20"]) == 0
    assert "least training" not in capsys.readouterr().out


def test_costs_of_a_run_by_hand(run: Run) -> None:
    """Of each configuration its mean; of the Deep Ensemble the pool; every control is added."""
    found = costs_of(run.trials)
    assert found is not None
    done = run.trials.filter(pl.col("stage") == "confirm", pl.col("status") == "complete")

    def seconds(role: str) -> float:
        own = done.filter(pl.col("role") == role)
        return float(own["train_seconds"].sum()) / own["replicate"].n_unique()

    assert found.single == pytest.approx(seconds("single"))
    assert found.deep_ensemble == pytest.approx(seconds("deep_ensemble"))
    assert 4 * found.arm == pytest.approx(seconds("candidate"))
    beside = ("positive_control", "negative_control", "comparison")
    assert found.beside == pytest.approx(sum(map(seconds, beside)))
    unknown = run.trials.with_columns(train_seconds=0.0)
    assert costs_of(unknown) is None


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "a plan needs the spread over seeds, but none is given"),
        (["--sd-single", "0.3"], "a plan needs the spread over seeds"),
        ([*OPTIONS, "--gap", "0"], "--gap must be above 0, but is 0"),
        ([*OPTIONS, "--gap", "-1"], "--gap must be above 0, but is -1"),
        ([*OPTIONS, "--sd-arm", "-1"], "--sd-arm must be at least 0, but is -1"),
        ([*OPTIONS, "--sd-arm", "nan"], "--sd-arm must be at least 0, but is nan"),
        ([*OPTIONS, "--n", "4"], "--n must be at least 5, but is 4"),
        ([*OPTIONS, "--power", "1"], "--power must be above 0 and below 1, but is 1"),
        ([*OPTIONS, "--delta", "0"], "--delta must be above 0 and below 1, but is 0"),
        ([*OPTIONS, "--recovery", "0.2"], "--recovery must be above the margin 0.25, but is 0.2"),
        ([*OPTIONS, "--configurations", "0"], "--configurations must be at least 1, but is 0"),
        ([*OPTIONS, "--costs", "1", "0", "1"], "--costs must be above 0, but are 1, 0, 1"),
        (["--runs", "nowhere"], "a run folder must hold trials"),
    ],
)
def test_mistakes_are_one_line(arguments: list[str], message: str, capsys: Any) -> None:
    assert main(arguments) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


def without(measures: Measures, *conditions: pl.Expr) -> Measures:
    return replace(measures, replicates=measures.replicates.filter(*conditions))


def test_a_run_without_spread_or_gap_is_one_line(measures: Measures, run: Run) -> None:
    one = without(measures, (pl.col("arm") != "single") | (pl.col("replicate") == 0))
    with pytest.raises(
        StudyError, match=r"a configuration between two anchors, but .*runs are miss"
    ):
        planned_of(study_of(one, run.plan))
    worse = pl.when(pl.col("arm") == "single").then(0.0).otherwise("cll")
    swapped = replace(measures, replicates=measures.replicates.with_columns(cll=worse))
    with pytest.raises(StudyError, match=r"but .*let the study go on, or give --sd-single"):
        planned_of(study_of(swapped, run.plan))


def test_a_run_that_confirmed_nothing_is_one_line(
    tmp_path: Path, study: Path, run: Run, capsys: Any
) -> None:
    searched = run.trials.filter(pl.col("stage") == "search")["trial"][0]
    (tmp_path / "trials").mkdir()
    (tmp_path / "trials" / searched).symlink_to(study / "trials" / searched)
    assert main(["--runs", str(tmp_path)]) == 2
    assert "needs runs of the confirm stage, but there are none" in capsys.readouterr().err
