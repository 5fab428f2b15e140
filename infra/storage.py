"""Volumes: a PersistentVolume and its claim, ready for pods that are not root.

``host-path`` is a directory on one named node. The kubelet would leave it to root, and Kubernetes
does not apply fsGroup to it, so a job in holdfast-system gives the directory to the pods' user
first. ``existing-claim`` declares nothing: someone else made it.
"""

import pulumi

from infra.manifests import load, merge, register
from infra.names import PART_OF, SYSTEM_NAMESPACE
from infra.settings import HostPathVolume, Volume


class SystemNamespace(pulumi.ComponentResource):
    """The namespace where directories of nodes are prepared.

    Produces: Namespace ``holdfast-system``.
    """

    def __init__(self, name: str, opts: pulumi.ResourceOptions) -> None:
        super().__init__("holdfast:storage:SystemNamespace", name, {}, opts)
        self.namespace = register(
            f"{name}-namespace", load("system-namespace"), pulumi.ResourceOptions(parent=self)
        )
        self.register_outputs({})


class PreparedDirectory(pulumi.ComponentResource):
    """A directory on a node that belongs to the pods' user.

    Produces: one Job that runs once, in holdfast-system.
    """

    def __init__(
        self,
        name: str,
        volume: HostPathVolume,
        image: str,
        run_as: int,
        opts: pulumi.ResourceOptions,
    ) -> None:
        super().__init__("holdfast:storage:PreparedDirectory", name, {}, opts)
        job = merge(
            load("prepare-job"),
            {
                "metadata": {"name": f"prepare-{volume.name}", "namespace": SYSTEM_NAMESPACE},
                "spec": {
                    "template": {
                        "spec": {
                            "nodeSelector": {"kubernetes.io/hostname": volume.node},
                            "containers": [
                                {
                                    "name": "prepare",
                                    "image": image,
                                    "env": [{"name": "OWNER", "value": str(run_as)}],
                                }
                            ],
                            "volumes": [{"name": "volume", "hostPath": {"path": volume.path}}],
                        }
                    }
                },
            },
        )
        self.job = register(f"{name}-job", job, pulumi.ResourceOptions(parent=self))
        self.register_outputs({})


class ClaimedVolume(pulumi.ComponentResource):
    """A volume as one namespace's pods mount it.

    Produces, for ``host-path``: a PersistentVolume and a PersistentVolumeClaim; otherwise nothing.
    """

    claim_name: pulumi.Output[str]
    """The PersistentVolumeClaim to mount."""
    volume_name: pulumi.Output[str] | None
    """The PersistentVolume, where the stack declares it."""

    def __init__(
        self,
        name: str,
        volume: Volume,
        namespace: str,
        opts: pulumi.ResourceOptions,
        *,
        volume_name: str | None = None,
    ) -> None:
        """
        Args:
            name: the Pulumi name.
            volume: what to claim.
            namespace: where the pods are.
            opts: the parent, and what must exist first.
            volume_name: the PersistentVolume's name; default ``<volume.name>-vol``. A directory
                that several namespaces mount needs one PersistentVolume in each.
        """
        super().__init__("holdfast:storage:ClaimedVolume", name, {}, opts)
        if not isinstance(volume, HostPathVolume):
            self.volume_name, self.claim_name = None, pulumi.Output.from_input(volume.claim)
            self.register_outputs({"claim_name": self.claim_name})
            return
        options = pulumi.ResourceOptions(parent=self)
        volume_name = volume_name or f"{volume.name}-vol"
        shape = {
            "storageClassName": volume.storage_class,
            "accessModes": list(volume.access_modes),
        }
        term = {
            "matchExpressions": [
                {"key": "kubernetes.io/hostname", "operator": "In", "values": [volume.node]}
            ]
        }
        persistent_volume = merge(
            load("persistent-volume"),
            {
                "metadata": {"name": volume_name, "labels": PART_OF},
                "spec": {
                    **shape,
                    "capacity": {"storage": volume.size},
                    "claimRef": {"namespace": namespace, "name": volume.claim},
                    "hostPath": {"path": volume.path},
                    "nodeAffinity": {"required": {"nodeSelectorTerms": [term]}},
                },
            },
        )
        claim = merge(
            load("persistent-volume-claim"),
            {
                "metadata": {"name": volume.claim, "namespace": namespace},
                "spec": {
                    **shape,
                    "volumeName": volume_name,
                    "resources": {"requests": {"storage": volume.size}},
                },
            },
        )
        self.persistent_volume = register(f"{name}-volume", persistent_volume, options)
        self.claim = register(
            f"{name}-claim",
            claim,
            pulumi.ResourceOptions(parent=self, depends_on=[self.persistent_volume]),
        )
        self.volume_name = name_of(self.persistent_volume)
        self.claim_name = name_of(self.claim)
        self.register_outputs({"volume_name": self.volume_name, "claim_name": self.claim_name})


def name_of(resource: pulumi.CustomResource) -> pulumi.Output[str]:
    """The name that the object has in the cluster."""
    metadata: pulumi.Output = resource.metadata  # type: ignore[attr-defined]
    return metadata.apply(lambda m: m["name"] if isinstance(m, dict) else m.name)
