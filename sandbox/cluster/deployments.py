"""Deployments and StatefulSets: one pod, another when it is lost, until it is scaled to zero."""

import sys
from collections.abc import Mapping
from typing import Any

from sandbox.cluster.jobs import Job
from sandbox.cluster.pods import Node
from sandbox.errors import Unsupported


class Deployment(Job):
    """One of them. A Job that never gives up does the same; at zero it is suspended."""

    def __init__(self, manifest: Mapping[str, Any], node: Node) -> None:
        self.declared = manifest["spec"]
        self.title = f"{manifest['kind']} {manifest['metadata']['name']}"
        self.replicas = _supported(self.title, self.declared.get("replicas", 1))
        forever = {
            "template": self.declared["template"],
            "backoffLimit": sys.maxsize,
            "suspend": self.replicas == 0,
        }
        super().__init__({"metadata": manifest["metadata"], "spec": forever}, node)

    def patch(self, change: Mapping[str, Any]) -> None:
        """Scale and annotate, as our Blueprints do."""
        spec = change.get("spec", {})
        if set(spec) - {"replicas"}:
            raise Unsupported(f"patch of a Deployment with {change}: only spec.replicas is run")
        if "replicas" not in spec:
            super().patch(change)
            return
        self.replicas = _supported(self.title, spec["replicas"])
        super().patch({**change, "spec": {"suspend": self.replicas == 0}})

    def _succeed(self, index: int | None) -> None:
        """A server that ends well is started again, as one that fails."""

    @property
    def standing(self) -> int:
        return len(self._running())

    def status(self) -> dict[str, Any]:
        """`.status` as the API shows it: `replicas` is absent when zero."""
        running = self._running()
        stopping = sum(pod.terminating for pod in running)
        standing = len(running) - stopping
        counts = {"replicas": standing} if standing else {}
        return {**counts, "terminatingReplicas": stopping}

    def shown(self) -> dict[str, Any]:
        """The object as the API shows it."""
        spec = {**self.declared, "replicas": self.replicas}
        return {
            "apiVersion": "apps/v1",
            **self.manifest,
            "spec": spec,
            "status": self.status(),
        }


def _supported(title: str, replicas: int) -> int:
    if replicas not in (0, 1):
        raise Unsupported(f"{title}: {replicas} replicas are not run here")
    return replicas
