"""A study that is not finished says what it lacks, and may be at work while it is read."""

import json
import shutil
import threading
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from analysis.data.external import load_predictions
from analysis.data.run import load, vanished
from analysis.report.__main__ import main
from analysis.report.missing_trials import lacking
from analysis.report.write import write_report
from analysis.result import judge_folder, judge_run
from study.errors import StudyError
from tests.analysis.make_predictions import ARMS as PREDICTED
from tests.analysis.make_predictions import make_predictions
from tests.analysis.make_run import (
    DEEP_ENSEMBLE,
    NEGATIVE,
    POSITIVE,
    SINGLE,
    Arm,
    Data,
    make_run,
    trial_row,
    write_search,
)
from tests.analysis.report.test_report import Page

NOW = datetime(2026, 1, 1, tzinfo=UTC)
SMALL = Data(test=60, shift=20, ood=20, severities=2)
CANDIDATE = Arm("candidate", NEGATIVE.method, name="be-sign", diversity=0.8)
ARMS = (SINGLE, DEEP_ENSEMBLE, POSITIVE, NEGATIVE, CANDIDATE)


def asked_for(folder: Path, **budget: int) -> None:
    """Write a ``study.json`` with two searched methods, one of which may not be searched."""
    methods = {"batchensemble": ["x"], "single": ["x"], "deep_ensemble": [], "mc_dropout": []}
    spaces = [{"method": name, "fixed": {}, "search": {}} for name in methods]
    for space in spaces:
        if methods[str(space["method"])]:
            space["search"] = {"params.init_std": [declared()]}
    study = {"budget": {"trials": 9, "rescore": 2, "rescore_seeds": 2} | budget}
    study |= {"candidates": spaces[:1], "others": spaces[1:]}
    (folder / "study.json").write_text(json.dumps(study))


def declared() -> dict[str, Any]:
    return {"float": [0, 1], "int": None, "choice": None, "log": False, "when": {}}


def rescored(folder: Path, arm: Arm, replicate: int) -> None:
    row = trial_row(arm, replicate, "rescore", val_nll=0.2, val_gain=0.0)
    here = folder / "trials" / row["trial"][0].as_py()
    here.mkdir(parents=True)
    pq.write_table(row, here / "trial.parquet")


def without_confirm(folder: Path) -> Path:
    for trial in [file.parent for file in folder.glob("trials/*/test.parquet")]:
        shutil.rmtree(trial)
    (folder / "plan.json").unlink()
    return folder


def test_a_finished_study_lacks_nothing(tmp_path: Path) -> None:
    assert lacking(load(make_run(tmp_path / "run", ARMS, seeds=2, data=SMALL))) == []


def test_without_a_study_nothing_is_known_of_its_search(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "run", ARMS, seeds=1, data=SMALL, search=3, declare=False)
    assert lacking(load(folder)) == []


def test_the_search_is_told_by_method(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    write_search(folder, 6)  # 4 of BatchEnsemble, 2 of single
    asked_for(folder, trials=9)
    (folder / "trials" / "begun").mkdir()

    assert lacking(load(folder)) == [
        "search: 6 of 19 trials are there; missing: 5 of 9 of BatchEnsemble, "
        "7 of 9 of Single network, 1 of 1 of MC dropout",
        "rescore: begins when the search has ended",
        "confirm: not declared yet",
        "1 trial is under way or interrupted",
    ]


def test_rescoring_is_of_the_best_that_are_complete(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    write_search(folder, 9)  # 6 and 3
    asked_for(folder, trials=3, rescore=4)
    study = json.loads((folder / "study.json").read_text())
    study["others"] = [own for own in study["others"] if own["method"] != "mc_dropout"]
    (folder / "study.json").write_text(json.dumps(study))
    rescored(folder, Arm("candidate", "batchensemble", 4, init_std=0.4), 1)

    assert lacking(load(folder)) == [
        "rescore: 1 of 10 trials are there; missing: 7 of 8 of BatchEnsemble, "
        "2 of 2 of Single network",  # Its trials are of one configuration.
        "confirm: not declared yet",
    ]


def test_confirm_is_told_by_arm_however_its_runs_ended(tmp_path: Path) -> None:
    arms = (*ARMS[:-1], Arm("candidate", NEGATIVE.method, name="be-sign", failed={0: "diverged"}))
    folder = make_run(tmp_path / "run", arms, seeds=3, data=SMALL)
    for file in folder.glob("trials/*/trial.parquet"):
        row = pq.read_table(file, partitioning=None)
        if row["role"][0].as_py() == "positive_control" and row["replicate"][0].as_py() > 0:
            file.unlink()

    assert lacking(load(folder)) == [
        "confirm: 13 of 15 trials are there; missing: 2 of 3 of Deep Ensemble positi",
        "2 trials are under way or interrupted",
    ]


def test_given_predictions_lack_seeds_that_were_declared(tmp_path: Path) -> None:
    arms = {name: PREDICTED[name] for name in ("single", "deep_ensemble", "escaping")}
    folder = make_predictions(tmp_path / "p", arms, seeds=2, data=SMALL)
    assert lacking(load_predictions(folder)) == []
    (folder / "protocol.json").write_text('{"seeds": 3}')
    assert lacking(load_predictions(folder)) == [
        "predictions: 6 of 9 trials are there; missing: 1 of 3 of deep_ensemble, "
        "1 of 3 of escaping, 1 of 3 of single"
    ]


def test_an_unfinished_study_has_a_page_and_no_verdict(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "run", ARMS, seeds=3, data=SMALL)
    for trial in sorted(folder.glob("trials/*"))[::2]:
        (trial / "trial.parquet").unlink()

    own = judge_folder(folder)
    write_report(own, tmp_path / "report.html", NOW)
    verdict = own.verdict

    assert verdict.verdict == "inconclusive"
    assert "the study is not finished: 7 of 15 runs are there" in verdict.sentence
    text = " ".join(Page((tmp_path / "report.html").read_text()).text.split())
    assert "PARTIAL The study is not finished, and the verdict can still change." in text
    assert "Confirm: 7 of 15 trials are there; missing: " in text


def test_before_the_first_trial_has_ended_there_is_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "run"
    (folder / "trials" / "begun").mkdir(parents=True)
    asked_for(folder)

    assert main(["--runs", str(folder), "--out", str(tmp_path / "report.html")]) == 2
    assert "again when the first trial has ended" in capsys.readouterr().err


@pytest.mark.parametrize(
    "study", ["[]", "{", '{"budget": 3, "candidates": [], "others": [{"method": "a"}]}']
)
def test_a_study_that_is_none_is_refused(study: str, tmp_path: Path) -> None:
    folder = make_run(tmp_path / "run", ARMS, seeds=1, data=SMALL)
    (folder / "study.json").write_text(study)
    with pytest.raises(StudyError, match=r"study\.json: must hold the study"):
        lacking(load(folder))


def test_trials_may_be_discarded_while_they_are_read(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    write_search(folder, 150)
    trials = sorted(folder.glob("trials/*"))

    def discard() -> None:
        for trial in trials[1:]:
            shutil.rmtree(trial)

    thread = threading.Thread(target=discard)
    thread.start()
    while thread.is_alive():
        assert load(folder).trials.height >= 1
    thread.join()
    assert load(folder).trials["trial"].to_list() == [trials[0].name]


def test_an_arm_with_seeds_of_its_own_lacks_none_beyond_them(tmp_path: Path) -> None:
    run = load(make_run(tmp_path / "run", ARMS, seeds=3, data=SMALL))
    assert run.plan is not None
    assert lacking(run) == []
    more = replace(run.plan.arms[-1], seeds=4, role="matched_deep_ensemble")
    plan = replace(run.plan, arms=(*run.plan.arms, more))
    assert lacking(replace(run, plan=plan)) == [
        "confirm: 15 of 19 trials are there; missing: 4 of 4 of the matched BatchEnsemble "
        f"{more.configuration[:6]}"
    ]
    known = replace(run.plan.arms[-1], seeds=2)
    assert lacking(replace(run, plan=replace(run.plan, arms=(*run.plan.arms[:-1], known)))) == []


def test_a_trial_that_was_taken_away_is_noticed(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "run", ARMS, seeds=2, data=SMALL)
    run = load(folder)
    assert not vanished(run)

    shutil.rmtree(next(folder.glob("trials/*/test.parquet")).parent)

    assert vanished(run)
    with pytest.raises(StudyError, match="must exist"):
        judge_run(run)
    assert "9 of 10 runs are there" in judge_folder(folder).verdict.sentence
