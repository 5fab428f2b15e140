"""The network: what lies where, and who can reach whom."""

import re
from collections import defaultdict
from ipaddress import IPv4Network

from infra.plan.graph import Graph, Resource
from infra.settings.network import NO_CONTROL_PLANE
from testkit.eks_factories import EFS, LUSTRE, graph

SUBNET, ROUTE = "aws:ec2/subnet:Subnet", "aws:ec2/route:Route"
EGRESS = "aws:vpc/securityGroupEgressRule:SecurityGroupEgressRule"
INGRESS = "aws:vpc/securityGroupIngressRule:SecurityGroupIngressRule"
NAT = "aws:ec2/natGateway:NatGateway"


def of_kind(subnets: list[Resource], kind: str) -> list[Resource]:
    return [subnet for subnet in subnets if f"-{kind}-" in subnet.name]


def internet_facing(declared: Graph) -> set[str]:
    """IDs of the subnets whose route table has a way to the internet gateway."""
    tables = {r.inputs["routeTableId"] for r in declared.find(ROUTE) if "gatewayId" in r.inputs}
    return {
        r.inputs["subnetId"]
        for r in declared.find("aws:ec2/routeTableAssociation:RouteTableAssociation")
        if r.inputs["routeTableId"] in tables
    }


def test_three_private_and_three_public_subnets_lie_in_the_vpc_and_none_overlap(eks: Graph):
    (vpc,) = eks.find("aws:ec2/vpc:Vpc")
    subnets = eks.find(SUBNET)
    blocks = [IPv4Network(subnet.inputs["cidrBlock"]) for subnet in subnets]

    assert all(block.subnet_of(IPv4Network(vpc.inputs["cidrBlock"])) for block in blocks)
    assert not [(a, b) for a in blocks for b in blocks if a is not b and a.overlaps(b)]
    for kind in ("private", "public"):
        zones = [subnet.inputs["availabilityZoneId"] for subnet in of_kind(subnets, kind)]
        assert len(set(zones)) == len(zones) == 3
        assert not set(zones) & set(NO_CONTROL_PLANE)


def test_subnets_tell_load_balancers_where_to_go(eks: Graph):
    for kind, tag in (("private", "internal-elb"), ("public", "elb")):
        for subnet in of_kind(eks.find(SUBNET), kind):
            assert subnet.inputs["tags"][f"kubernetes.io/role/{tag}"] == "1"


def test_nothing_but_nat_is_in_a_public_subnet_and_no_subnet_gives_public_addresses(eks: Graph):
    public = {f"{subnet.name}-id" for subnet in of_kind(eks.find(SUBNET), "public")}

    assert internet_facing(eks) == public
    for resource in eks.resources:
        if resource.type in (NAT, "aws:ec2/routeTableAssociation:RouteTableAssociation"):
            continue
        assert not public & set(_texts(resource.inputs)), resource.urn
    assert not any(subnet.inputs["mapPublicIpOnLaunch"] for subnet in eks.find(SUBNET))


def _texts(value):
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for item in value.values():
            yield from _texts(item)
    elif isinstance(value, list):
        for item in value:
            yield from _texts(item)


def test_each_gateway_setting_makes_as_many_gateways_and_routes():
    def ways_out(**changes) -> tuple[int, list[str]]:
        declared = graph(**changes)
        routes = [r.inputs["natGatewayId"] for r in declared.find(ROUTE)
                  if "natGatewayId" in r.inputs]  # fmt: skip
        return len(declared.find(NAT)), routes

    single, routes = ways_out()
    assert (single, len(routes), len(set(routes))) == (1, 3, 1)
    each, routes = ways_out(network={"nat": "per-zone"})
    assert (each, len(routes), len(set(routes))) == (3, 3, 3)
    assert ways_out(network={"nat": "none", "interface_endpoints": True}) == (0, [])


def test_each_zones_nodes_use_the_gateway_of_their_own_zone(prod: Graph):
    for subnet in of_kind(prod.find(SUBNET), "private"):
        zone = subnet.inputs["availabilityZoneId"]
        (route,) = prod.find(ROUTE, f"network-private-{zone}-internet")
        (gateway,) = [g for g in prod.find(NAT) if f"{g.name}-id" == route.inputs["natGatewayId"]]
        assert gateway.inputs["subnetId"] == f"network-public-{zone}-id"


def test_s3_is_reached_by_its_own_endpoint_from_every_private_subnet(eks: Graph):
    (endpoint,) = eks.find("aws:ec2/vpcEndpoint:VpcEndpoint", "network-s3")
    private = {f"{t.name}-id" for t in eks.find("aws:ec2/routeTable:RouteTable")
               if "-private-" in t.name}  # fmt: skip

    assert endpoint.inputs["vpcEndpointType"] == "Gateway"
    assert set(endpoint.inputs["routeTableIds"]) == private


def test_a_closed_network_has_every_endpoint_that_nodes_and_drivers_call():
    def services(volume: dict) -> set[str]:
        declared = graph(network={"nat": "none", "interface_endpoints": True},
                         workloads__gpt__volume=volume)  # fmt: skip
        return {
            e.inputs["serviceName"].removeprefix("com.amazonaws.us-east-1.")
            for e in declared.find("aws:ec2/vpcEndpoint:VpcEndpoint")
        }

    always = {"s3", "ec2", "ecr.api", "ecr.dkr", "eks", "eks-auth", "kms", "logs", "sts"}
    assert services(EFS) == always | {"elasticfilesystem"}
    assert services(LUSTRE) == always | {"fsx"}


def test_each_rule_between_groups_has_both_ends_in_the_stack(eks: Graph):
    groups = {f"{g.name}-id" for g in eks.find("aws:ec2/securityGroup:SecurityGroup")}
    ends: dict[str, set] = defaultdict(set)
    for kind, own, other in ((EGRESS, 0, 1), (INGRESS, 1, 0)):
        for rule in eks.find(kind):
            pair = [rule.inputs["securityGroupId"], rule.inputs.get("referencedSecurityGroupId")]
            ports = (rule.inputs.get("fromPort"), rule.inputs.get("toPort"))
            if pair[1] is None:
                continue
            assert set(pair) <= groups, rule.name
            ends[kind].add((pair[own], pair[other], rule.inputs["ipProtocol"], ports))

    assert ends[EGRESS] == ends[INGRESS] != set()


def test_no_group_lets_anyone_in_by_address_and_only_nodes_reach_out(eks: Graph):
    assert not [rule.name for rule in eks.find(INGRESS) if "cidrIpv4" in rule.inputs]
    outward = [rule.inputs for rule in eks.find(EGRESS) if "cidrIpv4" in rule.inputs]

    assert [(r["securityGroupId"], r["fromPort"], r["toPort"]) for r in outward] == [
        ("traffic-nodes-id", 443, 443)
    ]


def test_the_vpcs_default_group_lets_nothing_through(eks: Graph):
    (closed,) = eks.find("aws:ec2/defaultSecurityGroup:DefaultSecurityGroup")

    assert closed.inputs.get("ingress", []) == closed.inputs.get("egress", []) == []


def test_file_systems_are_reached_by_nodes_on_their_ports_and_by_no_one_else():
    def ports(group: str, volume: dict) -> set:
        return {
            (r.inputs["referencedSecurityGroupId"], r.inputs["fromPort"], r.inputs["toPort"])
            for r in graph(workloads__gpt__volume=volume).find(INGRESS)
            if r.inputs["securityGroupId"] == f"traffic-{group}-id"
        }

    assert ports("efs", EFS) == {("traffic-nodes-id", 2049, 2049)}
    assert ports("lustre", LUSTRE) == {
        (f"traffic-{source}-id", first, last)
        for source in ("nodes", "lustre")
        for first, last in ((988, 988), (1018, 1023))
    }


def test_an_nfs_server_is_reached_in_private_networks_only():
    nfs = {"kind": "nfs", "size": "1Ti", "server": "nfs.example", "path": "/exports/a"}
    outward = [
        (r.inputs["cidrIpv4"], r.inputs["fromPort"])
        for r in graph(workloads__gpt__volume=nfs).find(EGRESS)
        if "cidrIpv4" in r.inputs
    ]

    assert sorted(outward) == [
        ("0.0.0.0/0", 443), ("10.0.0.0/8", 2049), ("172.16.0.0/12", 2049), ("192.168.0.0/16", 2049),
    ]  # fmt: skip


#: https://docs.aws.amazon.com/AWSEC2/latest/APIReference/API_CreateSecurityGroup.html
EC2_DESCRIPTION = re.compile(r"[a-zA-Z0-9. _\-:/()#,@\[\]+=&;{}!$*]{1,255}")


def test_ec2_takes_the_description_of_each_group_and_rule(eks: Graph):
    described = [
        r for r in eks.resources if "ecurityGroup" in r.type and r.inputs.get("description")
    ]

    refused = [
        (r.name, r.inputs["description"])
        for r in described
        if not EC2_DESCRIPTION.fullmatch(r.inputs["description"])
    ]
    assert described and not refused


def test_fsx_finds_the_rules_of_its_group_when_it_tries_the_port():
    declared = graph(workloads__gpt__volume=LUSTRE)
    group = declared.find("aws:ec2/securityGroup:SecurityGroup", "traffic-lustre")[0]
    rules = {
        r.urn
        for r in declared.resources
        if r.type in (INGRESS, EGRESS) and r.inputs["securityGroupId"] == f"{group.name}-id"
    }

    (system,) = declared.find("aws:fsx/lustreFileSystem:LustreFileSystem")
    # A component registers after what it depends on, and its children after the component.
    component = declared[system.options.parent or ""]
    assert rules and rules <= {*system.options.depends_on, *component.options.depends_on}
