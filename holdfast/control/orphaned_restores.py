"""Clear what a restore left behind when nobody works on it any more.

A restarted controller forgets a running ActionSet: one that was past its phase `suspend` leaves the
Job suspended (or the Deployment at zero), and its deferPhase never runs. `holdfast backup`, which a
CronJob runs, clears that.

Why it never makes two writers:

* An ActionSet is left alone until its deadline and the longest `switch` have passed. By then the
  client that asked for it has given up, and a pod that ran `switch` when the controller died has
  been ended by its activeDeadlineSeconds.
* It is deleted before the Job is resumed. A controller that is alive, and only slow, cancels what
  it does for a deleted ActionSet (and its deferPhase), so that no `switch` comes after the resume.
* A pod of the phase `stage` that outlives its ActionSet writes into a hidden directory which
  nobody will switch to. A `switch` that came too late refuses: it is past its time (`until`), and
  the pod that was resumed voided the stage and has the run open (`holdfast.recovery.writers`).
* Only a Job or a Deployment with the restore's annotation is resumed. The Blueprint sets it in the
  very patch that pauses, so it outlives a deleted ActionSet and a killed client, and what a person
  paused does not have it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from holdfast.control.actionset import SWITCH_SECONDS, Action, ActionSet, ActionSets, State
from holdfast.control.kubernetes import KubernetesError
from holdfast.control.owner import Owner
from holdfast.control.run_action import (
    FIRST_ANSWER_SECONDS,
    Say,
    Timeouts,
    delete_orphan,
    run_action,
    when_available,
)

#: for one patch of one object, by a controller that may be busy
RESUME_SECONDS = 120


def clear(
    actionsets: ActionSets, owner: Owner, resume: Action, timeouts: Timeouts, say: Say
) -> bool:
    """Delete orphaned restores of the workload and resume its owner; whether it was resumed.

    A restore that may still run is left alone: nothing is resumed beside it.

    Args:
        owner: the Job or the Deployment that a restore pauses.
        resume: the Blueprint's action `resume`; its options come from the owner.
    """
    listed = when_available(
        lambda: actionsets.of_workload(resume.workload), timeouts, FIRST_ANSWER_SECONDS
    )
    unfinished = [a for a in listed if a.action == "restore" and _unfinished(a)]
    orphaned = [a for a in unfinished if actionsets.overdue(a, timeouts.timeout) > SWITCH_SECONDS]
    for restore in orphaned:
        delete_orphan(actionsets, restore, timeouts, say)
    if len(orphaned) < len(unfinished):
        return False
    options: Mapping[str, str] = {}
    try:
        seen = owner.look()
        wanted = seen is not None and not seen.deleting and bool(seen.restoring)
        options = seen.options if seen else options
    except KubernetesError as error:
        if error.status != 403:
            raise
        begun = [restore for restore in orphaned if restore.begun]  # they may have paused it
        wanted = bool(begun)
        for restore in begun[:1]:
            options = {key: v for key, v in restore.options.items() if key != "snapshot"}
    found = ", ".join(restore.name for restore in orphaned) or "a restore that is gone"
    if wanted:
        quick = replace(timeouts, timeout=min(timeouts.timeout, RESUME_SECONDS))
        run_action(
            actionsets, replace(resume, options=options), timeouts=quick, say=lambda line: None
        )
        say(
            f"resumed {owner.title}, left {owner.paused} by {found}: restore again if it is still"
            " wanted"
        )
    elif orphaned:
        say(f"deleted {found}, which nobody works on; {owner.title} was not {owner.paused} by it")
    return wanted


def _unfinished(restore: ActionSet) -> bool:
    if restore.state is State.FAILED:
        return restore.deferring and restore.begun
    return restore.state is not State.COMPLETE
