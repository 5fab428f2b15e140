"""Encryption keys of an EKS stack: one each for the cluster, for volumes and for backups."""

import pulumi
import pulumi_aws as aws

from infra.aws.iam import autoscaling_uses_key, json_of, key_policy, logs_use_key
from infra.settings.eks import AwsSettings

#: Days in which a deleted key can still be brought back.
DELETION_WINDOW = 30


class Keys(pulumi.ComponentResource):
    """Customer-managed keys, rotated every year.

    Produces: KMS keys with aliases ``<cluster>/cluster`` (secrets, logs),
    ``<cluster>/data`` (disks, file systems, images) and, where the stack makes the bucket,
    ``<cluster>/store``.
    """

    cluster: aws.kms.Key
    """Secrets in etcd, log groups."""
    data: aws.kms.Key
    """Node disks, checkpoint volumes, images."""
    store: aws.kms.Key | None
    """The backup bucket. As long as the bucket is kept, so is this."""

    def __init__(
        self,
        name: str,
        settings: AwsSettings,
        cluster: str,
        opts: pulumi.ResourceOptions,
        *,
        with_store: bool,
        keep_data: bool,
    ) -> None:
        """
        Args:
            name: the Pulumi name.
            settings: account and region.
            cluster: the cluster's name, for the aliases.
            opts: the provider.
            with_store: whether the stack makes the backup bucket.
            keep_data: whether the keys of data must survive the stack.
        """
        super().__init__("holdfast:keys:Keys", name, {}, opts)
        partition, account, region = settings.partition, settings.account, settings.region
        own = pulumi.ResourceOptions(parent=self)
        kept = pulumi.ResourceOptions(parent=self, protect=keep_data, retain_on_delete=keep_data)

        def key(purpose: str, text: str, options: pulumi.ResourceOptions, *others) -> aws.kms.Key:
            made = aws.kms.Key(
                f"{name}-{purpose}",
                description=f"{cluster}: {text}",
                enable_key_rotation=True,
                deletion_window_in_days=DELETION_WINDOW,
                policy=json_of(key_policy(partition, account, *others)),
                opts=options,
            )
            aws.kms.Alias(
                f"{name}-{purpose}-alias",
                name=f"alias/{cluster}/{purpose}",
                target_key_id=made.key_id,
                opts=own,
            )
            return made

        self.cluster = key(
            "cluster", "secrets and logs", own, logs_use_key(partition, region, account)
        )
        self.data = key(
            "data", "disks, file systems, images", kept, *autoscaling_uses_key(partition, account)
        )
        self.store = key("store", "backups", kept) if with_store else None
        self.register_outputs({})
