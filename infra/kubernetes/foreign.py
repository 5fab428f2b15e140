"""Pods of someone else's: what they, and the tasks on their claim, read."""

import json
from collections.abc import Mapping

import pulumi

from infra.kubernetes.pods import PodSettings, environment_map
from infra.kubernetes.recover import pod_of_others
from infra.manifests import load, merge, register
from infra.names import PART_OF, POD_ANNOTATION, workload_labels
from infra.settings import ForeignPods


class Foreign(pulumi.ComponentResource):
    """A workload that the stack protects and does not run.

    Produces: ConfigMap ``holdfast-<claim>``, which also says what a pod template gets. No claim, no
    pods, nothing that owns any.
    """

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
        self.register_outputs({})


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
