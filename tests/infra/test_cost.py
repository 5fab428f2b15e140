"""The monthly cost in the plan: counted from what is declared."""

import pytest

from infra import render
from infra.cost import monthly
from infra.graph import Graph
from tests.infra.eks_factories import GPU_GROUP, LUSTRE, graph


def test_a_small_cluster_costs_what_its_parts_cost():
    costs = dict(monthly(graph()))

    assert costs == {
        "control plane": 73.0,
        "NAT gateway network-nat-use1-az1": 32.85,
        "system-nodes: 2 × m7i.large": pytest.approx(2 * (0.1008 * 730 + 0.08 * 50), abs=0.01),
        "cpu-nodes: 2 × m7i.xlarge": pytest.approx(2 * (0.2016 * 730 + 0.08 * 100), abs=0.01),
        "checkpoints-disk: 20 GiB gp3": 1.6,
    }


def test_nodes_that_are_not_there_yet_cost_nothing_and_shared_storage_by_its_size():
    declared = graph(node_groups__training__gpu=GPU_GROUP, workloads__gpt__volume=LUSTRE)
    costs = dict(monthly(declared))

    assert costs["gpu-nodes: 0 × g5.12xlarge"] == 0
    assert costs["fast-lustre: 1200 GiB"] == 174.0


def test_a_cluster_that_is_there_already_has_no_cost_of_ours(local: Graph):
    assert monthly(local) == []
    assert "dollars" not in render.tree(local)


def test_the_plan_adds_up(prod: Graph):
    total = sum(dollars for _, dollars in monthly(prod))

    assert f"{total:,.2f}" in render.tree(prod)
