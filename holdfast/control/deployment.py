"""The Deployment that a restore scales to zero: is it there, and how many pods has it?

The Blueprint writes that number beside the snapshot in the patch that scales down, so that it
outlives a deleted ActionSet and a killed client.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from holdfast.control.kubernetes import KubernetesAPI, KubernetesError, KubernetesUnavailable
from holdfast.control.owner import RESTORE_ANNOTATION, Seen
from holdfast.control.run_action import Say, Timeouts, when_available
from holdfast.errors import HoldfastError

REPLICAS_ANNOTATION = "holdfast.dev/replicas"
_ENDED = {"fieldSelector": "status.phase!=Pending,status.phase!=Running,status.phase!=Unknown"}


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


def delete_ended_pods(deployment: Deployment, say: Say) -> None:
    """Delete the Deployment's pods that have ended, such as evicted ones.

    Kanister scales it to zero, and then waits without a limit until the list of its pods is empty.
    In that list such a pod stays: Kubernetes keeps it as a record. Where that is not allowed the
    restore goes on, since mostly there is none.
    """
    api, place = deployment.api, f"namespaces/{deployment.namespace}"
    try:
        ended = api.get(f"/api/v1/{place}/pods", _ENDED).get("items") or []
        if not ended:
            return
        sets = api.get(f"/apis/apps/v1/{place}/replicasets").get("items") or []
        ours = _names_of(sets, "Deployment", [deployment.name])
        names = _names_of(ended, "ReplicaSet", ours)
        for name in names:
            api.delete(f"/api/v1/{place}/pods/{name}")
    except (KubernetesError, KubernetesUnavailable) as error:
        say(
            f"pods of {deployment.title} that have ended were not looked for or not deleted"
            f" ({error}): the restore would wait for one"
        )
        return
    if names:
        say(
            f"deleted pods of {deployment.title} that had ended, for which Kanister would wait:"
            f" {', '.join(names)}"
        )


def _names_of(objects: list[dict[str, Any]], kind: str, owners: Collection[str]) -> list[str]:
    """The names of those objects that one of these owners has."""
    return [
        each["metadata"]["name"]
        for each in objects
        if any(
            owner.get("kind") == kind and owner.get("name") in owners
            for owner in each["metadata"].get("ownerReferences") or []
        )
    ]


def _replicas(found: Mapping[str, Any], annotations: Mapping[str, str], restoring: str) -> str:
    """How many pods it has, or had before a restore scaled it down."""
    remembered = annotations.get(REPLICAS_ANNOTATION, "")
    if restoring and remembered.isdecimal():
        return remembered
    replicas = found["spec"].get("replicas")
    return str(1 if replicas is None else replicas)
