"""The pods that an object makes, wherever its kind keeps them."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from policy.model import UNKNOWN, Resource, at, items, mapping

#: Kubernetes kind -> where its pod template is.
TEMPLATES: dict[str, tuple[str, ...]] = {
    "Pod": (),
    "Job": ("spec", "template"),
    "CronJob": ("spec", "jobTemplate", "spec", "template"),
    "Deployment": ("spec", "template"),
    "StatefulSet": ("spec", "template"),
    "DaemonSet": ("spec", "template"),
    "ReplicaSet": ("spec", "template"),
    "ReplicationController": ("spec", "template"),
}

#: What a TrainJob of Kubeflow Trainer runs on: one pod template for each of its Jobs.
RUNTIMES = ("ClusterTrainingRuntime", "TrainingRuntime")

#: The label that says what a pod of ours is for.
COMPONENT = "app.kubernetes.io/component"


@dataclass(frozen=True)
class Pod:
    """One pod template. ``what`` names it in messages where an object makes several."""

    what: str
    namespace: Any
    labels: Any
    spec: Any


def pods(resource: Resource) -> Iterator[Pod]:
    """Every pod that a Kubernetes object makes: a workload's one, a Blueprint's one per task, a
    runtime's one per Job."""
    kind = resource.kind
    if kind == "Blueprint":
        yield from _tasks(resource)
    elif kind in RUNTIMES:
        for job in items(at(resource.inputs, "spec", "template", "spec", "replicatedJobs")):
            template = at(job, "template", "spec", "template")
            labels = at(template, "metadata", "labels")
            yield Pod(f"{at(job, 'name')}", resource.namespace, labels, at(template, "spec"))
    elif kind in TEMPLATES:
        template = at(resource.inputs, *TEMPLATES[kind])
        labels = at(template, "metadata", "labels")
        yield Pod("", resource.namespace, labels, at(template, "spec"))


def _tasks(blueprint: Resource) -> Iterator[Pod]:
    for action, body in mapping(at(blueprint.inputs, "actions")).items():
        for phase in [*items(at(body, "phases")), *items(at(body, "deferPhase"))]:
            args = mapping(at(phase, "args"))
            if "image" not in args and "podOverride" not in args:
                continue
            what, labels = f"{action}/{at(phase, 'name')}", {COMPONENT: "task"}
            override = args.get("podOverride")
            given = at(override, "containers")
            if given is UNKNOWN or UNKNOWN in (given or []):
                yield Pod(what, args.get("namespace"), labels, UNKNOWN)
                continue
            # Kanister merges the override over a container of this name with the phase's image.
            merged = [
                {"image": args.get("image"), **container}
                for container in given or [{"name": "container"}]
            ]
            spec = {**mapping(override), "containers": merged}
            yield Pod(what, args.get("namespace"), labels, spec)


def containers(pod: Pod) -> list[Mapping[str, Any]]:
    """All containers of a pod, also those that run first or beside."""
    groups = ("initContainers", "containers", "ephemeralContainers")
    return [mapping(c) for group in groups for c in items(at(pod.spec, group))]


def is_system(namespace: Any, allowed: Mapping[str, str]) -> bool:
    """Whether a namespace may be one of those that drivers and node preparation run in."""
    return namespace is UNKNOWN or namespace in allowed
