"""The training Job that a restore suspends: does it exist, is it finished? Then create it again.

A finished Job cannot be resumed: nothing makes it run again. So a restore creates it again from its
own spec. Between its deletion and its creation only a ConfigMap knows what it was; a restore that
finds that ConfigMap and no Job finishes the work of the one before.
"""

from __future__ import annotations

import copy
import json
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from holdfast.control.kubernetes import KubernetesAPI, KubernetesError
from holdfast.control.owner import RESTORE_ANNOTATION, Seen
from holdfast.control.run_action import Say, Timeouts, when_available
from holdfast.control.topmost import KUEUE, QUEUE
from holdfast.errors import DeadlineExceeded, HoldfastError

#: The Job controller makes these up for each Job.
_GENERATED_LABELS = frozenset(
    {
        "controller-uid",
        "job-name",
        "batch.kubernetes.io/controller-uid",
        "batch.kubernetes.io/job-name",
    }
)
_SAVED = "job.json"


class JobMissing(HoldfastError):
    """There is no such Job, and no copy of its spec."""


@dataclass(frozen=True)
class Job:
    """A Job as the API server shows it."""

    manifest: Mapping[str, Any]

    @property
    def uid(self) -> str:
        return self.manifest["metadata"].get("uid", "")

    @property
    def deleting(self) -> bool:
        """Deleted, and waiting for its pods to end."""
        return bool(self.manifest["metadata"].get("deletionTimestamp"))

    @property
    def finished(self) -> str:
        """``Complete`` or ``Failed``; empty while it can still run."""
        for condition in (self.manifest.get("status") or {}).get("conditions") or []:
            if condition["type"] in ("Complete", "Failed") and condition["status"] == "True":
                return condition["type"]
        return ""

    @property
    def restoring(self) -> str:
        """The snapshot for which a restore suspended it; empty when none did."""
        return (self.manifest["metadata"].get("annotations") or {}).get(RESTORE_ANNOTATION, "")

    @property
    def manager(self) -> str:
        """Whose server-side apply made it: the new one stays theirs to change."""
        for entry in self.manifest["metadata"].get("managedFields") or []:
            if entry.get("operation") == "Apply" and not entry.get("subresource"):
                return entry["manager"]
        return "holdfast"

    def fresh_manifest(self) -> dict[str, Any]:
        """What to create to have the same Job again, not yet run."""
        metadata = self.manifest["metadata"]
        annotations = dict(metadata.get("annotations") or {})
        annotations.pop(RESTORE_ANNOTATION, None)
        spec = copy.deepcopy(dict(self.manifest["spec"]))
        if not spec.get("manualSelector"):
            spec.pop("selector", None)
        template = spec["template"].setdefault("metadata", {})
        template.pop("creationTimestamp", None)
        template["labels"] = _own(template)
        queued = QUEUE in (metadata.get("labels") or {})  # then its controller starts it
        return {
            "apiVersion": "batch/v1",
            "kind": "Job",
            "metadata": {
                "name": metadata["name"],
                "namespace": metadata["namespace"],
                "labels": _own(metadata),
                "annotations": annotations,
            },
            "spec": {**spec, "suspend": queued},
        }


class Jobs:
    """The Jobs of one namespace."""

    def __init__(self, api: KubernetesAPI, namespace: str) -> None:
        self._api = api
        self.namespace = namespace
        self._jobs = f"/apis/batch/v1/namespaces/{namespace}/jobs"
        self._maps = f"/api/v1/namespaces/{namespace}/configmaps"

    def get(self, name: str) -> Job | None:
        """The Job, or None. Raises KubernetesError with status 403 where it may not be seen."""
        found = self._get(f"{self._jobs}/{name}")
        return Job(found) if found else None

    def save(self, job: Job) -> None:
        """Write down what the Job is, for whoever goes on if we die before it exists again."""
        name = _map_name(job.manifest["metadata"]["name"])
        body = {
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": {"name": name, "namespace": self.namespace},
            "data": {_SAVED: json.dumps(job.fresh_manifest()), "manager": job.manager},
        }
        self._api.apply(f"{self._maps}/{name}", body, "holdfast")

    def saved(self, name: str) -> tuple[dict[str, Any], str] | None:
        """What `save` wrote: the manifest and the manager of its fields."""
        found = self._get(f"{self._maps}/{_map_name(name)}")
        return (json.loads(found["data"][_SAVED]), found["data"]["manager"]) if found else None

    def forget(self, name: str) -> None:
        self._api.delete(f"{self._maps}/{_map_name(name)}")

    def delete(self, name: str, uid: str) -> None:
        """Delete this very Job; its object goes when the last of its pods is gone."""
        options = {"propagationPolicy": "Foreground", "preconditions": {"uid": uid}}
        self._api.delete(f"{self._jobs}/{name}", options)

    def create(self, manifest: Mapping[str, Any], manager: str) -> None:
        self._api.apply(f"{self._jobs}/{manifest['metadata']['name']}", manifest, manager)

    def _get(self, path: str) -> dict[str, Any] | None:
        try:
            return self._api.get(path)
        except KubernetesError as error:
            if error.status != 404:
                raise
            return None


@dataclass(frozen=True)
class OwnerJob:
    """One Job as the owner of a workload's pods."""

    jobs: Jobs
    name: str
    paused: str = "suspended"

    @property
    def title(self) -> str:
        return f"Job {self.name}"

    def look(self) -> Seen | None:
        found = self.jobs.get(self.name)
        return Seen(found.restoring, found.deleting, {"job": self.name}) if found else None


def require_job(jobs: Jobs, name: str, timeouts: Timeouts, say: Say) -> bool:
    """Refuse a restore whose Job is not there; returns whether the Job can be seen at all.

    Where it cannot, Kanister, which can, refuses in the first phase. A Job that an earlier restore
    deleted and did not live to create again is created now.

    Raises:
        JobMissing: there is none. Nothing was changed.
    """
    try:
        job = when_available(lambda: jobs.get(name), timeouts, 10)
    except KubernetesError as error:
        if error.status != 403:
            raise
        say(
            f"Job {jobs.namespace}/{name} may not be seen from here: not checked; if it is"
            " finished it stays so, and `kubectl delete job` with `pulumi up --refresh` starts it"
        )
        return False
    if job is not None and not job.deleting:
        return True
    saved = jobs.saved(name)
    if saved is None:
        state = "is being deleted" if job else "does not exist"
        raise JobMissing(
            f"Job {jobs.namespace}/{name} {state}, and nothing was changed: create it (`pulumi up"
            " --refresh`), or name the right one with --job"
        )
    say(f"an earlier restore was cut off before it created Job {name} anew: creating it")
    _create_when_gone(jobs, name, *saved, timeouts)
    return True


def recreate_if_finished(jobs: Jobs, name: str, timeouts: Timeouts, say: Say) -> bool:
    """Create the Job again if it is finished; returns whether that was needed."""
    job = when_available(lambda: jobs.get(name), timeouts)
    if job is None:
        raise JobMissing(
            f"Job {jobs.namespace}/{name} was deleted during the restore, whose snapshot is in"
            " place: `pulumi up --refresh` creates it"
        )
    if not job.finished:
        return False
    say(f"Job {name} is finished ({job.finished}): creating it anew from its own spec")
    when_available(lambda: jobs.save(job), timeouts)
    try:
        when_available(lambda: jobs.delete(name, job.uid), timeouts)
    except KubernetesError as error:
        if error.status == 409:  # another one of this name by now: not ours to delete
            jobs.forget(name)
        raise
    _create_when_gone(jobs, name, job.fresh_manifest(), job.manager, timeouts)
    return True


def _create_when_gone(
    jobs: Jobs, name: str, manifest: Mapping[str, Any], manager: str, timeouts: Timeouts
) -> None:
    """Deletion is in the foreground: no object, no pod. So never two writers on the volume."""
    end = time.monotonic() + timeouts.timeout
    while (old := when_available(lambda: jobs.get(name), timeouts)) and old.deleting:
        if time.monotonic() > end:
            raise DeadlineExceeded(
                f"the pods of Job {jobs.namespace}/{name} have not gone in {timeouts.timeout:.0f}"
                " s: see why; then the same restore again, or `pulumi up --refresh`, creates it"
            )
        time.sleep(timeouts.poll)
    if old is None:
        when_available(lambda: jobs.create(manifest, manager), timeouts)
    when_available(lambda: jobs.forget(name), timeouts)


def _own(metadata: Mapping[str, Any]) -> dict[str, str]:
    """The labels that no controller made up; Kueue's own queue label stays."""
    labels = metadata.get("labels") or {}
    return {
        key: value
        for key, value in labels.items()
        if key not in _GENERATED_LABELS and (key == QUEUE or not key.startswith(KUEUE))
    }


def _map_name(job: str) -> str:
    """The dots keep it apart from ``holdfast-<claim>``, whatever a claim is called."""
    return f"holdfast.job.{job}"
