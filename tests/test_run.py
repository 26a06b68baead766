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
import time
import urllib.error
import urllib.request
from importlib.util import find_spec
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from tensorboardX.proto.event_pb2 import Event

from study.loggers import PACKAGES
from study.run import main
from study.store import Store

ROOT = Path(__file__).parents[1]
SMOKE = ROOT / "search_spaces" / "smoke.yaml"

pytestmark = pytest.mark.slow


def start(out, *more, space=SMOKE):
    spaces = [] if space is None else ["--space", str(space)]
    command = [sys.executable, "-m", "study.run", *spaces, "--out", str(out), *more]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), str(out.parent)])}
    return subprocess.Popen(
        command,
        cwd=out.parent,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def finish(process, timeout=240):
    out, _ = process.communicate(timeout=timeout)
    return process.returncode, out


def wait_for(condition, process, timeout=180):
    end = time.monotonic() + timeout
    while time.monotonic() < end:
        if condition():
            return
        assert process.poll() is None, process.communicate()[0]
        time.sleep(0.05)
    raise AssertionError("what was waited for did not come")


def committed(out, stage=None):
    rows = Store(out).rows().values() if (out / "trials").exists() else []
    return {r["trial"] for r in rows if stage is None or r["stage"] == stage}


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A run that nothing disturbed, logged to TensorBoard, with what it printed."""
    out = tmp_path_factory.mktemp("whole") / "run"
    (out.parent / "analysis").mkdir()
    code, printed = finish(start(out, "--log", "tensorboard"))
    assert code == 0, printed
    return out, printed


def test_one_command_ends_with_a_verdict(whole):
    out, printed = whole
    verdict = json.loads((out / "verdict.json").read_text())
    assert verdict["sentence"] in printed
    assert (out / "report.html").stat().st_size > 100_000
    assert (out.parent / "analysis" / "report.html").exists()
    rows = Store(out).rows().values()
    assert {r["status"] for r in rows} == {"complete"}
    searched = [r for r in rows if r["stage"] == "search"]
    methods = ["batch_ensemble"] * 4 + ["mc_dropout"] * 4 + ["single"] * 4
    assert sorted(r["method"] for r in searched) == methods


def test_the_terminal_shows_the_study_and_nothing_else(whole):
    _, printed = whole
    noise = [
        line for line in printed.splitlines() if re.search(r"warn|\bray\b|\[I |Trial ", line, re.I)
    ]
    assert noise == []
    for stage in ("search: 12 trials", "rescore: ", "confirm: "):
        assert stage in printed


def test_the_run_ends_with_a_line_for_each_stage_and_method(whole):
    _, printed = whole
    lines = [line.split() for line in printed.splitlines()]
    table = {tuple(line[:2]): int(line[2]) for line in lines if len(line) == 8 and line != lines[0]
             and line[2].isdigit()}  # fmt: skip
    assert table["search", "single"] == 4
    assert table["rescore", "batch_ensemble"] == 2
    assert table["confirm", "deep_ensemble"] == 6
    assert sum(table.values()) == 39


def events(file):
    """Yield the scalars of a file of TensorBoard's: records of length, sum, content, sum."""
    content = file.read_bytes()
    while content:
        (length,) = struct.unpack("<Q", content[:8])
        for value in Event.FromString(content[12 : 12 + length]).summary.value:
            if value.HasField("simple_value"):
                yield value.tag.rpartition("/")[2], value.simple_value
        content = content[16 + length :]


def test_every_job_is_in_tensorboard_and_no_nap(whole):
    out, _ = whole
    rows = Store(out).rows()
    found = {
        file.parent.name: dict(events(file))
        for file in (out / "logs" / "tensorboard").glob("*/events*")
    }
    together = [set(row["stack"] or [trial]) for trial, row in rows.items()]
    firsts = {name.rpartition("-")[2] for name in found}
    assert all(len(firsts & jobs) == 1 for jobs in together)
    assert sum(figures["trials"] for figures in found.values()) == len(rows)
    for trial, row in rows.items():
        if row["stage"] == "search":
            figures = found[f"search-{row['method']}-{trial}"]
            for name in ("val_nll", "val_accuracy", "val_gain", "seconds", "train_seconds"):
                assert figures[name] == pytest.approx(row[name], rel=1e-6, abs=1e-6)


def test_the_dashboard_has_every_search(whole):
    if find_spec("optuna_dashboard") is None:
        pytest.skip("the extra `dashboard` is not installed")
    out, _ = whole
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


def test_every_arm_has_its_seeds_and_no_seed_is_used_twice(whole):
    out, _ = whole
    plan = json.loads((out / "plan.json").read_text())
    rows = list(Store(out).rows().values())
    confirm = [r for r in rows if r["stage"] == "confirm"]
    assert len(confirm) == 3 * len(plan["arms"])
    assert len({r["seed"] for r in rows}) == len(rows)
    roles = {arm["role"] for arm in plan["arms"]}
    assert roles == {
        "single", "deep_ensemble", "positive_control", "negative_control", "candidate",
        "comparison",
    }  # fmt: skip
    opened = min(r["finished"].timestamp() for r in confirm)
    assert (out / "plan.json").stat().st_mtime <= opened


def test_run_again_does_nothing(whole):
    out, _ = whole
    before = {t: r["finished"] for t, r in Store(out).rows().items()}
    code, printed = finish(start(out))
    assert code == 0, printed
    assert {t: r["finished"] for t, r in Store(out).rows().items()} == before
    assert "nothing is missing" in printed


def test_status_and_replay(whole, capsys):
    out, _ = whole
    assert main(["--space", str(SMOKE), "--out", str(out), "--status"]) == 0
    assert "search 12/12" in capsys.readouterr().out
    trial = min(committed(out, "confirm"))
    assert main(["--space", str(SMOKE), "--out", str(out), "--replay", trial]) == 0
    assert "same predictions, bit for bit" in capsys.readouterr().out


def test_a_killed_run_ends_like_one_that_was_not(whole, tmp_path):
    undisturbed, _ = whole
    out = tmp_path / "run"
    for stage, at_least in (("search", 3), ("confirm", 4)):
        process = start(out)
        wait_for(lambda s=stage, n=at_least: len(committed(out, s)) >= n, process)
        process.send_signal(signal.SIGKILL)
        process.communicate()
        assert len(committed(out, stage)) < len(committed(undisturbed, stage))
    code, printed = finish(start(out))
    assert code == 0, printed
    assert committed(out) == committed(undisturbed)
    for trial in committed(undisturbed, "confirm"):
        folder = undisturbed / "trials" / trial
        for file in (*folder.glob("*test.parquet"), *folder.glob("geometry.parquet")):
            assert pq.read_table(file).equals(pq.read_table(out / "trials" / trial / file.name))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupt_says_how_to_go_on(tmp_path, number):
    out = tmp_path / "run"
    process = start(out)
    wait_for(lambda: len(committed(out)) >= 1, process)
    process.send_signal(number)
    code, printed = finish(process, timeout=60)
    assert code == 130
    assert "to go on: python -m study.run --space" in printed
    assert "Traceback" not in printed


def test_a_dead_worker_costs_no_trial(tmp_path):
    out = tmp_path / "run"
    process = start(out)
    wait_for(lambda: len(committed(out)) >= 2, process)
    workers = subprocess.run(
        ["pgrep", "-f", "ray::.*(Trainable|_trainable|ImplicitFunc)", "-P", _raylet(process.pid)],
        capture_output=True, text=True, check=False,
    ).stdout.split()  # fmt: skip
    assert workers
    os.kill(int(workers[0]), signal.SIGKILL)
    code, printed = finish(process)
    assert code == 0, printed
    statuses = [r["status"] for r in Store(out).rows().values()]
    assert set(statuses) == {"complete"}


def _raylet(driver):
    found = subprocess.run(
        ["pgrep", "-f", "raylet/raylet", "-P", str(driver)],
        capture_output=True,
        text=True,
        check=True,
    )
    return found.stdout.split()[0]


def test_another_studys_folder_is_refused(whole, capsys):
    out, _ = whole
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
        (["--space", str(SMOKE), "--set", "resources.cpus_per_trial=10000"], "lower resources"),
    ],
)
def test_mistakes_are_one_line_and_exit_2(tmp_path, capsys, monkeypatch, arguments, message):
    monkeypatch.delenv("STUDY_DATA_ROOT", raising=False)
    assert main([*arguments, "--out", str(tmp_path / "run")]) == 2
    captured = capsys.readouterr()
    assert message in captured.err
    assert captured.err.startswith("error: ")
    assert captured.err.count("\n") == 1


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
import time

from study.methods import single

EXAMPLES = [{"hang": False}]


class Params(single.Params):
    hang: bool = False


class Ensemble(single.Ensemble):
    def __init__(self, params, make_network, seed):
        super().__init__(single.Params(), make_network, seed)
        self.hang = params.hang

    def training_forward(self, x, y_B):
        while self.hang:
            time.sleep(1)
        return super().training_forward(x, y_B)
"""


def test_a_hang_is_ended_and_the_study_goes_on(tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "stuck.py").write_text(STUCK)
    space = {
        "name": "stuck", "method": "mine.stuck",
        "dataset": {"name": "digits", "train_size": 100, "val_size": 100, "shift_size": 20},
        "budget": {"trials": 4, "generation": 4, "rescore": 1, "rescore_seeds": 1},
        "protocol": {"seeds": 2, "shortlist": 1},
        "resources": {"trial_hours": 0.004},
        "fixed": {"backbone": {"name": "mlp", "width": 8}, "training": {"epochs": 1}},
        "search": {"params": {"hang": {"choice": [True, False]}}},
    }  # fmt: skip
    file, out = tmp_path / "stuck.yaml", tmp_path / "run"
    file.write_text(json.dumps(space))
    code, printed = finish(start(out, "--space", str(file), space=None))
    assert code == 0, printed
    rows = Store(out).rows().values()
    hung = [row for row in rows if json.loads(row["spec"])["params"].get("hang")]
    assert hung
    assert {row["status"] for row in hung} == {"failed"}
    for row in hung:
        assert "took more than resources.trial_hours=0.004" in row["reason"]
        assert "training_forward" in Store(out).hang(row["trial"]).read_text()
    assert {row["status"] for row in rows if row not in hung} == {"complete"}


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


def test_a_disk_that_is_full_on_the_way(whole, small_disk):
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
    assert committed(out) == committed(whole[0])


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
    assert finish(start(tmp_path / "back"))[0] == 0
