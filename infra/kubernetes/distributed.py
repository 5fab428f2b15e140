"""A training over several nodes: an Indexed Job whose pods find each other by name.

The ranks of all nodes find each other through the rendezvous: a small pod of its own that runs no
user code and stays when a node is lost. When a node is lost, the ranks of the others stop, wait for
its next pod (two minutes, where `min_nodes` others suffice) and go on from the newest bundle. When
the rendezvous pod is lost, all wait for its next one. Nothing but the steps since the last save is
lost.
"""

from typing import Any

from infra.kubernetes.pods import env, user
from infra.manifests import Manifest, load, load_all, merge
from infra.names import WORKLOAD_LABEL, members_service, rendezvous, workload_labels
from infra.settings import Workload
from infra.settings.node_groups import EFA, GPU, TrainingNodes

RENDEZVOUS_PORT = 29400

#: NCCL must not use the interfaces of loopback and of other pods.
SOCKETS = {"NCCL_SOCKET_IFNAME": "^lo,docker,veth,eni"}
FABRIC = {"FI_PROVIDER": "efa", "FI_EFA_USE_HUGE_PAGE": "0"}


def several_nodes(name: str, workload: Workload) -> Manifest:
    """What a Job of several nodes has and one of a single node lacks: a change to merge over it."""
    selector = {"matchLabels": {WORKLOAD_LABEL: name, "app.kubernetes.io/component": "trainer"}}
    spread = {
        "maxSkew": 1,
        "topologyKey": "kubernetes.io/hostname",
        "whenUnsatisfiable": "DoNotSchedule",
        "labelSelector": selector,
    }
    return {
        "spec": {
            "completionMode": "Indexed",
            "completions": workload.nodes,
            "parallelism": workload.nodes,
            "backoffLimitPerIndex": workload.backoff_limit,
            "maxFailedIndexes": workload.nodes - workload.least_nodes,
            # A node succeeds only when the last step of all is saved: no other is waited for.
            "successPolicy": {"rules": [{"succeededCount": 1}]},
            "template": {
                "spec": {
                    "subdomain": members_service(name),
                    "topologySpreadConstraints": [spread],
                }
            },
        }
    }


def members(name: str, workload: Workload) -> Manifest:
    """The headless Service that gives each pod of the Job a name, ready or not."""
    return merge(
        load("members-service"),
        {
            "metadata": {"name": members_service(name), "namespace": workload.namespace},
            "spec": {
                "selector": {WORKLOAD_LABEL: name},
                "ports": [{"name": "metrics", "port": workload.port}],
            },
        },
    )


def rendezvous_objects(name: str, workload: Workload, image: str, run_as: int) -> list[Manifest]:
    """Where the ranks meet: a Deployment of one pod with our image, and its Service."""
    labels = {**workload_labels(name), "app.kubernetes.io/component": "rendezvous"}
    metadata = {"name": rendezvous(name), "namespace": workload.namespace, "labels": labels}
    container = {
        "name": "rendezvous",
        "image": image,
        "env": env({"HOLDFAST_RENDEZVOUS": _address(name, workload)}),
    }
    template = {
        "metadata": {"labels": labels},
        "spec": {**user(run_as), "serviceAccountName": name, "containers": [container]},
    }
    deployment = {
        "metadata": metadata,
        "spec": {"selector": {"matchLabels": labels}, "template": template},
    }
    service = {"metadata": metadata, "spec": {"selector": labels}}
    objects = load_all("rendezvous")
    return [merge(objects["Deployment"], deployment), merge(objects["Service"], service)]


def _address(name: str, workload: Workload) -> str:
    return f"{rendezvous(name)}.{workload.namespace}.svc:{RENDEZVOUS_PORT}"


def rendezvous_environment(name: str, workload: Workload) -> dict[str, str]:
    """How the trainer finds the others; nothing where there are none."""
    if workload.nodes == 1:
        return {}
    return {
        "HOLDFAST_NODES": str(workload.nodes),
        "HOLDFAST_MIN_NODES": str(workload.least_nodes),
        "HOLDFAST_RENDEZVOUS": _address(name, workload),
    }


def fabric_environment(workload: Workload, nodes: TrainingNodes | None) -> dict[str, str]:
    """Settings of NCCL and of EFA, where several nodes with GPUs communicate over them."""
    if workload.nodes == 1 or not workload.gpus_per_node:
        return {}
    return {**SOCKETS, **(FABRIC if adapters(workload, nodes) else {})}


def adapters(workload: Workload, nodes: TrainingNodes | None) -> int:
    """EFA devices for each pod: all of a node's, where the workload spans nodes that have them."""
    if workload.nodes == 1 or nodes is None or not nodes.group.efa:
        return 0
    return nodes.group.types()[0].efa


def devices(workload: Workload, nodes: TrainingNodes | None) -> dict[str, Any]:
    """GPUs and network adapters, as a container asks for them."""
    gpus, fabric = workload.gpus_per_node, adapters(workload, nodes)
    return {**({GPU: str(gpus)} if gpus else {}), **({EFA: str(fabric)} if fabric else {})}
