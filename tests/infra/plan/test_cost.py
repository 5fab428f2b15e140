"""The monthly cost in the plan: counted from what is declared."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from infra.plan import render
from infra.plan.cost import monthly, total
from infra.plan.graph import Graph
from infra.settings.instances import INSTANCES, InstanceType
from testkit.eks_factories import EBS, EFS, GPU_GROUP, LUSTRE, graph

ROOT = Path(__file__).parents[3]


def costs(declared: Graph) -> dict[str, float | None]:
    return {cost.what: cost.dollars for cost in monthly(declared)}


def test_a_small_cluster_costs_what_its_parts_cost():
    assert costs(graph()) == {
        "control plane test": 73.0,
        "cpu-nodes: 2 × m7i.xlarge": pytest.approx(2 * (0.2016 * 730 + 0.08 * 100)),
        "system-nodes: 2 × m7i.large": pytest.approx(2 * (0.1008 * 730 + 0.08 * 50)),
        "1 NAT gateway": pytest.approx(32.85 + 3.65),
        "checkpoints-disk: 20 GiB gp3": 1.6,
        "store-bucket: by what it holds": None,
        "store-access-logs: by what it holds": None,
    }


def test_nodes_that_are_not_there_yet_cost_nothing_and_shared_storage_by_its_size():
    found = costs(graph(node_groups__training__gpu=GPU_GROUP, workloads__gpt__volume=LUSTRE))

    assert found["gpu-nodes: 0 × g5.12xlarge"] == 0
    assert found["fast-lustre: 1200 GiB"] == 174.0


def with_volumes(*volumes: dict) -> Graph:
    """A stack with a workload for each of the volumes."""
    return graph(
        workloads={f"w{n}": {"run": "demo", "volume": volume} for n, volume in enumerate(volumes)}
    )


def test_a_fast_disk_costs_by_its_speed_too():
    disks = {
        "more": {"iops": 4000, "throughput": 130},
        "io2": {"type": "io2"},
        "fast": {"type": "io2", "iops": 10000},
        "fastest": {"type": "io2", "iops": 40000, "size": "200Gi"},
    }
    found = costs(with_volumes(*({**EBS, "name": name, **disk} for name, disk in disks.items())))

    assert {what: found[what] for what in found if "-disk" in what} == {
        "more-disk: 20 GiB gp3 with 4000 IOPS": pytest.approx(1.6 + 5.0 + 0.2),
        "io2-disk: 20 GiB io2": pytest.approx(20 * 0.125 + 3000 * 0.065),
        "fast-disk: 20 GiB io2 with 10000 IOPS": pytest.approx(20 * 0.125 + 650),
        "fastest-disk: 200 GiB io2 with 40000 IOPS": None,
    }


def test_every_speed_of_lustre_that_can_be_set_has_a_price():
    speeds = (125, 250, 500, 1000)
    found = costs(with_volumes(
        *({**LUSTRE, "name": f"fast-{speed}", "throughput": speed} for speed in speeds)
    ))  # fmt: skip

    for speed in speeds:
        assert found[f"fast-{speed}-lustre: 1200 GiB"]


def test_what_has_no_price_is_named_and_not_guessed(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(INSTANCES, "m7i.xlarge", InstanceType(4, 16, 0, 0, 58))
    declared = graph(workloads__gpt__volume=EFS)
    found = costs(declared)

    assert found["cpu-nodes: 2 × m7i.xlarge"] is None
    assert found["shared-efs: by what it holds, reads and writes"] is None
    assert re.search(r"2 × m7i.xlarge +not priced\n", render.tree(declared))


def test_the_price_of_nodes_that_are_bought_otherwise_is_said_to_be_the_full_one():
    spot = {**GPU_GROUP, "capacity": "spot"}
    found = costs(graph(node_groups__training__gpu=spot))

    assert "gpu-nodes: 0 × g5.12xlarge (spot, at the full price)" in found


def test_a_cluster_that_is_there_already_has_no_cost_of_ours(local: Graph):
    assert monthly(local) == []
    assert "dollars" not in render.tree(local)


def test_the_plan_adds_up_as_text_and_as_json(prod: Graph):
    sum_of_all = total(monthly(prod))
    document = json.loads(render.as_json(prod))["monthly_cost"]

    assert f"{sum_of_all:,.2f}" in render.tree(prod)
    assert document["total"] == sum_of_all
    assert sum(item["dollars"] or 0 for item in document["items"]) == pytest.approx(sum_of_all)


def test_the_documents_quote_what_the_plan_says(dev: Graph, prod: Graph):
    guide, readme = ((ROOT / page).read_text() for page in ("docs/eks.md", "README.md"))

    assert f"| ${total(monthly(dev)):,.0f} |" in guide
    assert f"| ${total(monthly(prod)):,.0f} |" in guide
    assert f"about ${total(monthly(dev)):,.0f} a month" in readme


def test_a_reader_that_stops_early_sees_no_traceback():
    plan = f"{sys.executable} -m infra.plan plan --stack local --output json | head -1"
    ended = subprocess.run(
        ["bash", "-o", "pipefail", "-c", plan], capture_output=True, text=True, check=True
    )

    assert (ended.stdout, ended.stderr) == ("{\n", "")
