"""The control plane: ask Kanister to run a Blueprint's action, and wait for what became of it.

What Kanister leaves to its users is here: a deadline, one more try when a restarted controller
forgot a running ActionSet, and the removal of old ones.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from holdfast.control.actionset import Action, ActionSet, ActionSets, State
from holdfast.control.kubernetes import KubernetesUnavailable
from holdfast.control.leftover_pods import Pods, delete_leftover_pods
from holdfast.defaults import ACTION_SECONDS
from holdfast.errors import DeadlineExceeded, HoldfastError

KEEP_FINISHED = 10

#: how long an API server may be away before that is an error, in seconds: at the first request
#: (a wrong address should be said soon), and while an ActionSet runs (upgrades take minutes)
FIRST_ANSWER_SECONDS, LATER_ANSWER_SECONDS = 10, 300

Say = Callable[[str], None]
T = TypeVar("T")


class ActionFailed(HoldfastError):
    """Kanister ran the action and it failed."""


class Orphaned(DeadlineExceeded):
    """Nobody works on the ActionSet any more, or nobody ever did."""

    def __init__(self, message: str, *, begun: bool) -> None:
        super().__init__(message)
        self.begun = begun


@dataclass(frozen=True)
class Timeouts:
    """How long to wait for what, in seconds. `timeout` is the user's; tests shorten the rest."""

    timeout: float = ACTION_SECONDS
    #: without any status by then, no controller watches: it is down, or watches elsewhere
    first_status: float = 60
    #: a failed ActionSet whose deferPhase has not started by then failed at launch
    launch: float = 10
    poll: float = 1


def run_action(
    actionsets: ActionSets, action: Action, *, timeouts: Timeouts | None = None, say: Say = print
) -> ActionSet:
    """Run an action to its end and return the complete ActionSet.

    An unfinished ActionSet of the same workload and action is waited for, not doubled; with other
    options it is an error. An orphaned one is reported, deleted and issued once more under a new
    name: phases are idempotent and commit by a last atomic step. A restore that is orphaned again
    stays: `holdfast.control.orphaned_restores` counts its longer limit from it.

    Raises:
        ActionFailed: the action failed and its deferPhase has ended.
        Orphaned: twice no end within the deadline.
        KubernetesError: the API server refused a request.
    """
    timeouts = timeouts or Timeouts()
    current = _under_way(actionsets, action, timeouts, say)
    for last_try in (False, True):
        if current is None:
            current = when_available(lambda: actionsets.create(action, timeouts.timeout), timeouts)
            say(f"created ActionSet {current.name} in namespace {actionsets.namespace}")
        try:
            return _wait(actionsets, current, timeouts, say)
        except Orphaned as orphaned:
            if last_try and action.name == "restore" and orphaned.begun:
                raise
            delete_orphan(actionsets, current, timeouts, say)
            if last_try:
                raise
            say(f"orphaned: {orphaned}; deleted, issuing it once more")
            current = None
    raise AssertionError("unreachable: the last try returns or raises")


def clean_up(
    actionsets: ActionSets, workload: str, *, timeouts: Timeouts, keep: int = KEEP_FINISHED
) -> list[str]:
    """Delete the workload's finished ActionSets beyond the newest ``keep``; returns their names.

    Old ones slow the controller's start. A running one is never touched, nor a failed one whose
    deferPhase may still run.
    """

    def finished(actionset: ActionSet) -> bool:
        age = actionsets.age(actionset)
        if actionset.state is State.FAILED:
            quiet = actionset.launch_failed and age > max(timeouts.launch, timeouts.first_status)
            return not actionset.deferring or quiet or age > timeouts.timeout
        return actionset.state is State.COMPLETE

    old = [a.name for a in actionsets.of_workload(workload) if finished(a)][keep:]
    for name in old:
        actionsets.delete(name)
    return old


def delete_orphan(actionsets: ActionSets, orphan: ActionSet, timeouts: Timeouts, say: Say) -> None:
    """Delete an ActionSet that nobody works on, and the pods that it left."""
    when_available(lambda: actionsets.delete(orphan.name), timeouts)
    delete_leftover_pods(actionsets, Pods(actionsets.api, orphan.subject), say)


def _under_way(
    actionsets: ActionSets, action: Action, timeouts: Timeouts, say: Say
) -> ActionSet | None:
    """The unfinished ActionSet to wait for, if there is one; orphaned ones are deleted."""
    listed = when_available(
        lambda: actionsets.of_workload(action.workload), timeouts, FIRST_ANSWER_SECONDS
    )
    for other in (a for a in listed if a.action == action.name):
        young = actionsets.overdue(other, timeouts.timeout) < 0
        if other.state is State.FAILED and other.deferring and young:
            say(f"waiting for the clean-up of failed ActionSet {other.name}")
            try:
                _wait(actionsets, other, timeouts, say)
            except ActionFailed as error:
                say(f"earlier {action.name} failed: {error}")
        elif other.state not in (State.COMPLETE, State.FAILED) and not young:
            say(f"orphaned: ActionSet {other.name} is past its deadline; deleted")
            delete_orphan(actionsets, other, timeouts, say)
        elif other.state not in (State.COMPLETE, State.FAILED):
            if dict(other.options) != dict(action.options):
                raise ActionFailed(
                    f"another {action.name} of {action.workload} is under way as ActionSet"
                    f" {other.name} with options {dict(other.options)}: wait until it has ended"
                )
            say(f"ActionSet {other.name} is under way already: waiting for it")
            return other
    return None


def _wait(actionsets: ActionSets, actionset: ActionSet, timeouts: Timeouts, say: Say) -> ActionSet:
    name, start = actionset.name, time.monotonic() - actionsets.age(actionset)
    due = actionset.deadline or actionset.created
    limit = max(timeouts.timeout, (due - actionset.created).total_seconds())  # another's, maybe
    silent_since: float | None = None
    told = ""
    while True:
        current = when_available(lambda: actionsets.get(name), timeouts)
        waited = time.monotonic() - start
        if current.state is State.COMPLETE:
            return current
        overdue = waited > limit
        if current.state is State.FAILED:
            silent_since = (silent_since or waited) if current.launch_failed else None
            launch_failed = silent_since is not None and waited - silent_since > timeouts.launch
            if not current.deferring or launch_failed or overdue:
                raise _failure(actionsets.namespace, current, overdue=overdue and current.deferring)
        elif current.state is State.NONE and waited > timeouts.first_status:
            raise Orphaned(
                f"ActionSet {name} has no status after {waited:.0f} s: is Kanister's controller"
                f" running, and does it watch namespace {actionsets.namespace}?",
                begun=False,
            )
        elif overdue:
            if current.all_done:  # only the last status update is missing: the work is done
                return current
            raise Orphaned(
                f"ActionSet {name} is still {current.state} in phase"
                f" '{current.running_phase or '-'}' after {waited:.0f} s: a restarted controller"
                " forgets what ran; raise --timeout if the phase only needs longer",
                begun=current.begun,
            )
        doing = current.state + (f": {current.running_phase}" if current.running_phase else "")
        if doing != told and current.state is not State.NONE:
            say(f"{name} {doing}")
            told = doing
        time.sleep(timeouts.poll)


def _failure(namespace: str, actionset: ActionSet, *, overdue: bool) -> ActionFailed:
    rest = (
        f"; its clean-up phase '{actionset.running_phase}' has not ended: if the workload stays"
        " suspended, the next `holdfast backup` resumes it"
        if overdue
        else f": see `kubectl -n {namespace} describe actionset {actionset.name}`"
    )
    reason = actionset.error or "no message"
    return ActionFailed(f"ActionSet {actionset.name} failed ({reason}){rest}")


def when_available(
    call: Callable[[], T], timeouts: Timeouts, seconds: float = LATER_ANSWER_SECONDS
) -> T:
    """Retry while the API server does not answer."""
    end = time.monotonic() + min(timeouts.timeout, seconds)
    pause = timeouts.poll
    while True:
        try:
            return call()
        except KubernetesUnavailable:
            if time.monotonic() + pause > end:
                raise
            time.sleep(pause)
            pause = min(2 * pause, 15)
