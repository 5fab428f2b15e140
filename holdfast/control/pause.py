"""Pause the topmost owner of a workload's pods, wait until they are gone, and resume it.

Kanister's own functions patch and scale the kinds that Kubernetes brings, and no others. So for
what is in a queue, or belongs to a JobSet or a TrainJob, a Blueprint runs this in a pod whose
account may see and patch that owner, and see pods.

A pause that something undoes ends with an error at once, instead of a wait for pods that come
again and again. Should one come all the same, the switch refuses (`holdfast.recovery.writers`).
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from typing import Any

from holdfast.control.kubernetes import KubernetesAPI, KubernetesError
from holdfast.control.owner import RESTORE_ANNOTATION
from holdfast.control.run_action import Say, Timeouts, when_available
from holdfast.control.topmost import (
    BEFORE_ANNOTATION,
    KINDS,
    Named,
    NoOwner,
    Target,
    workloads_of,
)
from holdfast.errors import DeadlineExceeded, HoldfastError

#: seconds within which a webhook that refuses to scale up comes round
REFUSED_SECONDS = 120
_ENDED = ("Succeeded", "Failed")


class PauseUndone(HoldfastError):
    """Something made the owner go on while the restore waited for its pods to end."""


def pause(named: Named, claim: str, snapshot: str, timeouts: Timeouts, say: Say) -> Target:
    """Pause the topmost owner and wait until no pod can write to the claim; returns the owner.

    It stays paused, also where this fails: `resume` makes it what it was before. A second call for
    an owner that a restore has paused goes on from there.

    Args:
        claim: whose pods must be gone. Tasks of Kanister, and pods that only read, do not count.
        snapshot: what is restored; written on the owner.

    Raises:
        NoOwner: there is nothing to pause. Nothing was changed.
        PauseUndone: something above it, or a person, made it go on.
        DeadlineExceeded: the pods did not end in time.
    """
    owner = when_available(named.topmost, timeouts)
    if owner.deleting:
        raise NoOwner(f"{owner.title} is being deleted, and nothing was changed: create it anew")
    before = owner.before or json.dumps(owner.value)
    say(f"pausing {owner.title} ({owner.kind.field}: {json.dumps(owner.kind.paused)})")
    marks = {RESTORE_ANNOTATION: snapshot, BEFORE_ANNOTATION: before}
    when_available(lambda: _patch(named.api, owner, owner.kind.paused, marks), timeouts)
    end, told = time.monotonic() + timeouts.timeout, None
    while True:
        pods = when_available(lambda: _writers(named, claim), timeouts)
        now = Target(
            owner.kind, owner.namespace, when_available(lambda: _get(named, owner), timeouts)
        )
        if not now.is_paused:
            raise PauseUndone(
                f"{owner.title} was paused and goes on again: something above it undid that, or"
                " a person; nothing was switched"
            )
        if not pods:
            return now
        if time.monotonic() > end:
            raise DeadlineExceeded(
                f"{owner.title} is {owner.kind.done}, and after {timeouts.timeout:.0f} s pods still"
                f" have claim {claim}: {', '.join(pods)}; nothing was switched"
                f"{_one_by_one(now, pods)}"
            )
        if pods != told:
            say(f"waiting for {', '.join(pods)} to end")
            told = pods
        time.sleep(timeouts.poll)


def resume(named: Named, timeouts: Timeouts, say: Say) -> bool:
    """Make the topmost owner what it was before a restore paused it; whether one had."""
    owners = when_available(named.to_resume, timeouts)
    if not owners:
        say(f"{named.title} was not paused by a restore: it stays as it is")
    for owner in owners:
        _resume(named.api, owner, timeouts, say)
    return bool(owners)


def _resume(api: KubernetesAPI, owner: Target, timeouts: Timeouts, say: Say) -> None:
    value = json.loads(owner.before) if owner.before else owner.kind.running
    marks = {RESTORE_ANNOTATION: None, BEFORE_ANNOTATION: None}
    end = time.monotonic() + min(timeouts.timeout, REFUSED_SECONDS)
    while True:
        try:
            when_available(lambda: _patch(api, owner, value, marks), timeouts)
            break
        except KubernetesError as error:
            # Kueue scales a StatefulSet up only when it has forgotten the pods that went.
            refused = error.status in (403, 422) and owner.kind.field == "replicas"
            if not refused or time.monotonic() > end:
                raise
            _forget(api, owner, say)
        time.sleep(timeouts.poll)
    say(f"resumed {owner.title} ({owner.kind.field}: {json.dumps(value)})")


def _forget(api: KubernetesAPI, owner: Target, say: Say) -> None:
    """Delete the Workload that Kueue has kept of pods that are gone, where nothing owns it any
    more: Kueue before 0.17.7 never deletes it, and for it refuses to scale up for ever."""
    try:
        for left in workloads_of(api, owner):
            metadata = left.manifest["metadata"]
            if metadata.get("ownerReferences") or left.deleting:
                continue
            unchanged = {key: metadata[key] for key in ("uid", "resourceVersion")}
            api.delete(left.path, {"preconditions": unchanged})
            say(f"deleted {left.title}, which Kueue had kept without an owner")
    except KubernetesError as error:
        if error.status not in (403, 404, 409):  # no right, no Kueue, an owner after all
            raise


def _one_by_one(owner: Target, pods: list[str]) -> str:
    """What to do about a StatefulSet whose pods end in order only: it never ends a pod that is not
    ready while one before it is not ready either, not even at zero replicas."""
    policy = (owner.manifest.get("spec") or {}).get("podManagementPolicy")
    if owner.kind is not KINDS["statefulset"] or policy == "Parallel" or len(pods) < 2:
        return ""
    return (
        "; its podManagementPolicy is not Parallel, so that of several pods that are not ready it"
        " ends none: scale it to zero, delete these pods, restore, and scale it up again"
    )


def _patch(api: KubernetesAPI, owner: Target, value: Any, marks: Mapping[str, str | None]) -> None:
    api.merge(
        owner.path, {"metadata": {"annotations": dict(marks)}, "spec": {owner.kind.field: value}}
    )


def _get(named: Named, owner: Target) -> dict[str, Any]:
    return named.api.get(owner.path)


def _writers(named: Named, claim: str) -> list[str]:
    """The pods that may write to the claim, by name."""
    listed = named.api.get(f"/api/v1/namespaces/{named.namespace}/pods").get("items") or []
    return sorted(pod["metadata"]["name"] for pod in listed if _may_write(pod, claim))


def _may_write(pod: Mapping[str, Any], claim: str) -> bool:
    if (pod["metadata"].get("labels") or {}).get("createdBy") == "kanister":
        return False
    if (pod.get("status") or {}).get("phase") in _ENDED:
        return False
    sources = [
        volume.get("persistentVolumeClaim") or {}
        for volume in (pod.get("spec") or {}).get("volumes") or []
    ]
    return any(held.get("claimName") == claim and not held.get("readOnly") for held in sources)
