"""The control plane: ask Kanister to run a Blueprint's action, and wait for what became of it.

An ActionSet runs once, when it is created; its ``.status`` is the only record of the result. What
Kanister leaves to its users is here: unique names, a deadline, one more try when a restarted
controller forgot a running ActionSet, and the removal of old ones.

Two rules of Kanister 0.119 shape the code:

* A failing phase sets the state to ``failed`` *before* the deferPhase (which resumes a suspended
  Job) runs, and deleting the ActionSet would cancel it. So `failed` is the end only once the
  deferPhase has ended.
* Outputs and artifacts hold unrendered template text until the state is ``complete``. So
  `ActionSet` has none before.
"""

from __future__ import annotations

import re
import secrets
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Any, TypeVar

from holdfast.errors import DeadlineExceeded, HoldfastError, UsageError
from holdfast.kubernetes import KubernetesAPI, KubernetesError, KubernetesUnavailable

WORKLOAD_LABEL = "holdfast.dev/workload"
ACTION_LABEL = "holdfast.dev/action"
#: on every ActionSet that we create: when its creator stops waiting for it (ISO 8601, UTC)
DEADLINE_ANNOTATION = "holdfast.dev/deadline"
KEEP_FINISHED = 10
ERROR_CHARACTERS = 600

#: how long an API server may be away before that is an error, in seconds: at the first request
#: (a wrong address should be said soon), and while an ActionSet runs (upgrades take minutes)
FIRST_ANSWER_SECONDS, LATER_ANSWER_SECONDS = 10, 300

Say = Callable[[str], None]
T = TypeVar("T")


class State(StrEnum):
    """``status.state``; NONE until the controller has seen the ActionSet."""

    NONE = "none"
    PENDING = "pending"
    RUNNING = "running"
    FAILED = "failed"
    COMPLETE = "complete"


class ActionFailed(HoldfastError):
    """Kanister ran the action and it failed."""


class Stranded(DeadlineExceeded):
    """Nobody works on the ActionSet any more, or nobody ever did."""

    def __init__(self, message: str, *, begun: bool) -> None:
        super().__init__(message)
        self.begun = begun


@dataclass(frozen=True)
class Action:
    """What to ask for: one action of a Blueprint, on one claim.

    ``options`` reach the Blueprint as ``.Options``; Kanister takes strings only.
    """

    name: str
    workload: str
    namespace: str
    claim: str
    blueprint: str = "checkpoints"
    options: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for what in ("name", "workload", "namespace", "claim", "blueprint"):
            value = getattr(self, what)
            if not re.fullmatch(r"[a-z0-9]([-a-z0-9.]{0,61}[a-z0-9])?", value):
                raise UsageError(
                    f"{what} '{value}' is no Kubernetes name: use at most 63 of a-z, 0-9 and -"
                )

    def manifest(self, name: str, namespace: str, deadline: datetime) -> dict[str, Any]:
        return {
            "apiVersion": "cr.kanister.io/v1alpha1",
            "kind": "ActionSet",
            "metadata": {
                "name": name,
                "namespace": namespace,
                "labels": {WORKLOAD_LABEL: self.workload, ACTION_LABEL: self.name},
                "annotations": {DEADLINE_ANNOTATION: deadline.isoformat(timespec="seconds")},
            },
            "spec": {
                "actions": [
                    {
                        "name": self.name,
                        "blueprint": self.blueprint,
                        "object": {"kind": "pvc", "name": self.claim, "namespace": self.namespace},
                        "options": dict(self.options),
                    }
                ]
            },
        }


@dataclass(frozen=True)
class ActionSet:
    """What the API server says about one ActionSet, as far as a reader may trust it."""

    name: str
    action: str
    options: Mapping[str, str]
    created: datetime
    #: None on one that something else created
    deadline: datetime | None
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
            options=spec.get("options") or {},
            created=datetime.fromisoformat(metadata["creationTimestamp"]).astimezone(UTC),
            deadline=_time((metadata.get("annotations") or {}).get(DEADLINE_ANNOTATION)),
            state=state,
            running_phase=running_phase,
            error=_one_line((status.get("error") or {}).get("message") or ""),
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
        found: list[ActionSet] = []
        query = {"labelSelector": f"{WORKLOAD_LABEL}={workload}", "limit": "500"}
        while True:
            page = self._api.get(self._path, query)
            found += [ActionSet.parse(item) for item in page.get("items") or []]
            token = (page.get("metadata") or {}).get("continue")
            if not token:
                return sorted(found, key=lambda a: (a.created, a.name), reverse=True)
            query["continue"] = token

    def delete(self, name: str) -> None:
        self._api.delete(f"{self._path}/{name}")

    def age(self, actionset: ActionSet) -> float:
        """Seconds since creation, both ends by the API server's clock."""
        return max(0.0, (self._api.server_time - actionset.created).total_seconds())

    def overdue(self, actionset: ActionSet, timeout: float) -> float:
        """Seconds since its deadline, or creation + ``timeout``; negative before."""
        due = actionset.deadline or actionset.created + timedelta(seconds=timeout)
        return (self._api.server_time - due).total_seconds()


@dataclass(frozen=True)
class Patience:
    """How long to wait for what, in seconds. `timeout` is the user's; tests shorten the rest."""

    timeout: float = 3600
    #: without any status by then, no controller watches: it is down, or watches elsewhere
    first_status: float = 60
    #: a failed ActionSet whose deferPhase has not started by then failed at launch
    launch: float = 10
    poll: float = 1


def run_action(
    actionsets: ActionSets, action: Action, *, patience: Patience | None = None, say: Say = print
) -> ActionSet:
    """Run an action to its end and return the complete ActionSet.

    An unfinished ActionSet of the same workload and action is waited for, not doubled; with other
    options it is an error. One that strands is reported, deleted and issued once more under a new
    name: phases are idempotent and commit by a last atomic step. A restore that strands a second
    time stays for `holdfast.stranded`, whose patience it measures.

    Raises:
        ActionFailed: the action failed and its deferPhase has ended.
        Stranded: twice no end within the deadline.
        KubernetesError: the API server refused a request.
    """
    patience = patience or Patience()
    current = _adopt(actionsets, action, patience, say)
    for last_try in (False, True):
        if current is None:
            current = patiently(lambda: actionsets.create(action, patience.timeout), patience)
            say(f"created ActionSet {current.name} in namespace {actionsets.namespace}")
        try:
            return _wait(actionsets, current, patience, say)
        except Stranded as stranded:
            if last_try and action.name == "restore" and stranded.begun:
                raise
            stuck = current.name
            patiently(lambda name=stuck: actionsets.delete(name), patience)
            if last_try:
                raise
            say(f"stranded: {stranded}; deleted, issuing it once more")
            current = None
    raise AssertionError("unreachable: the last try returns or raises")


def clean_up(
    actionsets: ActionSets, workload: str, *, patience: Patience, keep: int = KEEP_FINISHED
) -> list[str]:
    """Delete the workload's finished ActionSets beyond the newest ``keep``; returns their names.

    Old ones slow the controller's start. A running one is never touched, nor a failed one whose
    deferPhase may still run.
    """

    def finished(actionset: ActionSet) -> bool:
        age = actionsets.age(actionset)
        if actionset.state is State.FAILED:
            quiet = actionset.launch_failed and age > max(patience.launch, patience.first_status)
            return not actionset.deferring or quiet or age > patience.timeout
        return actionset.state is State.COMPLETE

    old = [a.name for a in actionsets.of_workload(workload) if finished(a)][keep:]
    for name in old:
        actionsets.delete(name)
    return old


def _adopt(
    actionsets: ActionSets, action: Action, patience: Patience, say: Say
) -> ActionSet | None:
    """The unfinished ActionSet to wait for, if there is one; stranded ones are deleted."""
    listed = patiently(
        lambda: actionsets.of_workload(action.workload), patience, FIRST_ANSWER_SECONDS
    )
    for other in (a for a in listed if a.action == action.name):
        young = actionsets.overdue(other, patience.timeout) < 0
        if other.state is State.FAILED and other.deferring and young:
            say(f"waiting for the clean-up of failed ActionSet {other.name}")
            try:
                _wait(actionsets, other, patience, say)
            except ActionFailed as error:
                say(f"earlier {action.name} failed: {error}")
        elif other.state not in (State.COMPLETE, State.FAILED) and not young:
            say(f"stranded: ActionSet {other.name} is past its deadline; deleted")
            patiently(lambda name=other.name: actionsets.delete(name), patience)
        elif other.state not in (State.COMPLETE, State.FAILED):
            if dict(other.options) != dict(action.options):
                raise ActionFailed(
                    f"another {action.name} of {action.workload} is under way as ActionSet"
                    f" {other.name} with options {dict(other.options)}: wait until it has ended"
                )
            say(f"ActionSet {other.name} is under way already: waiting for it")
            return other
    return None


def _wait(actionsets: ActionSets, actionset: ActionSet, patience: Patience, say: Say) -> ActionSet:
    name, start = actionset.name, time.monotonic() - actionsets.age(actionset)
    due = actionset.deadline or actionset.created
    limit = max(patience.timeout, (due - actionset.created).total_seconds())  # another's, maybe
    silent_since: float | None = None
    told = ""
    while True:
        current = patiently(lambda: actionsets.get(name), patience)
        waited = time.monotonic() - start
        if current.state is State.COMPLETE:
            return current
        overdue = waited > limit
        if current.state is State.FAILED:
            silent_since = (silent_since or waited) if current.launch_failed else None
            launch_failed = silent_since is not None and waited - silent_since > patience.launch
            if not current.deferring or launch_failed or overdue:
                raise _failure(actionsets.namespace, current, overdue=overdue and current.deferring)
        elif current.state is State.NONE and waited > patience.first_status:
            raise Stranded(
                f"ActionSet {name} has no status after {waited:.0f} s: is Kanister's controller"
                f" running, and does it watch namespace {actionsets.namespace}?",
                begun=False,
            )
        elif overdue:
            if current.all_done:  # only the last status update is missing: the work is done
                return current
            raise Stranded(
                f"ActionSet {name} is still {current.state} in phase"
                f" '{current.running_phase or '-'}' after {waited:.0f} s: a restarted controller"
                " forgets what ran; raise --timeout if the phase only needs longer",
                begun=current.begun,
            )
        doing = current.state + (f": {current.running_phase}" if current.running_phase else "")
        if doing != told and current.state is not State.NONE:
            say(f"{name} {doing}")
            told = doing
        time.sleep(patience.poll)


def _failure(namespace: str, actionset: ActionSet, *, overdue: bool) -> ActionFailed:
    rest = (
        f"; its clean-up phase '{actionset.running_phase}' has not ended: if the Job stays"
        " suspended, the next `holdfast backup` resumes it"
        if overdue
        else f": see `kubectl -n {namespace} describe actionset {actionset.name}`"
    )
    reason = actionset.error or "no message"
    return ActionFailed(f"ActionSet {actionset.name} failed ({reason}){rest}")


def patiently(
    call: Callable[[], T], patience: Patience, seconds: float = LATER_ANSWER_SECONDS
) -> T:
    """Retry while the API server does not answer."""
    end = time.monotonic() + min(patience.timeout, seconds)
    pause = patience.poll
    while True:
        try:
            return call()
        except KubernetesUnavailable:
            if time.monotonic() + pause > end:
                raise
            time.sleep(pause)
            pause = min(2 * pause, 15)


def _time(text: str | None) -> datetime | None:
    try:
        return datetime.fromisoformat(text or "").astimezone(UTC)
    except ValueError:
        return None


def _one_line(message: str) -> str:
    line = " ".join(message.split())
    return line if len(line) <= ERROR_CHARACTERS else line[:ERROR_CHARACTERS] + "…"
