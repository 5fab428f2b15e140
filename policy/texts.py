"""What AWS takes as a name, a description, a tag or a document: characters, lengths and sources.

AWS checks these when `up` has already made half of a stack. Where the source is a call, the limits
are those of AWS' own model of it, as botocore carries them, and a test compares them.
"""

import re
import unicodedata
from dataclasses import dataclass

#: What Pulumi adds to a resource's own name where the program gives none: ``-`` and seven digits.
AUTO_NAME_SUFFIX = "-0000000"


@dataclass(frozen=True)
class Text:
    """What one input may be.

    ``call`` is where AWS' model says so: service, operation, member. ``source`` says it in words
    where the model does not. ``measured`` texts are documents, of which only the length counts.
    """

    longest: int
    characters: str = ""
    shortest: int = 0
    call: tuple[str, str, str] | None = None
    source: str = ""
    measured: bool = False

    def problem(self, value: str) -> str | None:
        """What is wrong with a value; None where AWS takes it."""
        length = len("".join(value.split())) if self.measured else len(value)
        if not self.shortest <= length <= self.longest:
            return f"has {length} characters: use {self.shortest} to {self.longest}"
        if self.characters and re.fullmatch(self.characters, value) is None:
            return f"has characters that AWS refuses: use only {self.characters}"
        return None


_EC2_GROUP = "EC2 API reference, CreateSecurityGroup and IpPermission"
GROUP_DESCRIPTION = Text(255, r"[a-zA-Z0-9. _\-:/()#,@\[\]+=&;{}!$*]*", source=_EC2_GROUP)
DOCUMENT = "IAM user guide, quotas: without white space"

#: Of each type of resource: its inputs, and what they may be.
TEXTS: dict[str, dict[str, Text]] = {
    "aws:ec2/securityGroup:SecurityGroup": {
        "name": Text(255, GROUP_DESCRIPTION.characters, 1, source=_EC2_GROUP),
        "description": GROUP_DESCRIPTION,
    },
    "aws:vpc/securityGroupIngressRule:SecurityGroupIngressRule": {"description": GROUP_DESCRIPTION},
    "aws:vpc/securityGroupEgressRule:SecurityGroupEgressRule": {"description": GROUP_DESCRIPTION},
    "aws:ec2/launchTemplate:LaunchTemplate": {
        "name": Text(
            128, r"[a-zA-Z0-9\(\)\.\-/_]+", 3, source="EC2 API reference, CreateLaunchTemplate"
        ),
        "description": Text(255, call=("ec2", "CreateLaunchTemplate", "VersionDescription")),
        "userData": Text(21848, source="EC2 user guide: 16 KB before it is base64", measured=True),
    },
    "aws:ec2/placementGroup:PlacementGroup": {
        "name": Text(255, r"[\x20-\x7e]+", 1, source="EC2 API reference, CreatePlacementGroup"),
    },
    "aws:iam/role:Role": {
        "name": Text(64, r"[\w+=,.@-]+", 1, call=("iam", "CreateRole", "RoleName")),
        "path": Text(
            512, r"(\u002F)|(\u002F[\u0021-\u007E]+\u002F)", 1, call=("iam", "CreateRole", "Path")
        ),
        "description": Text(
            1000,
            r"[\u0009\u000A\u000D\u0020-\u007E\u00A1-\u00FF]*",
            call=("iam", "CreateRole", "Description"),
        ),
        "assumeRolePolicy": Text(2048, source=DOCUMENT, measured=True),
    },
    "aws:iam/instanceProfile:InstanceProfile": {
        "name": Text(
            128,
            r"[\w+=,.@-]+",
            1,
            call=("iam", "CreateInstanceProfile", "InstanceProfileName"),
        ),
    },
    "aws:iam/rolePolicy:RolePolicy": {
        "name": Text(128, r"[\w+=,.@-]+", 1, call=("iam", "PutRolePolicy", "PolicyName")),
        "policy": Text(10240, source=DOCUMENT, measured=True),
    },
    "aws:kms/key:Key": {
        "description": Text(8192, call=("kms", "CreateKey", "Description")),
        "policy": Text(32768, source="KMS API reference, PutKeyPolicy", measured=True),
    },
    "aws:kms/replicaKey:ReplicaKey": {
        "description": Text(8192, call=("kms", "ReplicateKey", "Description")),
    },
    "aws:kms/alias:Alias": {
        "name": Text(256, r"^[a-zA-Z0-9:/_-]+$", 1, call=("kms", "CreateAlias", "AliasName")),
    },
    "aws:eks/cluster:Cluster": {
        "name": Text(100, r"^[0-9A-Za-z][A-Za-z0-9\-_]*", 1, call=("eks", "CreateCluster", "name")),
    },
    "eks:index:Cluster": {
        "name": Text(100, r"^[0-9A-Za-z][A-Za-z0-9\-_]*", 1, call=("eks", "CreateCluster", "name")),
    },
    "aws:eks/nodeGroup:NodeGroup": {
        "nodeGroupName": Text(
            63,
            r"[A-Za-z0-9][A-Za-z0-9\-_]*",
            1,
            source="CloudFormation reference, AWS::EKS::Nodegroup",
        ),
    },
    "aws:ecr/repository:Repository": {
        "name": Text(
            256,
            r"[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*(\/[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*)*",
            2,
            call=("ecr", "CreateRepository", "repositoryName"),
        ),
    },
    "aws:s3/bucket:Bucket": {
        "bucket": Text(
            63, r"[a-z0-9][a-z0-9-]+[a-z0-9]", 3, source="S3 user guide, bucket naming rules"
        ),
    },
    "aws:s3/bucketPolicy:BucketPolicy": {
        "policy": Text(20480, source="S3 user guide, bucket policies: 20 KB", measured=True),
    },
    "aws:cloudwatch/logGroup:LogGroup": {
        "name": Text(
            512, r"[\.\-_/#A-Za-z0-9]+", 1, call=("logs", "CreateLogGroup", "logGroupName")
        ),
    },
    "aws:cloudwatch/eventRule:EventRule": {
        "name": Text(64, r"[\.\-_A-Za-z0-9]+", 1, call=("events", "PutRule", "Name")),
        "description": Text(512, call=("events", "PutRule", "Description")),
    },
    "aws:sqs/queue:Queue": {
        "name": Text(80, r"[A-Za-z0-9_-]+", 1, source="SQS API reference, CreateQueue"),
    },
    "aws:fsx/dataRepositoryAssociation:DataRepositoryAssociation": {
        "dataRepositoryPath": Text(
            4357,
            r"^[^\u0000\u0085\u2028\u2029\r\n]{3,4357}$",
            3,
            call=("fsx", "CreateDataRepositoryAssociation", "DataRepositoryPath"),
        ),
    },
}

#: Types whose name Pulumi makes from the resource's own where the program gives none.
AUTO_NAMED = {
    "aws:ec2/securityGroup:SecurityGroup": "name",
    "aws:ec2/launchTemplate:LaunchTemplate": "name",
    "aws:ec2/placementGroup:PlacementGroup": "name",
    "aws:iam/instanceProfile:InstanceProfile": "name",
    "aws:iam/role:Role": "name",
    "aws:iam/rolePolicy:RolePolicy": "name",
    "aws:eks/nodeGroup:NodeGroup": "nodeGroupName",
    "aws:cloudwatch/eventRule:EventRule": "name",
    "aws:sqs/queue:Queue": "name",
}

#: Tags: what IAM, EFS, FSx and CloudWatch Logs take, the strictest ones (botocore's models); other
#: services take these too. 50 for each resource, those of AWS' own not counted.
TAG_KEY_LENGTH, TAG_VALUE_LENGTH, TAG_COUNT = 128, 256, 50


def tag_problem(key: str, value: str) -> str | None:
    """What is wrong with a tag; None where every service takes it."""
    if key.lower().startswith("aws:"):
        return f"key {key!r} begins with aws:, which is AWS' own: use another key"
    if not 1 <= len(key) <= TAG_KEY_LENGTH:
        return f"key {key!r} has {len(key)} characters: use 1 to {TAG_KEY_LENGTH}"
    if len(value) > TAG_VALUE_LENGTH:
        return f"value of {key!r} has {len(value)} characters: use at most {TAG_VALUE_LENGTH}"
    for text in (key, value):
        if refused := [char for char in text if not _in_tags(char)]:
            return (
                f"{text!r} has {refused[0]!r}, which AWS refuses in tags: use letters, digits, "
                "spaces and _ . : / = + - @"
            )
    return None


def _in_tags(char: str) -> bool:
    r"""``[\p{L}\p{Z}\p{N}_.:/=+\-@]``, which Python's expressions do not know."""
    return unicodedata.category(char)[0] in "LZN" or char in "_.:/=+-@"
