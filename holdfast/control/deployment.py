"""The Deployment that a restore scales to zero: is it there, and how many pods has it?

The Blueprint writes that number beside the snapshot in the patch that scales down, so that it
outlives a deleted ActionSet and a killed client.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from holdfast.control.kubernetes import KubernetesAPI, KubernetesError
from holdfast.control.owner import RESTORE_ANNOTATION, Seen
from holdfast.control.run_action import Timeouts, when_available
from holdfast.errors import HoldfastError

REPLICAS_ANNOTATION = "holdfast.dev/replicas"


class DeploymentMissing(HoldfastError):
    """There is no such Deployment."""


@dataclass(frozen=True)
class Deployment:
    """One Deployment of one namespace."""

    api: KubernetesAPI
    namespace: str
    name: str
    paused: str = "scaled to zero"

    @property
    def title(self) -> str:
        return f"Deployment {self.name}"

    def look(self) -> Seen | None:
        try:
            found = self.api.get(
                f"/apis/apps/v1/namespaces/{self.namespace}/deployments/{self.name}"
            )
        except KubernetesError as error:
            if error.status != 404:
                raise
            return None
        annotations = found["metadata"].get("annotations") or {}
        restoring = annotations.get(RESTORE_ANNOTATION, "")
        return Seen(
            restoring,
            bool(found["metadata"].get("deletionTimestamp")),
            {"deployment": self.name, "replicas": _replicas(found, annotations, restoring)},
        )


def require_deployment(deployment: Deployment, timeouts: Timeouts) -> Mapping[str, str]:
    """The options of a restore that name the Deployment and how many pods it has.

    Raises:
        DeploymentMissing: there is none. Nothing was changed.
    """
    seen = when_available(deployment.look, timeouts, 10)
    if seen is None or seen.deleting:
        state = "does not exist" if seen is None else "is being deleted"
        raise DeploymentMissing(
            f"Deployment {deployment.namespace}/{deployment.name} {state}, and nothing was changed:"
            " create it (`pulumi up --refresh`), or name the right one with --deployment"
        )
    return seen.options


def _replicas(found: Mapping[str, Any], annotations: Mapping[str, str], restoring: str) -> str:
    """How many pods it has, or had before a restore scaled it down."""
    remembered = annotations.get(REPLICAS_ANNOTATION, "")
    if restoring and remembered.isdecimal():
        return remembered
    replicas = found["spec"].get("replicas")
    return str(1 if replicas is None else replicas)
