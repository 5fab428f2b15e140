"""The rights for `pulumi up`: derived from the resource types of the graph."""

import json
from fnmatch import fnmatchcase

import botocore.session

from infra.plan import rights
from infra.plan.graph import Graph
from testkit.eks_factories import EFS, LUSTRE, graph

#: IAM's limit for a managed policy, without white space.
LONGEST_POLICY = 6144
#: Permissions without a call of that name.
NO_CALL = {"iam:PassRole"}
ELASTIC = {"instance_types": ["m7i.xlarge"], "zone": "use1-az1", "capacity": "elastic"}
EXPORTED = {**LUSTRE, "export": "s3://elsewhere/run", "backup_days": 0}


def test_every_type_that_a_stack_can_have_in_aws_has_its_rights(dev: Graph, prod: Graph):
    graphs = [
        dev,
        prod,
        graph(workloads__gpt__volume=EFS),
        graph(workloads__gpt__volume=EXPORTED),
        graph(node_groups__training__cpu=ELASTIC),
        graph(backup_store__create__replica={"name": "test-copies", "region": "eu-west-1"}),
    ]
    used = {r.type for g in graphs for r in g.resources if r.type.startswith(("aws:", "eks:"))}

    assert used == set(rights._WRITE)


def test_the_policy_is_one_that_iam_takes(eks: Graph):
    for declared in (eks, graph(node_groups__training__cpu=ELASTIC)):
        text = rights.policy(declared)
        (statement,) = json.loads(text)["Statement"]

        assert len("".join(text.split())) <= LONGEST_POLICY
        assert statement["Action"] == sorted(set(statement["Action"]))


def test_each_right_is_a_call_that_aws_has(eks: Graph):
    session = botocore.session.get_session()
    unknown = []
    for action in set(rights.actions(eks)) - NO_CALL:
        service, _, name = action.partition(":")
        if service == "s3":  # its permissions have names of their own
            continue
        client = {"elasticfilesystem": "efs"}.get(service, service)
        calls = session.get_service_model(client).operation_names
        if not any(fnmatchcase(call, name) for call in calls):
            unknown.append(action)

    assert not unknown


def test_who_deploys_production_can_neither_read_nor_remove_backups(prod: Graph):
    for action in ("s3:GetObject", "s3:PutObject", "s3:DeleteObject", "s3:DeleteObjectVersion"):
        assert not any(fnmatchcase(action, right) for right in rights.actions(prod))


def test_a_stack_whose_data_may_go_lets_destroy_empty_its_bucket(dev: Graph):
    assert {"s3:DeleteObject", "s3:DeleteObjectVersion"} <= set(rights.actions(dev))


def test_a_cluster_that_is_there_needs_no_right_in_aws(local: Graph):
    assert json.loads(rights.policy(local))["Statement"] == []


def test_buckets_may_be_tagged_by_either_call(eks: Graph):
    """Since 2025 S3 tags buckets by TagResource too, and the provider asks for both."""
    needed = {"s3:PutBucketTagging", "s3:TagResource", "s3:UntagResource", "s3:ListTagsForResource"}

    assert needed <= set(rights.actions(eks))
