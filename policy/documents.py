"""IAM policy documents: found in resources, read as data."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from policy.model import UNKNOWN, Resource, at, items, mapping

#: Who may do what: the resource is named in the statement.
IDENTITY = {
    "aws:iam/policy:Policy": "policy",
    "aws:iam/rolePolicy:RolePolicy": "policy",
    "aws:iam/userPolicy:UserPolicy": "policy",
    "aws:iam/groupPolicy:GroupPolicy": "policy",
}
#: Policies of one resource, in which `*` means that resource.
RESOURCE = {
    "aws:iam/role:Role": "assumeRolePolicy",
    "aws:kms/key:Key": "policy",
    "aws:s3/bucketPolicy:BucketPolicy": "policy",
    "aws:ecr/repositoryPolicy:RepositoryPolicy": "policy",
    "aws:efs/fileSystemPolicy:FileSystemPolicy": "policy",
    "aws:ec2/vpcEndpoint:VpcEndpoint": "policy",
}


@dataclass(frozen=True)
class Statement:
    """One statement that allows something."""

    sid: str
    actions: list[Any]
    resources: list[Any]
    principals: list[Any]
    condition: Mapping[str, Any]
    inverted: bool
    """Whether it allows all but what it names (NotAction, NotResource, NotPrincipal)."""
    of_identity: bool


def allowed(resource: Resource) -> Iterator[Statement]:
    """Every Allow statement of a resource's documents that is known."""
    key = IDENTITY.get(resource.type) or RESOURCE.get(resource.type)
    if key is not None:
        yield from _statements(at(resource.inputs, key), resource.type in IDENTITY)
    for inline in items(at(resource.inputs, "inlinePolicies")):
        yield from _statements(at(inline, "policy"), True)


def _statements(document: Any, of_identity: bool) -> Iterator[Statement]:
    if document is None or document is UNKNOWN:
        return
    parsed = json.loads(document) if isinstance(document, str) else document
    for number, body in enumerate(items(at(parsed, "Statement"))):
        if at(body, "Effect") != "Allow":
            continue
        principal = at(body, "Principal")
        yield Statement(
            sid=at(body, "Sid") or f"statement {number + 1}",
            actions=items(at(body, "Action")),
            resources=items(at(body, "Resource")),
            principals=_principals(principal),
            condition=mapping(at(body, "Condition")),
            inverted=any(f"Not{k}" in body for k in ("Action", "Resource", "Principal")),
            of_identity=of_identity,
        )


def _principals(principal: Any) -> list[Any]:
    if isinstance(principal, Mapping):
        return [p for value in principal.values() for p in items(value)]
    return items(principal)
