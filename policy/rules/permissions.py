"""Every identity of the stack can do what it needs and nothing else."""

import re
from collections.abc import Iterator, Sequence
from fnmatch import fnmatchcase

from policy.clusters import cluster_value, is_cluster
from policy.documents import allowed
from policy.model import UNKNOWN, Config, Resource, at, items, lacks, rule, stack_rule

_ROOT = re.compile(r"(arn:aws[\w-]*:iam::\d{12}:root|\d{12})")

#: Actions that AWS lets no one limit to a resource.
ANY_RESOURCE = [
    "cloudwatch:PutMetricData",
    "ec2:Describe*",
    "ecr:GetAuthorizationToken",
    "eks:DescribeAddonVersions",
    "elasticfilesystem:Describe*",
    "fsx:Describe*",
    "iam:ListInstanceProfiles",
    "logs:DescribeLogGroups",
    "pricing:GetProducts",
    "s3:ListAllMyBuckets",
    "sts:GetCallerIdentity",
    "xray:Put*",
]


@rule(
    "iam-names-actions",
    "Name the actions of every IAM policy: no `*` and no whole service. A key may give `kms:*` to "
    "the account itself, without which no one could ever manage it.",
)
def actions(resource: Resource, _: Config) -> Iterator[str]:
    for statement in allowed(resource):
        if statement.inverted:
            yield f"{statement.sid} allows all but what it names: name what it allows"
        for action in statement.actions:
            service, _colon, verb = str(action).partition(":")
            by_account = statement.principals and all(
                _ROOT.fullmatch(str(p)) for p in statement.principals
            )
            if service == "*" or (verb == "*" and not (service == "kms" and by_account)):
                yield f"{statement.sid} allows {action}: name the actions"


@rule(
    "iam-names-resources",
    "Name the resources of every IAM policy, or set a condition, wherever AWS allows it.",
    any_resource=ANY_RESOURCE,
)
def resources(resource: Resource, config: Config) -> Iterator[str]:
    for statement in allowed(resource):
        if not statement.of_identity or statement.condition or "*" not in statement.resources:
            continue
        broad = [
            str(action)
            for action in statement.actions
            if not any(fnmatchcase(str(action), pattern) for pattern in config["any_resource"])
        ]
        if broad:
            yield f"{statement.sid} allows {', '.join(broad)} on *: name resources or a condition"


@rule(
    "iam-trusts-someone",
    "Allow nothing to everyone: name the principal of every policy and trust document.",
)
def principals(resource: Resource, _: Config) -> Iterator[str]:
    # A policy of a VPC endpoint names everyone who can reach the endpoint: the VPC.
    if resource.type == "aws:ec2/vpcEndpoint:VpcEndpoint":
        return
    for statement in allowed(resource):
        if "*" in statement.principals and not statement.condition:
            yield f"{statement.sid} allows everyone in AWS: name a principal or set a condition"


@rule(
    "iam-has-no-administrators",
    "Attach no AWS policy that allows everything, or everything of a service.",
)
def managed(resource: Resource, _: Config) -> Iterator[str]:
    arns = [
        *items(at(resource.inputs, "policyArn")),
        *items(at(resource.inputs, "managedPolicyArns")),
    ]
    if not resource.type.startswith("aws:iam/"):
        return
    for arn in arns:
        name = str(arn).rpartition("/")[2]
        if name in ("AdministratorAccess", "PowerUserAccess") or name.endswith("FullAccess"):
            yield f"attaches {name}: write a policy with what is needed"


@rule(
    "who-writes-copies-deletes-none",
    "Let no identity both write the data of backups and delete them: what one of them does can "
    "then be undone by another.",
    parts=["/data/", "/manifests/"],
)
def copies(resource: Resource, config: Config) -> Iterator[str]:
    by_action: dict[str, set[str]] = {"s3:PutObject": set(), "s3:DeleteObject": set()}
    for statement in allowed(resource):
        for action in by_action.keys() & {str(each) for each in statement.actions}:
            by_action[action] |= {
                str(arn)
                for arn in statement.resources
                if any(part in str(arn) for part in config["parts"])
            }
    for arn in sorted(by_action["s3:PutObject"] & by_action["s3:DeleteObject"]):
        yield f"may write and delete {arn}: give the two to different identities"


@rule(
    "no-access-keys",
    "Make no IAM user and no access key: pods use EKS Pod Identity, pipelines OIDC.",
)
def access_keys(resource: Resource, _: Config) -> Iterator[str]:
    if resource.type in ("aws:iam/accessKey:AccessKey", "aws:iam/user:User"):
        yield "is a credential that does not expire: use a role"


@rule(
    "clusters-use-access-entries",
    "Decide who reaches a cluster by access entries alone: authentication mode API.",
)
def access_entries(resource: Resource, _: Config) -> Iterator[str]:
    if is_cluster(resource):
        mode = cluster_value(resource, "authentication")
        if mode is not UNKNOWN and str(mode or "CONFIG_MAP").upper() != "API":
            yield f"has authentication mode {mode or 'CONFIG_MAP'}: set it to API"


@rule(
    "clusters-log-everything",
    "Keep all five kinds of control-plane logs: only `audit` says who deleted a volume.",
    kinds=["api", "audit", "authenticator", "controllerManager", "scheduler"],
)
def logs(resource: Resource, config: Config) -> Iterator[str]:
    if is_cluster(resource):
        given = cluster_value(resource, "logs")
        missing = [kind for kind in config["kinds"] if lacks(given, kind)]
        if missing:
            yield f"keeps no {', '.join(missing)} logs: add them to enabledClusterLogTypes"


@stack_rule(
    "roles-share-one-boundary",
    "Give every role of a stack the same permissions boundary and path: one role without it can "
    "do what the boundary is to prevent.",
)
def boundary(resources: Sequence[Resource], _: Config) -> Iterator[tuple[Resource, str]]:
    roles = [each for each in resources if each.type == "aws:iam/role:Role"]
    for key in ("permissionsBoundary", "path"):
        values = [at(role.inputs, key) for role in roles]
        wanted = next((value for value in values if value not in (None, UNKNOWN)), None)
        for role, value in zip(roles, values, strict=True):
            if wanted is not None and value not in (wanted, UNKNOWN):
                yield role, f"has {key} {value or 'none'}, and others {wanted}: give it the same"
