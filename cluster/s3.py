"""The cluster's S3 server: its address, its credentials, and its bucket with versioning."""

import base64
import json
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import boto3

from cluster.errors import ClusterProblem

NAMESPACE = "holdfast-s3"
BUCKET = "holdfast"
REGION = "us-east-1"
#: As pods reach it.
ENDPOINT = "http://s3.holdfast-s3.svc:7070"


def credentials(environment: Mapping[str, str]) -> dict[str, str]:
    """The access key and its secret, as a pod's environment has them.

    Args:
        environment: with the kubectl and the KUBECONFIG to use.
    """
    command = ["kubectl", "get", "secret", "root", f"--namespace={NAMESPACE}", "--output=json"]
    done = subprocess.run(command, env=dict(environment), capture_output=True, text=True)
    if done.returncode:
        raise ClusterProblem(f"the S3 server's Secret cannot be read: {done.stderr.strip()}")
    data = {name: base64.b64decode(value).decode() for name, value in
            json.loads(done.stdout)["data"].items()}  # fmt: skip
    return {
        "AWS_ACCESS_KEY_ID": data["ROOT_ACCESS_KEY"],
        "AWS_SECRET_ACCESS_KEY": data["ROOT_SECRET_KEY"],
    }


@contextmanager
def client(environment: Mapping[str, str]) -> Iterator[Any]:
    """An S3 client of this machine, by a port that kubectl forwards while it is used."""
    keys = credentials(environment)
    command = ["kubectl", "port-forward", "service/s3", ":7070", f"--namespace={NAMESPACE}"]
    with subprocess.Popen(
        command, env=dict(environment), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as forward:
        try:
            assert forward.stdout is not None
            line = forward.stdout.readline()
            if "Forwarding from" not in line:
                raise ClusterProblem(f"kubectl cannot reach the S3 server: {forward.communicate()}")
            port = line.split(" -> ")[0].rpartition(":")[2]
            yield boto3.client(
                "s3",
                endpoint_url=f"http://127.0.0.1:{port}",
                aws_access_key_id=keys["AWS_ACCESS_KEY_ID"],
                aws_secret_access_key=keys["AWS_SECRET_ACCESS_KEY"],
                region_name=REGION,
            )
        finally:
            forward.terminate()


def enable_versioning(environment: Mapping[str, str]) -> None:
    """Every object of the bucket keeps its versions from now on."""
    with client(environment) as s3:
        s3.put_bucket_versioning(Bucket=BUCKET, VersioningConfiguration={"Status": "Enabled"})
