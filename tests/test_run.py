"""The command as its users run it: real training, real Ray, real kills."""

import contextlib
import json
import os
import re
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections import Counter
from importlib.util import find_spec
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from tensorboardX.proto.event_pb2 import Event

from study.cluster.trackers import PACKAGES
from study.run import main, no_interrupt_is_lost
from study.run_folder.integrity import examine
from study.run_folder.store import RunFolder
from study.space.load import load_study
from study.stages import estimate
from tests.running import SMOKE, committed, finish, start, wait_for


def workers_of(driver):
    """Return the processes in which the driver's Ray runs trials."""
    raylet = subprocess.run(
        ["pgrep", "-f", "raylet/raylet", "-P", str(driver)],
        capture_output=True, text=True, check=True,
    ).stdout.split()[0]  # fmt: skip
    found = subprocess.run(
        ["pgrep", "-f", "ray::.*(Trainable|_trainable|ImplicitFunc)", "-P", raylet],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    return [int(pid) for pid in found.stdout.split()]


def test_killed_and_interrupted_a_study_ends_as_if_nothing_had_been(tmp_path, request):
    """First of all, as another process makes the finished study meanwhile."""
    out = tmp_path / "run"
    process = start(out)
    wait_for(lambda: len(committed(out)) >= 2, process)
    os.kill(workers_of(process.pid)[0], signal.SIGKILL)
    before = len(committed(out))
    wait_for(lambda: len(committed(out)) > before, process)
    process.send_signal(signal.SIGINT)
    code, printed = finish(process)
    assert code == 130, printed
    assert "to go on: python -m study.run --space" in printed
    assert "Traceback" not in printed
    assert "(raylet)" not in printed  # Ray's advice about the worker that was killed.

    process = start(out)
    wait_for(lambda: committed(out, "confirm"), process)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    kept = {t: r.finished for t, r in RunFolder(out).rows().items()}

    code, printed = finish(start(out))
    assert code == 0, printed
    whole = request.getfixturevalue("finished_study").out
    assert len(kept) < len(committed(whole))
    rows = RunFolder(out).rows()
    assert rows.keys() == committed(whole)
    assert {trial: rows[trial].finished for trial in kept} == kept
    assert {row.status for row in rows.values()} == {"complete"}
    for trial in committed(whole, "confirm"):
        folder = whole / "trials" / trial
        for file in (*folder.glob("*test.parquet"), *folder.glob("geometry.parquet")):
            assert pq.read_table(file).equals(pq.read_table(out / "trials" / trial / file.name))


def test_one_command_ends_with_a_verdict(finished_study):
    out, printed = finished_study
    verdict = json.loads((out / "verdict.json").read_text())
    assert verdict["sentence"] in printed
    assert (out / "report.html").stat().st_size > 100_000
    # A folder of that name that is not this project's is the user's own.
    assert not (out.parent / "analysis" / "report.html").exists()
    rows = RunFolder(out).rows().values()
    assert {r.status for r in rows} == {"complete"}
    searched = [r for r in rows if r.stage == "search"]
    methods = ["batch_ensemble"] * 4 + ["mc_dropout"] * 4 + ["single"] * 4
    assert sorted(r.method for r in searched) == methods


def test_the_terminal_shows_the_study_and_nothing_else(finished_study):
    _, printed = finished_study
    noise = [
        line for line in printed.splitlines() if re.search(r"warn|\bray\b|\[I |Trial ", line, re.I)
    ]
    assert noise == []
    for stage in ("search: 12 trials", "rescore: ", "confirm: "):
        assert stage in printed


def test_the_run_ends_with_a_line_for_each_stage_and_method(finished_study):
    out, printed = finished_study
    lines = [line.split() for line in printed.splitlines()]
    table = {tuple(line[:2]): int(line[2]) for line in lines if len(line) == 8 and line != lines[0]
             and line[2].isdigit()}  # fmt: skip
    assert table["search", "single"] == 4
    assert table["rescore", "batch_ensemble"] == 2
    assert table["anchor", "single"] % 5 == 0
    assert sum(table.values()) == len(RunFolder(out).committed())


def events(file):
    """Yield the scalars of a file of TensorBoard's: records of length, sum, content, sum."""
    content = file.read_bytes()
    while content:
        (length,) = struct.unpack("<Q", content[:8])
        for value in Event.FromString(content[12 : 12 + length]).summary.value:
            if value.HasField("simple_value"):
                yield value.tag.removeprefix("ray/tune/"), value.simple_value
        content = content[16 + length :]


def test_every_job_is_in_tensorboard_with_its_curve_and_no_nap(finished_study):
    out, _ = finished_study
    store = RunFolder(out)
    rows = store.rows()
    found = {
        file.parent.name: dict(events(file))
        for file in (out / "logs" / "tensorboard").glob("*/events*")
    }
    together = [set(row.stack or [trial]) for trial, row in rows.items()]
    firsts = {name.rpartition("-")[2] for name in found}
    assert all(len(firsts & jobs) == 1 for jobs in together)
    assert sum(figures["trials"] for figures in found.values()) == len(rows)
    for trial, row in rows.items():
        if row.stage == "search":
            figures = found[f"search-{row.method}-{trial}"]
            for name in ("val_nll", "val_accuracy", "val_gain", "seconds", "train_seconds"):
                assert figures[name] == pytest.approx(getattr(row, name), rel=1e-6, abs=1e-6)
            last = store.curve(trial)[-1]
            for name in ("loss", "lr", "val_nll", "val_members_nll"):
                assert figures[f"curve/{name}"] == pytest.approx(getattr(last, name), rel=1e-6)


def test_the_dashboard_has_every_search(finished_study):
    if find_spec("optuna_dashboard") is None:
        pytest.skip("the extra `dashboard` is not installed")
    out, _ = finished_study
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    command = Path(sys.executable).with_name("optuna-dashboard")
    process = subprocess.Popen(
        [command, "--host", "127.0.0.1", "--port", port, out / "optuna.journal"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )

    def answer(path):
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/api/{path}", timeout=30) as said:
            return json.load(said)

    def up():
        with contextlib.suppress(urllib.error.URLError):
            return answer("studies")

    try:
        wait_for(up, process, timeout=60)
        studies = answer("studies")["study_summaries"]
        assert {s["study_name"] for s in studies} == {"single", "batch_ensemble", "mc_dropout"}
        for study in studies:
            named = answer(f"studies/{study['study_id']}?after=0").get("objective_names")
            assert named == ["val_nll", "val_shift_nll", "val_gain"][: len(study["directions"])]
            trials = answer(f"studies/{study['study_id']}?after=0")["trials"]
            assert [trial["state"] for trial in trials] == ["Complete"] * 4
    finally:
        process.terminate()
        process.wait()


@pytest.mark.parametrize("name", ["tensorboard", "mlflow", "wandb"])
def test_a_logger_that_is_not_installed_is_one_line(tmp_path, capsys, monkeypatch, name):
    monkeypatch.setitem(PACKAGES, name, "no_such_package")
    assert main(["--space", str(SMOKE), "--out", str(tmp_path / "run"), "--log", name]) == 2
    assert capsys.readouterr().err == (
        f"error: --log {name}: needs the package no_such_package, which is not installed; "
        f"pip install 'escape-study[{name}]'\n"
    )
    assert not (tmp_path / "run").exists()


def test_every_arm_has_its_seeds_and_no_seed_is_used_twice(finished_study):
    out, _ = finished_study
    plan = json.loads((out / "plan.json").read_text())
    rows = list(RunFolder(out).rows().values())
    confirm = [r for r in rows if r.stage == "confirm"]
    assert len(confirm) == sum(arm.get("seeds", plan["seeds"]) for arm in plan["arms"])
    assert len({r.seed for r in rows}) == len(rows)
    roles = {arm["role"] for arm in plan["arms"]}
    assert roles == {
        "single", "deep_ensemble", "matched_single", "matched_deep_ensemble", "positive_control",
        "negative_control", "candidate", "comparison",
    }  # fmt: skip
    opened = min(r.finished.timestamp() for r in confirm)
    assert (out / "plan.json").stat().st_mtime <= opened


def test_it_took_no_more_than_the_dry_run_would_say(finished_study):
    rows = RunFolder(finished_study.out).rows().values()
    done = sum(row.members if row.method == "deep_ensemble" else 1 for row in rows)
    methods = {row.method for row in rows} - {"deep_ensemble"}
    most = estimate.total(load_study([SMOKE]), dict.fromkeys(methods, 1.0))
    # At most: all single networks that are tried might be contenders.
    assert done <= most < 2.5 * done


def test_run_again_does_nothing(finished_study):
    out, _ = finished_study
    before = {t: r.finished for t, r in RunFolder(out).rows().items()}
    code, printed = finish(start(out))
    assert code == 0, printed
    assert {t: r.finished for t, r in RunFolder(out).rows().items()} == before
    assert "nothing is missing" in printed


def test_status_and_replay(finished_study, capsys):
    out, _ = finished_study
    assert main(["--space", str(SMOKE), "--out", str(out), "--status"]) == 0
    assert "search 12/12" in capsys.readouterr().out
    trial = min(committed(out, "confirm"))
    assert main(["--space", str(SMOKE), "--out", str(out), "--replay", trial]) == 0
    assert "same predictions, bit for bit" in capsys.readouterr().out


def left_of(group):
    """Return the processes of a group that are no zombies."""
    of = ["ps", "-ww", "-eo", "pgid=,stat=,args="]
    lines = subprocess.run(of, capture_output=True, text=True, check=True).stdout.splitlines()
    fields = [line.split(maxsplit=2) for line in lines]
    return [args for pgid, stat, args in fields if int(pgid) == group and stat[0] != "Z"]


def is_searching(process, out):
    return committed(out)


def is_starting_ray(process, out):
    return any("gcs_server" in args for args in left_of(process.pid))


@pytest.mark.slow
@pytest.mark.parametrize("moment", [is_searching, is_starting_ray])
@pytest.mark.parametrize("end", [os.kill, os.killpg])  # The latter as systemd and SLURM do.
def test_a_scheduler_that_ends_the_study_is_told_how_to_go_on(tmp_path, end, moment):
    out = tmp_path / "run"
    process = start(out)
    wait_for(lambda: moment(process, out), process)
    end(process.pid, signal.SIGTERM)
    code, printed = finish(process, timeout=60)
    assert code == 130, printed
    assert "nothing that was finished is lost; to go on: python -m study.run --space" in printed
    assert "Traceback" not in printed
    assert "SIGTERM" not in printed
    for _ in range(50):
        if not left_of(process.pid):
            return
        time.sleep(0.1)
    raise AssertionError(left_of(process.pid))


class Held:
    """What is interrupted while it is cleared away, as Ray's handles of actors may be."""

    def __del__(self):
        signal.raise_signal(signal.SIGINT)


@pytest.mark.parametrize("busy", [0.0, 0.5])
def test_an_interrupt_that_falls_into_a_destructor_is_not_lost(capsys, monkeypatch, busy):
    """However long the main thread takes to leave it."""
    # Where tests are a background job, interrupts are ignored.
    ignored = signal.signal(signal.SIGINT, signal.default_int_handler)
    begin = threading.Thread.start
    monkeypatch.setattr(threading.Thread, "start", lambda own: (begin(own), time.sleep(busy)))

    def held():
        Held()
        time.sleep(30)

    try:
        with pytest.raises(KeyboardInterrupt), no_interrupt_is_lost():
            held()
    finally:
        signal.signal(signal.SIGINT, ignored)
    assert "KeyboardInterrupt" not in capsys.readouterr().err


def test_another_studys_folder_is_refused(finished_study, capsys):
    out, _ = finished_study
    code = main(["--space", str(SMOKE), "--out", str(out), "--set", "fixed.training.epochs=3"])
    assert code == 2
    error = capsys.readouterr().err
    assert "the folder belongs to another study" in error
    assert "training.epochs is 2 there and 3 here" in error


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--space", "none.yaml"], "none.yaml: cannot be read"),
        (["--space", str(SMOKE), "--set", "budget.trials=0"], "budget.trials: "),
        (["--space", str(SMOKE), "--status"], "there is no study yet"),
        (["--space", str(SMOKE), "--replay", "abc"], "no such trial"),
        (["--space", str(SMOKE), "--set", "dataset={name: mnist}"], "--data-root"),
    ],
)
def test_mistakes_are_one_line_and_exit_2(tmp_path, capsys, monkeypatch, arguments, message):
    monkeypatch.delenv("STUDY_DATA_ROOT", raising=False)
    assert main([*arguments, "--out", str(tmp_path / "run")]) == 2
    captured = capsys.readouterr()
    assert message in captured.err
    assert captured.err.startswith("error: ")
    assert captured.err.count("\n") == 1


@pytest.mark.slow  # The dry run refuses by the same rule; test_dry_run.py.
def test_resources_that_no_node_has_are_said(tmp_path):
    """In a process of its own, as Ray before 2.60 leaves files open in its caller's."""
    code, printed = finish(start(tmp_path / "run", "--set", "resources.cpus_per_trial=10000"))
    assert code == 2
    assert "lower resources" in printed
    assert printed.count("error: ") == 1
    assert "Traceback" not in printed


@pytest.mark.slow
def test_a_method_that_never_completes_stops_the_study_with_its_reason(tmp_path):
    code, printed = finish(
        start(
            tmp_path / "run",
            "--set",
            "fixed.training.momentum=0.999",
            "--set",
            "search.training.lr={float: [1.0e+29, 1.0e+30]}",
            "--set",
            "enqueue=[]",
        )
    )
    assert code == 2
    assert "none of the 4 search trials is complete (most often diverged" in printed
    assert "Traceback" not in printed


def test_a_file_in_the_place_of_the_folder(tmp_path, capsys):
    (tmp_path / "run").write_text("")
    assert main(["--space", str(SMOKE), "--out", str(tmp_path / "run")]) == 2
    assert "must be writable" in capsys.readouterr().err


STUCK = """
import os
import time
from collections import Counter
from typing import Literal

from study.methods import single

EXAMPLES = [{"does": "well"}]


class Params(single.Params):
    does: Literal["well", "hang", "exit"] = "well"


class Ensemble(single.Ensemble):
    def __init__(self, params, make_network, seed):
        super().__init__(single.Params(), make_network, seed)
        self.does = params.does

    def training_forward(self, x, y_B):
        while self.does == "hang":
            time.sleep(1)
        if self.does == "exit":
            os._exit(7)
        return super().training_forward(x, y_B)
"""


@pytest.mark.slow
def test_a_study_goes_on_after_trials_that_hang_or_end_their_worker(tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "stuck.py").write_text(STUCK)
    space = {
        "name": "stuck", "method": "mine.stuck",
        "dataset": {"name": "digits", "train_size": 100, "val_size": 100, "shift_size": 20},
        "budget": {"trials": 4, "generation": 4, "rescore": 1, "rescore_seeds": 1},
        "protocol": {"seeds": 2, "shortlist": 1},
        "resources": {"trial_hours": 0.003, "max_failures": 1},
        "fixed": {"backbone": {"name": "mlp", "width": 8}, "training": {"epochs": 1}},
        "search": {"params": {"does": {"choice": ["well", "hang", "exit"]}}},
        "enqueue": [{"name": does, "params.does": does} for does in ("well", "hang", "exit")],
    }  # fmt: skip
    file, out = tmp_path / "stuck.yaml", tmp_path / "run"
    file.write_text(json.dumps(space))
    code, printed = finish(start(out, "--space", str(file), space=None))
    assert code == 0, printed
    rows = {"well": [], "hang": [], "exit": []}
    for row in RunFolder(out).rows().values():
        rows[json.loads(row.spec)["params"].get("does", "well")].append(row)
    assert {row.status for row in rows["well"]} == {"complete"}
    assert {row.status for row in rows["hang"] + rows["exit"]} == {"failed"}
    for row in rows["hang"]:
        assert "took more than resources.trial_hours=0.003" in row.reason
        assert "training_forward" in RunFolder(out).last_words(row.trial)
    # Of an exit and a lost connection Ray tells what it saw first, and nothing if neither.
    seen = "Worker (unexpectedly exits|exits)|it ended without a word"
    reasons = Counter(row.reason for row in rows["exit"])
    assert all(re.match(f"worker died or could not start: ({seen})", r) for r in reasons)
    ((reason, count),) = reasons.most_common(1)
    assert f"{count} failed: {reason}\n" in printed


@pytest.fixture
def small_disk(tmp_path):
    """A file system of its own; needs the right to mount one."""
    place = tmp_path / "disk"
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=120m", "tmpfs", str(place)]
    if os.geteuid() != 0 or subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("needs the right to mount a file system")
    yield place
    subprocess.run(["umount", "--lazy", str(place)], check=True)


@pytest.mark.slow
def test_a_disk_that_is_full_on_the_way(finished_study, small_disk):
    out, hog = small_disk / "run", small_disk / "hog"
    process = start(out)
    wait_for(lambda: committed(out), process)
    with hog.open("wb") as file, contextlib.suppress(OSError):
        while True:
            file.write(bytes(1 << 20))
    for code, printed in (finish(process), finish(start(out))):
        assert code == 2
        assert printed.count("error: ") == 1
        assert "50 MB must be free, but there are" in printed
        assert "Traceback" not in printed
    hog.unlink()
    code, printed = finish(start(out))
    assert code == 0, printed
    assert committed(out) == committed(finished_study.out)


@pytest.mark.slow
def test_a_folder_that_vanishes(tmp_path):
    out = tmp_path / "run"
    process = start(out)
    wait_for(lambda: committed(out), process)
    out.rename(tmp_path / "elsewhere")
    code, printed = finish(process)
    assert code == 2
    assert "nothing that was finished is lost" in printed
    assert "Traceback" not in printed
    (tmp_path / "elsewhere").rename(tmp_path / "back")
    found, damaged = examine(RunFolder(tmp_path / "back"), thorough=True)
    assert found
    assert damaged == {}
    assert main(["--space", str(SMOKE), "--out", str(tmp_path / "back"), "--status"]) == 0
