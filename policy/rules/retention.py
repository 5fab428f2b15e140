"""Checkpoints and backups outlive pods, claims, stacks and mistakes."""

from collections.abc import Iterator, Sequence

from policy.buckets import BUCKET, buckets, parts, receives_logs
from policy.clusters import cluster_value, is_cluster
from policy.model import UNKNOWN, Config, Level, Resource, at, is_true, items, rule, stack_rule

PRODUCTION = ["prod", "prod-*", "*-prod", "production"]

#: What holds data that no one can make again; a key is as good as all that it encrypts.
STORES = (
    *BUCKET,
    "aws:ebs/volume:Volume",
    "aws:efs/fileSystem:FileSystem",
    "aws:fsx/lustreFileSystem:LustreFileSystem",
    "aws:fsx/openZfsFileSystem:OpenZfsFileSystem",
)


@rule(
    "volumes-keep-their-data",
    "Keep the data of every PersistentVolume when its claim goes: reclaim policy Retain.",
)
def volumes(resource: Resource, _: Config) -> Iterator[str]:
    if resource.kind == "PersistentVolume":
        policy = at(resource.inputs, "spec", "persistentVolumeReclaimPolicy")
        if policy not in ("Retain", UNKNOWN):
            yield f"has reclaim policy {policy or 'Delete'}: set it to Retain"


@rule(
    "storage-classes-keep-data",
    "Keep what a StorageClass makes when its claim goes: reclaim policy Retain.",
)
def storage_classes(resource: Resource, _: Config) -> Iterator[str]:
    if resource.kind == "StorageClass":
        policy = at(resource.inputs, "reclaimPolicy")
        if policy not in ("Retain", UNKNOWN):
            yield f"has reclaim policy {policy or 'Delete'}: set reclaimPolicy to Retain"


@rule(
    "snapshot-classes-keep-snapshots",
    "Keep the snapshot when its VolumeSnapshot goes: deletion policy Retain.",
)
def snapshot_classes(resource: Resource, _: Config) -> Iterator[str]:
    if resource.kind == "VolumeSnapshotClass":
        policy = at(resource.inputs, "deletionPolicy")
        if policy not in ("Retain", UNKNOWN):
            yield f"has deletion policy {policy or 'none'}: set deletionPolicy to Retain"


@rule(
    "volume-objects-go-with-the-stack",
    "Delete the PersistentVolume object with the stack: kept by retain_on_delete it stays "
    "Released, and the next `up` fails on it. Its reclaim policy keeps the data.",
)
def volume_objects(resource: Resource, _: Config) -> Iterator[str]:
    if resource.kind == "PersistentVolume" and resource.retain_on_delete:
        yield "has retain_on_delete: remove it; Retain keeps the data"


@rule(
    "stores-are-protected",
    "Protect buckets, file systems and volumes of a production stack from `pulumi destroy`.",
    stacks=PRODUCTION,
)
def protected(resource: Resource, config: Config) -> Iterator[str]:
    if resource.type in STORES and resource.in_stacks(config["stacks"]) and not resource.protect:
        yield f"can be destroyed with stack {resource.stack}: set protect"


@rule(
    "buckets-are-not-emptied",
    "Let no `destroy` of a production stack empty a bucket: no forceDestroy.",
    stacks=PRODUCTION,
)
def force_destroy(resource: Resource, config: Config) -> Iterator[str]:
    emptied = at(resource.inputs, "forceDestroy") is True
    if resource.type in BUCKET and emptied and resource.in_stacks(config["stacks"]):
        yield "is emptied by destroy: remove forceDestroy"


@rule(
    "clusters-resist-deletion",
    "Switch on EKS deletion protection in a production stack.",
    stacks=PRODUCTION,
)
def deletion_protection(resource: Resource, config: Config) -> Iterator[str]:
    if not is_cluster(resource) or not resource.in_stacks(config["stacks"]):
        return
    if not is_true(cluster_value(resource, "deletion_protection")):
        yield "can be deleted by one call: set deletionProtection to true"


@stack_rule(
    "buckets-are-versioned",
    "Keep the versions of every object, so that what is overwritten or deleted can be brought "
    "back. A bucket of access logs needs none.",
)
def versioned(resources: Sequence[Resource], _: Config) -> Iterator[tuple[Resource, str]]:
    for bucket in buckets(resources):
        states = [
            at(part.inputs, "versioningConfiguration", "status")
            for part in parts(resources, "Versioning", bucket)
        ]
        known = UNKNOWN not in states
        if known and "Enabled" not in states and not receives_logs(resources, bucket):
            yield bucket, "keeps no versions: add a BucketVersioning with status Enabled"


@rule(
    "exports-keep-deleted-files",
    "Export no deletion from FSx to S3: it would take the copy away with the original.",
)
def exports(resource: Resource, _: Config) -> Iterator[str]:
    events = items(at(resource.inputs, "s3", "autoExportPolicy", "events"))
    if resource.type.endswith(":DataRepositoryAssociation") and "DELETED" in events:
        yield "exports deletions: leave DELETED out of autoExportPolicy.events"


@stack_rule(
    "file-systems-have-a-second-copy",
    "Back every file system up by its own service too (EFS: a BackupPolicy; FSx: automatic "
    "backups, or an export to S3).",
    Level.ADVISORY,
)
def second_copy(resources: Sequence[Resource], _: Config) -> Iterator[tuple[Resource, str]]:
    backed_up = {
        urn
        for r in resources
        if r.type
        in (
            "aws:efs/backupPolicy:BackupPolicy",
            "aws:fsx/dataRepositoryAssociation:DataRepositoryAssociation",
        )
        for urn in r.dependencies
    }
    for each in resources:
        if each.urn in backed_up:
            continue
        if each.type == "aws:efs/fileSystem:FileSystem":
            yield each, "has no backup of its own: add a BackupPolicy"
        days = at(each.inputs, "automaticBackupRetentionDays")
        if each.type == "aws:fsx/lustreFileSystem:LustreFileSystem" and days in (None, 0):
            yield each, "has no backup of its own: set automaticBackupRetentionDays, or export"
