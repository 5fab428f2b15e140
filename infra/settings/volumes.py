"""Volume kinds: where a workload's bundles, or a directory store's snapshots, are kept.

Each kind says how many nodes can mount it. A new kind is one more class in ``Volume``.
"""

from typing import Annotated, ClassVar, Literal, get_args

from pydantic import Field

from infra.settings.fields import AbsolutePath, Model, Name, Size, size_bytes
from infra.settings.network_volumes import (
    AccessMode,
    EbsVolume,
    EfsVolume,
    FsxLustreVolume,
    IscsiVolume,
    NfsVolume,
)


class HostPathVolume(Model):
    """A directory on one named node's own disk. For one node; the data die with its disk."""

    shareable: ClassVar[bool] = False

    kind: Literal["host-path"]
    """Selects this kind."""
    name: Name = "checkpoints"
    """The PersistentVolume is called ``<name>-vol``, its claim ``<name>-pvc``."""
    size: Size = "10Gi"
    """Room for bundles, such as ``10Gi``. Kubernetes does not enforce it on a host path."""
    path: AbsolutePath
    """The directory on the node. It is made if absent and given to the pods' user."""
    node: str = Field(min_length=1, max_length=253)
    """The node's ``kubernetes.io/hostname`` label: pods run there, as nowhere else has the data."""
    storage_class: Name = "manual"
    """The class that ties the claim to this PersistentVolume. No provisioner has this name."""

    @property
    def claim(self) -> str:
        """The PersistentVolumeClaim that pods mount."""
        return f"{self.name}-pvc"

    @property
    def access_modes(self) -> tuple[AccessMode, ...]:
        return ("ReadWriteOnce",)


class ExistingClaim(Model):
    """A PersistentVolumeClaim that is already in the workload's namespace, made by someone else.

    The stack neither makes nor deletes a namespace that holds one. A namespace that the stack made
    before, for another kind of volume, it would delete with all that is in it: use a new one.
    """

    shareable: ClassVar[bool] = True

    kind: Literal["existing-claim"]
    """Selects this kind."""
    name: Name
    """The claim's own name, used as it is."""
    size: Size
    """What the claim holds, such as ``100Gi``: the space rule needs it."""
    access_modes: tuple[AccessMode, ...] = Field(default=("ReadWriteOnce",), min_length=1)
    """The claim's access modes; ``ReadWriteMany`` lets several nodes mount it."""

    @property
    def claim(self) -> str:
        """The PersistentVolumeClaim that pods mount."""
        return self.name


KINDS = (
    HostPathVolume,
    ExistingClaim,
    NfsVolume,
    IscsiVolume,
    EbsVolume,
    EfsVolume,
    FsxLustreVolume,
)

Volume = Annotated[
    HostPathVolume
    | ExistingClaim
    | NfsVolume
    | IscsiVolume
    | EbsVolume
    | EfsVolume
    | FsxLustreVolume,
    Field(discriminator="kind"),
]

#: The kinds that several nodes can mount, for messages.
SHAREABLE = ", ".join(
    str(get_args(kind.model_fields["kind"].annotation)[0]) for kind in KINDS if kind.shareable
)


def made_by_stack(volume: Volume) -> bool:
    """Whether the stack makes what is behind the volume, and may so remove it with its data."""
    if isinstance(volume, EbsVolume):
        return volume.volume_id is None
    return isinstance(volume, EfsVolume | FsxLustreVolume)


def volume_bytes(volume: Volume) -> int:
    """The volume's size in bytes."""
    return size_bytes(volume.size)
