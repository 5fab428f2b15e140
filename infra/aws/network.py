"""The VPC: private subnets for nodes, public ones for NAT and load balancers, and nothing more."""

import pulumi
import pulumi_aws as aws

from infra.aws.iam import Role, flow_logs, service_trust
from infra.settings.eks import AwsSettings
from infra.settings.network import NetworkSettings

#: AWS services that nodes and drivers call; ``efs`` and ``fsx`` only where such volumes are used.
ENDPOINTS = ("ec2", "ecr.api", "ecr.dkr", "eks", "eks-auth", "kms", "logs", "sts")
ENDPOINTS_OF_VOLUMES = {"efs": "elasticfilesystem", "fsx-lustre": "fsx"}


class Network(pulumi.ComponentResource):
    """A VPC over three zones.

    Produces: Vpc (its default security group and route table closed), three private and three
    public Subnets, InternetGateway, NAT gateways with their addresses, route tables, the S3 gateway
    endpoint, flow logs with their log group and role.
    """

    vpc: aws.ec2.Vpc
    """The VPC."""
    private: dict[str, aws.ec2.Subnet]
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
        self._close_defaults()
        self.private = {
            zone: self._subnet("private", zone, str(block), "kubernetes.io/role/internal-elb")
            for zone, block in zip(zones, settings.private_ranges(), strict=True)
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
        tables = self._private_routes(settings, outward)
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
        self, settings: NetworkSettings, outward: aws.ec2.Route
    ) -> list[aws.ec2.RouteTable]:
        """A route table for each zone, each with its own way out, a common one or none."""
        gateways: dict[str, aws.ec2.NatGateway] = {}
        count = {"single": 1, "per-zone": len(self.private), "none": 0}[settings.nat]
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
        for zone, subnet in self.private.items():
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


class Endpoints(pulumi.ComponentResource):
    """Private addresses for the AWS services that nodes and drivers call.

    Produces: one interface VpcEndpoint for each service.
    """

    def __init__(
        self,
        name: str,
        network: Network,
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
                vpc_id=network.vpc.id,
                service_name=f"com.amazonaws.{region}.{service}",
                vpc_endpoint_type="Interface",
                subnet_ids=network.private_ids,
                security_group_ids=[group.id],
                private_dns_enabled=True,
                tags={"Name": f"{name}-{service}"},
                opts=pulumi.ResourceOptions(parent=self),
            )
        self.register_outputs({})
