"""What an organisation may ask of a stack: limits on its roles, networks that are there, copies."""

import json
from collections import defaultdict
from types import SimpleNamespace
from typing import Any

import pytest

from infra.aws.network import checked
from infra.plan import fake_outputs, rights
from infra.plan.cost import monthly
from infra.plan.graph import Graph, collect
from policy.check import violations
from testkit.eks_factories import (
    EFA_GROUP,
    EFS,
    LUSTRE,
    allows,
    graph,
    policy_of,
    problems,
    role,
    settings,
)
from tests.infra.plan.test_graph import everything_before

BOUNDARY = "arn:aws:iam::123456789012:policy/limits"
LIMITED = {
    "aws__permissions_boundary": BOUNDARY,
    "aws__role_path": "/teams/ml/",
    "workloads__gpt__volume": EFS,
    # Every kind of role: also that of Karpenter.
    "node_groups__training__more": {
        **EFA_GROUP,
        "capacity": "elastic",
        "elastic": {"max_nodes": 2},
    },
}


def test_every_role_has_the_boundary_and_the_path():
    declared = graph(**LIMITED)
    roles = declared.find("aws:iam/role:Role")
    (profile,) = declared.find("aws:iam/instanceProfile:InstanceProfile")

    assert len(roles) > 8
    assert {r.inputs["permissionsBoundary"] for r in roles} == {BOUNDARY}
    assert {r.inputs["path"] for r in [*roles, profile]} == {"/teams/ml/"}
    assert list(violations(declared)) == []


def test_roles_have_neither_by_default():
    for each in graph().find("aws:iam/role:Role"):
        assert "permissionsBoundary" not in each.inputs
        assert "path" not in each.inputs


def test_who_deploys_a_limited_stack_can_make_no_role_without_the_limits():
    bounded = json.loads(rights.policy(graph(**LIMITED)))["Statement"]
    free, tied = ({*statement["Action"]} for statement in bounded)

    assert bounded[1]["Condition"] == {"StringEquals": {"iam:PermissionsBoundary": BOUNDARY}}
    assert {"iam:CreateRole", "iam:PutRolePolicy", "iam:AttachRolePolicy"} <= tied
    assert not tied & free
    assert "iam:DeleteRolePermissionsBoundary" not in tied | free
    (only,) = json.loads(rights.policy(graph()))["Statement"]
    assert "iam:CreateRole" in only["Action"]


def test_a_boundary_and_a_path_are_checked_before_anything_is_made():
    (boundary,) = problems(aws__permissions_boundary="arn:aws:iam::1:policy/x")
    (path,) = problems(aws__role_path="teams")

    assert boundary.startswith("aws.permissions_boundary: ")
    assert path.startswith("aws.role_path: ")


def test_lustre_has_as_many_metadata_operations_as_the_settings_say():
    declared = graph(workloads__gpt__volume={**LUSTRE, "metadata_iops": 12000})
    (system,) = declared.find("aws:fsx/lustreFileSystem:LustreFileSystem")
    (default,) = graph(workloads__gpt__volume=LUSTRE).find("LustreFileSystem")

    assert system.inputs["metadataConfiguration"] == {"mode": "USER_PROVISIONED", "iops": 12000}
    assert "metadataConfiguration" not in default.inputs
    named = {cost.what: cost.dollars for cost in monthly(declared)}
    assert named["fast-lustre: 12000 metadata IOPS"] is None
    assert problems(workloads__gpt__volume={**LUSTRE, "metadata_iops": 13000}) == [
        "workloads.gpt.volume: metadata_iops 13000 is not what FSx has: use 1500, 3000, 6000 or a "
        "multiple of 12000 up to 192000"
    ]


EXISTING = {
    "vpc_id": "vpc-0123456789abcdef0",
    "cidr": "10.50.0.0/16",
    "subnets": {
        "use1-az1": "subnet-0000000000000000a",
        "use1-az2": "subnet-0000000000000000b",
        "use1-az4": "subnet-0000000000000000c",
    },
}


def lookups(monkeypatch: pytest.MonkeyPatch, **network: Any) -> tuple[Graph, dict[str, list[dict]]]:
    """The graph on a network that is there, and what AWS was asked for, by call."""
    asked: dict[str, list[dict]] = defaultdict(list)
    answer = fake_outputs.answer_to

    def ask(token: str, args: dict[str, Any]) -> dict[str, Any]:
        asked[token.rpartition(":")[2]].append(args)
        return answer(token, args)

    monkeypatch.setattr("infra.plan.graph.answer_to", ask)
    return collect(settings(network=network, workloads__gpt__volume=EFS), "test"), asked


def test_a_network_that_is_there_is_used_and_not_changed(monkeypatch: pytest.MonkeyPatch):
    declared, _ = lookups(monkeypatch, existing=EXISTING)
    subnets = set(EXISTING["subnets"].values())
    made = {r.type for r in declared.resources}

    for kind in ("vpc:Vpc", "subnet:Subnet", "route:Route", "natGateway:NatGateway",
                 "internetGateway:InternetGateway", "flowLog:FlowLog",
                 "defaultSecurityGroup:DefaultSecurityGroup"):  # fmt: skip
        assert f"aws:ec2/{kind}" not in made
    (cluster,) = declared.find("eks:index:Cluster")
    assert set(cluster.inputs["subnetIds"]) == subnets
    assert cluster.inputs["vpcId"] == EXISTING["vpc_id"]
    for nodes in declared.find("aws:eks/nodeGroup:NodeGroup"):
        assert set(nodes.inputs["subnetIds"]) <= subnets
    assert {t.inputs["subnetId"] for t in declared.find("MountTarget")} == subnets
    for group in declared.find("aws:ec2/securityGroup:SecurityGroup"):
        assert group.inputs["vpcId"] == EXISTING["vpc_id"]
    assert [str(found) for found in violations(declared)] == []
    assert "NAT" not in " ".join(cost.what for cost in monthly(declared))
    assert json.loads(rights.policy(declared))["Statement"]


def test_each_preview_asks_whether_the_network_is_what_the_settings_say(
    monkeypatch: pytest.MonkeyPatch,
):
    """AWS finds no subnet where the VPC, the zone or the tag differs, and the preview stops."""
    _, asked = lookups(monkeypatch, existing=EXISTING)

    assert [call["cidrBlock"] for call in asked["getVpc"]] == ["10.50.0.0/16"]
    assert {call["availabilityZoneId"]: call["id"] for call in asked["getSubnet"]} == (
        EXISTING["subnets"]
    )
    for call in asked["getSubnet"]:
        assert call["vpcId"] == EXISTING["vpc_id"]
        assert call["tags"] == {"kubernetes.io/role/internal-elb": "1"}
    assert "getVpcEndpoint" not in asked


def test_a_closed_network_has_its_endpoints_or_gets_them(monkeypatch: pytest.MonkeyPatch):
    closed = {**EXISTING, "internet": False}
    _, asked = lookups(monkeypatch, existing=closed)
    declared, made = lookups(monkeypatch, existing=closed, interface_endpoints=True)

    names = {call["serviceName"].removeprefix("com.amazonaws.us-east-1.")
             for call in asked["getVpcEndpoint"]}  # fmt: skip
    assert names == {"s3", "ec2", "ecr.api", "ecr.dkr", "eks", "eks-auth", "kms", "logs", "sts",
                     "elasticfilesystem"}  # fmt: skip
    assert "getVpcEndpoint" not in made
    endpoints = declared.find("aws:ec2/vpcEndpoint:VpcEndpoint")
    assert {e.inputs["vpcId"] for e in endpoints} == {EXISTING["vpc_id"]}
    assert {e.inputs["vpcEndpointType"] for e in endpoints} == {"Interface"}


def test_a_vpc_without_dns_names_is_refused(monkeypatch: pytest.MonkeyPatch):
    vpc = SimpleNamespace(id="vpc-1", enable_dns_support=True, enable_dns_hostnames=False)

    with pytest.raises(ValueError, match="vpc-1 has no DNS support or no DNS hostnames: "):
        checked(vpc)  # pyrefly: ignore


@pytest.mark.parametrize(
    ("network", "line"),
    [
        ({"existing": EXISTING, "nat": "single"}, "network: nat with existing would not be used, "
         "as that network has its own: remove it"),
        ({"existing": {**EXISTING, "subnets": {"use1-az1": "subnet-0000000000000000a"}}},
         "network.existing.subnets: subnet-0000000000000000a are not three subnets in three "
         "zones: give one for each of three zone IDs"),
        ({"existing": {**EXISTING, "cidr": "172.20.0.0/16"}}, "cluster.service_cidr: "
         "172.20.0.0/16 overlaps network.cidr 172.20.0.0/16: use another, such as 10.100.0.0/16"),
    ],
)  # fmt: skip
def test_settings_of_a_network_that_is_there_are_checked(network: dict[str, Any], line: str):
    assert problems(network=network) == [line]


REPLICA = {"name": "test-copies", "region": "eu-west-1"}
FAR_KEY = "arn:aws:kms:eu-west-1:210987654321:key/x"
ELSEWHERE = {**REPLICA, "account": "210987654321", "key_arn": FAR_KEY}
LOCK = {"mode": "compliance", "days": 30}


def copied(replica: dict[str, Any], **changes: Any) -> Graph:
    return graph(backup_store__create__replica=replica, **changes)


def test_the_copy_is_a_bucket_like_the_store_in_its_own_region():
    declared = copied(REPLICA, backup_store__create__object_lock=LOCK)
    (far,) = declared.find("pulumi:providers:aws", "store-copy-aws")
    copies = [r for r in declared.resources
              if r.name.startswith("store-copy") and r.options.provider == far.urn]  # fmt: skip
    kinds = {r.type.rpartition(":")[2] for r in copies}

    assert far.inputs["region"] == "eu-west-1"
    assert json.loads(far.inputs["allowedAccountIds"]) == ["123456789012"]
    assert {"Bucket", "BucketVersioning", "BucketObjectLockConfiguration", "BucketPolicy",
            "BucketPublicAccessBlock", "Key", "Alias"} <= kinds  # fmt: skip
    (bucket,) = declared.find("aws:s3/bucket:Bucket", "store-copy-bucket")
    assert (bucket.inputs["bucket"], bucket.inputs["objectLockEnabled"]) == ("test-copies", True)
    for kept in (bucket, *declared.find("aws:kms/key:Key", "store-copy-key")):
        assert kept.options.protect and kept.options.retain_on_delete
    assert [str(found) for found in violations(declared)] == []
    assert json.loads(rights.policy(declared))["Statement"]


def test_s3_copies_everything_with_the_key_of_the_copy_and_no_deletion_of_a_version():
    declared = copied(REPLICA)
    (config,) = declared.find("BucketReplicationConfig")
    (rule,) = config.inputs["rules"]

    assert rule["status"] == rule["deleteMarkerReplication"]["status"] == "Enabled"
    assert rule["sourceSelectionCriteria"]["sseKmsEncryptedObjects"]["status"] == "Enabled"
    assert rule["destination"]["bucket"] == "arn:aws:s3:::test-copies"
    assert rule["destination"]["encryptionConfiguration"]["replicaKmsKeyId"].endswith(
        "store-copy-key"
    )
    before = {declared[urn].name for urn in everything_before(declared, config.urn)}
    assert {"store-versions", "store-copy-versions", "store-copy-policy"} <= before


def test_the_copying_role_can_read_the_store_and_add_to_the_copy_and_nothing_else():
    declared = copied(REPLICA)
    policy = policy_of(role("store-copy", declared), declared)
    source, target = "arn:aws:s3:::test-backups", "arn:aws:s3:::test-copies"

    assert allows(policy, "s3:GetObjectVersionForReplication", f"{source}/x")
    assert allows(policy, "s3:ReplicateObject", f"{target}/x")
    for action in ("s3:PutObject", "s3:DeleteObject", "s3:DeleteObjectVersion", "s3:GetObject"):
        assert not allows(policy, action, f"{source}/x")
        assert not allows(policy, action, f"{target}/x")
    assert not allows(policy, "s3:ReplicateObject", f"{source}/x")
    (trust,) = json.loads(role("store-copy", declared).inputs["assumeRolePolicy"])["Statement"]
    assert trust["Principal"] == {"Service": "s3.amazonaws.com"}


def test_a_copy_in_another_account_belongs_to_it():
    declared = copied(ELSEWHERE)
    (config,) = declared.find("BucketReplicationConfig")
    destination = config.inputs["rules"][0]["destination"]

    assert destination["account"] == "210987654321"
    assert destination["accessControlTranslation"] == {"owner": "Destination"}
    assert destination["encryptionConfiguration"] == {"replicaKmsKeyId": FAR_KEY}
    assert declared.find("aws:s3/bucket:Bucket", "store-copy-bucket") == []
    policy = policy_of(role("store-copy", declared), declared)
    assert allows(policy, "s3:ObjectOwnerOverrideToBucketOwner", "arn:aws:s3:::test-copies/x")
    assert [str(found) for found in violations(declared)] == []


@pytest.mark.parametrize(
    ("replica", "line"),
    [
        ({**REPLICA, "region": "us-east-1"}, "backup_store.create.replica: us-east-1 is the "
         "store's own region: use another region, or another account"),
        ({**REPLICA, "name": "test-backups"}, "backup_store.create.replica.name: test-backups is "
         "the store's own bucket: bucket names are unique in all of AWS: use another"),
        ({**REPLICA, "account": "210987654321"}, "backup_store.create.replica: give both of "
         "account and key_arn (a bucket in another account), or neither (the stack makes bucket "
         "and key)"),
        ({**ELSEWHERE, "region": "eu-west-2"}, f"backup_store.create.replica: key_arn {FAR_KEY} "
         "is in account 210987654321 and region eu-west-1: use a key in account 210987654321 and "
         "region eu-west-2"),
    ],
)  # fmt: skip
def test_a_copy_that_would_not_help_is_refused(replica: dict[str, Any], line: str):
    assert problems(backup_store__create__replica=replica) == [line]
