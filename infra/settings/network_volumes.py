"""Volume kinds that a server, or AWS, provides: NFS, iSCSI, EBS, EFS and FSx for Lustre.

The stack owns the EBS volume or file system behind the PersistentVolume, so that its data survive
the claim, the cluster and, where ``data_stores`` is ``protected``, the stack.
"""

import re
from typing import Annotated, ClassVar, Literal, NamedTuple

from pydantic import AfterValidator, Field, model_validator

from infra.settings.fields import AbsolutePath, Model, Name, Size, size_bytes
from infra.settings.network import ZoneId

AccessMode = Literal["ReadWriteOnce", "ReadWriteMany"]

GIB = 2**30
_IQN = re.compile(r"iqn\.\d{4}-\d{2}\.[a-z0-9.-]+(:[^\s]+)?")
_PORTAL = re.compile(r"[\w.-]+(:\d{1,5})?")


def _iqn(value: str) -> str:
    if _IQN.fullmatch(value) is None:
        raise ValueError(
            f"{value!r} is not an iSCSI name: write one such as iqn.2004-04.com.example:checkpoints"
        )
    return value


def _portal(value: str) -> str:
    if _PORTAL.fullmatch(value) is None:
        raise ValueError(f"{value!r} is not an address: write host or host:port")
    return value


def _bucket_url(value: str) -> str:
    if re.fullmatch(r"s3://[a-z0-9][a-z0-9.-]{1,61}[a-z0-9](/[\w.=-]+)*", value) is None:
        raise ValueError(f"{value!r} is not a bucket: write s3://bucket or s3://bucket/prefix")
    return value


class ProvidedVolume(Model):
    """What these kinds have in common: a PersistentVolume of the stack's and its claim."""

    shareable: ClassVar[bool] = True

    name: Name = "checkpoints"
    """The PersistentVolume is called ``<name>-vol``, its claim ``<name>-pvc``."""
    storage_class: Name = "manual"
    """The class that ties the claim to this PersistentVolume. No provisioner has this name."""

    @property
    def claim(self) -> str:
        """The PersistentVolumeClaim that pods mount."""
        return f"{self.name}-pvc"

    @property
    def access_modes(self) -> tuple[AccessMode, ...]:
        return ("ReadWriteMany",) if self.shareable else ("ReadWriteOnce",)


class NfsVolume(ProvidedVolume):
    """A directory that an NFS server exports. It must belong to the user ``run_as``."""

    kind: Literal["nfs"]
    """Selects this kind."""
    size: Size
    """Room for bundles, such as ``1Ti``: the space rule needs it, NFS does not enforce it."""
    server: Annotated[str, AfterValidator(_portal)]
    """The server's name or address."""
    path: AbsolutePath
    """The exported directory."""
    mount_options: tuple[str, ...] = ("nfsvers=4.1", "hard")
    """How nodes mount it. ``soft`` would turn a slow server into lost writes."""

    @model_validator(mode="after")
    def _never_soft(self) -> "NfsVolume":
        if "soft" in self.mount_options:
            raise ValueError("mount_options soft: writes to a slow server would be lost: use hard")
        return self


class IscsiVolume(ProvidedVolume):
    """A block device on an iSCSI server, with a file system of its own. For one node."""

    shareable: ClassVar[bool] = False

    kind: Literal["iscsi"]
    """Selects this kind."""
    size: Size
    """What the device holds."""
    portal: Annotated[str, AfterValidator(_portal)]
    """The server's address, ``host:3260``."""
    iqn: Annotated[str, AfterValidator(_iqn)]
    """The target's name."""
    lun: int = Field(default=0, ge=0, le=16383)
    """The logical unit's number."""


class EbsLimits(NamedTuple):
    """What EBS allows for a type of volume: sizes in GiB, operations a second."""

    least_gib: int
    least_iops: int
    most_iops: int
    iops_of_a_gib: int
    iops_of_any_size: int


#: EBS user guide, "General Purpose SSD" and "Provisioned IOPS SSD volumes" (io2 Block Express).
EBS_LIMITS = {
    "gp3": EbsLimits(1, 3000, 80_000, 500, 3000),
    "io2": EbsLimits(4, 100, 256_000, 1000, 0),
}


class EbsVolume(ProvidedVolume):
    """An EBS volume in one zone. For one node; the fastest of the durable kinds."""

    shareable: ClassVar[bool] = False

    kind: Literal["ebs"]
    """Selects this kind."""
    size: Size
    """Whole GiB, such as ``200Gi``."""
    zone: ZoneId
    """The zone ID of the volume, and so of the pods: a disk is mounted in its own zone only."""
    type: Literal["gp3", "io2"] = "gp3"
    """``gp3``, or ``io2`` for more operations a second with 99.999 % durability."""
    iops: int = Field(default=3000, ge=100, le=256000)
    """Operations a second: gp3 from 3000, at no further cost, to 80000; io2 from 100 to 256000."""
    throughput: int = Field(default=125, ge=125, le=2000)
    """gp3: MiB a second; 125 at no further cost."""
    volume_id: str | None = Field(default=None, pattern=r"^vol-[0-9a-f]{8,17}$")
    """A volume that is there already, such as a lost stack's. Default: the stack makes one."""

    @model_validator(mode="after")
    def _ec2_can_make_it(self) -> "EbsVolume":
        count = size_bytes(self.size)
        limits = EBS_LIMITS[self.type]
        if count % GIB or not limits.least_gib <= count // GIB <= 65536:
            raise ValueError(
                f"size {self.size} is not a size of {self.type}: use whole GiB from "
                f"{limits.least_gib}Gi to 64Ti"
            )
        if not limits.least_iops <= self.iops <= limits.most_iops:
            raise ValueError(
                f"iops {self.iops} is not what {self.type} has: "
                f"use {limits.least_iops} to {limits.most_iops}"
            )
        if self.type == "gp3" and self.throughput * 4 > self.iops:
            raise ValueError(
                f"throughput {self.throughput} needs more operations than iops {self.iops}: "
                f"use iops {self.throughput * 4} or more"
            )
        if self.type == "io2" and self.throughput != 125:
            raise ValueError("throughput is a setting of gp3 only: leave it out for io2")
        most = max(limits.iops_of_a_gib * (count // GIB), limits.iops_of_any_size)
        if self.iops > most:
            raise ValueError(
                f"iops {self.iops} is over {limits.iops_of_a_gib} for each GiB: use at most {most}"
            )
        return self


class EfsVolume(ProvidedVolume):
    """An EFS file system: any number of nodes in any zone, no size to plan."""

    kind: Literal["efs"]
    """Selects this kind."""
    size: Size = "1Ti"
    """Room for bundles: only the space rule uses it, EFS grows by itself."""


#: FSx API reference, CreateFileSystemLustreMetadataConfiguration.
METADATA_IOPS = (1500, 3000, 6000, *range(12_000, 192_001, 12_000))


class FsxLustreVolume(ProvidedVolume):
    """An FSx for Lustre file system (PERSISTENT_2, SSD): the fastest that many nodes can share."""

    kind: Literal["fsx-lustre"]
    """Selects this kind."""
    size: Size = "1200Gi"
    """``1200Gi``, or a multiple of ``2400Gi``."""
    zone: ZoneId
    """The zone ID of the file system; nodes in another zone pay for and wait on the traffic."""
    throughput: Literal[125, 250, 500, 1000] = 125
    """MB a second for each TiB."""
    metadata_iops: int | None = None
    """Metadata operations a second (files made, listed, removed): 1500, 3000, 6000 or a multiple of
    12000 up to 192000. Default: what the size brings. Can be raised later, and neither lowered nor
    taken out."""
    backup_days: int = Field(default=7, ge=0, le=90)
    """Days that daily backups are kept; 0: none."""
    export: Annotated[str, AfterValidator(_bucket_url)] | None = None
    """Instead of backups: copy new and changed files to this bucket. Deletions never follow."""

    @model_validator(mode="after")
    def _fsx_can_make_it(self) -> "FsxLustreVolume":
        gib, rest = divmod(size_bytes(self.size), GIB)
        if rest or (gib != 1200 and (gib == 0 or gib % 2400)):
            raise ValueError(
                f"size {self.size} is not a size of FSx for Lustre: "
                "use 1200Gi or a multiple of 2400Gi"
            )
        wanted = self.metadata_iops
        if wanted is not None and wanted not in METADATA_IOPS:
            raise ValueError(
                f"metadata_iops {wanted} is not what FSx has: "
                "use 1500, 3000, 6000 or a multiple of 12000 up to 192000"
            )
        if self.export is not None and self.backup_days:
            raise ValueError(
                f"backup_days {self.backup_days} with export: FSx backs up no file system that is "
                "linked to a bucket: set backup_days to 0, or leave export out"
            )
        if self.export is None and not self.backup_days:
            raise ValueError(
                "backup_days 0 without export: nothing would protect the file system: use 7"
            )
        return self
