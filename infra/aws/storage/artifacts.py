"""Where the experiment tracking keeps its files in S3, and how its server reaches them."""

from dataclasses import dataclass

import pulumi
import pulumi_aws as aws

from infra.aws.iam import document, give_pods_role
from infra.aws.storage.backup_store import Bucket
from infra.aws.storage.store_policy import Place, Statement, private_bucket_policy
from infra.names import TRACKING
from infra.settings import ExistingStore
from infra.settings.eks import AwsSettings
from infra.settings.pipeline import Tracking


@dataclass(frozen=True)
class Rights:
    """What pods may do with artifacts in a bucket."""

    place: Place
    shared: bool
    """Whether others use the bucket too, so that only the prefix may be listed."""

    def statements(self, *, write: bool, sid: str = "") -> list[Statement]:
        """List and read, or also write and delete, below the prefix, and use the bucket's key for
        that. ``sid`` goes before each Sid, where a document has others."""
        place = self.place
        below = f"{place.prefix}/*" if place.prefix else "*"
        listing: Statement = {
            "Sid": f"{sid}List",
            "Effect": "Allow",
            "Action": "s3:ListBucket",
            "Resource": place.bucket_arn,
        }
        if self.shared and place.prefix:
            listing["Condition"] = {"StringLike": {"s3:prefix": [place.prefix, below]}}
        writes = ["s3:PutObject", "s3:DeleteObject", "s3:AbortMultipartUpload"]
        statements: list[Statement] = [
            listing,
            {
                "Sid": f"{sid}Objects",
                "Effect": "Allow",
                "Action": ["s3:GetObject", *(writes if write else [])],
                "Resource": f"{place.bucket_arn}/{below}",
            },
        ]
        if place.key_arn is not None:
            context = "kms:EncryptionContext:aws:s3:arn"
            statements.append(
                {
                    "Sid": f"{sid}Key",
                    "Effect": "Allow",
                    "Action": ["kms:Decrypt", *(["kms:GenerateDataKey"] if write else [])],
                    "Resource": place.key_arn,
                    "Condition": {
                        "StringEquals": {"kms:ViaService": f"s3.{place.region}.amazonaws.com"},
                        # With a bucket key the context is the bucket, without one the object.
                        "StringLike": {context: [place.bucket_arn, f"{place.bucket_arn}/{below}"]},
                    },
                }
            )
        return statements


def place_of(bucket: ExistingStore, cloud: AwsSettings) -> Place:
    """Where a bucket is that was there already."""
    name, _, prefix = bucket.url.removeprefix("s3://").partition("/")
    region = bucket.region or cloud.region
    return Place(cloud.partition, region, name, prefix, bucket.key_arn)


class ArtifactStore(pulumi.ComponentResource):
    """A bucket for artifacts, and the right of the tracking server, and of no one else, to use it.

    Produces: a Bucket where the settings ask for one; a Role and the PodIdentityAssociation of the
    server's service account.
    """

    rights: pulumi.Output[Rights]
    """What its backup and its restore need of the place."""

    def __init__(
        self,
        name: str,
        tracking: Tracking,
        cluster: str,
        cloud: AwsSettings,
        key: aws.kms.Key,
        opts: pulumi.ResourceOptions,
        *,
        keep: bool,
    ) -> None:
        """
        Args:
            name: the Pulumi name.
            tracking: its settings, with artifacts in a bucket.
            cluster: the cluster's name.
            cloud: account and region.
            key: encrypts a bucket that is made.
            opts: the provider, and the cluster.
            keep: whether destroy must leave the bucket.
        """
        super().__init__("holdfast:pipeline:ArtifactStore", name, {}, opts)
        own = pulumi.ResourceOptions(parent=self)
        made, existing = tracking.artifacts.create, tracking.artifacts.existing
        place: pulumi.Output[Place]
        if made is not None:
            bucket = Bucket(
                name, made, cloud, "", key, own, keep=keep, policy=private_bucket_policy
            )
            place = pulumi.Output.all(bucket.name, key.arn).apply(
                lambda known: Place(cloud.partition, cloud.region, known[0], "", known[1])
            )
        else:
            assert existing is not None
            place = pulumi.Output.from_input(place_of(existing, cloud))
        self.rights = place.apply(lambda known: Rights(known, shared=made is None))
        give_pods_role(
            f"{name}-access",
            cluster,
            tracking.namespace,
            TRACKING,
            cloud,
            self,
            description="artifacts of the experiment tracking",
            inline=self.rights.apply(lambda known: document(*known.statements(write=True))),
        )
        self.register_outputs({})
