"""What Karpenter may do in AWS, and who may send to its queue.

The rights are those of Karpenter 1.14's own CloudFormation template (aws/karpenter-provider-aws,
getting-started-with-karpenter/cloudformation.yaml), without those to make instance profiles: the
one that is needed is made by the stack.
"""

from typing import Any

from infra.aws.iam import Document, Statement, disks_use_key, document
from infra.settings.eks import AwsSettings


def queue_policy(arn: str, account: str) -> Document:
    """EventBridge of this account may send; nobody may use plain HTTP."""
    return document(
        {
            "Sid": "Notices",
            "Effect": "Allow",
            "Principal": {"Service": "events.amazonaws.com"},
            "Action": "sqs:SendMessage",
            "Resource": arn,
            "Condition": {"StringEquals": {"aws:SourceAccount": account}},
        },
        {
            "Sid": "OnlyTls",
            "Effect": "Deny",
            "Principal": "*",
            "Action": "sqs:*",
            "Resource": arn,
            "Condition": {"Bool": {"aws:SecureTransport": "false"}},
        },
    )


def karpenter_rights(
    cluster: str, cloud: AwsSettings, queue_arn: str, node_role_arn: str, key_arn: str
) -> Document:
    """What Karpenter may do: to instances that carry this cluster's tag, and to no others."""
    ec2 = f"arn:{cloud.partition}:ec2:{cloud.region}"
    owned = {f"kubernetes.io/cluster/{cluster}": "owned"}
    asked = {
        "StringEquals": {
            **{f"aws:RequestTag/{tag}": value for tag, value in owned.items()},
            "aws:RequestTag/eks:eks-cluster-name": cluster,
        },
        "StringLike": {"aws:RequestTag/karpenter.sh/nodepool": "*"},
    }
    ours = {
        "StringEquals": {f"aws:ResourceTag/{tag}": value for tag, value in owned.items()},
        "StringLike": {"aws:ResourceTag/karpenter.sh/nodepool": "*"},
    }
    made = [
        f"{ec2}:*:{kind}/*"
        for kind in (
            "fleet",
            "instance",
            "volume",
            "network-interface",
            "launch-template",
            "spot-instances-request",
        )
    ]
    used = ["security-group", "subnet", "capacity-reservation", "placement-group"]
    launch = ["ec2:RunInstances", "ec2:CreateFleet"]
    tagging = {
        **asked,
        "StringEquals": {
            **asked["StringEquals"],
            "ec2:CreateAction": [*_names(launch), "CreateLaunchTemplate"],
        },
    }
    naming = {
        **ours,
        "StringEqualsIfExists": {"aws:RequestTag/eks:eks-cluster-name": cluster},
        "ForAllValues:StringEquals": {
            "aws:TagKeys": ["eks:eks-cluster-name", "karpenter.sh/nodeclaim", "Name"]
        },
    }
    reads = [
        f"ec2:Describe{what}"
        for what in (
            "CapacityReservations",
            "Images",
            "Instances",
            "InstanceStatus",
            "InstanceTypeOfferings",
            "InstanceTypes",
            "LaunchTemplates",
            "PlacementGroups",
            "SecurityGroups",
            "SpotPriceHistory",
            "Subnets",
        )
    ]
    images = [f"{ec2}::image/*", f"{ec2}::snapshot/*"]
    return document(
        _allow("Launch", launch, [*images, *(f"{ec2}:*:{kind}/*" for kind in used)]),
        _allow("LaunchFromOurTemplates", launch, f"{ec2}:*:launch-template/*", ours),
        _allow("LaunchTagged", [*launch, "ec2:CreateLaunchTemplate"], made, asked),
        _allow("TagAtLaunch", "ec2:CreateTags", made, tagging),
        _allow("NameInstances", "ec2:CreateTags", f"{ec2}:*:instance/*", naming),
        _allow(
            "RemoveOurs",
            ["ec2:TerminateInstances", "ec2:DeleteLaunchTemplate"],
            [f"{ec2}:*:instance/*", f"{ec2}:*:launch-template/*"],
            ours,
        ),
        _allow(
            "GiveNodesTheirRole",
            "iam:PassRole",
            node_role_arn,
            {"StringEquals": {"iam:PassedToService": "ec2.amazonaws.com"}},
        ),
        _allow(
            "ReadInstanceProfiles",
            "iam:GetInstanceProfile",
            f"arn:{cloud.partition}:iam::{cloud.account}:instance-profile/*",
        ),
        _allow("FindTheApi", "eks:DescribeCluster", cloud.cluster_arn(cluster)),
        _allow(
            "ReadNotices",
            ["sqs:DeleteMessage", "sqs:GetQueueUrl", "sqs:ReceiveMessage"],
            queue_arn,
        ),
        _allow("Read", reads, "*", {"StringEquals": {"aws:RequestedRegion": cloud.region}}),
        _allow(
            "FindImages",
            "ssm:GetParameter",
            f"arn:{cloud.partition}:ssm:{cloud.region}::parameter/aws/service/*",
        ),
        _allow("ReadPrices", ["pricing:GetProducts", "iam:ListInstanceProfiles"], "*"),
        *disks_use_key(key_arn)["Statement"],
    )


def _names(calls: list[str]) -> list[str]:
    return [call.partition(":")[2] for call in calls]


def _allow(
    sid: str, action: str | list[str], resource: Any, condition: dict[str, Any] | None = None
) -> Statement:
    statement = {"Sid": sid, "Effect": "Allow", "Action": action, "Resource": resource}
    return statement if condition is None else {**statement, "Condition": condition}
