"""IAM policy documents as data: who may do what, to be read, tested and compared.

Documents are plain mappings; ``json_of`` renders them when the ARNs in them are known.
"""

from collections.abc import Iterable
from typing import Any

import pulumi
import pulumi_aws as aws

from infra.settings.eks import AwsSettings

Document = dict[str, Any]
Statement = dict[str, Any]

VERSION = "2012-10-17"


def document(*statements: Statement) -> Document:
    """A policy document."""
    return {"Version": VERSION, "Statement": list(statements)}


def json_of(value: pulumi.Input[Document]) -> pulumi.Output[str]:
    """The document as IAM wants it, once every ARN in it is known."""
    return pulumi.Output.json_dumps(value)


def managed(partition: str, name: str) -> str:
    """The ARN of a policy that AWS keeps."""
    return f"arn:{partition}:iam::aws:policy/{name}"


def service_trust(service: str, account: str | None = None) -> Document:
    """An AWS service may take the role; with an account, only on behalf of that account."""
    statement: Statement = {
        "Effect": "Allow",
        "Principal": {"Service": service},
        "Action": "sts:AssumeRole",
    }
    if account is not None:
        statement["Condition"] = {"StringEquals": {"aws:SourceAccount": account}}
    return document(statement)


def pod_trust(cluster_arn: str, namespace: str, *service_accounts: str) -> Document:
    """Pods of these service accounts of one cluster may take the role, and no other pod."""
    return document(
        {
            "Effect": "Allow",
            "Principal": {"Service": "pods.eks.amazonaws.com"},
            "Action": ["sts:AssumeRole", "sts:TagSession"],
            "Condition": {
                "StringEquals": {
                    "aws:RequestTag/eks-cluster-arn": cluster_arn,
                    "aws:RequestTag/kubernetes-namespace": namespace,
                    "aws:RequestTag/kubernetes-service-account": list(service_accounts),
                }
            },
        }
    )


class Role(pulumi.ComponentResource):
    """An IAM role with all that it may do.

    Produces: Role, one RolePolicyAttachment for each managed policy, at most one RolePolicy. Depend
    on this component, not on the role alone: without its policies a role is of no use, and on
    destroy they must outlive what uses it.
    """

    arn: pulumi.Output[str]
    """The role's ARN."""
    role: aws.iam.Role
    """The role itself."""

    def __init__(
        self,
        name: str,
        trust: Document,
        cloud: AwsSettings,
        opts: pulumi.ResourceOptions,
        *,
        description: str,
        policies: Iterable[str] = (),
        inline: pulumi.Input[Document] | None = None,
    ) -> None:
        """
        Args:
            name: the Pulumi name, from which the role's own name is made.
            trust: who may take it.
            cloud: the account, which may want a path and a permissions boundary.
            opts: the parent.
            description: what it is for.
            policies: ARNs of managed policies.
            inline: a policy of its own.
        """
        super().__init__("holdfast:iam:Role", name, {}, opts)
        options = pulumi.ResourceOptions(parent=self)
        self.role = aws.iam.Role(
            f"{name}-role",
            assume_role_policy=json_of(trust),
            path=cloud.role_path,
            permissions_boundary=cloud.permissions_boundary,
            description=description,
            opts=options,
        )
        for policy in policies:
            aws.iam.RolePolicyAttachment(
                f"{name}-{policy.rpartition('/')[2]}",
                role=self.role.name,
                policy_arn=policy,
                opts=options,
            )
        if inline is not None:
            aws.iam.RolePolicy(
                f"{name}-policy", role=self.role.id, policy=json_of(inline), opts=options
            )
        self.arn = self.role.arn
        self.register_outputs({"arn": self.arn})


def give_pods_role(
    name: str,
    cluster: str,
    namespace: str,
    account: str,
    cloud: AwsSettings,
    parent: pulumi.Resource,
    *,
    description: str,
    inline: pulumi.Input[Document],
) -> None:
    """Let the pods of one service account do what a policy says, by EKS Pod Identity.

    Produces: a Role, and the PodIdentityAssociation that gives it to the account.

    Args:
        name: the Pulumi name of both.
        cluster: the cluster's name.
        namespace: of the account.
        account: the service account.
        cloud: the account in AWS, and the region.
        parent: the component that both belong to.
        description: what the role is for, after the cluster's name.
        inline: the policy.
    """
    role = Role(
        name,
        pod_trust(cloud.cluster_arn(cluster), namespace, account),
        cloud,
        pulumi.ResourceOptions(parent=parent),
        description=f"{cluster}: {description}",
        inline=inline,
    )
    aws.eks.PodIdentityAssociation(
        name,
        cluster_name=cluster,
        namespace=namespace,
        service_account=account,
        role_arn=role.arn,
        opts=pulumi.ResourceOptions(parent=parent, depends_on=[role]),
    )


# Keys ---------------------------------------------------------------------------------------------


def key_policy(partition: str, account: str, *others: Statement) -> Document:
    """The account's IAM decides about the key (without this no one ever could), and ``others``."""
    administration = {
        "Sid": "TheAccountDecides",
        "Effect": "Allow",
        "Principal": {"AWS": f"arn:{partition}:iam::{account}:root"},
        "Action": "kms:*",
        "Resource": "*",
    }
    return document(administration, *others)


def logs_use_key(partition: str, region: str, account: str) -> Statement:
    """CloudWatch Logs encrypts the account's log groups with the key."""
    groups = f"arn:{partition}:logs:{region}:{account}:log-group:*"
    return {
        "Sid": "LogGroups",
        "Effect": "Allow",
        "Principal": {"Service": f"logs.{region}.amazonaws.com"},
        "Action": [
            "kms:Encrypt",
            "kms:Decrypt",
            "kms:ReEncrypt*",
            "kms:GenerateDataKey*",
            "kms:DescribeKey",
        ],
        "Resource": "*",
        "Condition": {"ArnLike": {"kms:EncryptionContext:aws:logs:arn": groups}},
    }


def autoscaling_uses_key(partition: str, account: str) -> list[Statement]:
    """Node groups launch through Auto Scaling, whose own role opens the nodes' encrypted disks.

    The role is named in a condition: as a principal KMS would refuse it in an account that has
    never had an Auto Scaling group, where the role is not there before the first node group.
    """
    role = (
        f"arn:{partition}:iam::{account}:role/aws-service-role/autoscaling.amazonaws.com/"
        "AWSServiceRoleForAutoScaling"
    )
    is_role = {"StringEquals": {"kms:CallerAccount": account, "aws:PrincipalArn": role}}
    return [
        {
            "Sid": "NodeDisks",
            "Effect": "Allow",
            "Principal": {"AWS": "*"},
            "Action": [
                "kms:Encrypt",
                "kms:Decrypt",
                "kms:ReEncrypt*",
                "kms:GenerateDataKey*",
                "kms:DescribeKey",
            ],
            "Resource": "*",
            "Condition": is_role,
        },
        {
            "Sid": "NodeDisksAttached",
            "Effect": "Allow",
            "Principal": {"AWS": "*"},
            "Action": "kms:CreateGrant",
            "Resource": "*",
            "Condition": {**is_role, "Bool": {"kms:GrantIsForAWSResource": "true"}},
        },
    ]


def disks_use_key(key_arn: str) -> Document:
    """What the EBS driver needs to make and attach volumes encrypted with the key."""
    return document(
        {
            "Effect": "Allow",
            "Action": ["kms:Decrypt", "kms:GenerateDataKeyWithoutPlaintext", "kms:DescribeKey"],
            "Resource": key_arn,
        },
        {
            "Effect": "Allow",
            "Action": "kms:CreateGrant",
            "Resource": key_arn,
            "Condition": {"Bool": {"kms:GrantIsForAWSResource": "true"}},
        },
    )


def flow_logs(log_group_arn: str) -> Document:
    """What the VPC's flow logs may write."""
    return document(
        {
            "Effect": "Allow",
            "Action": [
                "logs:CreateLogStream",
                "logs:PutLogEvents",
                "logs:DescribeLogGroups",
                "logs:DescribeLogStreams",
            ],
            "Resource": [log_group_arn, f"{log_group_arn}:*"],
        }
    )


def lustre_driver() -> Document:
    """What the FSx driver asks for volumes that the stack itself made: their state, no change."""
    return document(
        {"Effect": "Allow", "Action": ["fsx:DescribeFileSystems"], "Resource": "*"},
    )
