"""On which nodes pods run: training pods on training nodes, and tasks where the trainer is."""

from collections.abc import Iterable

from infra.manifests import Manifest
from infra.names import PRIORITY_CLASS
from infra.settings import Workload
from infra.settings.node_groups import (
    GPU,
    GROUP_LABEL,
    MODEL_TRAINING,
    WORKLOAD_TYPE,
    TrainingGroup,
    TrainingNodes,
)


def training_placement(workload: Workload, nodes: TrainingNodes | None) -> Manifest:
    """What a workload's training pods select and tolerate."""
    if nodes is None:
        return {"tolerations": [_tolerates(GPU)]} if workload.gpus_per_node else {}
    return {
        "priorityClassName": PRIORITY_CLASS,
        "nodeSelector": {WORKLOAD_TYPE: MODEL_TRAINING, GROUP_LABEL: nodes.name},
        "tolerations": [_tolerates(key, value) for key, value in nodes.group.taints()],
    }


def task_placement(
    workloads: Iterable[Workload], groups: Iterable[TrainingGroup], *, foreign: bool = False
) -> Manifest:
    """What Kanister's tasks tolerate: they run beside a trainer, and do not choose its node.

    Args:
        workloads: all of the stack's.
        groups: the stack's training groups; none where the nodes are not its own.
        foreign: whether there are pods of others too, which may have GPUs.
    """
    if taints := dict.fromkeys(taint for group in groups for taint in group.taints()):
        return {"tolerations": [_tolerates(key, value) for key, value in taints]}
    if foreign or any(workload.gpus_per_node for workload in workloads):
        return {"tolerations": [_tolerates(GPU)]}
    return {}


def _tolerates(key: str, value: str | None = None) -> dict[str, str]:
    if value is None:
        return {"key": key, "operator": "Exists", "effect": "NoSchedule"}
    return {"key": key, "operator": "Equal", "value": value, "effect": "NoSchedule"}


def protection_from_consolidation(nodes: TrainingNodes | None) -> dict[str, str]:
    """The annotation that keeps Karpenter from draining the pod's node by its own choice; nothing
    where the nodes are not Karpenter's. A drain that EC2 asks for comes through it."""
    if nodes is None or nodes.group.capacity != "elastic":
        return {}
    hours = nodes.group.elastic.protect_hours
    return {"karpenter.sh/do-not-disrupt": "true" if hours is None else f"{hours}h"}
