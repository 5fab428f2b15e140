"""Classes of volumes and pods that a cluster of the stack's own has."""

import pulumi

from infra.manifests import load, merge, register
from infra.names import PRIORITY_CLASS


class Classes(pulumi.ComponentResource):
    """For users' own claims: encrypted EBS volumes and snapshots that outlive them. For training
    pods: a priority.

    Produces: StorageClass and VolumeSnapshotClass ``holdfast-retain``, PriorityClass
    ``holdfast-training``.
    """

    def __init__(
        self, name: str, key_arn: pulumi.Output[str], opts: pulumi.ResourceOptions
    ) -> None:
        """
        Args:
            name: the Pulumi name.
            key_arn: the KMS key of the volumes.
            opts: the provider.
        """
        super().__init__("holdfast:cluster:Classes", name, {}, opts)
        own = pulumi.ResourceOptions(parent=self)
        register(
            f"{name}-volumes",
            merge(load("storage-class"), {"parameters": {"kmsKeyId": key_arn}}),
            own,
        )
        register(f"{name}-snapshots", load("volume-snapshot-class"), own)
        priority = merge(load("priority-class"), {"metadata": {"name": PRIORITY_CLASS}})
        register(f"{name}-priority", priority, own)
        self.register_outputs({})
