"""The control plane. `eks.Cluster` of pulumi-eks makes it and its kubeconfig; all else is ours.

Opaque to tests and policies, since pulumi-eks declares them on its own side: the `aws:eks:Cluster`
itself, the security group that EKS adds to its addresses, and a Kubernetes provider that nothing
uses. What we ask of them is in the component's inputs.
"""

import pulumi
import pulumi_aws as aws
import pulumi_eks as eks

from infra.aws.iam import Role, document, managed, service_trust
from infra.aws.network import NodeNetwork
from infra.settings.cluster import ClusterSettings
from infra.settings.eks import AwsSettings

LOG_TYPES = ["api", "audit", "authenticator", "controllerManager", "scheduler"]
CLUSTER_POLICIES = ("AmazonEKSClusterPolicy", "AmazonEKSVPCResourceController")


class Cluster(pulumi.ComponentResource):
    """An EKS control plane without nodes or add-ons.

    Produces: the cluster's Role, its LogGroup, `eks.Cluster`, an AccessEntry and an
    AccessPolicyAssociation for each entry of the settings.
    """

    name: pulumi.Output[str]
    """The cluster's name."""
    kubeconfig: pulumi.Output[str]
    """A kubeconfig as JSON: it holds a command that asks AWS for a token, and no credential."""

    def __init__(
        self,
        name: str,
        settings: ClusterSettings,
        cloud: AwsSettings,
        network: NodeNetwork,
        control_plane: aws.ec2.SecurityGroup,
        key: aws.kms.Key,
        opts: pulumi.ResourceOptions,
    ) -> None:
        """
        Args:
            name: the Pulumi name.
            settings: its own.
            cloud: account and region.
            network: its control plane has addresses in the private subnets.
            control_plane: the security group of these addresses.
            key: encrypts secrets and logs.
            opts: the provider, and what must outlive the cluster.
        """
        super().__init__("holdfast:cluster:Cluster", name, {}, opts)
        own = pulumi.ResourceOptions(parent=self)
        role = Role(
            f"{name}-control-plane",
            service_trust("eks.amazonaws.com"),
            cloud,
            own,
            description=f"{settings.name}: EKS control plane",
            policies=[managed(cloud.partition, policy) for policy in CLUSTER_POLICIES],
            # EKS writes logs until after the cluster is deleted, and would make the group again
            # that destroy removes (terraform-aws-modules/terraform-aws-eks issue 920).
            inline=document(
                {
                    "Effect": "Deny",
                    "Action": "logs:CreateLogGroup",
                    "Resource": (
                        f"arn:{cloud.partition}:logs:{cloud.region}:{cloud.account}:log-group:"
                        f"/aws/eks/{settings.name}/cluster*"
                    ),
                },
            ),
        )
        # Before the cluster: EKS would make the group itself, to be kept for ever, unencrypted.
        logs = aws.cloudwatch.LogGroup(
            f"{name}-logs",
            name=f"/aws/eks/{settings.name}/cluster",
            retention_in_days=settings.log_days,
            kms_key_id=key.arn,
            opts=own,
        )
        public = settings.api_access.public_cidrs
        self.control_plane = eks.Cluster(
            name,
            name=settings.name,
            version=settings.version,
            service_role=role.role,
            vpc_id=network.vpc_id,
            subnet_ids=network.private_ids,
            cluster_security_group=control_plane,
            skip_default_security_groups=True,
            kubernetes_service_ip_address_range=settings.service_cidr,
            endpoint_private_access=True,
            endpoint_public_access=public is not None,
            public_access_cidrs=list(public) if public is not None else None,
            authentication_mode=eks.AuthenticationMode.API,
            encryption_config_key_arn=key.arn,
            enabled_cluster_log_types=LOG_TYPES,
            upgrade_policy={"support_type": "STANDARD"},
            deletion_protection=settings.deletion_protection,
            skip_default_node_group=True,
            create_oidc_provider=False,
            bootstrap_self_managed_addons=False,
            # "Default" is pulumi-eks' word for leaving it alone: add-ons are in addons.py.
            use_default_vpc_cni=True,
            kube_proxy_addon_options={"enabled": False},
            coredns_addon_options={"enabled": False},
            # Demanded beside an explicit provider; empty: the credentials of the environment.
            provider_credential_opts={},
            opts=pulumi.ResourceOptions(parent=self, depends_on=[role, logs]),
        )
        self.name = pulumi.Output.from_input(settings.name)
        self.kubeconfig = pulumi.Output.secret(self.control_plane.kubeconfig_json)
        for entry_name, entry in settings.access.items():
            after = pulumi.ResourceOptions(parent=self, depends_on=[self.control_plane])
            granted = aws.eks.AccessEntry(
                f"{name}-access-{entry_name}",
                cluster_name=settings.name,
                principal_arn=entry.principal,
                type="STANDARD",
                opts=after,
            )
            aws.eks.AccessPolicyAssociation(
                f"{name}-access-{entry_name}",
                cluster_name=settings.name,
                principal_arn=granted.principal_arn,
                policy_arn=(
                    f"arn:{cloud.partition}:eks::aws:cluster-access-policy/{entry.policy_name}"
                ),
                access_scope={
                    "type": "namespace" if entry.namespaces else "cluster",
                    "namespaces": list(entry.namespaces) or None,
                },
                opts=after,
            )
        self.register_outputs({"name": self.name})
