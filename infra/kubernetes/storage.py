"""Volumes: a PersistentVolume and its claim, ready for pods that are not root.

``host-path`` is a directory on one named node. The kubelet would leave it to root, and Kubernetes
does not apply fsGroup to it, so a job in holdfast-system gives the directory to the pods' user
first. ``nfs`` and ``iscsi`` are servers of yours; what AWS provides is made in file_systems.py.
``existing-claim`` declares nothing: someone else made it.
"""

from collections.abc import Callable

import pulumi

from infra import names
from infra.kubernetes.hooks import MARGIN_SECONDS, claim_is_free
from infra.kubernetes.kubectl import Kubectl
from infra.kubernetes.preflight import must_exist
from infra.kubernetes.sources import source_of
from infra.manifests import Manifest, load, merge, register
from infra.names import (
    MADE_BY_STACK_ANNOTATION,
    PART_OF,
    SYSTEM_NAMESPACE,
    ZONE_ANNOTATION,
)
from infra.settings import (
    ExistingClaim,
    FsxLustreVolume,
    HostPathVolume,
    Volume,
)
from infra.settings.volumes import made_by_stack

#: Where the example PersistentVolume of manifests/ says what is behind it.
SOURCES = ("hostPath", "nodeAffinity")
#: How long a claim may take to go, which pods still mount, if the pods' own grace is not longer.
DELETE_SECONDS = 600


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
    """A directory that belongs to the pods' user: of a node, or the root of a file system.

    Produces: one Job that runs once, in holdfast-system; for a file system also a PersistentVolume
    and claim of its own there.
    """

    def __init__(
        self,
        name: str,
        volume: HostPathVolume | FsxLustreVolume,
        image: str,
        run_as: int,
        cluster: Kubectl,
        opts: pulumi.ResourceOptions,
        *,
        source: Manifest | None = None,
    ) -> None:
        """
        Args:
            name: the Pulumi name.
            volume: which directory.
            image: of the tools.
            run_as: the user and group that will own the directory.
            cluster: where the directory's claim is.
            opts: the parent, and what must exist first.
            source: what is behind it, where another layer made it.
        """
        super().__init__("holdfast:storage:PreparedDirectory", name, {}, opts)
        self.claimed: ClaimedVolume | None = None
        if isinstance(volume, HostPathVolume):
            place = {"nodeSelector": {"kubernetes.io/hostname": volume.node}}
            mounted = {"hostPath": {"path": volume.path, "type": "DirectoryOrCreate"}}
        else:
            self.claimed = ClaimedVolume(
                name,
                volume,
                SYSTEM_NAMESPACE,
                cluster,
                pulumi.ResourceOptions(parent=self),
                volume_name=f"prepare-{volume.name}-vol",
                source=source,
            )
            self.claimed.claim()
            place = {}
            mounted = {"persistentVolumeClaim": {"claimName": volume.claim}}
        container = {
            "name": "prepare",
            "image": image,
            "env": [{"name": "OWNER", "value": str(run_as)}],
        }
        job = merge(
            _without_place(load("prepare-job")),
            {
                "metadata": {"name": f"prepare-{volume.name}", "namespace": SYSTEM_NAMESPACE},
                "spec": {
                    "template": {
                        "spec": {
                            **place,
                            "containers": [container],
                            "volumes": [{"name": "volume", **mounted}],
                        }
                    }
                },
            },
        )
        claimed = [self.claimed] if self.claimed is not None else []
        self.job = register(
            f"{name}-job",
            job,
            pulumi.ResourceOptions(
                parent=self,
                depends_on=claimed,
                replace_with=[each for claim in claimed for each in claim.objects],
            ),
        )
        self.register_outputs({})


def _without_place(job: Manifest) -> Manifest:
    """The example's node and directory are one of two kinds."""
    spec = job["spec"]["template"]["spec"]
    del spec["nodeSelector"], spec["volumes"]
    return job


class ClaimedVolume(pulumi.ComponentResource):
    """A volume as one namespace's pods mount it.

    Produces a PersistentVolume and, by ``claim``, a PersistentVolumeClaim; for ``existing-claim``
    nothing. The namespace is made after the volume and before the claim, so that `destroy` deletes
    it while the volume waits for its claim: a pod that is left over goes with the namespace, and
    cannot keep the claim, and with it `destroy`, from its end.
    """

    claim_name: pulumi.Output[str]
    """The PersistentVolumeClaim to mount."""
    volume_name: pulumi.Output[str] | None
    """The PersistentVolume, where the stack declares it."""
    objects: list[pulumi.Resource]
    """Volume and claim: what holds the claim must be replaced with them. Empty for a claim that
    someone else made."""

    def __init__(
        self,
        name: str,
        volume: Volume,
        namespace: str,
        cluster: Kubectl,
        opts: pulumi.ResourceOptions,
        *,
        volume_name: str | None = None,
        source: Manifest | None = None,
        grace_seconds: float = 0,
    ) -> None:
        """
        Args:
            name: the Pulumi name.
            volume: what to claim.
            namespace: where the pods are.
            cluster: that has the namespace.
            opts: the parent, and what must exist first; not the namespace.
            volume_name: the PersistentVolume's name; default ``<volume.name>-vol``. A directory
                that several namespaces mount needs one PersistentVolume in each.
            source: what is behind it, where another layer made it.
            grace_seconds: how long a pod that is told to stop may keep the claim.
        """
        super().__init__("holdfast:storage:ClaimedVolume", name, {}, opts)
        source = source or source_of(volume)
        self.objects = []
        self.volume_name, self.claim_name = None, pulumi.Output.from_input(volume.claim)
        self._claim: Callable[[pulumi.ResourceOptions], pulumi.CustomResource] | None = None
        if source is None or isinstance(volume, ExistingClaim):
            return
        named = volume_name or names.volume_name(volume.name)
        shape = {
            "storageClassName": volume.storage_class,
            "accessModes": list(volume.access_modes),
        }
        claim_reference = {"namespace": namespace, "name": volume.claim}
        persistent_volume = merge(
            _without_source(load("persistent-volume")),
            {
                "metadata": {"name": named, "labels": PART_OF, **_what_is_behind(volume)},
                "spec": {
                    **shape,
                    **source,
                    "capacity": {"storage": volume.size},
                    "claimRef": claim_reference,
                },
            },
        )
        volume_object = register(
            f"{name}-volume",
            persistent_volume,
            pulumi.ResourceOptions(parent=self, delete_before_replace=True),
        )
        must_exist(cluster, volume_object, "persistentvolume", named)
        self.objects = [volume_object]
        self.volume_name = name_of(volume_object)
        claim = merge(
            load("persistent-volume-claim"),
            {
                "metadata": {"name": volume.claim, "namespace": namespace},
                "spec": {
                    **shape,
                    "volumeName": named,
                    "resources": {"requests": {"storage": volume.size}},
                },
            },
        )
        free = claim_is_free(cluster, namespace, volume.claim, named, grace_seconds)
        hook = pulumi.ResourceHook(f"{name}-claim-is-free", free)
        options = pulumi.ResourceOptions(
            parent=self,
            depends_on=[volume_object],
            # Kubernetes resizes only volumes that a provisioner made. A claim is made anew with the
            # same volume behind it, while no pod runs.
            replace_on_changes=["spec.resources"],
            replace_with=[volume_object],
            delete_before_replace=True,
            hooks=pulumi.ResourceHookBinding(before_create=[hook]),
            custom_timeouts=pulumi.CustomTimeouts(
                delete=f"{max(DELETE_SECONDS, grace_seconds + MARGIN_SECONDS):.0f}s"
            ),
        )

        def declare(opts: pulumi.ResourceOptions) -> pulumi.CustomResource:
            made = register(f"{name}-claim", claim, pulumi.ResourceOptions.merge(options, opts))
            must_exist(cluster, made, "persistentvolumeclaim", volume.claim, namespace)
            return made

        self._claim = declare

    def claim(self, namespace: pulumi.Resource | None = None) -> None:
        """Declare the claim, once its namespace is declared.

        Args:
            namespace: the Namespace, where the stack makes it: the claim is deleted with it.
        """
        if self._claim is not None:
            made = self._claim(
                pulumi.ResourceOptions(
                    depends_on=[namespace] if namespace else None, deleted_with=namespace
                )
            )
            self.objects.append(made)
            self.claim_name = name_of(made)
        self.register_outputs({"volume_name": self.volume_name, "claim_name": self.claim_name})


def _what_is_behind(volume: Volume) -> Manifest:
    """Annotations with what a later change of the settings must know of the volume."""
    zone = getattr(volume, "zone", None)
    known = {
        **({ZONE_ANNOTATION: zone} if zone else {}),
        **({MADE_BY_STACK_ANNOTATION: "true"} if made_by_stack(volume) else {}),
    }
    return {"annotations": known} if known else {}


def _without_source(persistent_volume: Manifest) -> Manifest:
    """The example's own source is one of many kinds."""
    kept = {k: v for k, v in persistent_volume["spec"].items() if k not in SOURCES}
    return {**persistent_volume, "spec": kept}


def name_of(resource: pulumi.CustomResource) -> pulumi.Output[str]:
    """The name that the object has in the cluster."""
    metadata: pulumi.Output = resource.metadata  # type: ignore[attr-defined]
    return metadata.apply(lambda m: m["name"] if isinstance(m, dict) else m.name)
