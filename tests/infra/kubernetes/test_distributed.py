"""A training over several nodes: how its pods find each other, and what the loss of one costs."""

from typing import Any

import pytest

from infra.plan.graph import Graph
from testkit import eks_factories, factories, schemas
from testkit.eks_factories import DIGEST, EFA_GROUP, EFS, GPU_GROUP
from testkit.factories import environment
from tests.infra.kubernetes.test_pods import restricted_violations
from training.config import load as training_config

NFS = {"kind": "nfs", "name": "shared", "size": "1Ti", "server": "nfs.example", "path": "/a"}
TWO: dict[str, Any] = {"run": "demo", "volume": NFS, "nodes": 2, "ranks": 2}


def several(**changes: Any) -> Graph:
    """Two nodes on any cluster."""
    workload = {**TWO, **changes}
    return factories.graph(workloads={"gpt": workload}, backup_store=factories.BUCKET)


def job(declared: Graph) -> dict[str, Any]:
    return declared.find("Job", "gpt")[0].inputs


def trainer(declared: Graph) -> dict[str, Any]:
    (container,) = job(declared)["spec"]["template"]["spec"]["containers"]
    return container


def rendezvous(declared: Graph) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
    """The Deployment, its pod and its container."""
    (deployment,) = declared.find("Deployment")
    pod = deployment.inputs["spec"]["template"]
    (container,) = pod["spec"]["containers"]
    return deployment.inputs, pod, container


def test_each_node_is_an_index_with_a_name_before_it_is_ready():
    declared = several()
    spec = job(declared)["spec"]
    (service,) = declared.find("Service", "gpt-members")

    assert (spec["completionMode"], spec["completions"], spec["parallelism"]) == ("Indexed", 2, 2)
    assert spec["template"]["spec"]["subdomain"] == "gpt-members"
    assert service.inputs["spec"]["clusterIP"] == "None"
    assert service.inputs["spec"]["publishNotReadyAddresses"] is True
    labels = spec["template"]["metadata"]["labels"]
    assert service.inputs["spec"]["selector"].items() <= labels.items()
    assert service.urn in declared.find("Job", "gpt")[0].options.depends_on
    schemas.check(job(declared))


def test_the_rendezvous_is_a_pod_of_its_own_under_the_name_that_the_trainer_reads():
    declared = several()
    given = environment(trainer(declared))
    config = training_config([], {**given, "HOLDFAST_KEEP": "3"})
    deployment, pod, container = rendezvous(declared)
    (service,) = declared.find("Service", "gpt-rendezvous-service")

    assert (config.nodes, config.least_nodes) == (2, 2)
    assert config.rendezvous == "gpt-rendezvous.training.svc:29400"
    assert environment(container) == {"HOLDFAST_RENDEZVOUS": config.rendezvous}
    assert service.inputs["metadata"]["name"] == "gpt-rendezvous"
    assert [port["port"] for port in service.inputs["spec"]["ports"]] == [29400]
    assert service.inputs["spec"]["selector"] == pod["metadata"]["labels"]
    assert deployment["spec"]["replicas"] == 1
    ranks = several().find("Service", "gpt-members")[0].inputs["spec"]["selector"]
    assert not ranks.items() <= pod["metadata"]["labels"].items()
    schemas.check(deployment)


def test_no_user_code_no_volume_and_no_node_that_trains_holds_the_rendezvous():
    declared = eks_factories.graph(
        workloads__gpt={"run": "x", "volume": EFS, "nodes": 2, "image": f"user/own{DIGEST}"}
    )
    _, pod, container = rendezvous(declared)

    assert trainer(declared)["image"] == f"user/own{DIGEST}"
    assert container["image"] == f"registry/training{DIGEST}"
    assert restricted_violations(pod["spec"]) == []
    assert "tolerations" not in pod["spec"]
    assert pod["spec"]["automountServiceAccountToken"] is False
    assert [list(volume) for volume in pod["spec"]["volumes"]] == [["name", "emptyDir"]]


def test_min_nodes_reaches_the_trainer_and_the_job():
    declared = several(nodes=5, min_nodes=3)

    assert environment(trainer(declared))["HOLDFAST_MIN_NODES"] == "3"
    assert job(declared)["spec"]["maxFailedIndexes"] == 2
    # The last step is saved when any node says so: one that never came is not waited for.
    assert job(declared)["spec"]["successPolicy"] == {"rules": [{"succeededCount": 1}]}


def test_a_lost_pod_is_replaced_by_its_index_and_no_lost_index_ends_as_success():
    spec = job(several())["spec"]

    assert spec["backoffLimitPerIndex"] == 100
    assert spec["maxFailedIndexes"] == 0
    assert "backoffLimit" not in spec
    assert spec["podReplacementPolicy"] == "Failed"


def test_pods_of_one_training_are_on_nodes_of_their_own():
    (spread,) = job(several())["spec"]["template"]["spec"]["topologySpreadConstraints"]

    assert spread["topologyKey"] == "kubernetes.io/hostname"
    assert (spread["maxSkew"], spread["whenUnsatisfiable"]) == (1, "DoNotSchedule")
    labels = job(several())["spec"]["template"]["metadata"]["labels"]
    assert spread["labelSelector"]["matchLabels"].items() <= labels.items()


def test_one_node_stays_simple():
    declared = several(nodes=1)
    spec = job(declared)["spec"]

    assert not {"completionMode", "successPolicy"} & spec.keys()
    assert spec["completions"] == 1
    assert declared.find("Service", "gpt-members") == declared.find("Deployment") == []
    assert (
        not {"HOLDFAST_NODES", "HOLDFAST_MIN_NODES", "HOLDFAST_RENDEZVOUS"}
        & environment(trainer(declared)).keys()
    )


def test_no_stack_has_a_disruption_budget_that_blocks_a_drain(eks: Graph):
    assert eks.find("PodDisruptionBudget") == []


@pytest.mark.parametrize(
    ("group", "gpus", "nodes", "fabric"),
    [
        (EFA_GROUP, 8, 2, "32"),
        (EFA_GROUP, 8, 1, None),
        ({**GPU_GROUP, "scaling": {"min": 0, "desired": 0, "max": 2}}, 4, 2, None),
    ],
    ids=["efa on two nodes", "efa on one node", "no efa"],
)
def test_efa_is_asked_for_where_it_is_on_and_nowhere_else(group, gpus, nodes, fabric):
    declared = eks_factories.graph(
        node_groups__training={"gpu": group},
        workloads__gpt={"run": "x", "volume": EFS, "nodes": nodes, "gpus_per_node": gpus,
                        "ranks": gpus},
    )  # fmt: skip
    container = trainer(declared)

    for side in ("requests", "limits"):
        assert container["resources"][side].get("vpc.amazonaws.com/efa") == fabric
        assert container["resources"][side]["nvidia.com/gpu"] == str(gpus)
    assert ("FI_PROVIDER" in environment(container)) == (fabric is not None)
    assert ("NCCL_SOCKET_IFNAME" in environment(container)) == (nodes > 1)


def test_training_pods_go_before_others_and_push_none_away():
    declared = eks_factories.graph()
    (priority,) = declared.find("PriorityClass")

    name = priority.inputs["metadata"]["name"]
    assert job(declared)["spec"]["template"]["spec"]["priorityClassName"] == name
    assert priority.inputs["preemptionPolicy"] == "Never"
    assert priority.inputs["globalDefault"] is False
