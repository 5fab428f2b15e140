"""Who may add and promote the stack's datasets and models, and what sweeps after them, in S3."""

from collections.abc import Sequence
from functools import partial

import pulumi

from infra.aws.iam import give_pods_role
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
        known = pulumi.Output.from_input(place)
        published = known.apply(partial(publisher_policy, list(workloads)))
        grants = [
            (f"{namespace}-publisher", namespace, PUBLISHER, published) for namespace in namespaces
        ]
        swept = known.apply(sweeper_policy)
        for role, namespace, account, policy in (
            *grants,
            (f"{name}-sweeper", namespaces[0], ASSETS_PRUNE, swept),
        ):
            give_pods_role(
                role,
                cluster,
                namespace,
                account,
                cloud,
                self,
                description=f"{account} of datasets and models",
                inline=policy,
            )
        self.register_outputs({})
