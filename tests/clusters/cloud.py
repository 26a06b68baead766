"""A cloud of hosts: moto's EC2 on the laptop, whose instances are the hosts of a test.

moto invents instances with addresses of the real Internet. Hosts, which have no way out, take them.
"""

import json
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

from tests.clusters.hosts import Host, Hosts

PORT = 5555
SERVER = Path(sys.executable).with_name("moto_server")
EAST = {"AWS_DEFAULT_REGION": "us-east-1"}
"""Where a bucket is made without saying where."""
PROFILE = """
import boto3, sys
iam = boto3.client("iam")
iam.create_role(RoleName=sys.argv[1], AssumeRolePolicyDocument="{}")
iam.create_instance_profile(InstanceProfileName=sys.argv[1])
iam.add_role_to_instance_profile(InstanceProfileName=sys.argv[1], RoleName=sys.argv[1])
"""
BUCKET = "import boto3, sys; boto3.client('s3').create_bucket(Bucket=sys.argv[1])"
WATCH = """
import boto3, json, time
ec2, before = boto3.client("ec2"), None
while True:
    pages = ec2.describe_instances()["Reservations"]
    found = [i for page in pages for i in page["Instances"]]
    told = [
        {
            "id": i["InstanceId"],
            "state": i["State"]["Name"],
            "type": i["InstanceType"],
            "market": i.get("InstanceLifecycle", "on demand"),
            "addresses": [i.get("PublicIpAddress"), i.get("PrivateIpAddress")],
        }
        for i in found
    ]
    if told != before:
        print(json.dumps(told), flush=True)
    before = told
    time.sleep(0.5)
"""


class Cloud:
    """moto on the laptop; binds each instance to a free host and frees it when that is terminated.

    Attributes:
        env: What makes boto3, wherever on the hosts, talk to moto.
        instances: All instances there ever were, by their names.
        at: The host of each instance that has one.
    """

    def __init__(self, hosts: Hosts, region: str) -> None:
        if (way := hosts.way_out()) is not None:
            raise RuntimeError(f"a cloud must have no way out, but {way}")
        self.hosts, self.laptop = hosts, hosts.laptop
        self.env = {
            "AWS_ENDPOINT_URL": f"http://{self.laptop.address}:{PORT}",
            "AWS_ACCESS_KEY_ID": "testing",
            "AWS_SECRET_ACCESS_KEY": "testing",
            "AWS_DEFAULT_REGION": region,
            "AWS_EC2_METADATA_DISABLED": "true",
        }
        self.instances: dict[str, dict[str, Any]] = {}
        self.at: dict[str, Host] = {}
        with (hosts.folder / "moto.log").open("w") as log:
            self.laptop.begin(
                [SERVER, "-H", self.laptop.address, "-p", PORT],
                {"MOTO_IAM_LOAD_MANAGED_POLICIES": "true"},
                log,
            )
        wait = f"until echo > /dev/tcp/{self.laptop.address}/{PORT}; do sleep 0.2; done"
        self.laptop.run(["bash", "-c", f"({wait}) 2> /dev/null"])
        self.watcher = self.laptop.begin(
            [sys.executable, "-u", "-c", WATCH], self.env, subprocess.PIPE
        )
        self.thread = threading.Thread(target=self._watch, daemon=True)
        self.thread.start()

    def profile(self, name: str) -> None:
        """Make an instance profile, as the user must."""
        self.laptop.run([sys.executable, "-c", PROFILE, name], self.env)

    def bucket(self, name: str) -> None:
        """Make a bucket, as the user must."""
        self.laptop.run([sys.executable, "-c", BUCKET, name], self.env | EAST)

    def _watch(self) -> None:
        assert self.watcher.stdout is not None
        for line in self.watcher.stdout:
            if not line.startswith("["):
                print("watcher:", line, end="")
                continue
            for told in json.loads(line):
                self.instances[told["id"]] = told
                if told["state"] == "running" and told["id"] not in self.at:
                    self._bind(told)
                elif told["state"] in ("terminated", "stopped") and told["id"] in self.at:
                    host = self.at.pop(told["id"])
                    host.kill()
                    host.drop_addresses()

    def _bind(self, told: dict[str, Any]) -> None:
        host = next(h for h in self.hosts if h not in self.at.values())
        (key,) = (self.laptop.home / ".ssh").glob("*.pem")
        inside = Path.home() / ".ssh" / key.name
        host.authorize(self.laptop.run(["ssh-keygen", "-y", "-f", inside]).stdout)
        for address in filter(None, told["addresses"]):
            host.add_address(address)
        self.at[told["id"]] = host
