"""Kanister's ActionSets as the Kubernetes API holds them: what one asks for, and what became of it.

An ActionSet runs once, when it is created; its ``.status`` is the only record of the result. Two
rules of Kanister 0.119 shape how it is read:

* A failing phase sets the state to ``failed`` *before* the deferPhase (which resumes a suspended
  Job) runs, and deleting the ActionSet would cancel it. So `failed` is the end only once the
  deferPhase has ended.
* Outputs and artifacts hold unrendered template text until the state is ``complete``. So
  `ActionSet` has none before.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Any

from holdfast.control.kanister_error import readable
from holdfast.control.kubernetes import KubernetesAPI, KubernetesError, KubernetesUnavailable
from holdfast.control.subject import CLAIM, CONFIGURATION, Subject
from holdfast.defaults import BLUEPRINT
from holdfast.errors import UsageError

WORKLOAD_LABEL = "holdfast.dev/workload"
ACTION_LABEL = "holdfast.dev/action"
#: on every ActionSet that we create: when its creator stops waiting for it (ISO 8601, UTC)
DEADLINE_ANNOTATION = "holdfast.dev/deadline"
#: activeDeadlineSeconds of the Blueprints' phase `switch`: so long after its deadline the pod of an
#: ActionSet that nobody works on may still change something
SWITCH_SECONDS = 600
#: the option that tells a restore's switch when its creator stops waiting for it
UNTIL = "until"


class State(StrEnum):
    """``status.state``; NONE until the controller has seen the ActionSet."""

    NONE = "none"
    PENDING = "pending"
    RUNNING = "running"
    FAILED = "failed"
    COMPLETE = "complete"


@dataclass(frozen=True)
class Action:
    """What to ask for: one action of a Blueprint, on one claim or one configuration.

    ``options`` reach the Blueprint as ``.Options``; Kanister takes strings only.
    """

    name: str
    workload: str
    namespace: str
    #: empty where a ConfigMap is the object
    claim: str = ""
    #: the ConfigMap
    configuration: str = ""
    blueprint: str = BLUEPRINT
    options: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        object_ = "configuration" if self.configuration else "claim"
        for what in ("name", "workload", "namespace", object_, "blueprint"):
            value = getattr(self, what)
            if not re.fullmatch(r"[a-z0-9]([-a-z0-9.]{0,61}[a-z0-9])?", value):
                raise UsageError(
                    f"invalid {what} '{value}': expected a Kubernetes name, at most 63 of a-z, 0-9"
                    " and -"
                )

    @property
    def subject(self) -> Subject:
        """The object of its ActionSet."""
        if self.configuration:
            return Subject(self.namespace, self.configuration, CONFIGURATION)
        return Subject(self.namespace, self.claim, CLAIM)

    def manifest(self, name: str, namespace: str, deadline: datetime) -> dict[str, Any]:
        due = deadline.isoformat(timespec="seconds")
        options = {**self.options, **({UNTIL: due} if self.name == "restore" else {})}
        return {
            "apiVersion": "cr.kanister.io/v1alpha1",
            "kind": "ActionSet",
            "metadata": {
                "name": name,
                "namespace": namespace,
                "labels": {WORKLOAD_LABEL: self.workload, ACTION_LABEL: self.name},
                "annotations": {DEADLINE_ANNOTATION: due},
            },
            "spec": {
                "actions": [
                    {
                        "name": self.name,
                        "blueprint": self.blueprint,
                        "object": self.subject.reference(),
                        "options": options,
                    }
                ]
            },
        }


@dataclass(frozen=True)
class ActionSet:
    """What the API server says about one ActionSet, as far as a reader may trust it."""

    name: str
    action: str
    #: what was asked for; not `until`, which differs each time
    options: Mapping[str, str]
    created: datetime
    #: None on one that something else created
    deadline: datetime | None
    #: what it works on
    subject: Subject
    state: State
    running_phase: str
    error: str
    #: failed, and the deferPhase has not ended (or, after a failed launch, will never run)
    deferring: bool
    #: a phase of it has run, or runs
    begun: bool
    #: every phase and the deferPhase are complete, whatever the state says
    all_done: bool
    #: merged outputs of the phases; empty before the work is done
    outputs: Mapping[str, str]
    #: the keys and values of each artifact; empty before the state is complete
    artifacts: Mapping[str, Mapping[str, str]]

    @classmethod
    def parse(cls, obj: Mapping[str, Any]) -> ActionSet:
        metadata, status = obj["metadata"], obj.get("status") or {}
        spec: dict[str, Any] = next(iter((obj.get("spec") or {}).get("actions") or []), {})
        action: dict[str, Any] = next(iter(status.get("actions") or []), {})
        phases = list(action.get("phases") or [])
        defer = action.get("deferPhase") or {}
        ended = (State.COMPLETE, State.FAILED)
        running_phase = (status.get("progress") or {}).get("runningPhase") or ""
        state = State(status.get("state") or State.NONE)
        every = [*phases, *([defer] if defer.get("name") else [])]
        all_done = bool(every) and all(phase.get("state") == State.COMPLETE for phase in every)
        artifacts = action.get("artifacts") or {} if state is State.COMPLETE else {}
        outputs: dict[str, str] = {}
        if state is State.COMPLETE or all_done:
            for found in (phase.get("output") or {} for phase in every):
                if "apiVersion" not in found:  # KubeOps reports the object it patched
                    outputs |= {key: str(value) for key, value in found.items()}
        return cls(
            name=metadata["name"],
            action=spec.get("name", ""),
            options={k: v for k, v in (spec.get("options") or {}).items() if k != UNTIL},
            created=datetime.fromisoformat(metadata["creationTimestamp"]).astimezone(UTC),
            deadline=_time((metadata.get("annotations") or {}).get(DEADLINE_ANNOTATION)),
            subject=Subject.parse(spec.get("object") or {}),
            state=state,
            running_phase=running_phase,
            error=readable((status.get("error") or {}).get("message") or ""),
            deferring=state is State.FAILED
            and bool(defer.get("name"))
            and defer.get("state") not in ended,
            begun=bool(running_phase)
            or any(phase.get("state") not in (None, State.PENDING) for phase in every),
            all_done=all_done,
            outputs=outputs,
            artifacts={name: a.get("keyValue") or {} for name, a in artifacts.items()},
        )

    @property
    def ended(self) -> bool:
        """Whether no phase runs any more, nor will."""
        if self.state is State.FAILED:
            return not self.deferring
        return self.state is State.COMPLETE

    @property
    def launch_failed(self) -> bool:
        """Failed and silent: either the deferPhase starts within seconds, or it never will."""
        return self.deferring and not self.running_phase


class ActionSets:
    """The ActionSets in Kanister's namespace (its controller watches no other)."""

    def __init__(self, api: KubernetesAPI, namespace: str) -> None:
        self._api = api
        self.namespace = namespace
        self._path = f"/apis/cr.kanister.io/v1alpha1/namespaces/{namespace}/actionsets"

    def create(self, action: Action, timeout: float) -> ActionSet:
        """Create under a new name. A lost answer is settled by reading back, never by a twin."""
        stamp = datetime.now(UTC).strftime("%Y%m%dt%H%M%Sz")
        name = f"{action.workload}-{action.name}-{stamp}-{secrets.token_hex(3)}"
        due = self._api.server_time + timedelta(seconds=timeout)
        body = action.manifest(name, self.namespace, due)
        try:
            return ActionSet.parse(self._api.create(self._path, body))
        except KubernetesUnavailable:
            try:
                return self.get(name)
            except KubernetesError as error:
                if error.status != 404:
                    raise
            return ActionSet.parse(self._api.create(self._path, body))

    def get(self, name: str) -> ActionSet:
        return ActionSet.parse(self._api.get(f"{self._path}/{name}"))

    def of_workload(self, workload: str) -> list[ActionSet]:
        """Every ActionSet that carries the workload's label, newest first."""
        return self._list({"labelSelector": f"{WORKLOAD_LABEL}={workload}"})

    def about(self, subject: Subject) -> list[ActionSet]:
        """Every ActionSet on the object, whoever created it, newest first."""
        return [found for found in self._list({}) if found.subject == subject]

    def _list(self, query: dict[str, str]) -> list[ActionSet]:
        found: list[ActionSet] = []
        query = {**query, "limit": "500"}
        while True:
            page = self._api.get(self._path, query)
            found += [ActionSet.parse(item) for item in page.get("items") or []]
            token = (page.get("metadata") or {}).get("continue")
            if not token:
                return sorted(found, key=lambda a: (a.created, a.name), reverse=True)
            query["continue"] = token

    def delete(self, name: str) -> None:
        self._api.delete(f"{self._path}/{name}")

    @property
    def api(self) -> KubernetesAPI:
        """The server that holds them."""
        return self._api

    def age(self, actionset: ActionSet) -> float:
        """Seconds since creation, both ends by the API server's clock."""
        return max(0.0, (self._api.server_time - actionset.created).total_seconds())

    def overdue(self, actionset: ActionSet, timeout: float) -> float:
        """Seconds since its deadline, or creation + ``timeout``; negative before."""
        due = actionset.deadline or actionset.created + timedelta(seconds=timeout)
        return (self._api.server_time - due).total_seconds()


def _time(text: str | None) -> datetime | None:
    try:
        return datetime.fromisoformat(text or "").astimezone(UTC)
    except ValueError:
        return None
