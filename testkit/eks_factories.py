"""Settings of an EKS stack for tests, and questions about its graph."""

import json
from fnmatch import fnmatchcase
from typing import Any

from infra.plan.graph import Graph, Resource
from infra.settings import EksStack, SettingsError, parse
from testkit.factories import changed, collected

DIGEST = "@sha256:" + "1" * 64
EBS = {"kind": "ebs", "name": "checkpoints", "size": "20Gi", "zone": "use1-az1"}
EFS = {"kind": "efs", "name": "shared"}
LUSTRE = {"kind": "fsx-lustre", "name": "fast", "zone": "use1-az1"}
GROUP = {"instance_types": ["m7i.xlarge"], "zone": "use1-az1"}
GPU_GROUP = {"instance_types": ["g5.12xlarge"], "scaling": {"min": 0, "desired": 0, "max": 2}}
EFA_GROUP = {"instance_types": ["p5.48xlarge"], "zone": "use1-az1", "efa": True}

VALID: dict[str, Any] = {
    "target": "eks",
    "aws": {"account": "123456789012", "region": "us-east-1"},
    "cluster": {"name": "test", "api_access": {"public_cidrs": ["203.0.113.0/24"]}},
    "node_groups": {"training": {"cpu": GROUP}},
    "images": {"tools": f"registry/tools{DIGEST}", "training": f"registry/training{DIGEST}"},
    "backup_store": {"create": {"name": "test-backups"}},
    "workloads": {"gpt": {"run": "demo", "volume": EBS}},
}


def valid(**changes: Any) -> dict[str, Any]:
    """The valid data with values set at paths joined by ``__``; ``REMOVED`` takes a key away."""
    return changed(VALID, changes)


def settings(**changes: Any) -> EksStack:
    parsed = parse(valid(**changes))
    assert isinstance(parsed, EksStack)
    return parsed


def graph(stack: str = "test", /, **changes: Any) -> Graph:
    """The graph of the changed settings. Read it only: equal settings share one."""
    return collected(stack, json.dumps(valid(**changes)))


def problems(**changes: Any) -> list[str]:
    """What is wrong with the changed data, line by line; empty when nothing is."""
    try:
        settings(**changes)
    except SettingsError as error:
        return error.problems
    return []


def policy_of(role: Resource, declared: Graph) -> dict[str, Any]:
    """A role's own policy, as a document."""
    (policy,) = [
        r for r in declared.find("aws:iam/rolePolicy:RolePolicy")
        if r.options.parent == role.options.parent
    ]  # fmt: skip
    return json.loads(policy.inputs["policy"])


def attached(role: Resource, declared: Graph) -> set[str]:
    """The names of a role's managed policies."""
    return {
        r.inputs["policyArn"].rpartition("/")[2]
        for r in declared.find("aws:iam/rolePolicyAttachment:RolePolicyAttachment")
        if r.options.parent == role.options.parent
    }


def role(name: str, declared: Graph) -> Resource:
    (found,) = declared.find("aws:iam/role:Role", f"{name}-role")
    return found


def as_list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def allows(document: dict[str, Any], action: str, arn: str, **context: str) -> bool:
    """Whether IAM would allow the call: one statement allows it, and none denies it."""
    effects = [
        statement["Effect"]
        for statement in document["Statement"]
        if any(fnmatchcase(action, pattern) for pattern in as_list(statement["Action"]))
        and any(fnmatchcase(arn, pattern) for pattern in as_list(statement["Resource"]))
        and _holds(statement.get("Condition", {}), context)
    ]
    return "Allow" in effects and "Deny" not in effects


def denies(document: dict[str, Any], action: str, arn: str, **context: str) -> bool:
    """Whether a statement of the document forbids the call."""
    everything = {"Effect": "Allow", "Action": "*", "Resource": "*"}
    return not allows({"Statement": [everything, *document["Statement"]]}, action, arn, **context)


def _holds(conditions: dict[str, Any], context: dict[str, str]) -> bool:
    """The operators that our policies use, with AWS' rule for a key that a request lacks."""
    return all(
        _compare(operator, context.get(_key(key)), [str(v) for v in as_list(expected)])
        for operator, pairs in conditions.items()
        for key, expected in pairs.items()
    )


def _key(name: str) -> str:
    """How a test writes a context key: ``s3:if-none-match`` is ``s3_if_none_match``."""
    return name.replace(":", "_").replace("-", "_").replace("/", "_")


def _compare(operator: str, given: str | None, expected: list[str]) -> bool:
    if operator == "Null":
        return (given is None) == (expected == ["true"])
    if operator.endswith("IfExists"):
        return given is None or _compare(operator.removesuffix("IfExists"), given, expected)
    if given is None:  # a negated comparison holds for a key that is not there, any other fails
        return "Not" in operator
    match operator:
        case "Bool" | "StringEquals":
            return given in expected
        case "StringLike" | "ArnLike":
            return any(fnmatchcase(given, pattern) for pattern in expected)
        case "StringNotEquals" | "ArnNotEquals":
            return given not in expected
        case "NumericLessThan":
            return float(given) < float(expected[0])
    raise AssertionError(f"no rule for {operator}")
