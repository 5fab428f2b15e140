"""The IAM policy for `pulumi up`, derived from the graph.

Each resource type of the graph brings the calls by which its provider makes, reads, changes and
removes it, as the API references and AWS' own resource schemas name them. This list has not been
tried against AWS yet; where a call is missing, AWS names it in its AccessDenied.
"""

import json
from typing import Any

from infra.plan.graph import Graph

#: Reading is granted by service: calls that read configuration, and none that read data.
_READ = {
    "ec2": ("ec2:Describe*", "ec2:GetLaunchTemplateData"),
    "eks": ("eks:Describe*", "eks:List*"),
    "iam": ("iam:GetRole", "iam:GetRolePolicy", "iam:ListAttachedRolePolicies",
            "iam:ListInstanceProfilesForRole", "iam:ListRolePolicies", "iam:ListRoleTags"),
    "kms": ("kms:DescribeKey", "kms:GetKeyPolicy", "kms:GetKeyRotationStatus", "kms:ListAliases",
            "kms:ListResourceTags"),
    "s3": ("s3:GetAccelerateConfiguration", "s3:GetBucket*", "s3:GetEncryptionConfiguration",
           "s3:GetLifecycleConfiguration", "s3:GetReplicationConfiguration", "s3:ListBucket",
           "s3:ListTagsForResource"),
    "ecr": ("ecr:DescribeRepositories", "ecr:GetLifecyclePolicy", "ecr:ListTagsForResource"),
    "logs": ("logs:DescribeLogGroups", "logs:ListTagsForResource"),
    "events": ("events:DescribeRule", "events:ListTagsForResource", "events:ListTargetsByRule"),
    "sqs": ("sqs:GetQueueAttributes", "sqs:ListQueueTags"),
    "elasticfilesystem": ("elasticfilesystem:Describe*", "elasticfilesystem:ListTagsForResource"),
    "fsx": ("fsx:Describe*", "fsx:ListTagsForResource"),
}  # fmt: skip

#: A key of the stack's own encrypts it: the caller asks the service to use the key.
_WITH_KEY = "kms:CreateGrant kms:Decrypt kms:GenerateDataKeyWithoutPlaintext"
_TAGS = "ec2:CreateTags ec2:DeleteTags"
_EKS_TAGS = "eks:TagResource eks:UntagResource"

_WRITE = {
    "aws:cloudwatch/logGroup:LogGroup": (
        "logs:AssociateKmsKey logs:CreateLogGroup logs:DeleteLogGroup logs:PutRetentionPolicy "
        "logs:TagResource logs:UntagResource"
    ),
    "aws:cloudwatch/eventRule:EventRule": (
        "events:DeleteRule events:PutRule events:TagResource events:UntagResource"
    ),
    "aws:cloudwatch/eventTarget:EventTarget": "events:PutTargets events:RemoveTargets",
    "aws:ebs/volume:Volume": f"ec2:CreateVolume ec2:DeleteVolume ec2:ModifyVolume {_WITH_KEY}",
    "aws:ec2/defaultSecurityGroup:DefaultSecurityGroup": (
        "ec2:RevokeSecurityGroupEgress ec2:RevokeSecurityGroupIngress"
    ),
    "aws:ec2/eip:Eip": "ec2:AllocateAddress ec2:DisassociateAddress ec2:ReleaseAddress",
    "aws:ec2/flowLog:FlowLog": "ec2:CreateFlowLogs ec2:DeleteFlowLogs iam:PassRole",
    "aws:ec2/internetGateway:InternetGateway": (
        "ec2:AttachInternetGateway ec2:CreateInternetGateway ec2:DeleteInternetGateway "
        "ec2:DetachInternetGateway"
    ),
    "aws:ec2/launchTemplate:LaunchTemplate": (
        "ec2:CreateLaunchTemplate ec2:CreateLaunchTemplateVersion ec2:DeleteLaunchTemplate "
        "ec2:ModifyLaunchTemplate"
    ),
    "aws:ec2/natGateway:NatGateway": "ec2:CreateNatGateway ec2:DeleteNatGateway",
    "aws:ec2/placementGroup:PlacementGroup": "ec2:CreatePlacementGroup ec2:DeletePlacementGroup",
    "aws:ec2/route:Route": "ec2:CreateRoute ec2:DeleteRoute ec2:ReplaceRoute",
    "aws:ec2/routeTable:RouteTable": "ec2:CreateRouteTable ec2:DeleteRouteTable",
    "aws:ec2/routeTableAssociation:RouteTableAssociation": (
        "ec2:AssociateRouteTable ec2:DisassociateRouteTable ec2:ReplaceRouteTableAssociation"
    ),
    "aws:ec2/securityGroup:SecurityGroup": (
        "ec2:CreateSecurityGroup ec2:DeleteSecurityGroup ec2:RevokeSecurityGroupEgress"
    ),
    "aws:ec2/subnet:Subnet": "ec2:CreateSubnet ec2:DeleteSubnet ec2:ModifySubnetAttribute",
    "aws:ec2/vpc:Vpc": "ec2:CreateVpc ec2:DeleteVpc ec2:ModifyVpcAttribute",
    "aws:ec2/vpcEndpoint:VpcEndpoint": (
        "ec2:CreateVpcEndpoint ec2:DeleteVpcEndpoints ec2:ModifyVpcEndpoint"
    ),
    "aws:vpc/securityGroupEgressRule:SecurityGroupEgressRule": (
        "ec2:AuthorizeSecurityGroupEgress ec2:ModifySecurityGroupRules "
        "ec2:RevokeSecurityGroupEgress"
    ),
    "aws:vpc/securityGroupIngressRule:SecurityGroupIngressRule": (
        "ec2:AuthorizeSecurityGroupIngress ec2:ModifySecurityGroupRules "
        "ec2:RevokeSecurityGroupIngress"
    ),
    "aws:ecr/lifecyclePolicy:LifecyclePolicy": "ecr:DeleteLifecyclePolicy ecr:PutLifecyclePolicy",
    "aws:ecr/repository:Repository": (
        "ecr:CreateRepository ecr:DeleteRepository ecr:PutImageScanningConfiguration "
        "ecr:PutImageTagMutability ecr:TagResource ecr:UntagResource kms:CreateGrant "
        "kms:RetireGrant"
    ),
    "aws:efs/accessPoint:AccessPoint": (
        "elasticfilesystem:CreateAccessPoint elasticfilesystem:DeleteAccessPoint"
    ),
    "aws:efs/backupPolicy:BackupPolicy": (
        "elasticfilesystem:PutBackupPolicy iam:CreateServiceLinkedRole"
    ),
    "aws:efs/fileSystem:FileSystem": (
        "elasticfilesystem:CreateFileSystem elasticfilesystem:DeleteFileSystem "
        "elasticfilesystem:TagResource elasticfilesystem:UntagResource "
        f"elasticfilesystem:UpdateFileSystem iam:CreateServiceLinkedRole {_WITH_KEY}"
    ),
    "aws:efs/fileSystemPolicy:FileSystemPolicy": (
        "elasticfilesystem:DeleteFileSystemPolicy elasticfilesystem:PutFileSystemPolicy"
    ),
    "aws:efs/mountTarget:MountTarget": (
        "ec2:CreateNetworkInterface ec2:DeleteNetworkInterface "
        "elasticfilesystem:CreateMountTarget elasticfilesystem:DeleteMountTarget "
        "elasticfilesystem:ModifyMountTargetSecurityGroups"
    ),
    "aws:eks/accessEntry:AccessEntry": (
        f"eks:CreateAccessEntry eks:DeleteAccessEntry eks:UpdateAccessEntry {_EKS_TAGS}"
    ),
    "aws:eks/accessPolicyAssociation:AccessPolicyAssociation": (
        "eks:AssociateAccessPolicy eks:DisassociateAccessPolicy"
    ),
    "aws:eks/addon:Addon": (
        "eks:CreateAddon eks:CreatePodIdentityAssociation eks:DeleteAddon "
        "eks:DeletePodIdentityAssociation eks:UpdateAddon eks:UpdatePodIdentityAssociation "
        f"iam:PassRole {_EKS_TAGS}"
    ),
    "aws:eks/nodeGroup:NodeGroup": (
        "ec2:RunInstances eks:CreateNodegroup eks:DeleteNodegroup eks:UpdateNodegroupConfig "
        f"eks:UpdateNodegroupVersion iam:CreateServiceLinkedRole iam:PassRole {_EKS_TAGS}"
    ),
    "aws:eks/podIdentityAssociation:PodIdentityAssociation": (
        "eks:CreatePodIdentityAssociation eks:DeletePodIdentityAssociation "
        f"eks:UpdatePodIdentityAssociation iam:PassRole {_EKS_TAGS}"
    ),
    "eks:index:Cluster": (
        "eks:CreateCluster eks:DeleteCluster eks:UpdateClusterConfig eks:UpdateClusterVersion "
        f"iam:CreateServiceLinkedRole iam:PassRole kms:CreateGrant {_EKS_TAGS}"
    ),
    "aws:fsx/dataRepositoryAssociation:DataRepositoryAssociation": (
        "fsx:CreateDataRepositoryAssociation fsx:DeleteDataRepositoryAssociation "
        "fsx:UpdateDataRepositoryAssociation iam:AttachRolePolicy iam:CreateServiceLinkedRole "
        "iam:PutRolePolicy s3:GetBucketAcl s3:ListBucket"
    ),
    "aws:fsx/lustreFileSystem:LustreFileSystem": (
        "fsx:CreateBackup fsx:CreateFileSystem fsx:DeleteFileSystem fsx:TagResource "
        f"fsx:UntagResource fsx:UpdateFileSystem iam:CreateServiceLinkedRole {_WITH_KEY}"
    ),
    "aws:iam/instanceProfile:InstanceProfile": (
        "iam:AddRoleToInstanceProfile iam:CreateInstanceProfile iam:DeleteInstanceProfile "
        "iam:GetInstanceProfile iam:PassRole iam:RemoveRoleFromInstanceProfile "
        "iam:TagInstanceProfile iam:UntagInstanceProfile"
    ),
    "aws:iam/role:Role": (
        "iam:CreateRole iam:DeleteRole iam:TagRole iam:UntagRole iam:UpdateAssumeRolePolicy "
        "iam:UpdateRole iam:UpdateRoleDescription iam:DeleteRolePermissionsBoundary "
        "iam:PutRolePermissionsBoundary"
    ),
    "aws:iam/rolePolicy:RolePolicy": "iam:DeleteRolePolicy iam:PutRolePolicy",
    "aws:iam/rolePolicyAttachment:RolePolicyAttachment": (
        "iam:AttachRolePolicy iam:DetachRolePolicy"
    ),
    "aws:kms/alias:Alias": "kms:CreateAlias kms:DeleteAlias kms:UpdateAlias",
    "aws:kms/key:Key": (
        "kms:CreateKey kms:EnableKeyRotation kms:PutKeyPolicy kms:ScheduleKeyDeletion "
        "kms:TagResource kms:UntagResource kms:UpdateKeyDescription"
    ),
    "aws:s3/bucket:Bucket": (
        "s3:CreateBucket s3:DeleteBucket s3:ListBucketVersions s3:PutBucketTagging "
        "s3:TagResource s3:UntagResource"
    ),
    "aws:s3/bucketLifecycleConfiguration:BucketLifecycleConfiguration": (
        "s3:PutLifecycleConfiguration"
    ),
    "aws:s3/bucketLogging:BucketLogging": "s3:PutBucketLogging",
    "aws:s3/bucketObjectLockConfiguration:BucketObjectLockConfiguration": (
        "s3:PutBucketObjectLockConfiguration"
    ),
    "aws:s3/bucketOwnershipControls:BucketOwnershipControls": "s3:PutBucketOwnershipControls",
    "aws:s3/bucketPolicy:BucketPolicy": "s3:DeleteBucketPolicy s3:PutBucketPolicy",
    "aws:s3/bucketPublicAccessBlock:BucketPublicAccessBlock": "s3:PutBucketPublicAccessBlock",
    "aws:s3/bucketReplicationConfig:BucketReplicationConfig": (
        "iam:PassRole s3:PutReplicationConfiguration"
    ),
    "aws:s3/bucketServerSideEncryptionConfiguration:BucketServerSideEncryptionConfiguration": (
        "s3:PutEncryptionConfiguration"
    ),
    "aws:s3/bucketVersioning:BucketVersioning": "s3:PutBucketVersioning",
    "aws:sqs/queue:Queue": (
        "sqs:CreateQueue sqs:DeleteQueue sqs:SetQueueAttributes sqs:TagQueue sqs:UntagQueue"
    ),
    "aws:sqs/queuePolicy:QueuePolicy": "sqs:SetQueueAttributes",
}


#: Only where the settings say that destroy may remove what is in the bucket.
_EMPTY_BUCKET = {"s3:DeleteObject", "s3:DeleteObjectVersion"}


#: Calls that IAM can tie to a permissions boundary (Service Authorization Reference, IAM).
_BOUNDED = {
    "iam:AttachRolePolicy",
    "iam:CreateRole",
    "iam:DetachRolePolicy",
    "iam:DeleteRolePolicy",
    "iam:PutRolePermissionsBoundary",
    "iam:PutRolePolicy",
}


def actions(graph: Graph) -> list[str]:
    """The calls that the stack's resources need, each once.

    Raises:
        KeyError: for a type that has no entry here.
    """
    in_aws = [r for r in graph.resources if r.type.startswith(("aws:", "eks:"))]
    needed = {action for resource in in_aws for action in _WRITE[resource.type].split()}
    if any(action.startswith("ec2:Create") for action in needed):
        needed |= set(_TAGS.split())
    if any(resource.inputs.get("forceDestroy") for resource in in_aws):
        needed |= _EMPTY_BUCKET
    services = {action.partition(":")[0] for action in needed}
    return sorted(needed | {read for service in services for read in _READ[service]})


def policy(graph: Graph) -> str:
    """An IAM policy for the person or role that runs `pulumi up`. Where all roles of the stack have
    one permissions boundary, it can make and change no role without it."""
    needed = actions(graph)
    bounds = {r.inputs.get("permissionsBoundary") for r in graph.find("aws:iam/role:Role")}
    bounded = sorted(_BOUNDED & set(needed)) if len(bounds) == 1 and None not in bounds else []
    statements: list[dict[str, Any]] = []
    if needed:
        kept = {*bounded, "iam:DeleteRolePermissionsBoundary"} if bounded else set()
        free = [action for action in needed if action not in kept]
        statements.append({"Effect": "Allow", "Action": free, "Resource": "*"})
    if bounded:
        condition = {"StringEquals": {"iam:PermissionsBoundary": bounds.pop()}}
        statements.append(
            {"Effect": "Allow", "Action": bounded, "Resource": "*", "Condition": condition}
        )
    return json.dumps({"Version": "2012-10-17", "Statement": statements}, indent=2)
