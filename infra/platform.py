"""What the Kubernetes half of a stack builds on, whichever target provides it."""

from dataclasses import dataclass, field
from typing import Any

import pulumi
import pulumi_kubernetes as k8s

from infra.manifests import Manifest
from infra.settings import KubernetesStack

#: A replaced ConfigMap would be missing for a moment, to a pod that starts just then.
CONFIG_MAPS_IN_PLACE = True


@dataclass(frozen=True)
class Platform:
    """A cluster, and what is in place around it."""

    provider: k8s.Provider
    """The cluster's provider; it waits for all that pods need."""
    sources: dict[str, Manifest] = field(default_factory=dict)
    """What a PersistentVolume's spec says of each volume that the stack made, by claim."""
    exports: dict[str, pulumi.Input[Any]] = field(default_factory=dict)
    """For people, and for stacks that build on this one."""


def on_kubernetes(settings: KubernetesStack) -> Platform:
    """A cluster that is there already."""
    provider = k8s.Provider(
        "kubernetes",
        context=settings.kubernetes.context,
        kubeconfig=settings.kubernetes.kubeconfig,
        cluster_identifier=settings.cluster_identifier,
        enable_config_map_mutable=CONFIG_MAPS_IN_PLACE,
    )
    return Platform(provider)
