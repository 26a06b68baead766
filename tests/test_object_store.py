"""Runs in an object store, on a real S3 endpoint: killed, resumed, judged, and kept apart."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from analysis.report.__main__ import main as report
from study.run_folder.integrity import examine
from study.run_folder.paths import any_path
from study.run_folder.store import RunFolder
from tests.running import ROOT, SMOKE, content, finish, start, wait_for

pytestmark = pytest.mark.slow


class Out:
    """An address with what ``start`` asks of a path."""

    def __init__(self, address: str, parent: Path) -> None:
        self.address, self.parent = address, parent

    def __str__(self) -> str:
        return self.address


@pytest.fixture
def undisturbed(finished_study):
    return RunFolder(finished_study.out).rows()


@pytest.fixture(scope="module")
def out(object_store, tmp_path_factory):
    """A study in a bucket, killed with all its processes while it searched, and resumed."""
    object_store.bucket("studies")
    folder = tmp_path_factory.mktemp("here")
    out = Out("s3://studies/smoke", folder)
    trials = any_path("s3://studies/smoke/trials")
    first = start(out)
    wait_for(lambda: len(list(trials.glob("*/trial.parquet"))) >= 2, first)
    done = {file.parent.name: file.stat() for file in trials.glob("*/trial.parquet")}
    first.kill()
    first.communicate()
    code, printed = finish(start(out))
    assert code == 0, printed
    assert "2 nodes" not in printed
    kept = {name: (trials / name / "trial.parquet").stat() for name in done}
    assert kept == done
    return out


def test_killed_and_resumed_it_has_the_trials_of_a_local_run(out, undisturbed):
    rows, damaged = examine(RunFolder(str(out)), thorough=True)
    assert damaged == {}
    assert content(rows) == content(undisturbed)
    assert not (any_path(str(out)) / ".lock").exists()


def test_the_same_command_again_does_nothing(out):
    code, printed = finish(start(out))
    assert code == 0
    assert "nothing is missing" in printed


def test_what_the_command_asks_of_a_run(out, undisturbed):
    trial = next(iter(undisturbed))
    for more, line in {
        ("--status",): "; report written",
        ("--verify",): f"{len(undisturbed)} trials with ",
        ("--replay", trial): "same predictions, bit for bit",
    }.items():
        code, printed = finish(start(out, *more))
        assert code == 0, printed
        assert line in printed


def test_it_is_judged_from_afar_without_its_predictions(out, object_store, tmp_path):
    """But for those of the two trials whose members are shown on examples."""
    before = len(object_store.requests())
    assert report(["--runs", str(out), "--out", str(tmp_path / "report.html")]) == 0
    asked = object_store.requests()[before:]
    read = [a for a in asked if re.search(r"(test|shift|ood|val)\.parquet", a)]
    assert len({request.split()[1] for request in read}) == 2
    assert all(request.endswith("/test.parquet") for request in read)
    assert (tmp_path / "report.html").stat().st_size > 100_000
    verdict = json.loads((any_path(str(out)) / "verdict.json").read_text())
    assert verdict["sentence"].startswith("No ")


def test_a_damaged_trial_is_set_aside_and_done_again(out, undisturbed):
    trial = next(row.trial for row in undisturbed.values() if row.stage == "search")
    file = any_path(str(out)) / "trials" / trial / "val.parquet"
    whole = file.read_bytes()
    file.unlink()
    code, printed = finish(start(out))
    assert code == 0
    assert (
        f"trial {trial} is damaged (val.parquet missing): set aside as damaged/{trial}-1" in printed
    )
    assert file.read_bytes() == whole


def test_two_runs_of_one_address_are_kept_apart(object_store, tmp_path):
    object_store.bucket("shared")
    out = Out("s3://shared/run", tmp_path)
    lock, trials = any_path("s3://shared/run/.lock"), any_path("s3://shared/run/trials")
    first = start(out)
    wait_for(lock.exists, first)
    code, printed = finish(start(out))
    assert code == 2
    assert "is at work there; wait for it to end, or choose another --out" in printed
    before = set(trials.glob("*/trial.parquet"))
    wait_for(lambda: set(trials.glob("*/trial.parquet")) > before, first)  # Undisturbed.
    first.terminate()
    assert finish(first)[0] == 130
    assert not lock.exists()


@pytest.fixture
def checked(object_store):
    """Who asks is checked while the test runs."""
    object_store.bucket("guarded")
    yield object_store
    object_store.check_credentials(False)


def run_as(env, *more):
    command = [sys.executable, "-m", "study.run", "--space", str(SMOKE), *more]
    ended = subprocess.run(
        command, env=os.environ | env, capture_output=True, text=True, cwd=ROOT, check=False
    )
    assert "Traceback" not in ended.stderr
    return ended.returncode, ended.stderr.strip().splitlines()[-1]


def test_what_is_not_allowed_is_said_in_a_line(checked):
    reader = checked.user("reader", "s3:Get*", "s3:List*")
    writer = checked.user("writer", "s3:*")
    stranger = checked.env("nobody", "nothing")
    liar = writer | {"AWS_SECRET_ACCESS_KEY": "wrong"}
    checked.check_credentials(True)
    for env, line in (
        (reader, "access is denied; check the credentials and what they allow"),
        (stranger, "the access key is unknown there; check the credentials"),
        (liar, "the secret key is wrong; check the credentials"),
    ):
        code, said = run_as(env, "--out", "s3://guarded/run")
        assert code == 2
        assert said.startswith(
            "error: --out s3://guarded/run: the run folder must be writable, but"
        )
        assert line in said
    code, said = run_as(writer, "--out", "s3://nowhere/run")
    assert (code, "there is no such bucket" in said) == (2, True)
    dead = writer | {"AWS_ENDPOINT_URL": "http://127.0.0.1:9"}
    code, said = run_as(dead, "--out", "s3://guarded/run")
    assert (code, "the store does not answer as it should" in said) == (2, True)
    assert run_as(reader, "--out", "s3://guarded/run", "--status")[0] == 2


def test_credentials_that_end_on_the_way(checked, tmp_path):
    env = checked.user("guest", "s3:*")
    checked.check_credentials(True)
    command = [sys.executable, "-m", "study.run", "--space", str(SMOKE), "--out", "s3://guarded/on"]
    more = ["--set", "budget.trials=60", "--set", "resources.max_failures=0"]
    run = subprocess.Popen(
        [*command, *more],
        env=os.environ | env,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        cwd=tmp_path,
    )
    done = lambda: sum("trial.parquet" in r for r in checked.requests() if "guarded/on" in r)  # noqa: E731
    wait_for(lambda: done() > 8, run)
    checked.check_credentials(False)
    key = checked.client("iam").list_access_keys(UserName="guest")["AccessKeyMetadata"][0]
    checked.client("iam").delete_access_key(UserName="guest", AccessKeyId=key["AccessKeyId"])
    checked.check_credentials(True)
    code, printed = finish(run)
    assert code == 2, printed
    assert "Traceback" not in printed
    last = printed.strip().splitlines()[-1]
    assert last.startswith("error: s3://guarded/on/")
    assert "check the credentials" in last
    checked.check_credentials(False)
    rows, damaged = examine(RunFolder("s3://guarded/on"))
    assert rows
    assert damaged == {}
    assert {row.status for row in rows.values()} <= {"complete", "pruned"}
