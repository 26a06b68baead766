"""``--address http://HEAD:8265``: the same command from elsewhere, watched, left and watched again."""

import shutil
import signal
import subprocess
import time

from study.run_folder.store import RunFolder
from tests.clusters.hosts import ROOT, Hosts
from tests.clusters.launch import ENV, HEAD, ON_HOSTS
from tests.running import is_whole

pytestmark = ON_HOSTS


def test_a_study_goes_on_without_who_watches_it(tmp_path):
    out = tmp_path / "run"
    with Hosts(1, share=[tmp_path]) as hosts:
        head, laptop = hosts[0], hosts.laptop
        head.run(
            ["bash", "-c", f"ray get-auth-token --generate; {HEAD} --dashboard-host=0.0.0.0"],
            ENV,
            timeout=120,
        )
        words = ["--space", "search_spaces/smoke.yaml", "--out", out]
        words += ["--set", "fixed.training.epochs=200", "--set", "resources.stack=1"]
        words += ["--set", "protocol.anchors=tuned"]
        words += ["--address", f"http://{head.address}:8265"]
        command = ["env", "-C", ROOT, "python", "-m", "study.run", *words]

        stranger = laptop.run(command, ENV, timeout=120, check=False)
        assert stranger.returncode == 2
        assert "its token is in ~/.ray/auth_token here" in stranger.stdout

        (laptop.home / ".ray").mkdir(exist_ok=True)
        shutil.copy(head.home / ".ray" / "auth_token", laptop.home / ".ray")
        watching = laptop.begin(command, ENV, stdout=subprocess.PIPE)
        end = time.monotonic() + 600
        while len(RunFolder(out).committed()) < 2:
            assert time.monotonic() < end
            assert watching.poll() is None, watching.communicate()[0]
            time.sleep(0.2)
        for pid, line in laptop.processes("study.run").items():
            if line.startswith("python"):
                subprocess.run(["kill", f"-{signal.SIGINT.value}", str(pid)], check=True)
        printed, _ = watching.communicate(timeout=60)
        assert watching.returncode == 130
        assert "no longer watched; the study goes on" in printed

        again = laptop.run(command, ENV, timeout=300)
        assert "is at work on it already; watching" in again.stdout
        assert f"report: {out}/report.html" in again.stdout
        assert is_whole(out)
