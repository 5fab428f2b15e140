"""Every call of AWS' API that the stacks come to, made on moto: something that we did not write
refuses wrong ranges, references to what is not there, malformed policies and unknown parameters."""

import json
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest
from botocore.exceptions import ClientError, ParamValidationError

from infra.aws.iam import service_trust
from infra.plan.graph import Graph, collect
from infra.settings import EfsVolume, EksStack, FsxLustreVolume, load
from tests.infra.aws.moto_mocks import Account, account

pytestmark = pytest.mark.slow

#: What moto does not know. Of these only the references are looked up.
UNKNOWN = {
    "aws:ec2/placementGroup:PlacementGroup",
    "aws:efs/backupPolicy:BackupPolicy",
    "aws:eks/accessEntry:AccessEntry",
    "aws:eks/accessPolicyAssociation:AccessPolicyAssociation",
    "aws:eks/addon:Addon",
    "aws:eks/podIdentityAssociation:PodIdentityAssociation",
    "aws:fsx/dataRepositoryAssociation:DataRepositoryAssociation",
}


def prod_and_more() -> EksStack:
    """The stack prod, with a workload on each kind of volume that neither dev nor prod has."""
    stack = load("prod")
    assert isinstance(stack, EksStack)
    volumes = (
        EfsVolume(kind="efs", name="shared"),
        FsxLustreVolume(
            kind="fsx-lustre", name="fast", zone="use1-az2", backup_days=0, export="s3://exports"
        ),
    )
    gpt = stack.workloads["gpt"]
    more = {each.name: gpt.model_copy(update={"volume": each}) for each in volumes}
    return stack.model_copy(update={"workloads": {**stack.workloads, **more}})


STACKS = {"dev": lambda: load("dev"), "prod": prod_and_more}
SUBNET = "aws:ec2/subnet:Subnet"
VPC = {"cidrBlock": "10.0.0.0/16"}


@pytest.fixture(scope="module", params=STACKS)
def made(request: pytest.FixtureRequest) -> Iterator[tuple[Account, Graph]]:
    """An account in which a stack has been created, and what the program said."""
    stack = STACKS[request.param]()
    assert isinstance(stack, EksStack)
    with account() as cloud:
        for entry in stack.cluster.access.values():
            role(cloud, entry.principal.rpartition("/")[2])
        yield cloud, collect(stack, request.param, create=cloud.create)


@pytest.fixture(scope="module")
def empty() -> Iterator[Account]:
    """An account with one role in it, called ``there``."""
    with account() as cloud:
        role(cloud, "there")
        yield cloud


def role(cloud: Account, name: str) -> None:
    trust = json.dumps(service_trust("ec2.amazonaws.com"))
    cloud.call("iam", "create_role", RoleName=name, AssumeRolePolicyDocument=trust)


def add(cloud: Account, kind: str, **inputs: Any) -> str:
    """Create one resource, as the program would; its id."""
    return cloud.create(kind, f"test-{len(cloud.created)}", inputs)[0]


def test_every_resource_in_aws_is_accepted_or_is_of_a_kind_that_moto_does_not_know(made):
    cloud, graph = made
    declared = {r.type for r in graph.resources if r.type.startswith(("aws:", "eks:"))}

    assert cloud.created == declared - UNKNOWN
    assert cloud.unknown == declared & UNKNOWN


def test_every_type_that_moto_does_not_know_is_declared_somewhere():
    graph = collect(prod_and_more(), "prod")

    assert {r.type for r in graph.resources} >= UNKNOWN


def test_what_exists_afterwards_is_what_was_declared(made):
    cloud, graph = made
    (vpc,) = graph.find("aws:ec2/vpc:Vpc")
    of_vpc = [{"Name": "vpc-id", "Values": [graph.outputs["vpc_id"]]}]
    subnets = cloud.call("ec2", "describe_subnets", Filters=of_vpc)["Subnets"]
    (cluster,) = cloud.call("eks", "list_clusters")["clusters"]

    assert Counter(s["CidrBlock"] for s in subnets) == Counter(
        r.inputs["cidrBlock"] for r in graph.find(SUBNET)
    )
    assert vpc.inputs["cidrBlock"] in {
        v["CidrBlock"] for v in cloud.call("ec2", "describe_vpcs")["Vpcs"]
    }
    assert cluster == graph.outputs["cluster_name"]
    assert len(cloud.call("eks", "list_nodegroups", clusterName=cluster)["nodegroups"]) == len(
        graph.find("aws:eks/nodeGroup:NodeGroup")
    )


def test_the_nodes_subnets_reach_the_internet_through_nat_and_in_no_other_way(made):
    """As EC2 sees it, by the route tables that its own subnets are associated with."""
    cloud, graph = made
    tables = cloud.call("ec2", "describe_route_tables")["RouteTables"]
    for subnet in graph.outputs["private_subnet_ids"]:
        (table,) = [t for t in tables if subnet in [a.get("SubnetId") for a in t["Associations"]]]
        ways = [r for r in table["Routes"] if r.get("DestinationCidrBlock") == "0.0.0.0/0"]
        assert [way["NatGatewayId"].partition("-")[0] for way in ways] == ["nat"]


def test_no_security_group_is_left_with_a_rule_that_the_program_did_not_declare(made):
    cloud, graph = made
    of_vpc = [{"Name": "vpc-id", "Values": [graph.outputs["vpc_id"]]}]
    groups = cloud.call("ec2", "describe_security_groups", Filters=of_vpc)["SecurityGroups"]
    of_ours = [{"Name": "group-id", "Values": [group["GroupId"] for group in groups]}]
    rules = cloud.call("ec2", "describe_security_group_rules", Filters=of_ours)

    declared = [r for r in graph.resources if r.type.startswith("aws:vpc/securityGroup")]
    assert len(rules["SecurityGroupRules"]) == len(declared)


# What is refused ----------------------------------------------------------------------------------


def test_a_subnet_outside_the_vpc_is_refused(empty: Account):
    vpc = add(empty, "aws:ec2/vpc:Vpc", **VPC)
    add(empty, SUBNET, vpcId=vpc, cidrBlock="10.0.0.0/18", availabilityZoneId="use1-az1")

    for block, reason in (
        ("10.1.0.0/18", "InvalidSubnet.Range"),
        ("10.0.32.0/20", "InvalidSubnet.Conflict"),
    ):
        with pytest.raises(ClientError, match=reason):
            add(empty, SUBNET, vpcId=vpc, cidrBlock=block, availabilityZoneId="use1-az2")


@pytest.mark.parametrize(
    ("kind", "inputs"),
    [
        ("aws:ec2/routeTable:RouteTable", {"vpcId": "vpc-0bad"}),
        ("aws:vpc/securityGroupIngressRule:SecurityGroupIngressRule",
         {"securityGroupId": "sg-0bad", "referencedSecurityGroupId": "sg-0bad",
          "ipProtocol": "tcp", "fromPort": 1, "toPort": 1, "description": "x"}),
        ("aws:eks/nodeGroup:NodeGroup", {"clusterName": "none", "subnetIds": ["subnet-0bad"],
         "nodeRoleArn": "arn:aws:iam::123456789012:role/there"}),
        ("aws:eks/podIdentityAssociation:PodIdentityAssociation",
         {"roleArn": "arn:aws:iam::123456789012:role/not-there"}),
        ("aws:ebs/volume:Volume", {"availabilityZone": "us-east-1b", "size": 1, "type": "gp3",
         "kmsKeyId": "arn:aws:kms:us-east-1:123456789012:key/not-there"}),
        ("aws:iam/rolePolicyAttachment:RolePolicyAttachment", {"role": "there",
         "policyArn": "arn:aws:iam::aws:policy/service-role/AmazonEBSCSIDriverPolicyV2"}),
    ],
    ids=lambda value: value.rpartition(":")[2] if isinstance(value, str) else "",
)  # fmt: skip
def test_a_reference_to_what_does_not_exist_is_refused(empty: Account, kind: str, inputs: dict):
    with pytest.raises(ClientError, match=r"NotFound|NoSuchEntity|does not exist"):
        add(empty, kind, **inputs)


@pytest.mark.parametrize(
    "change",
    [
        {"Version": "2012-10-18"},
        {"Statement": [{"Effect": "allow", "Action": "s3:GetObject", "Resource": "*"}]},
        {"Statement": [{"Effect": "Allow", "Action": "GetObject", "Resource": "*"}]},
        {"Statement": [{"Effect": "Allow", "Action": "s3:GetObject"}]},
        {"Statement": [{"Effect": "Allow", "Action": "s3:GetObject", "Resource": "bucket"}]},
        {"Statement": [{"Effect": "Allow", "Action": "s3:GetObject", "Resource": "*",
                        "Condition": {"StringIs": {"aws:SourceAccount": "1"}}}]},
    ],
    ids=lambda change: json.dumps(change)[:60],
)  # fmt: skip
@pytest.mark.parametrize("kind", ["role", "bucket", "key"])
def test_a_malformed_policy_is_refused(empty: Account, kind: str, change: dict):
    statement = {"Effect": "Allow", "Action": "s3:GetObject", "Resource": "*"}
    document: dict[str, Any] = {"Version": "2012-10-17", "Statement": [statement], **change}
    if kind != "role":
        document["Statement"] = [{**each, "Principal": "*"} for each in document["Statement"]]
    inputs = {
        "role": ("aws:iam/rolePolicy:RolePolicy", {"role": "there"}),
        "bucket": ("aws:s3/bucketPolicy:BucketPolicy", {"bucket": "a-bucket"}),
        "key": ("aws:kms/key:Key", {"description": "x"}),
    }

    with pytest.raises(ClientError, match="MalformedPolicyDocument"):
        add(empty, inputs[kind][0], **inputs[kind][1], policy=json.dumps(document))


def test_a_trust_for_more_than_taking_the_role_and_one_with_a_resource_are_refused(empty: Account):
    for trust in (
        {"Effect": "Allow", "Action": "sts:AssumeRole", "Resource": "*",
         "Principal": {"Service": "eks.amazonaws.com"}},
        {"Effect": "Allow", "Action": "s3:GetObject",
         "Principal": {"Service": "eks.amazonaws.com"}},
    ):  # fmt: skip
        document = json.dumps({"Version": "2012-10-17", "Statement": [trust]})
        with pytest.raises(ClientError, match="MalformedPolicyDocument"):
            add(empty, "aws:iam/role:Role", description="x", assumeRolePolicy=document)


def test_a_parameter_that_the_api_does_not_have_is_refused(empty: Account):
    with pytest.raises(ParamValidationError, match="Colour"):
        add(empty, "aws:ec2/vpc:Vpc", **VPC, colour="blue")
