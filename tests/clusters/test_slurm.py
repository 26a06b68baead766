"""The batch script: its ways to end with stand-ins for all it calls, and a study under SLURM itself.

SLURM's own daemons run on the hosts of the test: the controller and two nodes, each with an
address, processes and a /tmp of its own. That test skips where SLURM is not installed (Debian: slurmctld, slurmd).
"""

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from study.cluster.nodes import fitting
from study.run_folder.store import RunFolder
from study.space.load import load_study
from tests.clusters.hosts import PATH, Hosts, why_not
from tests.running import is_whole

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "clusters" / "slurm.sbatch"
PATIENCE = 600.0
"""Seconds, for what takes ten on a machine at rest."""


def test_the_script_is_sound():
    subprocess.run(["bash", "-n", SCRIPT], check=True)
    if shutil.which("shellcheck") is not None:
        subprocess.run(["shellcheck", "--severity=warning", SCRIPT], check=True)


def test_the_lines_that_resumption_rests_on():
    head = re.findall(r"^#SBATCH --(\S+)", SCRIPT.read_text(), re.M)
    assert {"requeue", "open-mode=append", "signal=B:INT@120", "ntasks-per-node=1"} <= set(head)


def test_the_gpus_of_a_node_are_full():
    text = SCRIPT.read_text()
    asked = {key: int(value) for key, value in re.findall(r"^#SBATCH --(\S+)=(\d+)$", text, re.M)}
    (space,) = re.findall(r"^SPACE=\$\{SPACE:-(\S+)\}$", text, re.M)
    resources = load_study([ROOT / space]).resources
    node = {"CPU": asked["cpus-per-task"], "GPU": asked["gpus-per-node"]}
    fit = fitting(node, resources.cpus_per_trial, resources.gpus_per_trial)
    assert fit == node["GPU"] / resources.gpus_per_trial == node["CPU"] / resources.cpus_per_trial


STAND_INS = {
    "srun": """
        echo "$*" >> srun.log
        while case ${1-} in --*) true;; *) false;; esac; do shift; done
        echo "$RAY_AUTH_TOKEN $RAY_AUTH_MODE $RAY_USAGE_STATS_ENABLED" >> tokens
        SLURM_PROCID=0 exec "$@"
    """,
    "scontrol": 'echo "$*" >> scontrol.log',
    "ray": 'echo "$*" >> ray.log; exec real -c "$LISTEN" "$@"',
    "python": """
        case $1 in
            -c) exec real "$@";;
            *) echo "$*" >> study.log; exec real -c "$STUDY";;
        esac
    """,
}
LISTEN = """
import socket, sys
port = next(int(a.split("=")[1]) for a in sys.argv if a.startswith("--port="))
server = socket.create_server(("127.0.0.1", port))
server.accept()
while "--once" not in sys.argv: server.accept()
"""
WAITING = """
import sys, time
open("running", "w")
try: time.sleep(30)
except KeyboardInterrupt: time.sleep(0.3); sys.exit(130)
"""


@pytest.fixture
def start(tmp_path):
    """Return what starts the script beside stand-ins for all that it calls."""
    programs = tmp_path / "bin"
    programs.mkdir()
    for name, lines in STAND_INS.items():
        (programs / name).write_text(f"#!/bin/bash\n{lines}")
        (programs / name).chmod(0o755)
    (programs / "real").symlink_to(sys.executable)
    (tmp_path / "activate").touch()

    def run(study, *arguments):
        environment = {
            "PATH": f"{programs}:{PATH}",
            "SLURM_JOB_ID": "4999",
            "SLURM_NNODES": "1",
            "SLURM_CPUS_PER_TASK": "3",
            "SLURM_GPUS_ON_NODE": "2",
            "ADDRESS": "127.0.0.1",
            "SPACE": "spaces/mine.yaml",
            "SCRATCH": str(tmp_path),
            "ACTIVATE": "./activate",
            "STUDY": study,
            "LISTEN": LISTEN,
        }
        return subprocess.Popen(
            ["bash", SCRIPT, *arguments],
            cwd=tmp_path,
            env=environment,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )

    return run


@pytest.mark.parametrize("status", [0, 1, 2, 137])
def test_what_has_ended_is_not_queued_again(start, tmp_path, status):
    process = start(f"raise SystemExit({status})")
    printed, _ = process.communicate(timeout=30)
    assert process.returncode == status, printed
    assert not (tmp_path / "scontrol.log").exists()


def test_before_the_limit_the_study_is_stopped_and_the_job_queued_again(start, tmp_path):
    process = start(WAITING, "--set", "budget.trials=90")
    wait_for((tmp_path / "running").exists)
    process.send_signal(signal.SIGINT)  # To the script alone, as SLURM does.
    printed, _ = process.communicate(timeout=30)
    assert process.returncode == 130, printed
    assert (tmp_path / "scontrol.log").read_text() == "requeue 4999\n"
    assert (tmp_path / "study.log").read_text() == (
        "-m study.run --space spaces/mine.yaml --out runs/mine --data-root data "
        "--address 127.0.0.1:29998 --set budget.trials=90\n"
    )
    ray = (tmp_path / "ray.log").read_text()
    assert "--num-cpus=3 --num-gpus=2" in ray
    assert f"--temp-dir={tmp_path}/ray-4999 " in ray


def test_a_signal_before_there_is_a_study_queues_the_job_again(start, tmp_path):
    (tmp_path / "bin" / "ray").write_text("#!/bin/sh\necho > ray.log; exec sleep 30\n")
    process = start("")
    wait_for((tmp_path / "ray.log").exists)
    process.send_signal(signal.SIGINT)
    wait_for((tmp_path / "scontrol.log").exists)
    assert (tmp_path / "scontrol.log").read_text() == "requeue 4999\n"
    os.killpg(process.pid, signal.SIGKILL)  # As SLURM then does.
    process.communicate()


def test_each_start_has_a_token_of_its_own_that_no_command_line_shows(start, tmp_path):
    for _ in range(2):
        start("").communicate(timeout=30)
    lines = (tmp_path / "tokens").read_text().splitlines()
    tokens = {re.fullmatch("([0-9a-f]{64}) token 0", line)[1] for line in lines}
    assert len(tokens) == 2
    for log in tmp_path.glob("*.log"):
        assert not any(token in log.read_text() for token in tokens)


def test_the_job_ends_as_the_study_did_though_ray_has_died(start, tmp_path):
    (tmp_path / "bin" / "ray").write_text('#!/bin/sh\nexec real -c "$LISTEN" "$@" --once\n')
    process = start("import time; time.sleep(2)")
    printed, _ = process.communicate(timeout=30)
    assert process.returncode == 0, printed


def test_the_job_ends_where_ray_cannot_be_started(start, tmp_path):
    (tmp_path / "bin" / "ray").write_text("#!/bin/sh\nexit 3\n")
    process = start("")
    process.communicate(timeout=30)
    assert process.returncode != 0
    assert not (tmp_path / "study.log").exists()


def wait_for(condition, timeout=20.0, said=lambda: ""):
    end = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < end, f"what was waited for did not come\n{said()}"
        time.sleep(0.1)


SPOOL = "/run/spool"
"""Of each node: a short path, since SLURM's sockets there have names of at most 107 bytes."""
CONFIGURATION = """
ClusterName=test
SlurmctldHost={controller.name}({controller.address})
AuthType=auth/none
CredType=cred/none
# Else a job that is queued again waits for two minutes.
AuthInfo=cred_expire=5
SlurmUser=root
StateSaveLocation={folder}/state
SlurmctldPidFile={folder}/controller.pid
SlurmdPidFile={folder}/%n.pid
SlurmdSpoolDir={spool}
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
MpiDefault=none
SchedulerParameters=sched_interval=1,sched_min_interval=0
GresTypes=gpu
KillWait=2
{nodes}
PartitionName=gpu Nodes=ALL MaxTime=60
"""


class Slurm:
    """SLURM on hosts: the controller on the first of all, a node on each of the others."""

    def __init__(self, hosts, folder):
        self.hosts, self.folder = hosts, folder
        self.file = folder / "slurm.conf"
        self.env = {"SLURM_CONF": str(self.file)}
        (folder / "state").mkdir()
        nodes = [
            f"NodeName={host.name} NodeAddr={host.address} CPUs=1 RealMemory=2000 Gres=gpu:1"
            for host in hosts
        ]
        self.file.write_text(
            CONFIGURATION.format(
                controller=hosts.laptop, folder=folder, spool=SPOOL, nodes="\n".join(nodes)
            )
        )
        # Counted and handed out, but there is no device behind it.
        (folder / "gres.conf").write_text("Name=gpu File=/dev/null\n")
        (folder / "cgroup.conf").write_text("CgroupPlugin=cgroup/v1\n")
        with (folder / "daemons.log").open("a") as log:
            hosts.laptop.begin(["slurmctld", "-D", "-f", self.file], self.env, stdout=log)
            for host in hosts:
                daemon = ["slurmd", "-D", "-N", host.name, "-f", self.file]
                host.begin(daemon, self.env, stdout=log)
        wait_for(lambda: self.say("sinfo -h -o %T", check=False).strip() == "idle", 20)

    def say(self, command, check=True, **environment):
        """Run a command of SLURM's where the controller is, in the folder of the project."""
        line = ["env", "-C", self.folder, *command.split()]
        return self.hosts.laptop.run(line, self.env | environment, check=check).stdout

    def state(self, number):
        """Return all that SLURM says of a job."""
        return self.say(f"scontrol show job {number}")

    def job(self, number, key):
        """Return one value of that."""
        return re.search(rf"\b{key}=(\S+)", self.state(number))[1]


@pytest.fixture
def slurm(tmp_path):
    missing = [p for p in ("slurmctld", "slurmd", "sbatch") if shutil.which(p, path=PATH) is None]
    if missing:
        pytest.skip(f"{', '.join(missing)}: not installed")
    if (why := why_not()) is not None:
        pytest.skip(why)
    with Hosts(2, share=[tmp_path]) as hosts:
        yield Slurm(hosts, tmp_path)


@pytest.mark.slow
@pytest.mark.cluster
def test_a_study_is_stopped_before_the_limit_and_goes_on_when_its_turn_comes(slurm, tmp_path):
    hosts, out = slurm.hosts, tmp_path / "out"
    (tmp_path / "search_spaces").symlink_to(ROOT / "search_spaces")
    options = "--cpus-per-task=1 --gpus-per-node=1 --mem=0 --time=10 --output=log"
    submitted = slurm.say(
        f"sbatch {options} {SCRIPT} --set fixed.training.epochs=300 --set resources.stack=1"
        " --set protocol.anchors=tuned",
        SPACE="search_spaces/smoke.yaml",
        OUT=str(out),
        ACTIVATE=f"{sys.prefix}/bin/activate",
        PYTHONPATH=str(ROOT),
        OMP_NUM_THREADS="1",
    )
    number = re.search(r"\d+", submitted)[0]

    def said():
        files = [tmp_path / "log", tmp_path / "daemons.log"]
        return slurm.state(number) + "\n".join(f.read_text() for f in files if f.exists())

    def wait(condition):
        wait_for(condition, PATIENCE, said)

    wait(lambda: all(host.processes("ray::ImplicitFunc") for host in hosts))
    wait(lambda: len(RunFolder(out).committed()) >= 3)
    first = {trial: row.finished for trial, row in RunFolder(out).rows().items()}
    (study,) = [pid for pid, line in hosts[0].processes("study.run").items()]
    variables = Path(f"/proc/{study}/environ").read_text().split("\0")
    (token,) = [v.split("=")[1] for v in variables if v.startswith("RAY_AUTH_TOKEN=")]
    slurm.say(f"scancel --batch --signal=INT {number}")
    wait(lambda: slurm.job(number, "Restarts") == "1")
    assert not is_whole(out)
    wait(lambda: slurm.job(number, "JobState") == "COMPLETED")

    log = (tmp_path / "log").read_text()
    assert log.count("nothing that was finished is lost; to go on") == 1, log
    rows = RunFolder(out).rows()
    assert is_whole(out)
    assert {trial: rows[trial].finished for trial in first} == first
    assert (out / "verdict.json").exists()
    assert not any(host.ray() for host in hosts)
    assert all(not list((host.folder / "tmp").glob("ray*")) for host in hosts)
    spools = [Path(f"/proc/{host.init}/root{SPOOL}") for host in hosts]
    assert all(spool.is_dir() for spool in spools)
    told = [
        file
        for folder in (tmp_path, *spools)
        for file in folder.rglob("*")
        if file.is_file() and token in file.read_text(errors="replace")
    ]
    assert told == []
