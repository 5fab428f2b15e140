"""Pods of someone else's: what they, and the tasks on their claim, read."""

import json
from collections.abc import Mapping

import pulumi

from infra.kubernetes.environment import recover_environment
from infra.kubernetes.pods import PodSettings, env, environment_map
from infra.kubernetes.recover import pod_of_others
from infra.manifests import Manifest, load, merge, register
from infra.names import (
    PART_OF,
    POD_ANNOTATION,
    config_map_name,
    training_runtime_name,
    workload_labels,
)
from infra.settings import ForeignPods


class Foreign(pulumi.ComponentResource):
    """A workload that the stack protects and does not run.

    Produces: ConfigMap ``holdfast-<claim>``, which also says what a pod template gets; for a
    TrainJob the ClusterTrainingRuntime ``holdfast-<namespace>-<workload>``, whose pods have it. No
    claim, no pods, nothing that owns any.
    """

    runtime_name: str | None
    """What a TrainJob names; None where the owner is none."""

    def __init__(
        self,
        name: str,
        workload: ForeignPods,
        pods: PodSettings,
        environment: Mapping[str, str],
        opts: pulumi.ResourceOptions,
    ) -> None:
        """
        Args:
            name: the workload's name.
            workload: its settings.
            pods: image, user and store of the stack's pods.
            environment: of `holdfast` in its pods and in the tasks.
            opts: the parent, and what must exist first.
        """
        super().__init__("holdfast:protection:Foreign", name, {}, opts)
        metadata = {
            "namespace": workload.namespace,
            "labels": workload_labels(name),
            "annotations": {POD_ANNOTATION: json.dumps(pod_of_others(workload, pods))},
        }
        self.config_map = register(
            f"{name}-environment",
            environment_map(workload.volume.claim, metadata, pods.store, environment),
            pulumi.ResourceOptions(parent=self),
        )
        self.runtime_name = None
        if workload.owner.kind == "trainjob":
            runtime = training_runtime(name, workload, pods)
            self.runtime_name = runtime["metadata"]["name"]
            register(f"{name}-runtime", runtime, pulumi.ResourceOptions(parent=self))
        self.register_outputs({"runtime_name": self.runtime_name})


def training_runtime(name: str, workload: ForeignPods, pods: PodSettings) -> Manifest:
    """What TrainJobs of this workload run on: pods that refill the volume before user code. As in a
    Job of our own, user code gets no way to the store."""
    part = pod_of_others(workload, pods)
    source = {"configMapRef": {"name": config_map_name(workload.volume.claim)}}
    node = {
        "name": "node",
        "image": pods.images.training,
        "envFrom": [source],
        "env": env(recover_environment(workload)),
        "volumeMounts": [{"name": "volume", "mountPath": workload.mount_path}],
    }
    template = merge(part, {"spec": {"containers": [node]}})
    labels = workload_labels(name)
    return merge(
        load("training-runtime"),
        {
            "metadata": {
                "name": training_runtime_name(workload.namespace, name),
                "labels": labels,
            },
            "spec": {
                "template": {
                    "spec": {
                        "replicatedJobs": [
                            {"name": "node", "template": {"spec": {"template": template}}}
                        ]
                    }
                }
            },
        },
    )


class ClosedTasks(pulumi.ComponentResource):
    """A namespace of someone else's, where the pods of backups and tasks answer nobody.

    Produces: NetworkPolicy ``holdfast-tasks``.
    """

    def __init__(self, name: str, namespace: str, opts: pulumi.ResourceOptions) -> None:
        super().__init__("holdfast:protection:ClosedTasks", name, {}, opts)
        metadata = {"namespace": namespace, "labels": PART_OF}
        register(
            f"{name}-network",
            merge(load("task-network-policy"), {"metadata": metadata}),
            pulumi.ResourceOptions(parent=self),
        )
        self.register_outputs({})
