"""The VPC: private subnets for nodes, public ones for NAT and load balancers, and nothing more."""

from dataclasses import dataclass

import pulumi
import pulumi_aws as aws

from infra.aws.iam import Role, flow_logs, service_trust
from infra.settings.eks import AwsSettings
from infra.settings.network import ExistingNetwork, NetworkSettings

#: AWS services that nodes and drivers call; ``efs`` and ``fsx`` only where such volumes are used.
ENDPOINTS = ("ec2", "ecr.api", "ecr.dkr", "eks", "eks-auth", "kms", "logs", "sts")
#: What tells load balancers in the VPC that a subnet is private.
PRIVATE_TAG = "kubernetes.io/role/internal-elb"
ENDPOINTS_OF_VOLUMES = {"efs": "elasticfilesystem", "fsx-lustre": "fsx"}


@dataclass(frozen=True)
class NodeSubnet:
    """A private subnet: its ID, and what its zone is called in this account."""

    id: pulumi.Output[str]
    availability_zone: pulumi.Output[str]


class FoundNetwork(pulumi.ComponentResource):
    """A VPC and subnets that are there, looked up by each preview, and never changed.

    Produces: nothing in AWS.
    """

    vpc_id: pulumi.Output[str]
    """The VPC."""
    private: dict[str, NodeSubnet]
    """The nodes' subnets by zone ID."""

    def __init__(
        self,
        name: str,
        settings: ExistingNetwork,
        endpoints: list[str],
        opts: pulumi.ResourceOptions,
    ) -> None:
        """
        Args:
            name: the Pulumi name.
            settings: its own.
            endpoints: services that must have an endpoint in the VPC.
            opts: the provider.
        """
        super().__init__("holdfast:network:FoundNetwork", name, {}, opts)
        own = pulumi.InvokeOutputOptions(parent=self)
        vpc = aws.ec2.get_vpc_output(id=settings.vpc_id, cidr_block=settings.cidr, opts=own)
        found = [
            aws.ec2.get_vpc_endpoint_output(
                vpc_id=settings.vpc_id, service_name=service, state="available", opts=own
            ).id
            for service in endpoints
        ]
        # Nothing is made in the VPC before all of it is found.
        self.vpc_id = pulumi.Output.all(vpc, *found).apply(lambda known: checked(known[0]))
        self.private = {}
        for zone, subnet_id in settings.subnets.items():
            # AWS finds none where any of these differs, and the preview stops with its message.
            subnet = aws.ec2.get_subnet_output(
                id=subnet_id,
                vpc_id=settings.vpc_id,
                availability_zone_id=zone,
                tags={PRIVATE_TAG: "1"},
                opts=own,
            )
            self.private[zone] = NodeSubnet(subnet.id, subnet.availability_zone)
        self.register_outputs({"vpc_id": self.vpc_id})

    @property
    def private_ids(self) -> list[pulumi.Output[str]]:
        """IDs of the subnets, in the order of the settings."""
        return [subnet.id for subnet in self.private.values()]


def checked(vpc: aws.ec2.GetVpcResult) -> str:
    """The VPC's ID, if EKS can use it. Raises ValueError where it cannot: a private endpoint of the
    API server needs both (EKS user guide, "Cluster private endpoint")."""
    if not (vpc.enable_dns_support and vpc.enable_dns_hostnames):
        raise ValueError(
            f"network.existing.vpc_id: {vpc.id} has no DNS support or no DNS hostnames: "
            "switch both on"
        )
    return vpc.id


def services(region: str, volume_kinds: set[str]) -> list[str]:
    """The services of AWS that nodes and drivers call in a network without internet."""
    used = [service for kind, service in ENDPOINTS_OF_VOLUMES.items() if kind in volume_kinds]
    return [f"com.amazonaws.{region}.{service}" for service in ("s3", *ENDPOINTS, *used)]


class Network(pulumi.ComponentResource):
    """A VPC over three zones.

    Produces: Vpc (its default security group and route table closed), three private and three
    public Subnets, InternetGateway, NAT gateways with their addresses, route tables, the S3 gateway
    endpoint, flow logs with their log group and role.
    """

    vpc_id: pulumi.Output[str]
    """The VPC."""
    private: dict[str, NodeSubnet]
    """The nodes' subnets by zone ID."""
    public: dict[str, aws.ec2.Subnet]
    """The subnets of NAT gateways and load balancers by zone ID."""

    def __init__(
        self,
        name: str,
        settings: NetworkSettings,
        zones: tuple[str, ...],
        cluster: str,
        cloud: AwsSettings,
        key: aws.kms.Key,
        opts: pulumi.ResourceOptions,
    ) -> None:
        """
        Args:
            name: the Pulumi name.
            settings: its own.
            zones: three zone IDs.
            cluster: the cluster's name, for tags.
            cloud: account and region.
            key: encrypts the flow logs.
            opts: the provider.
        """
        super().__init__("holdfast:network:Network", name, {}, opts)
        self._name, self._cluster, self._own = name, cluster, pulumi.ResourceOptions(parent=self)
        self.vpc = aws.ec2.Vpc(
            f"{name}-vpc",
            cidr_block=settings.cidr,
            enable_dns_hostnames=True,
            enable_dns_support=True,
            tags={"Name": cluster},
            opts=self._own,
        )
        self.vpc_id = self.vpc.id
        self._close_defaults()
        private = {
            zone: self._subnet("private", zone, str(block), PRIVATE_TAG)
            for zone, block in zip(zones, settings.private_ranges(), strict=True)
        }
        self.private = {
            zone: NodeSubnet(subnet.id, subnet.availability_zone)
            for zone, subnet in private.items()
        }
        self.public = {
            zone: self._subnet("public", zone, str(block), "kubernetes.io/role/elb")
            for zone, block in zip(zones, settings.public_ranges(), strict=True)
        }
        gateway = aws.ec2.InternetGateway(
            f"{name}-internet", vpc_id=self.vpc.id, tags={"Name": cluster}, opts=self._own
        )
        internet = aws.ec2.RouteTable(
            f"{name}-public-routes",
            vpc_id=self.vpc.id,
            tags={"Name": f"{cluster}-public"},
            opts=self._own,
        )
        outward = aws.ec2.Route(
            f"{name}-public-internet",
            route_table_id=internet.id,
            destination_cidr_block="0.0.0.0/0",
            gateway_id=gateway.id,
            opts=self._own,
        )
        for zone, subnet in self.public.items():
            self._associate("public", zone, subnet, internet)
        tables = self._private_routes(settings, private, outward)
        aws.ec2.VpcEndpoint(
            f"{name}-s3",
            vpc_id=self.vpc.id,
            service_name=f"com.amazonaws.{cloud.region}.s3",
            vpc_endpoint_type="Gateway",
            route_table_ids=[table.id for table in tables],
            tags={"Name": f"{cluster}-s3"},
            opts=self._own,
        )
        self._flow_logs(settings, cloud, key)
        self.register_outputs({"vpc_id": self.vpc.id})

    @property
    def private_ids(self) -> list[pulumi.Output[str]]:
        """IDs of the private subnets, in the order of the zones."""
        return [subnet.id for subnet in self.private.values()]

    def _close_defaults(self) -> None:
        """What AWS makes with each VPC: left without a rule, so that nothing works by accident."""
        aws.ec2.DefaultSecurityGroup(
            f"{self._name}-closed",
            vpc_id=self.vpc.id,
            ingress=[],
            egress=[],
            tags={"Name": f"{self._cluster}-unused"},
            opts=self._own,
        )

    def _subnet(self, kind: str, zone: str, block: str, role: str) -> aws.ec2.Subnet:
        return aws.ec2.Subnet(
            f"{self._name}-{kind}-{zone}",
            vpc_id=self.vpc.id,
            cidr_block=block,
            availability_zone_id=zone,
            map_public_ip_on_launch=False,
            tags={"Name": f"{self._cluster}-{kind}-{zone}", role: "1"},
            opts=self._own,
        )

    def _associate(
        self, kind: str, zone: str, subnet: aws.ec2.Subnet, table: aws.ec2.RouteTable
    ) -> None:
        aws.ec2.RouteTableAssociation(
            f"{self._name}-{kind}-{zone}",
            subnet_id=subnet.id,
            route_table_id=table.id,
            opts=self._own,
        )

    def _private_routes(
        self,
        settings: NetworkSettings,
        private: dict[str, aws.ec2.Subnet],
        outward: aws.ec2.Route,
    ) -> list[aws.ec2.RouteTable]:
        """A route table for each zone, each with its own way out, a common one or none."""
        gateways: dict[str, aws.ec2.NatGateway] = {}
        count = {"single": 1, "per-zone": len(private), "none": 0}[settings.nat]
        for zone in list(self.public)[:count]:
            address = aws.ec2.Eip(
                f"{self._name}-nat-{zone}",
                domain="vpc",
                tags={"Name": f"{self._cluster}-nat-{zone}"},
                opts=self._own,
            )
            gateways[zone] = aws.ec2.NatGateway(
                f"{self._name}-nat-{zone}",
                subnet_id=self.public[zone].id,
                allocation_id=address.id,
                tags={"Name": f"{self._cluster}-{zone}"},
                # A gateway without a route to the internet is made, and does not work.
                opts=pulumi.ResourceOptions(parent=self, depends_on=[outward]),
            )
        tables = []
        for zone, subnet in private.items():
            table = aws.ec2.RouteTable(
                f"{self._name}-private-{zone}-routes",
                vpc_id=self.vpc.id,
                tags={"Name": f"{self._cluster}-private-{zone}"},
                opts=self._own,
            )
            if gateways:
                gateway = gateways.get(zone) or next(iter(gateways.values()))
                aws.ec2.Route(
                    f"{self._name}-private-{zone}-internet",
                    route_table_id=table.id,
                    destination_cidr_block="0.0.0.0/0",
                    nat_gateway_id=gateway.id,
                    opts=self._own,
                )
            self._associate("private", zone, subnet, table)
            tables.append(table)
        return tables

    def _flow_logs(self, settings: NetworkSettings, cloud: AwsSettings, key: aws.kms.Key) -> None:
        group = aws.cloudwatch.LogGroup(
            f"{self._name}-flow",
            name=f"/aws/vpc/{self._cluster}/flow",
            retention_in_days=settings.flow_log_days,
            kms_key_id=key.arn,
            opts=self._own,
        )
        role = Role(
            f"{self._name}-flow",
            service_trust("vpc-flow-logs.amazonaws.com", cloud.account),
            cloud,
            self._own,
            description=f"{self._cluster}: VPC flow logs",
            inline=group.arn.apply(flow_logs),
        )
        aws.ec2.FlowLog(
            f"{self._name}-flow",
            vpc_id=self.vpc.id,
            traffic_type="ALL",
            max_aggregation_interval=600,
            log_destination_type="cloud-watch-logs",
            log_destination=group.arn,
            iam_role_arn=role.arn,
            tags={"Name": self._cluster},
            opts=pulumi.ResourceOptions(parent=self, depends_on=[role]),
        )


#: Where nodes are, made by the stack or found.
NodeNetwork = Network | FoundNetwork


class Endpoints(pulumi.ComponentResource):
    """Private addresses for the AWS services that nodes and drivers call.

    Produces: one interface VpcEndpoint for each service.
    """

    def __init__(
        self,
        name: str,
        network: NodeNetwork,
        region: str,
        group: aws.ec2.SecurityGroup,
        volume_kinds: set[str],
        opts: pulumi.ResourceOptions,
    ) -> None:
        """
        Args:
            name: the Pulumi name.
            network: where they are.
            region: of the services.
            group: who may call them.
            volume_kinds: kinds of volumes in use, some of which have a service of their own.
            opts: the provider.
        """
        super().__init__("holdfast:network:Endpoints", name, {}, opts)
        used = [service for kind, service in ENDPOINTS_OF_VOLUMES.items() if kind in volume_kinds]
        for service in (*ENDPOINTS, *used):
            aws.ec2.VpcEndpoint(
                f"{name}-{service.replace('.', '-')}",
                vpc_id=network.vpc_id,
                service_name=f"com.amazonaws.{region}.{service}",
                vpc_endpoint_type="Interface",
                subnet_ids=network.private_ids,
                security_group_ids=[group.id],
                private_dns_enabled=True,
                tags={"Name": f"{name}-{service}"},
                opts=pulumi.ResourceOptions(parent=self),
            )
        self.register_outputs({})
