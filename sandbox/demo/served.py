"""The stack's application in the sandbox: the model that it serves, and what it answers."""

import json
import time
import urllib.request
from contextlib import suppress
from pathlib import Path
from typing import Any

from sandbox.cluster.cluster import Cluster
from sandbox.errors import SandboxError

_OPENER = urllib.request.build_opener(urllib.request.ProxyHandler({}))
_QUESTION = {"text": "Hold fast to what is good", "tokens": 24}


class Served:
    """The first workload of kind deployment: a server of the model that its volume holds."""

    def __init__(self, cluster: Cluster) -> None:
        (self.key,) = (
            key
            for key, found in cluster.deployments.items()
            if found.labels().get("app.kubernetes.io/component") == "application"
        )
        self.cluster, self.deployment = cluster, cluster.deployments[self.key]
        self.url = cluster.services.url(*self.key)
        volumes = self.deployment.spec["template"]["spec"]["volumes"]
        (self.claim,) = (
            volume["persistentVolumeClaim"]["claimName"]
            for volume in volumes
            if volume["name"] == "volume"
        )

    @property
    def volume(self) -> Path:
        """The directory behind its volume."""
        return self.cluster.volume(self.key[0], self.claim)

    def scale(self, replicas: int) -> None:
        """Change the number of its pods, and wait for the end of the one that was there."""
        self.deployment.patch({"spec": {"replicas": replicas}})
        while not replicas and self.deployment.active:
            time.sleep(0.05)

    def answer(self, limit: float = 400) -> dict[str, Any]:
        """What it answers to one question, and from which content, once it is up."""
        deadline = time.monotonic() + limit
        body = json.dumps(_QUESTION).encode()
        while time.monotonic() < deadline:
            with suppress(OSError):
                request = urllib.request.Request(f"{self.url}/predict", data=body)
                with _OPENER.open(request, timeout=30) as answer:
                    told = json.load(answer)
                    return {"text": told["text"], "content": told["model"]["content"]}
            time.sleep(0.2)
        logs = sorted(self.cluster.state.glob(f"pods/{self.key[1]}-*/*.log"))[-3:]
        tails = "\n".join(f"{log}: {log.read_text()[-300:]}" for log in logs)
        raise SandboxError(f"the application does not answer within {limit:g} s\n{tails}")
