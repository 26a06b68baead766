"""What of a run folder the command goes on with; Ray, which would do the rest, is left out."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from study.commands.notes import notes
from study.commands.run_study import check_same_study, judge
from study.errors import StudyError
from study.run import main
from study.run_folder.store import RunFolder
from study.spec import canonical
from study.stages.plan import Arm, declare
from study.trials.new_row import versions
from tests.study.conftest import row_of

SMOKE = Path(__file__).parents[3] / "search_spaces" / "smoke.yaml"


@pytest.fixture
def store(tmp_path):
    store = RunFolder(tmp_path / "run")
    store.create()
    return store


@pytest.fixture
def go_on(store, monkeypatch):
    """Give the command; return its exit status and, if it gets so far, what it goes on with."""
    found = []

    def schedule(study, store, rows, *rest):
        found.append(set(rows))
        return False

    monkeypatch.setattr("study.cluster.tuner.schedule", schedule)

    def go_on(*more):
        found.clear()
        return main(["--space", str(SMOKE), "--out", str(store.root), *more]), *found

    return go_on


@pytest.fixture
def commit(store, make_spec, data):
    """Commit a row whose values are replaced; return the trial."""

    def commit(stage="search", seed=1, **values):
        given = {"data": data.fingerprint} | values
        row = replace(row_of(make_spec(stage=stage, seed=seed)), **given)
        store.commit(row)
        return row.trial

    return commit


def test_what_is_complete_is_kept_and_what_failed_is_done_again(go_on, commit, store):
    kept = {commit(seed=1), commit(seed=2, status="diverged"), commit("confirm", seed=3)}
    failed = commit(seed=4, status="failed")
    assert go_on() == (130, kept)
    assert store.row(failed) is None


def test_what_a_plan_was_chosen_from_stays_as_it_is(go_on, commit, store):
    search, confirm = commit(status="failed"), commit("confirm", status="failed")
    store.write_json(store.plan, {})
    assert go_on() == (130, {search})
    assert store.row(confirm) is None


def test_trials_on_other_data_are_not_mixed(go_on, commit, capsys):
    trial = commit(data="other")
    assert go_on() == (2,)
    assert f"but trial {trial} was run on other; restore the data" in capsys.readouterr().err


@pytest.mark.parametrize("package", ["torch", "numpy", "optuna"])
def test_trials_of_other_versions_are_mixed_only_where_that_is_asked_for(
    go_on, commit, capsys, package
):
    trial = commit(versions=canonical(json.loads(versions()) | {package: "0.1"}))
    assert go_on() == (2,)
    assert f"trial {trial} was run with {package} 0.1, now" in capsys.readouterr().err
    assert go_on("--mixed") == (130, {trial})


def test_more_trials_are_the_same_study_and_other_training_is_not(go_on, commit, store, capsys):
    assert go_on() == (130, set())
    trial = commit()
    before = store.read_json(store.study)
    assert go_on("--set", "budget.trials=5") == (130, {trial})
    after = store.read_json(store.study)
    assert (after["id"], after["budget"]["trials"]) == (before["id"], 5)
    assert go_on("--set", "fixed.training.epochs=3") == (2,)
    assert "training.epochs is 2 there and 3 here; choose another --out" in capsys.readouterr().err


def test_a_folder_without_a_trial_is_free(smoke, store):
    """A start that failed left what was asked for; the mended study is another."""
    store.write_json(store.study, smoke.model_dump(mode="json", by_alias=True))
    store.journal.write_text("proposals")
    other = smoke.model_copy(update={"seed": 7})
    check_same_study(smoke, store)
    assert store.journal.exists()
    check_same_study(other, store)
    assert not store.journal.exists()
    assert not store.study.exists()


def test_a_folder_with_a_trial_is_not(smoke, store, make_spec):
    store.write_json(store.study, smoke.model_dump(mode="json", by_alias=True))
    store.commit(row_of(make_spec()))
    with pytest.raises(StudyError, match="belongs to another study"):
        check_same_study(smoke.model_copy(update={"seed": 7}), store)


def test_a_check_of_the_folder_leaves_nothing(tmp_path):
    RunFolder(tmp_path / "runs" / "a" / "b").check_writable()
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "mine").write_text("x")
    RunFolder(tmp_path / "runs" / "a").check_writable()
    assert [path.name for path in (tmp_path / "runs").iterdir()] == ["mine"]


def test_seeds_from_which_no_verdict_is_drawn_are_noted(smoke, data):
    assert notes(smoke, data)[0] == (
        "note: protocol.seeds=3: no verdict is drawn from fewer than 5 seeds"
    )
    for seeds in (5, "auto"):
        protocol = smoke.protocol.model_copy(update={"seeds": seeds})
        assert notes(smoke.model_copy(update={"protocol": protocol}), data) == []


@pytest.mark.parametrize("mode", [[], ["--dry-run"]], ids=["run", "--dry-run"])
@pytest.mark.parametrize("address", ["bad", "ray://head:10001", ":6379"])
def test_what_is_no_address_is_refused_before_anything_is_written(address, mode, tmp_path, capsys):
    out = tmp_path / "run"
    assert main(["--space", str(SMOKE), "--out", str(out), "--address", address, *mode]) == 2
    said = f"error: --address {address}: must be auto, HOST:PORT or http://HEAD:8265; give one"
    assert capsys.readouterr().err.startswith(said)
    assert not out.exists()


def test_every_path_may_begin_with_a_tilde(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "mine.yaml").write_bytes(SMOKE.read_bytes())
    assert main(["--space=~/mine.yaml", "--out=~/run", "--status"]) == 2
    assert f"error: --out {tmp_path}/run: there is no study yet" in capsys.readouterr().err


@pytest.mark.parametrize("library", ["optuna", "polars", "ray", "torch"])
def test_a_file_that_hides_a_library_is_named(library, tmp_path):
    file = tmp_path / f"{library}.py"
    file.touch()
    command = [sys.executable, "-m", "study.run", "--space", "smoke", "--status"]
    path = os.environ | {"PYTHONPATH": str(SMOKE.parents[1])}
    ended = subprocess.run(
        command, cwd=tmp_path, env=path, capture_output=True, text=True, check=False
    )
    said = f"error: {file}: must not have the name of a library, but hides {library}; rename it\n"
    assert (ended.returncode, ended.stderr) == (2, said)


def test_a_folder_below_a_file_has_no_study(tmp_path, capsys):
    (tmp_path / "file").touch()
    assert main(["--space", str(SMOKE), "--out", str(tmp_path / "file/run"), "--status"]) == 2
    assert "/file/run: there is no study yet; run without --status" in capsys.readouterr().err


def test_status_shows_a_reason_as_it_is(commit, store, capsys):
    reason = "RuntimeError: [enforce fail at alloc_cpu.cpp:127] no memory [/tmp]"
    trial = commit(status="failed", reason=reason)
    assert main(["--space", str(SMOKE), "--out", str(store.root), "--status"]) == 0
    assert f"{trial}: failed: {reason}" in " ".join(capsys.readouterr().out.split())


def test_status_counts_what_each_arm_has_seeds_for(smoke, store, make_spec, capsys):
    single = Arm(spec=make_spec().alone(), role="single", reason="anchor", seeds=6)
    other = Arm(spec=make_spec("batch_ensemble").alone(), role="candidate", reason="validation")
    declare(smoke, [single, other], {}, 3, "as asked for", store)
    store.write_json(store.study, {})
    assert main(["--space", str(SMOKE), "--out", str(store.root), "--status"]) == 0
    assert "confirm 0/9" in capsys.readouterr().out


def test_a_dry_run_says_that_the_disk_is_full(tmp_path, monkeypatch, capsys):
    command = ["--space", str(SMOKE), "--out", str(tmp_path / "above/run"), "--dry-run"]
    monkeypatch.setattr("study.run_folder.free_space.RESERVE", 1e18)
    assert main(command) == 2
    assert "must be free, but there are" in capsys.readouterr().err
    assert not (tmp_path / "above").exists()


def test_the_report_has_docstrings_whatever_the_study_has(store, monkeypatch, capfd):
    monkeypatch.setenv("PYTHONOPTIMIZE", "2")
    assert judge(store) == 2
    assert "a run folder must hold trials" in capfd.readouterr().err
