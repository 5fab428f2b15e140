"""Owners of a training's pods, from a Job to a TrainJob in a queue, each as its user writes it."""

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
        }[self.kind]

    def manifest(self, pod: Mapping[str, Any]) -> dict[str, Any]:
        """The owner, whose pods are these."""
        labels = {WORKLOAD_LABEL: self.name}
        if self.queued:
            labels[QUEUE_LABEL] = self.name
        metadata = {"name": self.name, "namespace": NAMESPACE, "labels": labels}
        of_kind = {"job": _job, "jobset": _jobset, "trainjob": _trainjob}[self.kind]
        return {**of_kind(self.name, pod), "metadata": metadata}


ALL = tuple(
    Owner(kind, queued) for kind in ("job", "jobset", "trainjob") for queued in (False, True)
)


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
