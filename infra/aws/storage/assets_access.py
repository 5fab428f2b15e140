"""Who may add and promote the stack's datasets and models, and what sweeps after them, in S3."""

from collections.abc import Sequence
from functools import partial

import pulumi
import pulumi_aws as aws

from infra.aws.iam import Document, Role, pod_trust
from infra.aws.storage.store_policy import Place, publisher_policy, sweeper_policy
from infra.names import ASSETS_PRUNE, PUBLISHER
from infra.settings.eks import AwsSettings


class AssetsAccess(pulumi.ComponentResource):
    """The rights of publishers and of the sweep, by EKS Pod Identity.

    Produces: in each namespace of a workload a Role and the PodIdentityAssociation of the service
    account ``holdfast-publisher``; in the first one those of ``holdfast-prune``.
    """

    def __init__(
        self,
        name: str,
        namespaces: Sequence[str],
        workloads: Sequence[str],
        cluster: str,
        cloud: AwsSettings,
        place: pulumi.Input[Place],
        opts: pulumi.ResourceOptions,
    ) -> None:
        """
        Args:
            name: the Pulumi name.
            namespaces: of the workloads.
            workloads: trainings and applications, whose backups a publisher may read.
            cluster: the cluster's name.
            cloud: account and region.
            place: where the store is.
            opts: the provider, and the cluster.
        """
        super().__init__("holdfast:store:AssetsAccess", name, {}, opts)
        self._cluster, self._cloud = cluster, cloud
        known = pulumi.Output.from_input(place)
        published = known.apply(partial(publisher_policy, list(workloads)))
        for namespace in namespaces:
            self._grant(f"{namespace}-publisher", namespace, PUBLISHER, published)
        swept = known.apply(sweeper_policy)
        self._grant(f"{name}-sweeper", namespaces[0], ASSETS_PRUNE, swept)
        self.register_outputs({})

    def _grant(
        self, name: str, namespace: str, account: str, policy: pulumi.Input[Document]
    ) -> None:
        own = pulumi.ResourceOptions(parent=self)
        role = Role(
            name,
            pod_trust(self._cloud.cluster_arn(self._cluster), namespace, account),
            self._cloud,
            own,
            description=f"{self._cluster}: {account} of datasets and models",
            inline=policy,
        )
        aws.eks.PodIdentityAssociation(
            name,
            cluster_name=self._cluster,
            namespace=namespace,
            service_account=account,
            role_arn=role.arn,
            opts=pulumi.ResourceOptions(parent=self, depends_on=[role]),
        )
