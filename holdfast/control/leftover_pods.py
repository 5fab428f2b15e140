"""Delete the pods that a killed controller of Kanister left behind.

Kanister makes a bare pod for each task and deletes it when the task has ended. A controller that is
killed meanwhile forgets it: the pod stays, also when its ActionSet is deleted, and holds the claim,
so that `pulumi destroy` would wait for it in vain. Whoever deletes an orphaned ActionSet therefore
deletes its pods, and every backup deletes those whose ActionSet is gone.

Nothing on a pod names its ActionSet. So a pod is left alone while its object has an ActionSet that
is older than the pod, not ended, and may still run: a stranded one says `running` for ever, and
would keep every later leftover.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any

from holdfast.control.actionset import SWITCH_SECONDS, ActionSet, ActionSets
from holdfast.control.kubernetes import KubernetesAPI, KubernetesError, KubernetesUnavailable
from holdfast.control.subject import Subject

_OF_KANISTER = "createdBy=kanister"
#: By when an ActionSet without a deadline, which none of ours made, has surely ended: a restore may
#: stage for 3 h, and wait 65 min for the trainer.
_LONGEST_SECONDS = 5 * 3600


class Pods:
    """The pods of Kanister's tasks on one object: they carry its name, or run as its account."""

    def __init__(self, api: KubernetesAPI, subject: Subject) -> None:
        self._api = api
        self.subject = subject
        self._path = f"/api/v1/namespaces/{subject.namespace}/pods"

    def list(self) -> list[Mapping[str, Any]]:
        found = self._api.get(self._path, {"labelSelector": _OF_KANISTER}).get("items") or []
        return [pod for pod in found if self.subject.owns(pod)]

    def delete(self, name: str) -> None:
        self._api.delete(f"{self._path}/{name}")


def delete_leftover_pods(
    actionsets: ActionSets, pods: Pods, say: Callable[[str], None]
) -> list[str]:
    """Delete the pods on the object that no ActionSet works with any more; returns their names.

    Where that is not allowed it says what to do: no backup or restore fails for a leftover.
    """
    try:
        found = pods.list()
        if not found:
            return []
        at_work = [one for one in actionsets.about(pods.subject) if _may_run(actionsets, one)]
        names = [pod["metadata"]["name"] for pod in found if not _at_work(pod, at_work)]
        for name in names:
            pods.delete(name)
    except KubernetesUnavailable as error:
        say(f"leftover pods of tasks were not looked for: {error}")
        return []
    except KubernetesError as error:
        say(
            f"leftover pods of tasks were not deleted ({error}); see `kubectl -n"
            f" {pods.subject.namespace} get pods -l {_OF_KANISTER}`"
        )
        return []
    if names:
        say(f"deleted pods that Kanister left behind: {', '.join(names)}")
    return names


def _may_run(actionsets: ActionSets, actionset: ActionSet) -> bool:
    overdue = actionsets.overdue(actionset, _LONGEST_SECONDS)
    return not actionset.ended and overdue <= SWITCH_SECONDS


def _at_work(pod: Mapping[str, Any], actionsets: list[ActionSet]) -> bool:
    created = datetime.fromisoformat(pod["metadata"]["creationTimestamp"]).astimezone(UTC)
    return any(one.created <= created for one in actionsets)
