"""Whether nodes can hold what they are meant to: pods on a node, nodes in a subnet."""

from collections import Counter

from infra.settings.fields import cpu_cores, size_bytes
from infra.settings.node_groups import NodeGroups, TrainingGroup
from infra.settings.workload import Workload

#: What the backup's pod asks for on the trainer's node, where it must run.
TASK_CPU, TASK_MEMORY = 0.25, 512 * 2**20

#: Addresses of its subnet that a node takes: its own, and two prefixes of 16 for pods, one in use
#: and a warm one (``WARM_PREFIX_TARGET`` of the vpc-cni add-on). EFA-only cards have none.
ADDRESSES_OF_A_NODE = 33


def fits(workload: Workload, group: TrainingGroup) -> bool:
    """Whether the group's nodes can run the workload's pods."""
    return why_not(workload, group) is None


def why_not(workload: Workload, group: TrainingGroup) -> str | None:
    """What a node of the group lacks for a pod of the workload and the backup beside it."""
    if workload.gpus_per_node > group.gpus:
        return f"has {group.gpus} GPUs a node, {workload.gpus_per_node} are asked for"
    if group.gpus and not workload.gpus_per_node and workload.node_group is None:
        return "has GPUs, none are asked for"
    if workload.nodes > group.most_nodes:
        return f"has at most {group.most_nodes} nodes, {workload.nodes} are asked for"
    cpu = cpu_cores(workload.resources.cpu) + TASK_CPU
    memory = size_bytes(workload.resources.memory) + TASK_MEMORY
    for facts in group.types():
        if cpu > facts.allocatable_cpu:
            return f"has {facts.allocatable_cpu:g} CPUs a node for pods, {cpu:g} are needed"
        if memory > facts.allocatable_memory:
            room, need = facts.allocatable_memory / 2**30, memory / 2**30
            return f"has {room:.1f}Gi a node for pods, {need:.1f}Gi are needed"
    return None


def most_nodes(groups: NodeGroups, zones: tuple[str, ...]) -> Counter[str]:
    """How many nodes each zone may have when every group is at its largest."""
    count: Counter[str] = Counter()
    for _, group in groups.each():
        own = group.zone if isinstance(group, TrainingGroup) else None
        for zone in (own,) if own is not None else zones:
            count[zone] += group.most_nodes if own else -(-group.most_nodes // len(zones))
    return count
