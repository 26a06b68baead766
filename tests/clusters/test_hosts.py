"""The hosts themselves: they reach each other and nothing else, and leave nothing."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.clusters.hosts import ROOT, Hosts, why_not

pytestmark = [
    pytest.mark.cluster,
    pytest.mark.skipif(why_not() is not None, reason=why_not() or ""),
]
SSH = ["ssh", "-i", "/run/host/key", "-o", "StrictHostKeyChecking=no", "-o", "ConnectTimeout=1"]


def test_hosts_reach_each_other_and_nothing_else(tmp_path):
    with Hosts(2, [tmp_path]) as hosts, Hosts(1) as others:
        one, two = hosts
        assert hosts.laptop.run([*SSH, two.address, "hostname"]).stdout.endswith("host1\n")
        for outside in ("1.1.1.1", "8.8.8.8", "169.254.169.254"):
            connect = f"timeout 2 bash -c ': > /dev/tcp/{outside}/80'"
            assert one.run(["bash", "-c", connect], check=False).returncode != 0
        assert hosts.way_out() is None
        two.cut()
        assert hosts.laptop.run([*SSH, two.address, "true"], check=False).returncode == 255
        two.heal()
        hosts.laptop.run([*SSH, two.address, "true"])

        one.begin(["sleep", "1000"])
        others[0].begin(["sleep", "1000"])
        while not (one.processes("sleep") and others[0].processes("sleep")):
            time.sleep(0.1)
        assert not two.processes("sleep")
        assert one.kill("sleep") == 1
        assert others[0].processes("sleep")


def test_hosts_write_nowhere_but_at_home_and_where_it_is_shared(tmp_path):
    with Hosts(1, [tmp_path]) as hosts:
        hosts[0].run(["touch", "own", "/tmp/own", "/dev/shm/own", tmp_path / "shared"])
        assert (tmp_path / "shared").exists()
        assert (hosts[0].home / "own").exists()
        assert not (Path.home() / "own").exists()
        assert not Path("/tmp/own").exists()
        for place in (ROOT, sys.prefix, "/usr", "/etc"):
            refused = hosts[0].run(["touch", f"{place}/own"], check=False)
            assert "Read-only" in refused.stdout


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
def test_hosts_end_with_the_process_that_made_them(how):
    program = (
        "import time\nfrom tests.clusters.hosts import Hosts\nwith Hosts(1) as hosts:\n"
        "    hosts[0].begin(['sleep', '1000'])\n"
        "    print(hosts.bridge, *(h.init for h in hosts.all), hosts.folder, flush=True)\n"
        "    time.sleep(1000)\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", program], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert process.stdout is not None
    *pids, folder = process.stdout.readline().decode().split()
    spaces = {os.readlink(f"/proc/{pid}/ns/net") for pid in pids}
    process.send_signal(how)
    process.communicate(timeout=10)
    deadline = time.monotonic() + 10
    while spaces & set(map(_network, Path("/proc").glob("[0-9]*"))):
        assert time.monotonic() < deadline
        time.sleep(0.1)
    if how == signal.SIGINT:
        assert not Path(folder).exists()
    else:
        subprocess.run(["rm", "-r", "--one-file-system", folder], check=True)


def _network(process):
    try:
        return os.readlink(process / "ns" / "net")
    except OSError:
        return ""
