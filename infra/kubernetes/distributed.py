"""A training over several nodes: an Indexed Job whose pods find each other by name.

The ranks of all nodes meet in a small pod of its own, which is lost with none of them and runs no
user code. When any node is lost, the ranks of the others stop, wait for its next pod (two minutes,
where `min_nodes` others suffice) and go on from the newest bundle. When that small pod is lost, all
wait for its next one. Nothing but the steps since the last save is lost.
"""

from typing import Any

from infra.kubernetes.pods import env, user
from infra.manifests import Manifest, load, load_all, merge
from infra.names import WORKLOAD_LABEL, members_service, rendezvous, workload_labels
from infra.settings import EksStack, Settings, Workload
from infra.settings.node_groups import EFA, GPU

RENDEZVOUS_PORT = 29400

#: NCCL must not take the addresses of loopback and of other pods' cables for its own.
SOCKETS = {"NCCL_SOCKET_IFNAME": "^lo,docker,veth,eni"}
FABRIC = {"FI_PROVIDER": "efa", "FI_EFA_USE_HUGE_PAGE": "0"}


def several_nodes(name: str, workload: Workload) -> Manifest:
    """What a Job of several nodes has beside that of one: a change to merge over it."""
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
            # A node succeeds only when the last step of all is saved: none is waited for then.
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


def meeting_place(name: str, workload: Workload, settings: Settings) -> list[Manifest]:
    """Where the ranks meet: a Deployment of one pod with our image, and the Service before it."""
    labels = {**workload_labels(name), "app.kubernetes.io/component": "rendezvous"}
    metadata = {"name": rendezvous(name), "namespace": workload.namespace, "labels": labels}
    container = {
        "name": "rendezvous",
        "image": settings.images.training,
        "env": env({"HOLDFAST_RENDEZVOUS": _place(name, workload)}),
    }
    template = {
        "metadata": {"labels": labels},
        "spec": {**user(settings.run_as), "serviceAccountName": name, "containers": [container]},
    }
    deployment = {
        "metadata": metadata,
        "spec": {"selector": {"matchLabels": labels}, "template": template},
    }
    service = {"metadata": metadata, "spec": {"selector": labels}}
    objects = load_all("rendezvous")
    return [merge(objects["Deployment"], deployment), merge(objects["Service"], service)]


def _place(name: str, workload: Workload) -> str:
    return f"{rendezvous(name)}.{workload.namespace}.svc:{RENDEZVOUS_PORT}"


def rendezvous_environment(name: str, workload: Workload) -> dict[str, str]:
    """How the trainer finds the others; nothing where there are none."""
    if workload.nodes == 1:
        return {}
    return {
        "HOLDFAST_NODES": str(workload.nodes),
        "HOLDFAST_MIN_NODES": str(workload.least_nodes),
        "HOLDFAST_RENDEZVOUS": _place(name, workload),
    }


def fabric_environment(name: str, settings: Settings) -> dict[str, str]:
    """Settings of NCCL and of EFA, where several nodes with GPUs talk over them."""
    workload = settings.workloads[name]
    if workload.nodes == 1 or not workload.gpus_per_node:
        return {}
    return {**SOCKETS, **(FABRIC if adapters(name, settings) else {})}


def adapters(name: str, settings: Settings) -> int:
    """EFA devices for each pod: all of a node's, where the workload spans nodes that have them."""
    workload = settings.workloads[name]
    if workload.nodes == 1 or not isinstance(settings, EksStack):
        return 0
    group = settings.node_groups.training[settings.group_of(name)]
    return group.types()[0].efa if group.efa else 0


def devices(name: str, settings: Settings) -> dict[str, Any]:
    """GPUs and network adapters, as a container asks for them."""
    gpus, fabric = settings.workloads[name].gpus_per_node, adapters(name, settings)
    return {**({GPU: str(gpus)} if gpus else {}), **({EFA: str(fabric)} if fabric else {})}
