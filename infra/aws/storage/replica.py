"""A copy of the backup bucket in another region, or in another account."""

from dataclasses import dataclass
from typing import Any

import pulumi
import pulumi_aws as aws

from infra.aws.iam import Document, Role, document, json_of, key_policy, service_trust
from infra.aws.keys import DELETION_WINDOW
from infra.aws.storage.backup_store import Bucket
from infra.settings.bucket import CreatedStore, Replica
from infra.settings.eks import AwsSettings


@dataclass(frozen=True)
class Ends:
    """From where S3 copies and where to: buckets, and the keys that encrypt them."""

    source: str
    source_key: str
    target: str
    target_key: str
    region: str
    target_region: str


class StoreCopy(pulumi.ComponentResource):
    """S3 copies each new version of an object, delete markers too, and no deletion of a version.

    Produces: where the copy is in the stack's account a provider of its region, a Key with its
    Alias and a Bucket as the store's own; always a Role, and the BucketReplicationConfig of the
    store's bucket.
    """

    def __init__(
        self,
        name: str,
        store: CreatedStore,
        replica: Replica,
        cluster: str,
        cloud: AwsSettings,
        prefix: str,
        bucket: Bucket,
        key: aws.kms.Key,
        tags: dict[str, str],
        opts: pulumi.ResourceOptions,
        *,
        keep: bool,
    ) -> None:
        """
        Args:
            name: the Pulumi name.
            store: the settings of the bucket that is copied.
            replica: those of the copy.
            cluster: the cluster's name, for the key's alias.
            cloud: the stack's account and region.
            prefix: where in the bucket this stack's backups are.
            bucket: the one that is copied.
            key: encrypts it.
            tags: the stack's.
            opts: the provider of the stack's region.
            keep: whether destroy must leave the copy.
        """
        super().__init__("holdfast:store:StoreCopy", name, {}, opts)
        own = pulumi.ResourceOptions(parent=self)
        ready: list[pulumi.Resource] = [bucket]
        target_key: pulumi.Input[str]
        if replica.key_arn is not None:
            target_key = replica.key_arn
        else:
            far = aws.Provider(
                f"{name}-aws",
                region=replica.region,
                allowed_account_ids=[cloud.account],
                default_tags={"tags": tags},
                opts=own,
            )
            there = pulumi.ResourceOptions(
                parent=self, provider=far, protect=keep, retain_on_delete=keep
            )
            copy_key = aws.kms.Key(
                f"{name}-key",
                description=f"{cluster}: copy of the backups",
                enable_key_rotation=True,
                deletion_window_in_days=DELETION_WINDOW,
                policy=json_of(key_policy(cloud.partition, cloud.account)),
                opts=there,
            )
            aws.kms.Alias(
                f"{name}-key-alias",
                name=f"alias/{cluster}/store-copy",
                target_key_id=copy_key.key_id,
                opts=pulumi.ResourceOptions(parent=self, provider=far),
            )
            copy = Bucket(
                name,
                store.model_copy(update={"name": replica.name, "replica": None}),
                cloud.model_copy(update={"region": replica.region}),
                prefix,
                copy_key,
                pulumi.ResourceOptions(parent=self, providers={"aws": far}),
                keep=keep,
            )
            target_key = copy_key.arn
            ready.append(copy)
        ends = pulumi.Output.all(bucket.name, key.arn, target_key).apply(
            lambda known: Ends(
                known[0], known[1], replica.name, known[2], cloud.region, replica.region
            )
        )
        role = Role(
            name,
            service_trust("s3.amazonaws.com"),
            cloud,
            own,
            description=f"{cluster}: copies backups to {replica.region}",
            inline=ends.apply(lambda known: _rights(known, other_account=replica.account)),
        )
        destination: aws.s3.BucketReplicationConfigRuleDestinationArgsDict = {
            "bucket": f"arn:{cloud.partition}:s3:::{replica.name}",
            "encryption_configuration": {"replica_kms_key_id": target_key},
        }
        if replica.account is not None:
            destination["account"] = replica.account
            destination["access_control_translation"] = {"owner": "Destination"}
        aws.s3.BucketReplicationConfig(
            name,
            bucket=bucket.name,
            role=role.arn,
            rules=[
                {
                    "id": "everything",
                    "status": "Enabled",
                    "priority": 0,
                    "filter": {"prefix": ""},
                    # As in the store itself: what prune deletes can be brought back for
                    # noncurrent_days. The deletion of a version is never copied.
                    "delete_marker_replication": {"status": "Enabled"},
                    # Without it S3 leaves out what a KMS key encrypts, which is everything.
                    "source_selection_criteria": {
                        "sse_kms_encrypted_objects": {"status": "Enabled"}
                    },
                    "destination": destination,
                }
            ],
            # S3 refuses a target without versions, and tries the role.
            opts=pulumi.ResourceOptions(parent=self, depends_on=[*ready, role]),
        )
        self.register_outputs({})


def _rights(ends: Ends, *, other_account: str | None) -> Document:
    """What S3 may do to copy (S3 user guide, "Setting up permissions for live replication")."""
    source, target = (f"arn:aws:s3:::{bucket}" for bucket in (ends.source, ends.target))
    written = ["s3:ReplicateObject", "s3:ReplicateDelete", "s3:ReplicateTags"]
    if other_account is not None:
        written.append("s3:ObjectOwnerOverrideToBucketOwner")
    read = ["ForReplication", "Acl", "Tagging"]
    return document(
        _allow(["s3:GetReplicationConfiguration", "s3:ListBucket"], source),
        _allow(
            [
                *(f"s3:GetObjectVersion{what}" for what in read),
                "s3:GetObjectRetention",
                "s3:GetObjectLegalHold",
            ],
            f"{source}/*",
        ),
        _allow(written, f"{target}/*"),
        _key("kms:Decrypt", ends.source_key, ends.region, source),
        _key("kms:Encrypt", ends.target_key, ends.target_region, target),
    )


def _allow(actions: list[str], resource: str) -> dict[str, Any]:
    return {"Effect": "Allow", "Action": actions, "Resource": resource}


def _key(action: str, key: str, region: str, bucket: str) -> dict[str, Any]:
    """Both forms of the encryption context: with a bucket key it is the bucket."""
    return {
        "Effect": "Allow",
        "Action": action,
        "Resource": key,
        "Condition": {
            "StringEquals": {"kms:ViaService": f"s3.{region}.amazonaws.com"},
            "StringLike": {"kms:EncryptionContext:aws:s3:arn": [bucket, f"{bucket}/*"]},
        },
    }
