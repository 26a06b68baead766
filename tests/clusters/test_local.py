"""``clusters/local.yaml``: a study on machines of one's own, whatever becomes of them on the way."""

import time

from study.run_folder.store import RunFolder
from tests.clusters.hosts import Hosts
from tests.clusters.launch import ON_HOSTS, Cluster, check, settings, without_index

pytestmark = ON_HOSTS
TRIALS = 8
TRIAL = "ray::ImplicitFunc.train"
"""How Ray calls a process that runs a trial."""
STUDY = (
    f"budget.trials={TRIALS}",
    "protocol.seeds=2",
    "protocol.anchors=tuned",  # Fewer trials; which they are does not matter here.
    "fixed.training.epochs=500",  # So long that Ray is back on a host before the study has ended.
    "resources.cpus_per_trial=2",
    "resources.max_failures=0",  # Lost nodes are no fault of a trial.
    "resources.stack=1",
)


def on(hosts):
    """Return the YAML with what a user changes: addresses, user, key and Python."""
    config = settings("local.yaml")
    head, *workers = (host.address for host in hosts)
    config["provider"] |= {"head_ip": head, "worker_ips": workers}
    config["auth"] |= {"ssh_user": "root", "ssh_private_key": "/run/host/key"}
    config["setup_commands"] = without_index(config["setup_commands"])
    return config


def test_a_study_outlives_worker_link_and_head(tmp_path):
    out = tmp_path / "run"
    store = RunFolder(out)

    def committed():
        return len(store.committed())

    with Hosts(3, [tmp_path]) as hosts:
        head, one, two = hosts
        cluster = Cluster(hosts, on(hosts))
        cluster.ray("up", "-y", "--no-config-cache")
        cluster.wait("all hosts have joined", lambda: all(h.processes("raylet/") for h in hosts))
        driver = cluster.study(str(out), *STUDY)
        cluster.wait("all hosts are at work", lambda: all(h.processes(TRIAL) for h in hosts), 600)
        cluster.wait("trials have ended", lambda: committed() >= 3, 600)

        one.kill()
        two.cut()
        cluster.say(f"{one.name}: all of Ray killed; {two.name}: link cut; {committed()} trials")
        after, least = committed() + 3, time.monotonic() + 15
        cluster.wait("the study goes on", lambda: committed() >= after, 600)
        time.sleep(max(0, least - time.monotonic()))
        two.heal()
        cluster.say("link healed")
        cluster.wait("Ray is back on the killed host", lambda: one.processes("raylet/"))
        assert driver.poll() is None

        cluster.say(f"head: all killed; {committed()} trials")
        head.kill()
        cluster.wait("the command has ended", lambda: driver.poll() is not None)
        before = {trial: store.row(trial).finished for trial in store.committed()}
        (machines,) = (head.folder / "tmp" / "ray").glob("cluster-*.state")
        machines.write_text("")  # As it is left if that falls into Ray's writing it.
        cluster.ray("up", "-y", "--no-config-cache")
        cluster.wait("all hosts have joined", lambda: all(h.processes("raylet/") for h in hosts))
        driver = cluster.study(str(out), *STUDY)
        cluster.wait("the study has ended", lambda: driver.poll() is not None, 900)
        print(cluster.printed())
        assert driver.returncode == 0
        at = check(str(out), TRIALS)
        assert {trial: store.row(trial).finished for trial in before} == before
        cluster.say(f"{committed()} trials: {dict(at)}")
        assert at.keys() == {host.name for host in hosts}

        cluster.ray("down", "-y")
        cluster.wait("nothing is left", lambda: not any(host.left() for host in hosts), 600)
