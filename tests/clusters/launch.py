"""What the tests of clusters share: their YAML on hosts of a test, and a study that is sent there."""

import json
import re
import shlex
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml

from study.run_folder.integrity import examine
from study.run_folder.store import RunFolder
from tests.clusters.hosts import ROOT, Hosts, why_not
from tests.running import is_whole

ON_HOSTS = [
    pytest.mark.cluster,
    pytest.mark.slow,
    pytest.mark.skipif(why_not() is not None, reason=why_not() or ""),
]
"""Marks of a test that makes hosts."""
ENV = {"RAY_AUTH_MODE": "token", "RAY_USAGE_STATS_ENABLED": "0", "OMP_NUM_THREADS": "1"}
HEAD = "ray start --head --port=6379 --num-cpus=1 --disable-usage-stats"
SITE = Path(yaml.__file__).parents[1]
VENV = "~/escape-venv"
CONFIG = "cluster.yaml"
LAUNCHER = re.compile(r"\d{4}-\d\d-\d\d |Error: Comm|  ssh |Warning: Perm| To ensure|Shared|$")
OPTIONS = {"RAY_USAGE_STATS_ENABLED": "0"}


def settings(file: str) -> dict[str, Any]:
    """Return a cluster's YAML as Ray reads it."""
    return yaml.safe_load((ROOT / "clusters" / file).read_text())


def without_index(commands: list[str]) -> list[str]:
    """Return setup commands that take packages from the Python at hand, not from an index."""
    made = [
        f"{sys.executable} -m venv --without-pip {VENV}",
        f"printf '%s\\n' ~/escape-study {SITE} > {VENV}/lib/python3.11/site-packages/here.pth",
        f'sed "1s|.*|#!$HOME/escape-venv/bin/python|" {sys.prefix}/bin/ray > {VENV}/bin/ray',
        f"chmod +x {VENV}/bin/ray",
    ]
    kept = [command for command in commands if "/uv " not in command]
    assert len(kept) == len(commands) - 3
    return [" && ".join(made), *kept]


class Cluster:
    """A cluster whose YAML lies on the laptop, and what happens to it."""

    def __init__(self, hosts: Hosts, config: dict[str, Any], **env: str) -> None:
        self.hosts, self.env = hosts, OPTIONS | env
        self.start = time.monotonic()
        (hosts.laptop.home / CONFIG).write_text(yaml.safe_dump(config))
        hosts.laptop.run(["ray", "get-auth-token", "--generate"])

    def say(self, what: str) -> None:
        """Print what happens, and when."""
        print(f"{time.monotonic() - self.start:6.1f} s  {what}", flush=True)

    def command(self, verb: str, *options: str) -> list[str]:
        """Return a command of Ray's launcher, given in the project's folder."""
        file = str(Path.home() / CONFIG)
        return ["env", "-C", str(ROOT), "ray", verb, file, *options]

    def ray(self, verb: str, *options: str, timeout: float = 180) -> str:
        """Run a command of Ray's launcher on the laptop and return what it printed."""
        printed = self.hosts.laptop.run(self.command(verb, *options), self.env, timeout).stdout
        self.say(f"ray {verb} returned")
        return printed

    def study(self, out: str, *settings: str, more: Sequence[str] = ()) -> "subprocess.Popen[str]":
        """Send the smoke study through the head; its output is in ``study.log`` of the hosts."""
        words = ["python", "-m", "study.run", "--space", "search_spaces/smoke.yaml"]
        words += ["--address", "auto", "--out", out, *more]
        for setting in settings:
            words += ["--set", setting]
        command = self.command("exec", f"cd ~/escape-study && {shlex.join(words)}")
        self.say("study sent")
        with self.log.open("a") as log:
            return self.hosts.laptop.begin(command, self.env, stdout=log)

    @property
    def log(self) -> Path:
        """What the studies printed."""
        return self.hosts.folder / "study.log"

    def printed(self) -> str:
        """Return what the studies printed, without what Ray's launcher did."""
        lines = self.log.read_text().splitlines() if self.log.exists() else []
        return "\n".join(line for line in lines if not LAUNCHER.match(line))

    def launched(self) -> str:
        """Return what the newest process that starts nodes wrote last, with its updaters."""
        logs = sorted(self.hosts[0].folder.glob("tmp/ray/session_2*/logs/monitor.*"))
        newest = [log for log in logs if log.parent == logs[-1].parent]
        return "\n".join(f"{log.name}: {log.read_text()[-6000:]}" for log in newest)

    def wait(self, what: str, holds: Callable[[], Any], seconds: float = 300) -> Any:
        """Wait until something holds, and print when it does.

        Raises:
            AssertionError: If it does not in time, with what the study printed last.
        """
        deadline = time.monotonic() + seconds
        while not (value := holds()):
            if time.monotonic() > deadline:
                left = {h.name: [line[:80] for line in h.left()] for h in self.hosts}
                said = f"{self.printed()[-3000:]}\n{self.launched()}"
                raise AssertionError(f"not within {seconds} s: {what}\n{left}\n{said}")
            time.sleep(0.5)
        self.say(what)
        return value


def check(out: str, trials: int) -> Counter[str]:
    """Assert that a smoke study is complete: each trial once and sound, and a verdict.

    Returns:
        How many trials ran on which host.
    """
    store = RunFolder(out)
    rows, damaged = examine(store, thorough=True)
    assert not damaged
    assert [row.reason for row in rows.values() if row.status == "failed"] == []
    counts = Counter((row.stage, row.method) for row in rows.values())
    for method in ("single", "batch_ensemble", "mc_dropout"):
        assert counts["search", method] == trials
    assert is_whole(out)
    git = ["git", "-C", str(ROOT), "rev-parse", "HEAD"]
    commit = subprocess.run(git, capture_output=True, text=True, check=True).stdout.strip()
    assert {row.commit.removesuffix("+dirty") for row in rows.values()} == {commit}
    keys = ("configuration", "role", "stage", "seed")
    assert len({tuple(getattr(row, key) for key in keys) for row in rows.values()}) == len(rows)
    assert json.loads((store.root / "verdict.json").read_text())["sentence"]
    return Counter(row.host for row in rows.values())


if __name__ == "__main__":
    print(json.dumps(check(sys.argv[1], int(sys.argv[2]))))
