"""Device plugins: without them Kubernetes sees neither GPUs nor network adapters."""

from typing import Any

import pulumi
import pulumi_kubernetes as k8s

from infra import versions
from infra.settings.node_groups import EFA, GPU, WORKLOAD_TYPE, TrainingGroup

NAMESPACE = "kube-system"
#: The taints of training nodes, whatever their values.
TOLERATIONS = [
    {"key": key, "operator": "Exists", "effect": "NoSchedule"} for key in (WORKLOAD_TYPE, GPU)
]


class Devices(pulumi.ComponentResource):
    """The device plugins that the training groups need, and no other.

    Produces: a helm Release of NVIDIA's plugin where a group has GPUs, one of the EFA plugin where
    a group has EFA.
    """

    def __init__(
        self,
        name: str,
        groups: dict[str, TrainingGroup],
        opts: pulumi.ResourceOptions,
    ) -> None:
        """
        Args:
            name: the Pulumi name.
            groups: the training groups.
            opts: the provider, and the nodes.
        """
        super().__init__("holdfast:devices:Devices", name, {}, opts)
        if any(group.gpus for group in groups.values()):
            self._release(
                f"{name}-nvidia",
                versions.NVIDIA_DEVICE_PLUGIN,
                {
                    # One of the alternatives in the chart's own node affinity, too.
                    "nodeSelector": {f"{GPU}.present": "true"},
                    "tolerations": TOLERATIONS,
                },
            )
        if any(group.efa for group in groups.values()):
            self._release(
                f"{name}-efa",
                versions.EFA_DEVICE_PLUGIN,
                {
                    "nodeSelector": {f"{EFA}.present": "true"},
                    "tolerations": TOLERATIONS,
                },
            )
        self.register_outputs({})

    def _release(self, name: str, chart: tuple[str, str, str], values: dict[str, Any]) -> None:
        repository, chart_name, version = chart
        k8s.helm.v3.Release(
            name,
            name=chart_name,
            chart=chart_name,
            version=version,
            repository_opts={"repo": repository},
            namespace=NAMESPACE,
            values=values,
            atomic=True,
            cleanup_on_fail=True,
            timeout=300,
            opts=pulumi.ResourceOptions(parent=self),
        )
