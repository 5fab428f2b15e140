"""Settings for tests: one valid set, and ways to change one thing in it."""

import functools
import json
from collections.abc import Iterator
from copy import deepcopy
from typing import Any

from infra.plan.graph import Graph, collect
from infra.settings import Settings, SettingsError, load, parse

HOST_PATH: dict[str, Any] = {
    "kind": "host-path",
    "name": "checkpoints",
    "size": "10Gi",
    "path": "/data/checkpoints",
    "node": "node-1",
}
STORE: dict[str, Any] = {
    "kind": "host-path",
    "name": "holdfast-store",
    "size": "50Gi",
    "path": "/data/store",
    "node": "node-1",
}
WORKLOAD: dict[str, Any] = {"run": "demo", "volume": HOST_PATH}
APPLICATION: dict[str, Any] = {
    "kind": "deployment",
    "model": "churn@production",
    "volume": {**HOST_PATH, "name": "models", "path": "/data/models"},
}
FOREIGN: dict[str, Any] = {
    "kind": "protected",
    "namespace": "team-a",
    "volume": {"kind": "existing-claim", "name": "llama-checkpoints", "size": "1Ti"},
    "owner": {"kind": "trainjob"},
    "run": "llama-7b",
}
VALID: dict[str, Any] = {
    "target": "kubernetes",
    "cluster_identifier": "test",
    "backup_store": {"volume": STORE},
    "workloads": {"gpt": WORKLOAD},
}
BUCKET = {"existing": {"url": "s3://backups", "region": "eu-central-1"}}

REMOVED = object()


def valid(**changes: Any) -> dict[str, Any]:
    """The valid data with values set at paths joined by ``__``; ``REMOVED`` takes a key away."""
    return changed(VALID, changes)


def changed(data: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """A copy of settings with values set at paths joined by ``__`` or dots."""
    data = deepcopy(data)
    for path, value in changes.items():
        *parents, last = path.replace("__", ".").split(".")
        target = data
        for key in parents:
            target = target.setdefault(key, {})
        if value is REMOVED:
            del target[last]
        else:
            target[last] = deepcopy(value)
    return data


def settings(**changes: Any) -> Settings:
    return parse(valid(**changes))


def graph(stack: str = "test", /, **changes: Any) -> Graph:
    """The graph of the changed settings. Read it only: equal settings share one."""
    return collected(stack, json.dumps(valid(**changes)))


@functools.cache
def collected(stack: str, data: str) -> Graph:
    """The graph of settings as JSON."""
    return collect(parse(json.loads(data)), stack)


@functools.cache
def of_stack(stack: str, preview: bool = False) -> Graph:
    """What `pulumi up` or `pulumi preview` of one of our stacks declares. Read it only."""
    return collect(load(stack), stack, preview=preview)


def problems(**changes: Any) -> list[str]:
    """What is wrong with the changed data, line by line; empty when nothing is."""
    try:
        settings(**changes)
    except SettingsError as error:
        return error.problems
    return []


#: The containers that use the backup store, with the names of their objects; no other may.
WITH_STORE = {
    ("Job gpt", "recover"),
    ("CronJob gpt-backup", "prune"),
    ("CronJob holdfast-prune", "datasets"),
    ("CronJob holdfast-prune", "models"),
    ("Blueprint checkpoints push", "container"),
    ("Blueprint checkpoints stage", "container"),
    ("Blueprint checkpoints read", "container"),
    ("Blueprint checkpoints remove", "container"),
}


def pod_specs(graph: Graph) -> Iterator[tuple[str, dict[str, Any]]]:
    """Every pod that the graph's objects make, with the name of its object."""
    for manifest in graph.kubernetes():
        name = f"{manifest['kind']} {manifest['metadata']['name']}"
        match manifest["kind"]:
            case "Job":
                yield name, manifest["spec"]["template"]["spec"]
            case "CronJob":
                yield name, manifest["spec"]["jobTemplate"]["spec"]["template"]["spec"]
            case "Blueprint":
                for phase in tasks(manifest):
                    yield f"{name} {phase['name']}", phase["args"]["podOverride"]


def tasks(blueprint: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """The phases of a Blueprint that start a pod."""
    for action in blueprint["actions"].values():
        deferred = [action["deferPhase"]] if "deferPhase" in action else []
        for phase in [*action["phases"], *deferred]:
            if phase["func"] == "KubeTask":
                yield phase


def containers(pod: dict[str, Any]) -> list[dict[str, Any]]:
    return [*pod.get("initContainers", []), *pod["containers"]]


def environment(container: dict[str, Any]) -> dict[str, str]:
    return {item["name"]: item["value"] for item in container.get("env", [])}
