"""What is said of nodes that are not as they must be, and how many trials fit on which."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml

from study.cluster.gpu_share import gpu_memory, share
from study.cluster.nodes import coming, fitting
from study.cluster.preflight import (
    LEAST_DRIVER,
    ROOM,
    NodeQuery,
    SeenGpu,
    code,
    driver_version,
    look_for_gpu,
    problems,
    weights_of,
)
from study.cluster.submit import inside, submit
from study.errors import StudyError
from study.space.load import load_study

ROOT = Path(__file__).parents[3]
SMOKE = ROOT / "search_spaces" / "smoke.yaml"
ASKED = NodeQuery("s3://bucket/run", ".mark", ("weights.pth",))
HERE = {"versions": {"torch": "2.14", "ray": "2.60"}, "code": "abc", "began": 100.0, "ended": 110.0}
SOUND = {
    "versions": {"torch": "2.14", "ray": "2.60"},
    "code": "abc",
    "clock": 105.0,
    "free": 2 * ROOM,
    "gpu": SeenGpu(True, "13.0", "580.65.06"),
    "weights": [],
    "out": None,
}


def test_nothing_is_said_of_a_sound_node():
    assert problems("n", HERE, SOUND, ASKED) == []
    assert problems("n", HERE, SOUND | {"gpu": None}, ASKED) == []


@pytest.mark.parametrize(
    ("odd", "line"),
    [
        (
            {"versions": {"torch": "2.13", "ray": "2.60"}},
            "it has torch 2.13 instead of 2.14; install",
        ),
        ({"versions": {"ray": "2.60"}}, "it has torch None instead of 2.14"),
        ({"code": "abd"}, "must be that of the driver (abc), but is abd; copy it"),
        ({"out": "cannot be written"}, "but on node n it cannot be written; give that node"),
        (
            {"gpu": SeenGpu(False, "13.0", None)},
            "Ray counts a GPU there, but torch sees none; install its driver, 580 or newer, or",
        ),
        (
            {"gpu": SeenGpu(False, "13.0", "570.195.03")},
            "NVIDIA's driver must be 580 or newer for torch with CUDA 13.0, but is 570.195.03; up",
        ),
        ({"gpu": SeenGpu(False, None, "580.65.06")}, "torch must be built for CUDA, but is not"),
        ({"weights": ["w.pth"]}, "must have w.pth, which backbone.weights names; put it there"),
        ({"free": 1e8}, "500 MB must be free for Ray's files, but 100 are; free some"),
        ({"clock": 205.0}, "clocks must agree within 60 s, but its is 95 s ahead; set it by NTP"),
        ({"clock": 5.0}, "clocks must agree within 60 s, but its is 95 s behind"),
    ],
)
def test_each_thing_that_is_wrong_is_a_line(odd, line):
    (found,) = problems("n", HERE, SOUND | odd, ASKED)
    assert line in found
    assert "\n" not in found


def test_the_driver_is_read_as_linux_tells_it(tmp_path):
    file = tmp_path / "version"
    assert driver_version(file) is None
    file.write_text(
        "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  580.105.08  Release Build  "
        "(dvs-builder@U22-I3-H04-01-5)  Wed Oct 29 22:15:28 UTC 2025\n"
        "GCC version:  gcc version 13.3.0 (Ubuntu 13.3.0-6ubuntu2~24.04)\n"
    )
    assert driver_version(file) == "580.105.08"
    file.write_text("NVRM version: NVIDIA UNIX x86_64 Kernel Module  470.256.02  Thu May  2 2024\n")
    assert driver_version(file) == "470.256.02"


def test_what_there_is_of_a_gpu_is_found_out_by_torch():
    found = look_for_gpu()
    assert found.seen == torch.cuda.is_available()
    assert found.cuda == torch.version.cuda


def test_the_least_driver_is_the_one_that_is_stated():
    for file in ("README.md", "gpu.yaml"):
        assert "driver 580 or newer" in (ROOT / "clusters" / file).read_text()
    if torch.version.cuda is not None:  # What the package index has for Linux.
        assert LEAST_DRIVER[int(torch.version.cuda.partition(".")[0])] == 580


@pytest.mark.parametrize(
    ("free", "cpus", "gpus", "fit"),
    [
        ({"CPU": 8}, 1, 0, 8),
        ({"CPU": 8}, 3, 0, 2),
        ({"CPU": 1}, 0.1, 0, 10),
        ({"CPU": 8}, 1, 0.5, 0),
        ({"CPU": 8, "GPU": 2}, 1, 0.5, 4),
        ({"CPU": 8, "GPU": 2}, 1, 1 / 3, 6),
        ({"CPU": 8, "GPU": 2}, 1, 0.6, 2),  # not three: none can have parts of both
        ({"CPU": 2, "GPU": 2}, 1, 0.25, 2),
        ({"CPU": 8, "GPU": 4}, 1, 2, 2),
        ({}, 1, 0, 0),
    ],
)
def test_how_many_trials_fit(free, cpus, gpus, fit):
    assert fitting(free, cpus, gpus) == fit


def test_what_a_cluster_may_grow_to(tmp_path):
    file = tmp_path / "config.yaml"
    assert coming(file, 1, 0.5) == 0
    head = {"max_workers": 0, "resources": {"CPU": 0}}
    gpu = {"max_workers": 9, "resources": {"CPU": 4, "GPU": 1, "memory": 10**9}}
    file.write_text(
        yaml.safe_dump({"max_workers": 3, "available_node_types": {"a": head, "b": gpu}})
    )
    assert coming(file, 1, 0.5) == 6
    assert coming(file, 1, 0) == 12
    assert coming(file, 1, 2) == 0
    file.write_text("[")
    assert coming(file, 1, 0) == 0


def test_trials_share_a_gpu_by_memory():
    assert share(need=1e9, total=10e9) == pytest.approx(1 / 9)
    assert share(need=8e9, total=10e9) == 1
    with pytest.raises(StudyError, match=r"needs 9\.5 GB, but a GPU has 10\.0"):
        share(need=9.5e9, total=10e9)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_memory_is_measured_on_a_gpu_alone(smoke, data):
    with pytest.raises(StudyError, match="gpus_per_trial=auto: needs a GPU, but torch sees none"):
        gpu_memory(smoke, data)


@pytest.mark.parametrize(
    ("value", "kept"), [("auto", "auto"), ("0.25", 0.25), ("1", 1.0), ("0", 0.0)]
)
def test_what_a_trial_may_take_of_a_gpu(value, kept):
    study = load_study([SMOKE], [f"resources.gpus_per_trial={value}"])
    assert study.resources.gpus_per_trial == kept
    assert study.model_dump(mode="json")["resources"]["gpus_per_trial"] == kept


@pytest.mark.parametrize("value", ["-1", "all", "[1]"])
def test_what_it_may_not(value):
    with pytest.raises(StudyError, match="gpus_per_trial"):
        load_study([SMOKE], [f"resources.gpus_per_trial={value}"])


def test_a_folder_that_is_not_shared_is_a_line():
    here = NodeQuery("/runs/be", ".mark")
    (found,) = problems("n", HERE, SOUND | {"out": "is another folder"}, here)
    assert "but on node n it is another folder; give s3://BUCKET/NAME (or gs://)" in found


def test_weights_of_every_space_are_looked_for(tmp_path):
    file = tmp_path / "w.pth"
    torch.save({}, file)
    study = load_study([SMOKE])
    space = study.candidates[0]
    fixed = space.fixed | {"backbone.weights": str(file)}
    space = space.model_copy(update={"fixed": fixed})
    assert weights_of(study.model_copy(update={"candidates": (space,)})) == (str(file),)


def test_a_job_gets_the_same_command():
    given = ["--space", "a b.yaml", "--address", "http://head:8265", "--out", "s3://b/r", "-v"]
    assert inside(given) == (
        "python -m study.run --space 'a b.yaml' --out s3://b/r -v --address auto"
    )
    assert inside(["--address=http://head:8265", "--set", "a=1"]) == (
        "python -m study.run --set a=1 --address auto"
    )


@pytest.mark.parametrize(
    ("out", "space", "line"),
    [
        (None, "a.yaml", r"--out \(not given\): a job of a cluster must be told a place"),
        ("runs/be", "a.yaml", "--out runs/be: a job of a cluster must be told a place"),
        ("s3://b/r", "/tmp/a.yaml", "--space /tmp/a.yaml: must lie in this folder"),
        ("s3://b/r", "../a.yaml", r"--space \.\./a.yaml: must lie in this folder"),
    ],
)
def test_a_job_that_would_mean_something_else_is_refused(out, space, line):
    with pytest.raises(StudyError, match=line):
        submit("http://127.0.0.1:9", [], out, [Path(space)])


def test_a_head_that_does_not_answer_is_a_line():
    command = [sys.executable, "-m", "study.run", "--space", str(SMOKE.relative_to(ROOT))]
    command += ["--address", "http://127.0.0.1:9", "--out", "s3://b/r"]
    ended = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)
    assert ended.returncode == 2
    assert "the head must take jobs, but" in ended.stderr
    assert "Traceback" not in ended.stderr


def test_code_is_another_when_a_file_of_any_folder_changes(tmp_path):
    package = tmp_path / "package"
    for name in ("__init__.py", "folder/a.py", "folder/b.py"):
        (package / name).parent.mkdir(parents=True, exist_ok=True)
        (package / name).write_text(f"# {name}")
    digests = {code(package)}
    (package / "folder" / "b.py").write_text("# changed")
    digests.add(code(package))
    (package / "folder" / "b.py").rename(package / "b.py")
    digests.add(code(package))
    assert len(digests) == 3
    assert code() == code(ROOT / "study")
