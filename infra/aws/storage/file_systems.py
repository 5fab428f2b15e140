"""What is behind a volume in AWS: an EBS disk, an EFS or an FSx for Lustre file system.

Each owns its data apart from any claim, and says as ``source`` what a PersistentVolume of it is.
"""

from typing import Any

import pulumi
import pulumi_aws as aws

from infra.aws.network import NodeNetwork
from infra.manifests import Manifest
from infra.settings.fields import size_bytes
from infra.settings.network_volumes import EbsVolume, EfsVolume, FsxLustreVolume

GIB = 2**30
#: The EBS driver's policy lets it act on resources with this tag only.
DRIVER_TAG = {"ebs.csi.aws.com/cluster": "true"}


class Disk(pulumi.ComponentResource):
    """An EBS volume for one node at a time.

    Produces: an encrypted ebs Volume, unless the settings name one that is there.
    """

    source: Manifest
    """What the PersistentVolume's spec says of it."""

    def __init__(
        self,
        name: str,
        volume: EbsVolume,
        network: NodeNetwork,
        key: aws.kms.Key,
        opts: pulumi.ResourceOptions,
        *,
        keep: bool,
    ) -> None:
        """
        Args:
            name: the Pulumi name.
            volume: its settings.
            network: whose subnet of the zone says what the zone is called in this account.
            key: encrypts it.
            opts: the provider.
            keep: whether destroy must leave it.
        """
        super().__init__("holdfast:storage:Disk", name, {}, opts)
        zone = network.private[volume.zone].availability_zone
        identifier: pulumi.Input[str]
        if volume.volume_id is not None:
            identifier = volume.volume_id
        else:
            disk = aws.ebs.Volume(
                f"{name}-disk",
                availability_zone=zone,
                size=size_bytes(volume.size) // GIB,
                type=volume.type,
                iops=volume.iops,
                throughput=volume.throughput if volume.type == "gp3" else None,
                encrypted=True,
                kms_key_id=key.arn,
                tags={"Name": name, **DRIVER_TAG},
                opts=_kept(self, keep),
            )
            identifier = disk.id
        in_zone = {
            "matchExpressions": [
                {"key": "topology.kubernetes.io/zone", "operator": "In", "values": [zone]}
            ]
        }
        self.source = {
            "csi": {"driver": "ebs.csi.aws.com", "volumeHandle": identifier, "fsType": "ext4"},
            "nodeAffinity": {"required": {"nodeSelectorTerms": [in_zone]}},
        }
        self.register_outputs({})


class ElasticFileSystem(pulumi.ComponentResource):
    """An EFS file system for any number of nodes.

    Produces: an encrypted efs FileSystem, its BackupPolicy and FileSystemPolicy (TLS only, through
    mount targets only), an AccessPoint that belongs to the pods' user, a MountTarget in each zone.
    """

    source: Manifest
    """What the PersistentVolume's spec says of it."""

    def __init__(
        self,
        name: str,
        volume: EfsVolume,
        run_as: int,
        network: NodeNetwork,
        group: aws.ec2.SecurityGroup,
        key: aws.kms.Key,
        opts: pulumi.ResourceOptions,
        *,
        keep: bool,
    ) -> None:
        """
        Args:
            name: the Pulumi name.
            volume: its settings.
            run_as: the pods' user and group.
            network: whose private subnets get mount targets.
            group: the security group of the mount targets.
            key: encrypts it.
            opts: the provider.
            keep: whether destroy must leave it.
        """
        super().__init__("holdfast:storage:ElasticFileSystem", name, {}, opts)
        own = pulumi.ResourceOptions(parent=self)
        system = aws.efs.FileSystem(
            f"{name}-efs",
            encrypted=True,
            kms_key_id=key.arn,
            performance_mode="generalPurpose",
            throughput_mode="elastic",
            tags={"Name": name},
            opts=_kept(self, keep),
        )
        aws.efs.BackupPolicy(
            f"{name}-efs",
            file_system_id=system.id,
            backup_policy={"status": "ENABLED"},
            opts=own,
        )
        aws.efs.FileSystemPolicy(
            f"{name}-efs",
            file_system_id=system.id,
            policy=pulumi.Output.json_dumps(_only_tls(system.arn)),
            opts=own,
        )
        point = aws.efs.AccessPoint(
            f"{name}-efs",
            file_system_id=system.id,
            posix_user={"uid": run_as, "gid": run_as},
            root_directory={
                "path": f"/{volume.name}",
                "creation_info": {"owner_uid": run_as, "owner_gid": run_as, "permissions": "0770"},
            },
            tags={"Name": name},
            opts=own,
        )
        targets = [
            aws.efs.MountTarget(
                f"{name}-efs-{zone}",
                file_system_id=system.id,
                subnet_id=subnet.id,
                security_groups=[group.id],
                opts=own,
            )
            for zone, subnet in network.private.items()
        ]
        # A pod in any zone: so the volume is ready when all mount targets are.
        ready = pulumi.Output.all(system.id, point.id, *(target.id for target in targets))
        handle = ready.apply(lambda ids: f"efs:{ids[0]}::{ids[1]}")
        self.source = {"csi": {"driver": "efs.csi.aws.com", "volumeHandle": handle}}
        self.register_outputs({})


class Lustre(pulumi.ComponentResource):
    """An FSx for Lustre file system in one zone.

    Produces: an encrypted fsx LustreFileSystem (PERSISTENT_2) with daily backups, or with a
    DataRepositoryAssociation that exports new and changed files, and never a deletion.
    """

    source: Manifest
    """What the PersistentVolume's spec says of it."""

    def __init__(
        self,
        name: str,
        volume: FsxLustreVolume,
        network: NodeNetwork,
        group: aws.ec2.SecurityGroup,
        key: aws.kms.Key,
        opts: pulumi.ResourceOptions,
        *,
        keep: bool,
    ) -> None:
        """
        Args:
            name: the Pulumi name.
            volume: its settings.
            network: whose private subnet of the zone it is in.
            group: its security group.
            key: encrypts it.
            opts: the provider.
            keep: whether destroy must leave it.
        """
        super().__init__("holdfast:storage:Lustre", name, {}, opts)
        system = aws.fsx.LustreFileSystem(
            f"{name}-lustre",
            subnet_ids=network.private[volume.zone].id,
            security_group_ids=[group.id],
            deployment_type="PERSISTENT_2",
            storage_type="SSD",
            storage_capacity=size_bytes(volume.size) // GIB,
            per_unit_storage_throughput=volume.throughput,
            metadata_configuration=_metadata(volume),
            file_system_type_version="2.15",
            data_compression_type="LZ4",
            kms_key_id=key.arn,
            # All three said, since AWS' defaults differ from page to page.
            automatic_backup_retention_days=volume.backup_days,
            copy_tags_to_backups=bool(volume.backup_days),
            skip_final_backup=not volume.backup_days,
            tags={"Name": name},
            opts=_kept(self, keep),
        )
        if volume.export is not None:
            aws.fsx.DataRepositoryAssociation(
                f"{name}-export",
                file_system_id=system.id,
                file_system_path="/",
                data_repository_path=volume.export,
                s3={"auto_export_policy": {"events": ["NEW", "CHANGED"]}},
                delete_data_in_filesystem=False,
                opts=pulumi.ResourceOptions(
                    parent=self,
                    custom_timeouts=pulumi.CustomTimeouts(create="30m", delete="30m"),
                ),
            )
        self.source = {
            "csi": {
                "driver": "fsx.csi.aws.com",
                "volumeHandle": system.id,
                "volumeAttributes": {"dnsname": system.dns_name, "mountname": system.mount_name},
            },
            "mountOptions": ["flock"],
        }
        self.register_outputs({})


def _metadata(
    volume: FsxLustreVolume,
) -> aws.fsx.LustreFileSystemMetadataConfigurationArgsDict | None:
    if volume.metadata_iops is None:
        return None
    return {"mode": "USER_PROVISIONED", "iops": volume.metadata_iops}


def _kept(parent: pulumi.Resource, keep: bool) -> pulumi.ResourceOptions:
    return pulumi.ResourceOptions(parent=parent, protect=keep, retain_on_delete=keep)


def _only_tls(arn: pulumi.Output[str]) -> dict[str, Any]:
    """Whoever reaches a mount target may use the file system, encrypted in transit only: the
    network decides who that is, and the access point which directory and user."""
    actions = ["ClientMount", "ClientWrite", "ClientRootAccess"]
    return {
        "Version": "2012-10-17",
        "Statement": [
            {
                "Sid": "ThroughMountTargets",
                "Effect": "Allow",
                "Principal": {"AWS": "*"},
                "Action": [f"elasticfilesystem:{action}" for action in actions],
                "Resource": arn,
                "Condition": {"Bool": {"elasticfilesystem:AccessedViaMountTarget": "true"}},
            },
            {
                "Sid": "OnlyTls",
                "Effect": "Deny",
                "Principal": {"AWS": "*"},
                "Action": "*",
                "Resource": arn,
                "Condition": {"Bool": {"aws:SecureTransport": "false"}},
            },
        ],
    }
