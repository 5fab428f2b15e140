"""EKS add-ons in the order that works, each driver with a role of its own."""

import json
from collections.abc import Mapping
from typing import Any

import pulumi
import pulumi_aws as aws

from infra import versions
from infra.aws.iam import Document, Role, disks_use_key, lustre_driver, managed, pod_trust
from infra.manifests import merge
from infra.settings.cluster import ClusterSettings
from infra.settings.eks import AwsSettings

#: The drivers' ServiceAccounts, all in kube-system.
DRIVERS = {
    "aws-ebs-csi-driver": ("ebs-csi-controller-sa",),
    "aws-efs-csi-driver": ("efs-csi-controller-sa", "efs-csi-node-sa"),
    "aws-fsx-csi-driver": ("fsx-csi-controller-sa",),
}
#: The driver that mounts a kind of volume. EBS is always there: the StorageClass needs it.
DRIVER_OF = {"efs": "aws-efs-csi-driver", "fsx-lustre": "aws-fsx-csi-driver"}
#: Node agents run on training nodes too, whatever their taints.
EVERYWHERE = [{"operator": "Exists"}]
CONFIGURATION: Mapping[str, dict[str, Any]] = {
    "vpc-cni": {"env": {"ENABLE_PREFIX_DELEGATION": "true", "WARM_PREFIX_TARGET": "1"}},
    "aws-ebs-csi-driver": {"node": {"tolerateAllTaints": True}},
    "aws-efs-csi-driver": {"node": {"tolerations": EVERYWHERE}},
    "aws-fsx-csi-driver": {"node": {"tolerateAllTaints": True}},
    # What asks the GPUs how they are. Without it on their nodes the agent calls each GPU node
    # broken, and node repair replaces it (aws/containers-roadmap issues 2567 and 2555).
    "eks-node-monitoring-agent": {"dcgmAgent": {"tolerations": EVERYWHERE}},
}


class Addons(pulumi.ComponentResource):
    """Add-ons that EKS keeps running, at pinned versions.

    Produces: an eks Addon for each name; for drivers of volumes a Role with a Pod Identity.
    """

    def __init__(
        self,
        name: str,
        names: list[str],
        settings: ClusterSettings,
        cloud: AwsSettings,
        data_key: aws.kms.Key,
        tags: dict[str, str],
        opts: pulumi.ResourceOptions,
    ) -> None:
        """
        Args:
            name: the Pulumi name.
            names: which add-ons, by EKS' name.
            settings: the control plane's.
            cloud: account and region.
            data_key: the key of the disks that the EBS driver attaches.
            tags: the stack's, for what add-ons make in AWS.
            opts: the provider, and what must exist first.
        """
        super().__init__("holdfast:addons:Addons", name, {}, opts)
        self._name, self._settings, self._cloud, self._tags = name, settings, cloud, tags
        for addon in names:
            self._addon(addon, data_key)
        self.register_outputs({})

    def _addon(self, addon: str, data_key: aws.kms.Key) -> None:
        configuration = merge(CONFIGURATION.get(addon, {}), self._tagging(addon))
        role = self._role(addon, data_key)
        aws.eks.Addon(
            f"{self._name}-{addon}",
            cluster_name=self._settings.name,
            addon_name=addon,
            addon_version=self._settings.addon_version(addon),
            configuration_values=json.dumps(configuration) if configuration else None,
            pod_identity_associations=[
                {"service_account": account, "role_arn": role.arn} for account in DRIVERS[addon]
            ]
            if role is not None
            else None,
            resolve_conflicts_on_create="OVERWRITE",
            resolve_conflicts_on_update="OVERWRITE",
            opts=pulumi.ResourceOptions(
                parent=self, depends_on=[role] if role is not None else None
            ),
        )

    def _tagging(self, addon: str) -> dict[str, Any]:
        """How an add-on is told to tag what it makes: the provider's default tags do not reach it.
        EFS access points and FSx file systems are made by the stack itself."""
        match addon:
            case "vpc-cni":
                return {"env": {"ADDITIONAL_ENI_TAGS": json.dumps(self._tags)}}
            case "aws-ebs-csi-driver":
                return {"controller": {"extraVolumeTags": self._tags}}
        return {}

    def _role(self, addon: str, data_key: aws.kms.Key) -> Role | None:
        if addon not in DRIVERS:
            return None
        partition = self._cloud.partition
        policies: list[str] = []
        inline: pulumi.Input[Document] | None = None
        match addon:
            case "aws-ebs-csi-driver":
                # V2 acts only on resources tagged ebs.csi.aws.com/cluster=true, ours included. AWS'
                # reference of managed policies has it at this path, the driver's guide below
                # service-role/: if IAM says that it does not exist, the guide was right.
                policies = [managed(partition, "AmazonEBSCSIDriverPolicyV2")]
                inline = data_key.arn.apply(disks_use_key)
            case "aws-efs-csi-driver":
                policies = [managed(partition, "service-role/AmazonEFSCSIDriverPolicy")]
            case "aws-fsx-csi-driver":
                inline = lustre_driver()
        return Role(
            f"{self._name}-{addon}",
            pod_trust(self._cloud.cluster_arn(self._settings.name), "kube-system", *DRIVERS[addon]),
            self._cloud,
            pulumi.ResourceOptions(parent=self),
            description=f"{self._settings.name}: {addon}",
            policies=policies,
            inline=inline,
        )


def after_nodes(volume_kinds: set[str]) -> list[str]:
    """The add-ons that need nodes, for the kinds of volumes in use."""
    unused = {driver for kind, driver in DRIVER_OF.items() if kind not in volume_kinds}
    return [name for name in versions.ADDONS_AFTER_NODES if name not in unused]
