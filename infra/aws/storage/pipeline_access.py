"""What the pipeline's backups and restores may do in the store, and with artifacts in a bucket."""

from collections.abc import Sequence
from functools import partial
from typing import Any

import pulumi

from infra.aws.iam import Document, document, give_pods_role
from infra.aws.storage.artifacts import Rights
from infra.aws.storage.store_policy import Identity, Place, pipeline_policy
from infra.names import PIPELINE, PIPELINE_CONFIGURATION, PIPELINE_RESTORER, backup_account
from infra.settings.eks import AwsSettings

#: Each account: what it is in the store, and whether it writes artifacts; None: it needs none.
ACCOUNTS: dict[str, tuple[Identity, bool | None]] = {
    PIPELINE_CONFIGURATION: ("keeper", False),
    PIPELINE_RESTORER: ("reader", True),
    backup_account(PIPELINE): ("pruner", None),
}


class PipelineAccess(pulumi.ComponentResource):
    """The rights of the pipeline's pods, by EKS Pod Identity.

    A backup writes copies and only reads artifacts; a restore writes artifacts and only reads
    copies: no one pod can destroy both.

    Produces: for each of keeper, reader and pruner a Role and the PodIdentityAssociation of its
    service account.
    """

    def __init__(
        self,
        name: str,
        namespace: str,
        cluster: str,
        cloud: AwsSettings,
        place: pulumi.Input[Place] | None,
        artifacts: pulumi.Input[Rights] | None,
        opts: pulumi.ResourceOptions,
    ) -> None:
        """
        Args:
            name: the Pulumi name.
            namespace: the tracking server's.
            cluster: the cluster's name.
            cloud: account and region.
            place: where the backups are; None where IAM does not decide about it.
            artifacts: where the artifacts are; None for a volume, or where IAM does not decide.
            opts: the provider, and the cluster.
        """
        super().__init__("holdfast:pipeline:PipelineAccess", name, {}, opts)
        for account, (identity, writes) in ACCOUNTS.items():
            if place is None and (artifacts is None or writes is None):
                continue
            policy = pulumi.Output.all(place, artifacts).apply(partial(_policy, identity, writes))
            give_pods_role(
                f"{name}-{identity}",
                cluster,
                namespace,
                account,
                cloud,
                self,
                description=f"{identity} of the pipeline's backups",
                inline=policy,
            )
        self.register_outputs({})


def _policy(identity: Identity, writes: bool | None, known: Sequence[Any]) -> Document:
    place: Place | None
    artifacts: Rights | None
    place, artifacts = known
    store = [] if place is None else pipeline_policy(identity, PIPELINE, place)["Statement"]
    files = (
        []
        if artifacts is None or writes is None
        else artifacts.statements(write=writes, sid="Artifacts")
    )
    return document(*store, *files)
