"""On which nodes pods run: training pods on training nodes, and tasks where the trainer is."""

from infra.manifests import Manifest
from infra.names import PRIORITY_CLASS
from infra.settings import EksStack, Settings
from infra.settings.node_groups import GPU, GROUP_LABEL, MODEL_TRAINING, WORKLOAD_TYPE


def training_placement(name: str, settings: Settings) -> Manifest:
    """What a workload's training pods select and tolerate."""
    workload = settings.workloads[name]
    if not isinstance(settings, EksStack):
        return {"tolerations": [_tolerates(GPU)]} if workload.gpus_per_node else {}
    group = settings.group_of(name)
    return {
        "priorityClassName": PRIORITY_CLASS,
        "nodeSelector": {WORKLOAD_TYPE: MODEL_TRAINING, GROUP_LABEL: group},
        "tolerations": [
            _tolerates(key, value) for key, value in settings.node_groups.training[group].taints()
        ],
    }


def task_placement(settings: Settings) -> Manifest:
    """What Kanister's tasks tolerate: they run beside a trainer, and do not choose its node."""
    if not isinstance(settings, EksStack):
        wanted = [GPU] if any(w.gpus_per_node for w in settings.workloads.values()) else []
        return {"tolerations": [_tolerates(key) for key in wanted]} if wanted else {}
    taints = {t: None for group in settings.node_groups.training.values() for t in group.taints()}
    return {"tolerations": [_tolerates(key, value) for key, value in taints]}


def _tolerates(key: str, value: str | None = None) -> dict[str, str]:
    if value is None:
        return {"key": key, "operator": "Exists", "effect": "NoSchedule"}
    return {"key": key, "operator": "Equal", "value": value, "effect": "NoSchedule"}
