"""The pod to work in of docs/recover.md, as it is printed there, beside any trainer."""

import re
from typing import Any

import yaml

from cluster.places import PROJECT
from tests.e2e import kube

_NAME = "holdfast"
_HERE = f"--namespace={kube.NAMESPACE}"


def inspect(*command: str) -> str:
    """What a command prints in the pod, which is made if it does not run."""
    found = kube.get("pod", _NAME)
    if found is None or found["status"].get("phase") != "Running" or _is_leaving(found):
        remove()
        kube.apply(_manifest())
        kube.kubectl("wait", "--for=condition=Ready", f"pod/{_NAME}", _HERE, "--timeout=60s")
    return kube.kubectl("exec", _NAME, _HERE, "--", *command)


def remove() -> None:
    """Without it the claim can go."""
    kube.attempt("delete", "pod", _NAME, _HERE, "--grace-period=1", "--ignore-not-found")


def _is_leaving(pod: Any) -> bool:
    return "deletionTimestamp" in pod["metadata"]


def _manifest() -> dict[str, Any]:
    """With the store left out, as the page says: here it is a bucket."""
    page = (PROJECT / "docs" / "recover.md").read_text()
    blocks = re.findall(r"```yaml\n(.*?)```", page, re.S)
    pod = next(p for p in map(yaml.safe_load, blocks) if p["metadata"]["name"] == _NAME)
    container = pod["spec"]["containers"][0]
    container["volumeMounts"] = [m for m in container["volumeMounts"] if m["name"] != "store"]
    pod["spec"]["volumes"] = [v for v in pod["spec"]["volumes"] if v["name"] != "store"]
    return pod
