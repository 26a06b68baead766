"""The RayJob and its image.

Its schema is in no package index, so that its fields are held against those listed here, which were
taken from KubeRay's documentation of ray.io/v1 and of pods by hand. No Kubernetes has seen it.
"""

import re
import shlex
from pathlib import Path, PurePosixPath

import pytest
import yaml

from study.run import parser
from study.space.load import load_study

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "clusters" / "kuberay.yaml").read_text()
JOB = yaml.safe_load(TEXT)
CLUSTER = JOB["spec"]["rayClusterSpec"]
HEAD, WORKERS = CLUSTER["headGroupSpec"], CLUSTER["workerGroupSpecs"]
PODS = [group["template"]["spec"] for group in (HEAD, *WORKERS)]
CONTAINERS = [container for pod in PODS for container in pod["containers"]]
ARGUMENTS = shlex.split(JOB["spec"]["entrypoint"])
ASKED = parser().parse_args(ARGUMENTS[3:])
DOCKERFILE = (ROOT / "clusters" / "Dockerfile").read_text()

TEXTS = {str: str}
QUANTITIES = {"requests": TEXTS, "limits": TEXTS}
TEMPLATE = {
    "spec": {
        "restartPolicy": str,
        "nodeSelector": TEXTS,
        "serviceAccountName": str,
        "tolerations": [{"key": str, "operator": str, "value": str, "effect": str}],
        "containers": [
            {
                "name": str,
                "image": str,
                "env": [{"name": str, "value": str}],
                "envFrom": [{"secretRef": {"name": str}}],
                "resources": QUANTITIES,
            }
        ],
    }
}
SCHEMA = {
    "apiVersion": str,
    "kind": str,
    "metadata": {"name": str, "namespace": str, "labels": TEXTS},
    "spec": {
        "activeDeadlineSeconds": int,
        "backoffLimit": int,
        "entrypoint": str,
        "entrypointNumCpus": float,
        "jobId": str,
        "runtimeEnvYAML": str,
        "shutdownAfterJobFinishes": bool,
        "submissionMode": str,
        "submitterConfig": {"backoffLimit": int},
        "suspend": bool,
        "ttlSecondsAfterFinished": int,
        "rayClusterSpec": {
            "rayVersion": str,
            "authOptions": {"mode": str, "secretName": str},
            "enableInTreeAutoscaling": bool,
            "autoscalerOptions": {
                "version": str,
                "idleTimeoutSeconds": int,
                "upscalingMode": str,
                "resources": QUANTITIES,
            },
            "headGroupSpec": {"rayStartParams": TEXTS, "serviceType": str, "template": TEMPLATE},
            "workerGroupSpecs": [
                {
                    "groupName": str,
                    "replicas": int,
                    "minReplicas": int,
                    "maxReplicas": int,
                    "idleTimeoutSeconds": int,
                    "rayStartParams": TEXTS,
                    "template": TEMPLATE,
                }
            ],
        },
    },
}


def faults(value, schema, path="$"):
    """Yield where a value has fields or types that a schema does not."""
    if isinstance(schema, type):
        if type(value) is not schema:
            yield f"{path} is {value!r}, no {schema.__name__}"
    elif isinstance(schema, list):
        for number, item in enumerate(value):
            yield from faults(item, schema[0], f"{path}[{number}]")
    elif schema is TEXTS:
        for key, item in value.items():
            yield from faults(item, str, f"{path}.{key}")
    else:
        for key, item in value.items():
            if key not in schema:
                yield f"{path}.{key} is unknown"
            else:
                yield from faults(item, schema[key], f"{path}.{key}")


def test_every_field_is_one_of_kuberays_with_its_type():
    assert list(faults(JOB, SCHEMA)) == []
    assert (JOB["apiVersion"], JOB["kind"]) == ("ray.io/v1", "RayJob")


@pytest.mark.parametrize(
    ("wrong", "fault"),
    [
        ({"spec": {"backOffLimit": 1}}, "$.spec.backOffLimit is unknown"),
        ({"spec": {"backoffLimit": "1"}}, "$.spec.backoffLimit is '1', no int"),
        (
            {"spec": {"rayClusterSpec": {"headGroupSpec": {"rayStartParams": {"num-cpus": 0}}}}},
            "$.spec.rayClusterSpec.headGroupSpec.rayStartParams.num-cpus is 0, no str",
        ),
    ],
)
def test_a_wrong_field_is_found(wrong, fault):
    assert list(faults(wrong, SCHEMA)) == [fault]


def test_ray_and_python_are_those_of_the_constraints():
    pins = (ROOT / "clusters" / "constraints.txt").read_text()
    ray = re.search(r"^ray==(\S+)$", pins, re.M)[1]
    assert CLUSTER["rayVersion"] == ray
    assert re.search(r"^FROM (\S+)$", DOCKERFILE, re.M)[1] == f"rayproject/ray:{ray}-py311"


def test_the_image_has_what_it_is_built_from():
    (folder,) = re.findall(r"^WORKDIR (\S+)$", DOCKERFILE, re.M)
    sources = [
        source
        for line in re.findall(r"^COPY --chown=\S+ (.+)$", DOCKERFILE, re.M)
        for source in line.split()[:-1]
    ]
    assert all((ROOT / source).exists() for source in sources)
    (space,) = ASKED.space
    inside = PurePosixPath(space).relative_to(folder)
    assert inside.parts[0] in sources
    assert (ROOT / inside).exists()
    assert len({container["image"] for container in CONTAINERS}) == 1


def test_the_entrypoint_is_a_study_on_the_cluster_with_its_output_in_a_bucket():
    assert ARGUMENTS[:3] == ["python", "-m", "study.run"]
    assert ASKED.address == "auto"
    assert ASKED.out.startswith("s3://")


def test_as_many_trials_as_the_largest_cluster_holds():
    (space,) = ASKED.space
    resources = load_study([ROOT / "search_spaces" / Path(space).name], ASKED.set).resources
    (group,) = WORKERS
    (container,) = group["template"]["spec"]["containers"]
    limits = container["resources"]["limits"]
    each = int(limits["nvidia.com/gpu"]) / resources.gpus_per_trial
    assert resources.concurrency == group["maxReplicas"] * each
    assert int(limits["cpu"]) == resources.cpus_per_trial * each
    assert HEAD["rayStartParams"]["num-cpus"] == "0"


def test_the_workers_come_and_go():
    assert CLUSTER["enableInTreeAutoscaling"] is True
    for group in WORKERS:
        assert group["minReplicas"] == group["replicas"] < group["maxReplicas"]
    for pod in PODS:
        assert pod["restartPolicy"] == "Never"  # As version 2 of the autoscaler wants it.


def test_only_who_has_the_token_gets_in_and_no_secret_is_in_the_file():
    assert CLUSTER["authOptions"] == {"mode": "token"}
    (secret,) = re.findall(r"kubectl create secret generic (\S+)", TEXT)
    for container in CONTAINERS:
        assert [source["secretRef"]["name"] for source in container["envFrom"]] == [secret]
        assert not any("KEY" in variable["name"] for variable in container["env"])
    assert set(re.findall(r"AWS_[A-Z_]+=(\S+)", TEXT)) == {"..."}


def test_a_lost_head_is_replaced_and_nothing_stays_behind():
    spec = JOB["spec"]
    assert spec["backoffLimit"] > 0
    assert spec["shutdownAfterJobFinishes"] is True
    assert spec["ttlSecondsAfterFinished"] > 0


def test_no_usage_is_reported():
    for container in CONTAINERS:
        env = {variable["name"]: variable["value"] for variable in container["env"]}
        assert env["RAY_USAGE_STATS_ENABLED"] == "0"
        assert "127.0.0.1" in env["RAY_USAGE_STATS_REPORT_URL"]
