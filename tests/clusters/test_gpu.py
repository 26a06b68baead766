"""``clusters/gpu.yaml``: a study on spot machines that come when trials wait and go afterwards."""

import json
import re
import shlex
import tomllib

import pytest
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from ray.autoscaler._private.util import prepare_config, validate_config

from study.cluster.nodes import fitting
from study.run import parser
from study.space.load import load_study
from tests.clusters.cloud import SERVER, Cloud
from tests.clusters.hosts import ROOT, Hosts, why_not
from tests.clusters.launch import Cluster, settings, without_index

FILES = ["local.yaml", "gpu.yaml"]
TRIALS = 2
STUDY = (
    f"budget.trials={TRIALS}",
    "protocol.seeds=2",
    "protocol.anchors=tuned",
    "resources.gpus_per_trial=0.5",
)


def no_moto():
    return None if SERVER.exists() else "the cloud needs moto[server]"


why = why_not() or no_moto()


def on(cloud):
    """Return the YAML with what differs on hosts: user, Python and the cloud's address."""
    config = settings("gpu.yaml")
    config["max_workers"] = 1
    config["auth"]["ssh_user"] = "root"
    variables = " ".join(f"{key}={value}" for key, value in cloud.env.items())
    config["setup_commands"] = [
        *without_index(config["setup_commands"]),
        f"echo 'export {variables}' >> ~/.bashrc",
    ]
    return config


@pytest.mark.parametrize("file", FILES)
def test_ray_takes_the_files_and_would_see_a_mistake(file):
    validate_config(prepare_config(settings(file)))
    with pytest.raises(Exception, match="max_worker_"):
        validate_config(prepare_config(settings(file) | {"max_worker_": 1}))


@pytest.mark.parametrize("file", FILES)
def test_nobody_gets_in_without_the_token_and_nothing_is_reported(file):
    config = settings(file)
    assert config["file_mounts"]["~/.ray/auth_token"] == "~/.ray/auth_token"
    starts = config["head_start_ray_commands"] + config["worker_start_ray_commands"]
    starts = [command for command in starts if "ray start" in command]
    assert len(starts) == 2
    for command in starts:
        assert re.search(r"export .*RAY_AUTH_MODE=token.*;.*ray start", command)
        assert re.search(r"export .*RAY_USAGE_STATS_ENABLED=0.*;.*ray start", command)
    assert "--disable-usage-stats" in starts[0]


def test_both_clusters_are_set_up_alike():
    local, gpu = map(settings, FILES)
    assert local["file_mounts"] == gpu["file_mounts"]
    assert local["rsync_exclude"] == gpu["rsync_exclude"]
    assert local["setup_commands"] == [c.removesuffix(" boto3") for c in gpu["setup_commands"]]
    assert not gpu["head_setup_commands"]
    for place in local["file_mounts"].values():
        assert place.startswith("~") or (ROOT / place).exists()


def test_versions_are_exact_and_those_that_the_project_allows():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    lines = (ROOT / "clusters" / "constraints.txt").read_text().splitlines()
    pins = dict(line.lower().split("==") for line in lines if not line.startswith("#"))
    wanted = project["dependencies"] + project["optional-dependencies"]["cluster"]
    for requirement in map(Requirement, wanted):
        assert pins[requirement.name.lower()] in requirement.specifier, requirement
    setup = " ".join(settings("local.yaml")["setup_commands"])
    assert "-c clusters/constraints.txt -e '.[cluster]'" in setup
    (python,) = re.findall(r"--managed-python --python (\d\.\d+)\.\d+ ", setup)
    assert f"{python}.0" in SpecifierSet(project["requires-python"])
    assert f"Python {python}:" in lines[0]


def test_gpu_machines_cost_nothing_while_they_are_not_needed():
    config = settings("gpu.yaml")
    node = config["available_node_types"]["gpu"]
    assert node["min_workers"] == 0
    assert node["node_config"]["InstanceMarketOptions"] == {"MarketType": "spot"}
    assert config["provider"]["cache_stopped_nodes"] is False
    assert config["available_node_types"]["head"]["resources"] == {"CPU": 0}
    assert 0 < config["idle_timeout_minutes"] <= 10


COMMANDS = {
    "README.md": (ROOT / "clusters" / "README.md").read_text(),
    "gpu.yaml": re.sub(r"\n#\s+", " ", (ROOT / "clusters" / "gpu.yaml").read_text()),
}


@pytest.mark.parametrize("file", COMMANDS)
def test_the_commands_that_are_shown_find_their_data_and_fill_a_gpu(file):
    found = re.findall(
        r"ray exec clusters/gpu.yaml '[^']*(python -m study.run [^']*)'", COMMANDS[file]
    )
    assert found
    for command in found:
        asked = parser().parse_args(shlex.split(command)[3:])
        study = load_study([ROOT / file for file in asked.space], asked.set)
        assert asked.data_root is not None or study.dataset["name"] == "digits"
        assert not any(key.startswith("resources.") for key in asked.set)
        resources = study.resources
        machine = {"CPU": 4, "GPU": 1}  # A g5.xlarge.
        share = resources.gpus_per_trial
        assert fitting(machine, resources.cpus_per_trial, share) == 1 / share


@pytest.mark.cluster
@pytest.mark.slow
@pytest.mark.skipif(why is not None, reason=why or "")
def test_spot_workers_come_for_trials_and_all_is_terminated():
    config, out = settings("gpu.yaml"), "s3://studies/smoke"
    with Hosts(2) as hosts:
        cloud = Cloud(hosts, config["provider"]["region"])
        head = config["available_node_types"]["head"]["node_config"]
        cloud.profile(head["IamInstanceProfile"]["Name"])
        cloud.bucket("studies")
        cluster = Cluster(hosts, on(cloud), **cloud.env)
        cluster.ray("up", "-y", "--no-config-cache")
        assert [i["type"] for i in cloud.instances.values()] == ["m5.xlarge"]

        driver = cluster.study(out, *STUDY)
        cluster.wait("a GPU machine was asked for", lambda: len(cloud.at) == 2, 600)
        cluster.wait("it was looked at", lambda: driver.poll() is not None, 600)
        assert driver.returncode != 0
        assert "Ray counts a GPU there, but torch sees none" in cluster.printed()

        driver = cluster.study(out, *STUDY, more=["--unchecked"])
        cluster.wait("the study has ended", lambda: driver.poll() is not None, 600)
        print(cluster.printed())
        assert driver.returncode == 0
        (worker,) = [i for i in cloud.instances.values() if i["type"] == "g5.xlarge"]
        assert worker["market"] == "spot"
        command = ["env", "-C", ROOT, "python", "-m", "tests.clusters.launch", out, TRIALS]
        at = json.loads(hosts.laptop.run(command, cloud.env).stdout.splitlines()[-1])
        cluster.say(f"trials: {at}")
        assert set(at) == {cloud.at[worker["id"]].name}

        cluster.ray("down", "-y")
        cluster.wait("all is terminated", lambda: not cloud.at)
        assert {i["state"] for i in cloud.instances.values()} == {"terminated"}
        assert not any(host.ray() for host in hosts)
        assert hosts.way_out() is None
