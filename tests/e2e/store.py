"""The stack's store on the cluster's S3 server: what it holds, and a server that is away or bad."""

import json
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from cluster import s3
from cluster.places import PROJECT
from tests.e2e import kube

CONFIGURATION = "holdfast-checkpoints-pvc"
_PROXY = "s3-proxy"
_HERE = f"--namespace={s3.NAMESPACE}"


def holdfast(
    *arguments: str, configuration: str = CONFIGURATION, namespace: str = kube.NAMESPACE
) -> subprocess.CompletedProcess[str]:
    """A verb of the data plane on the stack's store, from this machine, with the environment of a
    claim's ConfigMap."""
    configured = kube.get("configmap", configuration, namespace)["data"]
    with s3.client(kube.environment()) as client:
        environment = {
            **kube.environment(),
            **{name: value for name, value in configured.items() if name.startswith("HOLDFAST_")},
            **s3.credentials(kube.environment()),
            "AWS_REGION": s3.REGION,
            "AWS_ENDPOINT_URL": client.meta.endpoint_url,
        }
        return subprocess.run(
            [str(PROJECT / ".venv" / "bin" / "holdfast"), *arguments],
            env=environment,
            capture_output=True,
            text=True,
            timeout=180,
        )


def snapshots() -> list[dict[str, Any]]:
    """What `holdfast list` shows of the store, newest first."""
    done = holdfast("list", "--side=store", "--output=json")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)["snapshots"]


def step_of(snapshot: str) -> int:
    """The newest step that the snapshot has."""
    (found,) = [each for each in snapshots() if each["snapshot"] == snapshot]
    return max(int(bundle.removeprefix("step-")) for bundle in found["bundles"])


def content_of(snapshot: str) -> tuple[str, str]:
    """The name and content of the one bundle that the snapshot has."""
    done = holdfast("show", snapshot, "--output=json")
    assert done.returncode == 0, done.stderr
    (bundle,) = json.loads(done.stdout)["bundles"]
    return bundle["name"], bundle["content"]


def verify(snapshot: str) -> None:
    """Every byte of the snapshot is what its manifests promise."""
    done = holdfast("verify", snapshot)
    assert done.returncode == 0, done.stdout + done.stderr


@contextmanager
def stopped() -> Iterator[None]:
    """No S3 server while this lasts: its pod is gone, its data stay."""
    _scale(0)
    try:
        yield
    finally:
        _scale(1)


@contextmanager
def behind_a_proxy(mode: str, number: int = 0) -> Iterator["Proxy"]:
    """What connects to the store now reaches a proxy first (tests/e2e/s3_proxy.py)."""
    script = (Path(__file__).parent / "s3_proxy.py").read_text()
    for manifest in (_configuration(script), _service(), _pod(mode, number)):
        kube.apply(manifest)
    try:
        kube.kubectl("wait", "--for=condition=Ready", f"pod/{_PROXY}", _HERE, "--timeout=60s")
        _select(_PROXY)
        yield Proxy()
    finally:
        _select("s3")
        kube.attempt("delete", "pod", _PROXY, _HERE, "--grace-period=0", "--force")
        kube.wait("the proxy is gone", lambda: kube.get("pod", _PROXY, s3.NAMESPACE) is None)


class Proxy:
    """The proxy that is in front of the store."""

    def log(self) -> str:
        return kube.attempt("logs", _PROXY, _HERE).stdout


def _scale(replicas: int) -> None:
    kube.kubectl("scale", "deployment/s3", f"--replicas={replicas}", _HERE)
    if replicas:
        kube.kubectl("rollout", "status", "deployment/s3", _HERE, "--timeout=120s")
    else:
        gone = lambda: not kube.get("pods", namespace=s3.NAMESPACE, selector="app=s3")  # noqa: E731
        kube.wait("the S3 server is gone", gone)
    _answered_by("s3", count=replicas)


def _select(app: str) -> None:
    """Let the Service of the store lead to other pods."""
    kube.kubectl("patch", "service", "s3", _HERE, "--type=merge",
                 f"--patch={json.dumps({'spec': {'selector': {'app': app}}})}")  # fmt: skip
    _answered_by(app, count=1)


def _answered_by(app: str, count: int) -> None:
    """Wait until the Service has just the addresses of these pods."""

    def addresses() -> bool:
        pods = {pod["status"].get("podIP") for pod in kube.pods(f"app={app}", s3.NAMESPACE)}
        slices = kube.get("endpointslices", namespace=s3.NAMESPACE,
                          selector="kubernetes.io/service-name=s3")  # fmt: skip
        found = {address for one in slices for each in one.get("endpoints") or []
                 if each["conditions"].get("ready") for address in each["addresses"]}  # fmt: skip
        return len(found) == count and found <= pods

    kube.wait(f"the store's Service leads to {count} pods of {app}", addresses)


def _configuration(script: str) -> dict[str, Any]:
    metadata = {"name": _PROXY, "namespace": s3.NAMESPACE}
    data = {"s3_proxy.py": script}
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": data}


def _service() -> dict[str, Any]:
    """The server itself, for the proxy."""
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": "s3-itself", "namespace": s3.NAMESPACE},
        "spec": {"selector": {"app": "s3"}, "ports": [{"port": 7070}]},
    }


def _pod(mode: str, number: int) -> dict[str, Any]:
    command = ["python3", "/proxy/s3_proxy.py", "s3-itself:7070", mode, str(number)]
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": _PROXY, "namespace": s3.NAMESPACE, "labels": {"app": _PROXY}},
        "spec": {
            "terminationGracePeriodSeconds": 1,
            "containers": [{
                "name": "proxy", "image": "holdfast-tools:dev", "command": command,
                "imagePullPolicy": "IfNotPresent",
                "ports": [{"containerPort": 7070}],
                "readinessProbe": {"tcpSocket": {"port": 7070}, "periodSeconds": 1},
                "volumeMounts": [{"name": "proxy", "mountPath": "/proxy"}],
            }],
            "volumes": [{"name": "proxy", "configMap": {"name": _PROXY}}],
        },
    }  # fmt: skip
