"""Clusters of tiny objects: shell and Python one-liners where the stack has PyTorch."""

import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from sandbox.cluster.cluster import Cluster, Event

PROJECT = Path(__file__).parents[2]
#: Fast enough that no back-off matters to a test (10 s become a hundredth).
SPEED = 1000.0


class Factory:
    """Makes clusters below the test's own folder and stops them at its end."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.made: list[Cluster] = []

    def __call__(self, *objects: dict[str, Any], speed: float = SPEED, **options: Any) -> Cluster:
        state = self.folder / f"state-{len(self.made)}"
        cluster = Cluster(list(objects), state, PROJECT, speed, **options)
        self.made.append(cluster)
        return cluster


def shell(script: str) -> list[str]:
    return ["/bin/sh", "-c", script]


def python(code: str) -> list[str]:
    return [sys.executable, "-c", code]


def container(command: list[str], name: str = "main", **fields: Any) -> dict[str, Any]:
    return {"name": name, "command": command, **fields}


def pod_spec(*containers: dict[str, Any], **fields: Any) -> dict[str, Any]:
    return {"restartPolicy": "Never", "containers": list(containers), **fields}


def job(
    *containers: dict[str, Any],
    name: str = "work",
    pod: dict[str, Any] | None = None,
    **spec: Any,
) -> dict[str, Any]:
    return {
        "kind": "Job",
        "metadata": {"name": name, "namespace": "training"},
        "spec": {"template": {"spec": pod_spec(*containers, **(pod or {}))}, **spec},
    }


def claim(name: str = "data") -> dict[str, Any]:
    return {
        "kind": "PersistentVolumeClaim",
        "metadata": {"name": name, "namespace": "training"},
        "spec": {"volumeName": f"{name}-vol"},
    }


def until(condition: Callable[[], Any], seconds: float = 10) -> Any:
    """Poll until `condition` holds; a test that waits too long fails."""
    deadline = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.01)
    return value


def happened(cluster: Cluster, what: str) -> list[Event]:
    return [event for event in cluster.events if event.what == what]
