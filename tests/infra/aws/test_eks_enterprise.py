"""What an organisation may ask of a stack: limits on its roles, networks that are there, copies."""

import json

from infra.plan import rights
from infra.plan.cost import monthly
from policy.check import violations
from testkit.eks_factories import EFA_GROUP, EFS, LUSTRE, graph, problems

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
    for role in graph().find("aws:iam/role:Role"):
        assert "permissionsBoundary" not in role.inputs
        assert "path" not in role.inputs


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
