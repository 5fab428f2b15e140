"""The whole of an EKS stack: order, protection, secrets, and what holds for every resource."""

import json
import re
from collections.abc import Iterator
from typing import Any

from infra.plan.graph import Graph
from infra.settings import EksStack, load
from policy.check import violations
from policy.texts import TEXTS
from testkit import schemas
from testkit.eks_factories import EBS, GROUP, graph
from testkit.factories import of_stack, pod_specs
from tests.golden import compare
from tests.infra.kubernetes.test_pods import pods_of_workloads, restricted_violations
from tests.infra.plan.test_golden import GOLDEN, as_text
from tests.infra.plan.test_graph import everything_before

GROUPS = "aws:eks/nodeGroup:NodeGroup"
STORES = (
    "aws:s3/bucket:Bucket",
    "aws:ebs/volume:Volume",
    "aws:efs/fileSystem:FileSystem",
    "aws:fsx/lustreFileSystem:LustreFileSystem",
)


def test_the_graph_is_the_reviewed_one(eks: Graph):
    compare(GOLDEN / f"{eks.stack}.yaml", as_text(eks))


def test_preview_and_up_declare_the_same_resources(eks: Graph):
    """A resource made inside an apply is missing where outputs are not known yet."""
    preview = of_stack(eks.stack, preview=True)

    assert [r.urn for r in preview.resources] == [r.urn for r in eks.resources]


def test_everything_in_aws_is_of_the_stacks_account_region_and_tags(eks: Graph):
    (cloud,) = eks.find("pulumi:providers:aws")
    settings = load(eks.stack)
    assert isinstance(settings, EksStack)

    assert cloud.inputs["region"] == settings.aws.region
    assert json.loads(cloud.inputs["allowedAccountIds"]) == [settings.aws.account]
    tags = json.loads(cloud.inputs["defaultTags"])["tags"]
    assert tags["holdfast:stack"] == eks.stack
    assert tags["environment"] == eks.stack
    for resource in eks.resources:
        if resource.remote or (resource.custom and resource.type.startswith("aws:")):
            assert resource.options.provider == cloud.urn, resource.urn


def test_every_object_goes_to_the_stacks_own_cluster(eks: Graph):
    (provider,) = eks.find("pulumi:providers:kubernetes")

    assert provider.inputs["clusterIdentifier"].startswith("arn:aws:eks:us-east-1:123456789012:")
    assert "kubeconfig" in provider.secrets
    for resource in eks.resources:
        if resource.type.startswith("kubernetes:"):
            assert resource.options.provider == provider.urn, resource.urn


def test_the_cluster_identifier_is_known_before_the_cluster_is(dev: Graph):
    """A computed one would plan to replace every object whenever the kubeconfig changes."""
    preview = of_stack("dev", preview=True)
    (provider,) = preview.find("pulumi:providers:kubernetes")

    assert provider.inputs["clusterIdentifier"] == dev.outputs["cluster_arn"]


def test_destroy_takes_pods_before_addons_before_nodes_before_the_network(eks: Graph):
    def urns(kind: str, name: str | None = None) -> set[str]:
        found = {r.urn for r in eks.find(kind, name)}
        assert found, (kind, name)
        return found

    (job,) = urns("Job", "gpt")
    before = everything_before(eks, job)
    assert urns("aws:eks/addon:Addon") <= before
    assert urns(GROUPS) <= before
    assert urns("aws:eks/podIdentityAssociation:PodIdentityAssociation") <= before
    assert urns("aws:s3/bucketPolicy:BucketPolicy", "store-policy") <= before
    for group in urns(GROUPS):
        before = everything_before(eks, group)
        # Nodes that lost their rights or their way out cannot leave in order.
        assert {
            r.urn
            for r in eks.find("aws:iam/rolePolicyAttachment:RolePolicyAttachment")
            if r.name.startswith("nodes-")
        } <= before
        assert urns("aws:ec2/natGateway:NatGateway") <= before
        assert urns("aws:ec2/route:Route") <= before
        assert urns("eks:index:Cluster") <= before
    (release,) = urns("Release", "kanister")
    assert all(release in everything_before(eks, each) for each in urns("Blueprint"))


def test_production_keeps_its_data_whatever_happens_to_the_stack(prod: Graph):
    stores = [r for r in prod.resources if r.type in STORES]
    keys = [r for r in prod.find("aws:kms/key:Key") if r.name in ("keys-store", "keys-data")]

    assert len(stores) == 3
    for resource in [*stores, *keys]:
        assert resource.options.protect, resource.urn
        assert resource.options.retain_on_delete, resource.urn
    for repository in prod.find("aws:ecr/repository:Repository"):
        # Its pods name images by digest: pushed again they would have another.
        assert repository.options.protect and repository.options.retain_on_delete
        assert repository.inputs["encryptionConfigurations"][0]["kmsKey"].endswith("keys-data")
    buckets = prod.find("aws:s3/bucket:Bucket")
    assert all(bucket.inputs["forceDestroy"] is False for bucket in buckets)


def test_only_the_explicit_word_lets_destroy_remove_data():
    kept = graph().find("aws:ebs/volume:Volume")
    given_up = graph(data_stores="deletable").find("aws:ebs/volume:Volume")
    repositories = graph(data_stores="deletable").find("aws:ecr/repository:Repository")

    assert [(v.options.protect, v.options.retain_on_delete) for v in kept] == [(True, True)]
    assert [(v.options.protect, v.options.retain_on_delete) for v in given_up] == [(False, False)]
    # ECR refuses to remove a repository with images, in the middle of a destroy.
    assert [r.inputs["forceDelete"] for r in repositories] == [True, True]


def test_everything_that_can_be_encrypted_uses_a_key_of_the_stack(eks: Graph):
    keys = {f"arn:aws:kms:us-east-1:123456789012:key/{k.name}"
            for k in eks.find("aws:kms/key:Key")}  # fmt: skip
    used = {
        "aws:ebs/volume:Volume": lambda i: i["kmsKeyId"],
        "aws:efs/fileSystem:FileSystem": lambda i: i["kmsKeyId"],
        "aws:fsx/lustreFileSystem:LustreFileSystem": lambda i: i["kmsKeyId"],
        "aws:cloudwatch/logGroup:LogGroup": lambda i: i["kmsKeyId"],
        "aws:ecr/repository:Repository": lambda i: i["encryptionConfigurations"][0]["kmsKey"],
        "aws:ec2/launchTemplate:LaunchTemplate": lambda i: i["blockDeviceMappings"][0]["ebs"][
            "kmsKeyId"
        ],
        "eks:index:Cluster": lambda i: i["encryptionConfigKeyArn"],
        "kubernetes:storage.k8s.io/v1:StorageClass": lambda i: i["parameters"]["kmsKeyId"],
    }
    for resource in eks.resources:
        if resource.type in used:
            assert used[resource.type](resource.inputs) in keys, resource.urn
    assert all(key.inputs["enableKeyRotation"] for key in eks.find("aws:kms/key:Key"))


def test_every_key_is_the_accounts_to_administer_and_no_strangers_to_use(eks: Graph):
    for key in eks.find("aws:kms/key:Key"):
        for statement in json.loads(key.inputs["policy"])["Statement"]:
            principal = statement["Principal"]
            if principal == {"AWS": "*"}:
                only = statement["Condition"]["StringEquals"]
                assert only["kms:CallerAccount"] == "123456789012", key.name
                assert only["aws:PrincipalArn"].startswith("arn:aws:iam::123456789012:"), key.name
            elif "AWS" in principal:
                assert principal["AWS"].startswith("arn:aws:iam::123456789012:"), key.name
            else:
                assert principal == {"Service": "logs.us-east-1.amazonaws.com"}
                assert statement["Condition"], key.name


def test_no_policy_of_a_role_gives_every_action_or_everything_to_write(eks: Graph):
    for policy in eks.find("aws:iam/rolePolicy:RolePolicy"):
        for statement in json.loads(policy.inputs["policy"])["Statement"]:
            actions = statement["Action"]
            for action in actions if isinstance(actions, list) else [actions]:
                assert "*" not in action, policy.name
                read_only = ":Describe" in action
                assert statement["Resource"] != "*" or read_only, policy.name


def test_every_object_is_valid_for_kubernetes(eks: Graph):
    for manifest in eks.kubernetes():
        if "kanister.io" not in manifest["apiVersion"] and "snapshot" not in manifest["apiVersion"]:
            schemas.check(manifest)


def test_every_pod_of_a_workload_complies_with_restricted(eks: Graph):
    pods = pods_of_workloads(eks)

    assert {name: restricted_violations(pod) for name, pod in pods} == {n: [] for n, _ in pods}


def test_every_pod_has_a_node_that_takes_it(eks: Graph):
    """Labels match and taints are tolerated: of the named group, or of the system group."""
    groups = [g.inputs for g in eks.find(GROUPS)]
    for name, pod in pod_specs(eks):
        wanted = pod.get("nodeSelector", {})
        tolerated = pod.get("tolerations", [])
        takers = [
            group
            for group in groups
            if wanted.items() <= group["labels"].items()
            and all(
                any(_tolerates(t, taint) for t in tolerated) for taint in group.get("taints", [])
            )
        ]
        assert takers, name
        if name == "Job gpt":
            assert all(g["labels"]["workload-type"] == "model-training" for g in takers)
        if name.startswith("Blueprint checkpoints") and name.endswith((" push", " switch")):
            # Beside the trainer, wherever that is.
            training = [g for g in groups if "workload-type" in g["labels"]]
            assert all(group in takers for group in training), name


def _tolerates(toleration: dict, taint: dict) -> bool:
    return toleration.get("key") in (None, taint["key"]) and (
        toleration["operator"] == "Exists" or toleration.get("value") == taint["value"]
    )


def test_the_exports_are_what_people_and_later_stacks_need(eks: Graph):
    assert {
        "kubeconfig", "cluster_name", "cluster_arn", "region", "vpc_id", "private_subnet_ids",
        "node_security_group_id", "repositories", "backup_bucket", "training_job_name",
        "persistent_volume_name", "persistent_volume_claim_name",
    } <= eks.outputs.keys()  # fmt: skip
    assert eks.secret_outputs == ("kubeconfig",)
    assert json.loads(eks.outputs["kubeconfig"])["users"][0]["user"]["exec"]["command"] == "aws"


def test_the_pods_know_the_bucket_its_region_and_their_prefix(eks: Graph):
    (config,) = eks.find("ConfigMap", "holdfast-checkpoints-pvc")
    data = config.inputs["data"]

    assert data["HOLDFAST_STORE"] == (f"s3://{eks.outputs['backup_bucket']}/holdfast/{eks.stack}")
    assert data["AWS_REGION"] == "us-east-1"


def test_each_text_that_a_stack_gives_to_aws_has_its_limits(eks: Graph):
    """A new type with a name or a description needs a line in policy/texts.py."""
    given = {
        (r.type, key)
        for r in eks.resources
        if r.type.startswith(("aws:", "eks:")) and (r.custom or r.remote)
        for key in r.inputs.keys() & {"name", "description", "bucket", "path", "nodeGroupName"}
    }
    # What belongs to a bucket names it by its ID.
    given = {each for each in given if each[1] != "bucket" or each[0] == "aws:s3/bucket:Bucket"}
    missing = sorted(each for each in given if each[1] not in TEXTS.get(each[0], {}))

    assert not missing


def test_no_key_of_an_input_is_left_untranslated(eks: Graph):
    """A misspelt key of a nested input reaches AWS' provider as it is, which refuses it."""
    for resource in eks.resources:
        if resource.type.startswith("aws:") and resource.custom:
            wrong = [
                key for key in _keys(resource.inputs) if re.fullmatch(r"[a-z]+(_[a-z]+)+", key)
            ]
            assert wrong == [], resource.urn


def _keys(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        for key, item in value.items():
            yield key
            if key not in ("tags", "labels"):
                yield from _keys(item)
    elif isinstance(value, list):
        for item in value:
            yield from _keys(item)


def test_the_longest_names_are_ones_that_iam_takes():
    """40 characters are the most that a name in the settings may have, and IAM takes 64."""
    longest = "llama-pretraining-v2-with-a-long-name-x1"
    declared = graph(
        workloads={longest: {"run": "demo", "volume": EBS, "node_group": longest}},
        node_groups__training={longest: GROUP},
        cluster__name=longest,
    )

    assert len(longest) == 40
    assert [str(found) for found in violations(declared)] == []


#: What must be there before a resource is made, since AWS or the resource itself uses it at once.
#: Source: the reference of each call in the EC2, EKS, FSx and EFS API.
BEFORE = {
    # A gateway without a route to the internet is made and does not work.
    "aws:ec2/natGateway:NatGateway": {
        "aws:ec2/internetGateway:InternetGateway",
        "aws:ec2/route:Route",
    },
    # Nodes join through the rules and routes, with the rights of their role and with addresses.
    "aws:eks/nodeGroup:NodeGroup": {
        "aws:ec2/natGateway:NatGateway",
        "aws:ec2/routeTableAssociation:RouteTableAssociation",
        "aws:ec2/vpcEndpoint:VpcEndpoint",
        "aws:iam/rolePolicyAttachment:RolePolicyAttachment",
        "aws:vpc/securityGroupEgressRule:SecurityGroupEgressRule",
        "aws:vpc/securityGroupIngressRule:SecurityGroupIngressRule",
        "aws:eks/addon:Addon",
    },
    # EKS tries its role, and writes logs, when it makes the control plane.
    "eks:index:Cluster": {
        "aws:cloudwatch/logGroup:LogGroup",
        "aws:iam/rolePolicyAttachment:RolePolicyAttachment",
        "aws:vpc/securityGroupIngressRule:SecurityGroupIngressRule",
    },
    # FSx tries port 988.
    "aws:fsx/lustreFileSystem:LustreFileSystem": {
        "aws:vpc/securityGroupEgressRule:SecurityGroupEgressRule",
        "aws:vpc/securityGroupIngressRule:SecurityGroupIngressRule",
    },
    # The service tries to write with the role.
    "aws:ec2/flowLog:FlowLog": {"aws:iam/rolePolicy:RolePolicy"},
    # S3 refuses a target that its log delivery may not write to.
    "aws:s3/bucketLogging:BucketLogging": {"aws:s3/bucketPolicy:BucketPolicy"},
}


def test_what_a_resource_uses_at_once_is_there_before_it(eks: Graph):
    for kind, needed in BEFORE.items():
        for resource in eks.find(kind):
            before = {eks[urn].type for urn in everything_before(eks, resource.urn)}
            assert needed <= before, resource.urn


def test_an_identity_has_its_rights_before_a_pod_can_take_it(eks: Graph):
    """EKS hands out the role from the moment that it is associated."""
    for resource in eks.resources:
        if resource.type not in (
            "aws:eks/podIdentityAssociation:PodIdentityAssociation", "aws:eks/addon:Addon",
        ):  # fmt: skip
            continue
        roles = [resource.inputs.get("roleArn")] + [
            each["roleArn"] for each in resource.inputs.get("podIdentityAssociations") or []
        ]
        before = everything_before(eks, resource.urn)
        for role in filter(None, roles):
            name = role.rpartition("/")[2]
            (own,) = eks.find("aws:iam/role:Role", name)
            rights = {
                r.urn
                for r in eks.resources
                if r.type.startswith("aws:iam/rolePolicy")
                and r.options.parent == own.options.parent
            }
            assert rights and rights <= before, resource.urn
