"""A real S3 endpoint on loopback, with users and what they may do: moto's server."""

import json
import os
import re
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import boto3

Env = dict[str, str]
UNCHECKED = "100000000"


@dataclass
class ObjectStore:
    """An endpoint and its root credentials."""

    endpoint: str
    log: Path

    def env(self, key: str = "root", secret: str = "root") -> Env:
        """Return the variables with which a process reaches the store."""
        return {
            "AWS_ENDPOINT_URL": self.endpoint,
            "AWS_ACCESS_KEY_ID": key,
            "AWS_SECRET_ACCESS_KEY": secret,
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_EC2_METADATA_DISABLED": "true",
        }

    def client(self, service: str) -> Any:
        """Return a client of boto3 with root's credentials."""
        return boto3.client(
            service,
            endpoint_url=self.endpoint,
            region_name="us-east-1",
            aws_access_key_id="root",
            aws_secret_access_key="root",
        )

    def bucket(self, name: str) -> str:
        """Make a bucket."""
        self.client("s3").create_bucket(Bucket=name)
        return name

    def user(self, name: str, *actions: str) -> Env:
        """Make a user who may do only so much, and return the variables of a process of theirs."""
        iam = self.client("iam")
        iam.create_user(UserName=name)
        statement = {"Effect": "Allow", "Action": list(actions), "Resource": "*"}
        policy = json.dumps({"Version": "2012-10-17", "Statement": [statement]})
        iam.put_user_policy(UserName=name, PolicyName="own", PolicyDocument=policy)
        key = iam.create_access_key(UserName=name)["AccessKey"]
        return self.env(key["AccessKeyId"], key["SecretAccessKey"])

    def check_credentials(self, checked: bool) -> None:
        """Begin, or cease, to check who asks; root is nobody while that is done."""
        request = urllib.request.Request(
            f"{self.endpoint}/moto-api/reset-auth",
            data=b"0" if checked else UNCHECKED.encode(),
            headers={"Content-Type": "text/plain"},
            method="POST",
        )
        urllib.request.urlopen(request).close()

    def requests(self) -> list[str]:
        """Return method and path of every request so far."""
        lines = re.sub(r"\x1b\[\d+m", "", self.log.read_text(errors="replace")).splitlines()
        return [line.split('"')[1].rsplit(" ", 1)[0] for line in lines if '"' in line]


@contextmanager
def serve(host: str = "127.0.0.1") -> Iterator[ObjectStore]:
    """Serve until the block ends."""
    with socket.socket() as probe, tempfile.TemporaryDirectory() as folder:
        probe.bind((host, 0))
        port = probe.getsockname()[1]
        probe.close()
        log = Path(folder) / "log"
        with log.open("w") as stream:
            server = subprocess.Popen(
                [sys.executable, "-m", "moto.server", "-H", host, "-p", str(port)],
                env=os.environ | {"INITIAL_NO_AUTH_ACTION_COUNT": UNCHECKED},
                stdout=stream,
                stderr=stream,
            )
        try:
            for _ in range(600):
                with socket.socket() as knock:
                    if knock.connect_ex((host, port)) == 0:
                        break
                assert server.poll() is None, log.read_text()
                time.sleep(0.1)
            yield ObjectStore(f"http://{host}:{port}", log)
        finally:
            server.kill()
            server.wait()
