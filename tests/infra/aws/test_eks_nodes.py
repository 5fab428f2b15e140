"""How training nodes are bought, repaired, updated and configured."""

import base64
import email
from typing import Any

import pytest
import yaml

from infra.plan.graph import Graph
from infra.settings.instances import INSTANCES
from testkit.eks_factories import EFA_GROUP, GROUP, graph

GROUPS, TEMPLATE = "aws:eks/nodeGroup:NodeGroup", "aws:ec2/launchTemplate:LaunchTemplate"
RESERVED = {
    **EFA_GROUP,
    "reservation_id": "cr-0123456789abcdef0",
    "scaling": {"min": 0, "desired": 0, "max": 2},
}


def with_group(**changes: Any) -> Graph:
    return graph(node_groups__training__big={**EFA_GROUP, **changes})


def node_config(declared: Graph, name: str) -> dict[str, Any]:
    """The NodeConfig in the user data of a group's template."""
    (template,) = declared.find(TEMPLATE, f"{name}-nodes")
    message = email.message_from_bytes(base64.b64decode(template.inputs["userData"]))
    (part,) = [each for each in message.walk() if not each.is_multipart()]
    return yaml.safe_load(str(part.get_payload()))


def test_containers_on_nodes_with_efa_may_lock_memory_and_open_files():
    """Our limits replace the node's own list, so its limit of open files must be in ours."""
    declared = with_group()
    limits = node_config(declared, "big")["spec"]["containerd"]["baseRuntimeSpec"]["process"][
        "rlimits"
    ]
    most = max(facts.memory_gib for facts in INSTANCES.values()) * 2**30

    assert [limit["type"] for limit in limits] == ["RLIMIT_NOFILE", "RLIMIT_MEMLOCK"]
    assert (limits[0]["soft"], limits[0]["hard"]) == (65536, 1048576)
    # nodeadm keeps numbers as floating-point ones: it must be whole there, and below 2**64.
    assert most < limits[1]["soft"] == limits[1]["hard"] < 2**63
    assert int(float(limits[1]["hard"])) == limits[1]["hard"]
    assert "containerd" not in node_config(declared, "cpu")["spec"]


@pytest.mark.parametrize("capacity", ["reservation", "capacity-block"])
def test_a_group_that_fills_its_reservation_can_be_updated(capacity: str):
    (nodes,) = graph(node_groups__training__big={**RESERVED, "capacity": capacity}).find(
        GROUPS, "big-nodes"
    )

    assert nodes.inputs["updateConfig"] == {"maxUnavailable": 1, "updateStrategy": "MINIMAL"}


def test_nodes_on_demand_are_there_before_old_ones_go(eks: Graph):
    for nodes in eks.find(GROUPS):
        assert nodes.inputs["updateConfig"] == {"maxUnavailable": 1}


def test_a_lost_connection_to_dcgm_replaces_no_node_by_default():
    (nodes,) = with_group().find(GROUPS, "big-nodes")

    assert nodes.inputs["nodeRepairConfig"] == {
        "enabled": True,
        "nodeRepairConfigOverrides": [
            {
                "nodeMonitoringCondition": "AcceleratedHardwareReady",
                "nodeUnhealthyReason": "DCGMError",
                "minRepairWaitTimeMins": 10,
                "repairAction": "NoAction",
            }
        ],
    }


def test_what_repair_does_can_be_set_for_each_finding():
    rule = {"condition": "KernelReady", "reason": "SoftLockup", "wait_minutes": 60,
            "action": "Reboot"}  # fmt: skip
    (changed,) = with_group(repair=[rule]).find(GROUPS, "big-nodes")
    (default,) = with_group(repair=[]).find(GROUPS, "big-nodes")

    (override,) = changed.inputs["nodeRepairConfig"]["nodeRepairConfigOverrides"]
    assert (override["nodeUnhealthyReason"], override["repairAction"]) == ("SoftLockup", "Reboot")
    assert default.inputs["nodeRepairConfig"] == {"enabled": True}


def test_a_placement_group_that_there_is_is_used_and_none_is_made():
    declared = graph(
        node_groups__training__big={**RESERVED, "capacity": "reservation", "placement_group": "old"}
    )
    (template,) = declared.find(TEMPLATE, "big-nodes")

    assert template.inputs["placement"] == {"groupName": "old"}
    assert declared.find("aws:ec2/placementGroup:PlacementGroup") == []


def test_p6_b300_has_its_addresses_on_a_card_without_efa():
    (template,) = with_group(instance_types=["p6-b300.48xlarge"]).find(TEMPLATE, "big-nodes")
    cards = template.inputs["networkInterfaces"]

    assert [card["networkCardIndex"] for card in cards] == list(range(17))
    assert [card["interfaceType"] for card in cards] == ["interface", *["efa-only"] * 16]
    assert [card["deviceIndex"] for card in cards] == [0, *[1] * 16]


@pytest.mark.parametrize("kind", ["p5e.48xlarge", "p6-b300.48xlarge", "g7e.48xlarge"])
def test_newer_gpus_are_nodes_like_others(kind: str):
    declared = with_group(instance_types=[kind])
    (nodes,) = declared.find(GROUPS, "big-nodes")

    assert nodes.inputs["amiType"] == "AL2023_x86_64_NVIDIA"
    assert nodes.inputs["labels"]["nvidia.com/gpu.present"] == "true"


def test_a_group_without_gpus_has_rules_of_repair_too():
    (nodes,) = graph(node_groups__training__cpu=GROUP).find(GROUPS, "cpu-nodes")

    assert nodes.inputs["nodeRepairConfig"]["enabled"] is True
