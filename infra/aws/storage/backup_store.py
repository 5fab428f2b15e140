"""The backup bucket, and which pods may do what in it."""

from collections.abc import Callable
from functools import partial

import pulumi
import pulumi_aws as aws

from infra.aws.iam import Document, give_pods_role, json_of
from infra.aws.storage.store_policy import Identity, Place, bucket_policy, identity_policy
from infra.names import backup_account, task_account
from infra.settings import AnyWorkload, Application, ForeignPods
from infra.settings.bucket import LOGS_SUFFIX, CreatedStore
from infra.settings.eks import AwsSettings

#: Days after which the parts of an upload that never ended go.
ABORT_DAYS = 7


class Bucket(pulumi.ComponentResource):
    """A bucket for what must not be lost: versioned, encrypted, private, its accesses logged.

    Produces: the Bucket and one for its access logs, each with ownership, public access block,
    encryption, policy and lifecycle; versioning, logging, and Object Lock where it is asked for.
    """

    name: pulumi.Output[str]
    """The bucket's name."""

    def __init__(
        self,
        name: str,
        settings: CreatedStore,
        cloud: AwsSettings,
        prefix: str,
        key: aws.kms.Key,
        opts: pulumi.ResourceOptions,
        *,
        keep: bool,
        policy: Callable[[Place], Document] = bucket_policy,
    ) -> None:
        """
        Args:
            name: the Pulumi name.
            settings: its own.
            cloud: account and region.
            prefix: where in it this stack's objects are.
            key: encrypts them.
            opts: the provider.
            keep: whether destroy must leave it, with all that is in it.
            policy: what no one may do with it.
        """
        super().__init__("holdfast:store:Bucket", name, {}, opts)
        self._keep = keep
        self._kept = pulumi.ResourceOptions(parent=self, protect=keep, retain_on_delete=keep)
        lock = settings.object_lock
        bucket = aws.s3.Bucket(
            f"{name}-bucket",
            bucket=settings.name,
            object_lock_enabled=lock is not None,
            force_destroy=not keep,
            opts=self._kept,
        )
        versioned = aws.s3.BucketVersioning(
            f"{name}-versions",
            bucket=bucket.id,
            versioning_configuration={"status": "Enabled"},
            opts=self._kept,
        )
        place = key.arn.apply(
            lambda arn: Place(cloud.partition, cloud.region, settings.name, prefix, arn)
        )
        self._private(name, bucket, place.apply(policy), key)
        aws.s3.BucketLifecycleConfiguration(
            f"{name}-lifecycle",
            bucket=bucket.id,
            rules=[
                {
                    "id": "uploads-that-never-ended",
                    "status": "Enabled",
                    "filter": {"prefix": ""},
                    "abort_incomplete_multipart_upload": {"days_after_initiation": ABORT_DAYS},
                },
                {
                    "id": "old-versions",
                    "status": "Enabled",
                    "filter": {"prefix": ""},
                    "noncurrent_version_expiration": {"noncurrent_days": settings.noncurrent_days},
                    "expiration": {"expired_object_delete_marker": True},
                },
            ],
            opts=pulumi.ResourceOptions.merge(
                self._kept, pulumi.ResourceOptions(depends_on=[versioned])
            ),
        )
        if lock is not None:
            aws.s3.BucketObjectLockConfiguration(
                f"{name}-lock",
                bucket=bucket.id,
                rule={"default_retention": {"mode": lock.mode.upper(), "days": lock.days}},
                opts=pulumi.ResourceOptions.merge(
                    self._kept, pulumi.ResourceOptions(depends_on=[versioned])
                ),
            )
        self._access_logs(name, settings, cloud, bucket)
        self.name = bucket.bucket
        self.register_outputs({"name": self.name})

    def _private(
        self,
        name: str,
        bucket: aws.s3.Bucket,
        policy: pulumi.Input[dict],
        key: aws.kms.Key | None = None,
    ) -> aws.s3.BucketPolicy:
        """No ACLs, no public access, default encryption, and the policy, which it returns."""
        aws.s3.BucketOwnershipControls(
            f"{name}-ownership",
            bucket=bucket.id,
            rule={"object_ownership": "BucketOwnerEnforced"},
            opts=self._kept,
        )
        block = aws.s3.BucketPublicAccessBlock(
            f"{name}-private",
            bucket=bucket.id,
            block_public_acls=True,
            block_public_policy=True,
            ignore_public_acls=True,
            restrict_public_buckets=True,
            opts=self._kept,
        )
        aws.s3.BucketServerSideEncryptionConfiguration(
            f"{name}-encryption",
            bucket=bucket.id,
            rules=[
                {
                    "apply_server_side_encryption_by_default": {
                        "sse_algorithm": "aws:kms" if key else "AES256",
                        "kms_master_key_id": key.arn if key else None,
                    },
                    "bucket_key_enabled": key is not None,
                }
            ],
            opts=self._kept,
        )
        return aws.s3.BucketPolicy(
            f"{name}-policy",
            bucket=bucket.id,
            policy=json_of(policy),
            opts=pulumi.ResourceOptions.merge(
                self._kept, pulumi.ResourceOptions(depends_on=[block])
            ),
        )

    def _access_logs(
        self, name: str, settings: CreatedStore, cloud: AwsSettings, source: aws.s3.Bucket
    ) -> None:
        """Who read and wrote what. S3 delivers logs to buckets with its own encryption only."""
        logs_name = f"{settings.name}{LOGS_SUFFIX}"
        logs = aws.s3.Bucket(
            f"{name}-access-logs",
            bucket=logs_name,
            force_destroy=not self._keep,
            opts=self._kept,
        )
        policy = _log_policy(cloud, settings.name, logs_name)
        delivery = self._private(f"{name}-access-logs", logs, policy)
        aws.s3.BucketLifecycleConfiguration(
            f"{name}-access-logs-lifecycle",
            bucket=logs.id,
            rules=[
                {
                    "id": "old-logs",
                    "status": "Enabled",
                    "filter": {"prefix": ""},
                    "expiration": {"days": settings.log_days},
                }
            ],
            opts=self._kept,
        )
        aws.s3.BucketLogging(
            f"{name}-logging",
            bucket=source.id,
            target_bucket=logs.id,
            target_prefix="access/",
            # S3 refuses a target that its log delivery may not write to.
            opts=pulumi.ResourceOptions.merge(
                self._kept, pulumi.ResourceOptions(depends_on=[delivery])
            ),
        )


def _log_policy(cloud: AwsSettings, source: str, logs: str) -> dict:
    arn = f"arn:{cloud.partition}:s3:::{logs}"
    return {
        "Version": "2012-10-17",
        "Statement": [
            {
                "Sid": "Delivery",
                "Effect": "Allow",
                "Principal": {"Service": "logging.s3.amazonaws.com"},
                "Action": "s3:PutObject",
                "Resource": f"{arn}/access/*",
                "Condition": {
                    "ArnLike": {"aws:SourceArn": f"arn:{cloud.partition}:s3:::{source}"},
                    "StringEquals": {"aws:SourceAccount": cloud.account},
                },
            },
            {
                "Sid": "OnlyTls",
                "Effect": "Deny",
                "Principal": "*",
                "Action": "s3:*",
                "Resource": [arn, f"{arn}/*"],
                "Condition": {"Bool": {"aws:SecureTransport": "false"}},
            },
        ],
    }


class StoreAccess(pulumi.ComponentResource):
    """What the pods of one workload may do in the store, by EKS Pod Identity.

    Produces: for each of reader (the workload's pod), keeper (Kanister's tasks) and pruner (the
    schedule) a Role and the PodIdentityAssociation of its service account.
    """

    def __init__(
        self,
        name: str,
        workload: AnyWorkload,
        cluster: str,
        cloud: AwsSettings,
        place: pulumi.Input[Place],
        opts: pulumi.ResourceOptions,
    ) -> None:
        """
        Args:
            name: the workload's name.
            workload: its settings.
            cluster: the cluster's name.
            cloud: account and region.
            place: where the backups are.
            opts: the provider, and the cluster.
        """
        super().__init__("holdfast:store:StoreAccess", f"{name}-store", {}, opts)
        reader = workload.service_account if isinstance(workload, ForeignPods) else None
        accounts: dict[Identity, str] = {
            "reader": reader or name,
            "keeper": task_account(workload.volume.claim),
            "pruner": backup_account(name),
        }
        serves = isinstance(workload, Application) and workload.model is not None
        for identity, account in accounts.items():
            give_pods_role(
                f"{name}-{identity}",
                cluster,
                workload.namespace,
                account,
                cloud,
                self,
                description=f"{identity} of {name}'s backups",
                inline=pulumi.Output.from_input(place).apply(
                    partial(identity_policy, identity, name, serves=serves)
                ),
            )
        self.register_outputs({})
