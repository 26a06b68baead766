"""What is said of a cluster that is not as it must be, before anything is trained on it."""

import shlex
import shutil

import pytest
import torch

from tests.clusters.hosts import ROOT, Hosts
from tests.clusters.launch import ENV, HEAD, ON_HOSTS

pytestmark = ON_HOSTS
SMALL = 4e8
"""Bytes of the worker's disk for Ray."""


def errors(host, *more, env=ENV):
    """Return the lines of errors that the study's command ends with."""
    command = ["python", "-m", "study.run", "--space", "search_spaces/smoke.yaml", *more]
    ended = host.run(["env", "-C", ROOT, *command], env, timeout=240, check=False)
    print(f"{host.name} $ {shlex.join(map(str, more))} -> {ended.returncode}\n{ended.stdout}")
    assert ended.returncode == 2, ended.stdout
    assert "Traceback" not in ended.stdout
    return [line for line in ended.stdout.splitlines() if line.startswith("error: ")]


@pytest.fixture
def pair(tmp_path):
    """A head, and a worker that has everything wrong that a worker may have."""
    (tmp_path / "shared").mkdir()
    old = tmp_path / "old"
    shutil.copytree(ROOT / "study", old / "study")
    changed = old / "study" / "run_folder" / "store.py"
    changed.write_text(changed.read_text() + "# Another line.\n")
    (old / "torch-1.13.dist-info").mkdir()
    (old / "torch-1.13.dist-info" / "METADATA").write_text("Name: torch\nVersion: 1.13\n")
    with Hosts(2, share=[tmp_path]) as hosts:
        head, worker = hosts
        head.run(
            ["bash", "-c", f"ray get-auth-token --generate; {HEAD} --include-dashboard=false"],
            ENV,
            timeout=120,
        )
        (worker.home / ".ray").mkdir(exist_ok=True)
        shutil.copy(head.home / ".ray" / "auth_token", worker.home / ".ray")
        torch.save({}, head.folder / "tmp" / "weights.pth")
        lines = [
            f"mount --bind {old}/study {ROOT}/study",
            f"mount -o remount,bind,ro {tmp_path}",
            f"mkdir /tmp/ray && mount -t tmpfs -o size={SMALL:.0f} tmpfs /tmp/ray",
            f"ray start --address={head.address}:6379 --num-cpus=1 --num-gpus=1",
        ]
        worker.run(["bash", "-c", " && ".join(lines)], ENV | {"PYTHONPATH": old}, timeout=120)
        yield head, worker


def test_every_defect_of_a_node_is_a_line_with_its_remedy(pair, tmp_path):
    head, worker = pair
    more = ["--address", "auto", "--set", "resources.gpus_per_trial=0.5"]
    more += ["--set", "fixed.backbone.weights=/tmp/weights.pth"]
    found = errors(head, *more, "--out", tmp_path / "shared" / "run")
    name = f"node host1 ({worker.address})"
    for line in (
        f"{name}: packages must be those of the driver, but it has torch 1.13 instead of",
        f"{name}: this project's code must be that of the driver",
        f"but on node host1 ({worker.address}) it cannot be written (Read-only file system)",
        f"{name}: Ray counts a GPU there, but torch sees none",
        f"{name}: must have /tmp/weights.pth, which backbone.weights names",
        f"{name}: 500 MB must be free for Ray's files, but",
    ):
        assert sum(line in said for said in found) == 1, line
    assert len(found) == 6

    own = errors(head, "--address", "auto", "--out", "/tmp/run")
    assert any("it is another folder; give s3://BUCKET/NAME" in line for line in own)
    (none,) = errors(head, "--address", "auto", "--out", "/tmp/run", *GREEDY)
    assert "a trial needs 1 CPUs and 2 GPUs of one node, but no node has them" in none
    assert errors(head, "--address", "auto", "--out", "/tmp/run", "--dry-run", *GREEDY) == [none]


GREEDY = ("--set", "resources.gpus_per_trial=2")


def test_who_cannot_join_is_told_why(pair):
    head, worker = pair
    out = ["--out", "/tmp/run"]
    (worker.home / ".ray" / "auth_token").write_text("0" * 64)
    (wrong,) = errors(worker, "--address", f"{head.address}:6379", *out)
    assert "put the cluster's token into ~/.ray/auth_token" in wrong
    (nobody,) = errors(head, "--address", "10.77.0.99:6379", *out)
    assert "a cluster must answer there, but" in nobody
    (deaf,) = errors(head, "--address", f"{head.address}:9", *out)
    assert "a cluster must answer there, but Connection refused; start it" in deaf
