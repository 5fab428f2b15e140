"""A training over several nodes: an Indexed Job whose pods find each other by name.

The ranks of all nodes meet at index 0, which keeps torchrun's rendezvous store. What that costs:
when index 0 is lost, the ranks of every node stop, their containers start again in place and wait
until its next pod is there, and all go on from the newest bundle. The loss of any other index stops
the ranks only until its next pod has joined. Nothing but the steps since the last save is lost.
"""

from typing import Any

from infra.manifests import Manifest, load, merge
from infra.names import WORKLOAD_LABEL, members_service
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
            # Without one of its nodes the training cannot end.
            "maxFailedIndexes": 0,
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
                "ports": [{"name": "rendezvous", "port": RENDEZVOUS_PORT}],
            },
        },
    )


def rendezvous_environment(name: str, workload: Workload) -> dict[str, str]:
    """How the trainer finds the others; nothing where there are none."""
    if workload.nodes == 1:
        return {}
    host = f"{name}-0.{members_service(name)}.{workload.namespace}.svc"
    return {
        "HOLDFAST_NODES": str(workload.nodes),
        "HOLDFAST_RENDEZVOUS": f"{host}:{RENDEZVOUS_PORT}",
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
