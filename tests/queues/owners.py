"""Owners of a training's pods, plain and in a queue, each as its user writes it."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from infra.names import training_runtime_name

WORKLOAD_LABEL = "holdfast.dev/workload"
QUEUE_LABEL = "kueue.x-k8s.io/queue-name"
NAMESPACE = "queues"


@dataclass(frozen=True)
class Owner:
    """A kind of owner, and whether Kueue admits it. Those in a queue are found by their label."""

    kind: str
    queued: bool

    @property
    def name(self) -> str:
        return f"{self.kind}-queued" if self.queued else self.kind

    @property
    def resource(self) -> str:
        """As kubectl names it."""
        return {
            "job": "jobs.batch",
            "jobset": "jobsets.jobset.x-k8s.io",
            "trainjob": "trainjobs.trainer.kubeflow.org",
            "deployment": "deployments.apps",
            "statefulset": "statefulsets.apps",
        }[self.kind]

    @property
    def replicas(self) -> int:
        """How many pods it has; 0 where it is suspended instead of scaled."""
        return {"deployment": 1, "statefulset": 2}.get(self.kind, 0)

    def suspended(self, value: bool) -> dict[str, Any]:
        """What a person sets in its spec, that it stands or goes on."""
        if self.replicas:
            return {"replicas": 0 if value else self.replicas}
        return {"suspend": value}

    def manifest(self, pod: Mapping[str, Any]) -> dict[str, Any]:
        """The owner, whose pods are these."""
        labels = {WORKLOAD_LABEL: self.name}
        if self.queued:
            labels[QUEUE_LABEL] = self.name
        metadata = {"name": self.name, "namespace": NAMESPACE, "labels": labels}
        if self.replicas:
            return {**_scaled(self, pod), "metadata": metadata}
        of_kind = {"job": _job, "jobset": _jobset, "trainjob": _trainjob}[self.kind]
        return {**of_kind(self.name, pod), "metadata": metadata}


_KINDS = ("job", "jobset", "trainjob", "deployment", "statefulset")
ALL = tuple(Owner(kind, queued) for kind in _KINDS for queued in (False, True))


def queue(name: str) -> list[dict[str, Any]]:
    """A queue of its own, with room for one such workload."""
    resources = [{"name": "cpu", "nominalQuota": "1"}, {"name": "memory", "nominalQuota": "2Gi"}]
    flavors = [{"name": "default", "resources": resources}]
    group = {"coveredResources": ["cpu", "memory"], "flavors": flavors}
    version = "kueue.x-k8s.io/v1beta2"
    return [
        {"apiVersion": version, "kind": "ResourceFlavor", "metadata": {"name": "default"}},
        {
            "apiVersion": version,
            "kind": "ClusterQueue",
            "metadata": {"name": name},
            "spec": {"namespaceSelector": {}, "resourceGroups": [group]},
        },
        {
            "apiVersion": version,
            "kind": "LocalQueue",
            "metadata": {"name": name, "namespace": NAMESPACE},
            "spec": {"clusterQueue": name},
        },
    ]


def _job_spec(pod: Mapping[str, Any]) -> dict[str, Any]:
    ignored = [
        {"action": "Ignore", "onExitCodes": {"operator": "In", "values": [75, 143]}},
        {"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]},
    ]
    return {
        "backoffLimit": 100,
        "podReplacementPolicy": "Failed",
        "podFailurePolicy": {"rules": ignored},
        "template": pod,
    }


def _job(name: str, pod: Mapping[str, Any]) -> dict[str, Any]:
    return {"apiVersion": "batch/v1", "kind": "Job", "spec": _job_spec(pod)}


def _jobset(name: str, pod: Mapping[str, Any]) -> dict[str, Any]:
    job = {"name": "writer", "replicas": 1, "template": {"spec": _job_spec(pod)}}
    policy = {"maxRestarts": 100, "restartStrategy": "BlockingRecreate"}
    return {
        "apiVersion": "jobset.x-k8s.io/v1alpha2",
        "kind": "JobSet",
        "spec": {"replicatedJobs": [job], "failurePolicy": policy},
    }


def _trainjob(name: str, pod: Mapping[str, Any]) -> dict[str, Any]:
    (container,) = pod["spec"]["containers"]
    trainer = {
        "image": container["image"],
        "command": container["command"],
        "env": container["env"],
        "numNodes": 1,
        "resourcesPerNode": container["resources"],
    }
    return {
        "apiVersion": "trainer.kubeflow.org/v1alpha1",
        "kind": "TrainJob",
        "spec": {
            "runtimeRef": {"name": training_runtime_name(NAMESPACE, name)},
            "trainer": trainer,
        },
    }


def _scaled(owner: Owner, pod: Mapping[str, Any]) -> dict[str, Any]:
    """A Deployment, or a StatefulSet whose pods are ranks: all start, the first one writes."""
    (container,) = pod["spec"]["containers"]
    labels = {**pod["metadata"]["labels"], "app": owner.name}
    spec: dict[str, Any] = {
        "replicas": owner.replicas,
        "selector": {"matchLabels": {"app": owner.name}},
    }
    if owner.kind == "deployment":
        kind, spec["strategy"] = "Deployment", {"type": "Recreate"}
    else:
        kind, spec["podManagementPolicy"] = "StatefulSet", "Parallel"
        index = {"fieldPath": "metadata.labels['apps.kubernetes.io/pod-index']"}
        rank = {"name": "RANK", "valueFrom": {"fieldRef": index}}
        container = {**container, "env": [*container["env"], rank]}
    started = {**pod["spec"], "containers": [container], "restartPolicy": "Always"}
    spec["template"] = {"metadata": {"labels": labels}, "spec": started}
    return {"apiVersion": "apps/v1", "kind": kind, "spec": spec}
