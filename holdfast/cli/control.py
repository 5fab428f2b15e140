"""The control plane's verbs: ask the cluster for a backup or a restore, through Kanister."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from datetime import datetime
from typing import TYPE_CHECKING, Annotated

import typer

from holdfast.cli import options
from holdfast.cli.context import is_snapshot
from holdfast.cli.output import emit, say
from holdfast.errors import HoldfastError, UsageError
from holdfast.text import plural

if TYPE_CHECKING:
    from holdfast.actionset import Action, ActionSet, ActionSets
    from holdfast.job import Jobs
    from holdfast.run_action import Patience


def backup(
    workload: options.Workload = None,
    job: options.Job = None,
    namespace: options.Namespace = None,
    claim: options.Claim = None,
    kanister_namespace: options.KanisterNamespace = "kanister",
    blueprint: options.Blueprint = "checkpoints",
    api: options.Api = None,
    timeout: options.Timeout = 3600,
    output: options.Output = options.Format.TABLE,
) -> None:
    """Back up a workload through Kanister, and wait until it is done.

    Creates an ActionSet that runs the Blueprint's action backup on the workload's claim: a pod
    that runs `holdfast push`. A backup that is under way already is waited for. One that ends
    neither well nor badly within --timeout is deleted and issued once more. Afterwards the
    workload's finished ActionSets are deleted but for the newest 10.

    First it clears what a restore left behind that nobody works on any more: its ActionSet is
    deleted, and the Job that it suspended is resumed. A restore under way is left alone, and the
    backup goes on beside it: bundles never change.

    Example: holdfast backup --workload gpt --namespace training --claim checkpoints-pvc
    """
    from holdfast import stranded

    asked = _ask("backup", {}, workload, namespace, claim, kanister_namespace, blueprint, api,
                 timeout)  # fmt: skip
    resume = replace(asked.action, name="resume", options={"job": job or asked.action.workload})
    not_cleared: HoldfastError | None = None
    try:
        stranded.clear(asked.actionsets, asked.jobs, resume, asked.patience, say)
    except HoldfastError as error:  # a backup is worth having all the same
        say(f"a restore that was left behind is not cleared: {error}")
        not_cleared = error
    _report(asked, *_run(asked), output)
    if not_cleared:
        raise not_cleared


def restore(
    snapshot: options.Snapshot = "latest",
    before: Annotated[
        str | None,
        typer.Option(
            "--before",
            envvar="HOLDFAST_BEFORE",
            help="The newest snapshot before this time, such as 2026-05-01T12:00:00Z.",
            metavar="TIME",
        ),
    ] = None,
    workload: options.Workload = None,
    job: options.Job = None,
    namespace: options.Namespace = None,
    claim: options.Claim = None,
    kanister_namespace: options.KanisterNamespace = "kanister",
    blueprint: options.Blueprint = "checkpoints",
    api: options.Api = None,
    timeout: options.Timeout = 3600,
    output: options.Output = options.Format.TABLE,
) -> None:
    """Take a running workload back to a snapshot, through Kanister.

    Training goes on while the snapshot is pulled and verified; then the Job is suspended, the
    snapshot becomes the next generation, and the Job is resumed. Newer bundles stay in the
    generation before: `holdfast switch --generation N` brings them back. A Job that is finished
    is created anew from its own spec; one that does not exist is an error before anything changes.

    Example: holdfast restore --workload gpt --before 2026-05-01T12:00:00Z
    """
    from holdfast import job as training

    wanted = {"snapshot": _chosen(snapshot, before), "job": job or workload or ""}
    asked = _ask("restore", wanted, workload, namespace, claim, kanister_namespace, blueprint, api,
                 timeout)  # fmt: skip
    seen = training.require(asked.jobs, wanted["job"], asked.patience, say)
    done, removed = _run(asked)
    anew = seen and training.renew(asked.jobs, wanted["job"], asked.patience, say)
    _report(asked, done, removed, output, job="created anew" if anew else "resumed")


def _chosen(snapshot: str, before: str | None) -> str:
    """The Blueprint's option `snapshot`. Its value reaches a command line: take no other form."""
    if before is not None:
        if snapshot != "latest":
            raise UsageError(f"--snapshot {snapshot} and --before {before}: give only one")
        snapshot = f"before={before}"
    if snapshot.startswith("before="):
        try:
            moment = datetime.fromisoformat(snapshot.removeprefix("before="))
        except ValueError:
            raise UsageError(
                f"'{snapshot}' holds no time: write it like before=2026-05-01T12:00:00Z"
            ) from None
        return f"before={moment.isoformat()}"  # Python reads any letter between day and hour
    if not is_snapshot(snapshot):
        raise UsageError(f"'{snapshot}' is no snapshot ID: see `holdfast list`")
    return snapshot


def _clean_up(actionsets: ActionSets, workload: str, patience: Patience) -> list[str]:
    from holdfast.kubernetes import KubernetesError
    from holdfast.run_action import clean_up

    try:
        return clean_up(actionsets, workload, patience=patience)
    except KubernetesError as error:
        say(f"old ActionSets were not deleted: {error}")
        return []


@dataclass(frozen=True)
class _Asked:
    """An action, and whom to ask for it."""

    action: Action
    actionsets: ActionSets
    jobs: Jobs
    patience: Patience
    start: float


def _ask(
    name: str,
    options_: dict[str, str],
    workload: str | None,
    namespace: str | None,
    claim: str | None,
    kanister_namespace: str,
    blueprint: str,
    api: str | None,
    timeout: float,
) -> _Asked:
    from holdfast.actionset import Action, ActionSets
    from holdfast.job import Jobs
    from holdfast.kubernetes import KubernetesAPI
    from holdfast.run_action import Patience

    action = Action(
        name=name,
        workload=options.required(workload, "workload"),
        namespace=options.required(namespace, "namespace"),
        claim=options.required(claim, "claim"),
        blueprint=blueprint,
        options=options_,
    )
    server = KubernetesAPI(api)
    asked = "".join(f", {key} {value}" for key, value in options_.items())
    say(f"{name} of {action.workload}: claim {action.namespace}/{action.claim}{asked}")
    return _Asked(
        action=action,
        actionsets=ActionSets(server, kanister_namespace),
        jobs=Jobs(server, action.namespace),
        patience=Patience(timeout=timeout),
        start=time.monotonic(),
    )


def _run(asked: _Asked) -> tuple[ActionSet, list[str]]:
    """The complete ActionSet, and the names of the old ones that were deleted."""
    from holdfast.run_action import ActionFailed, Stranded, run_action

    def clean_up() -> list[str]:
        return _clean_up(asked.actionsets, asked.action.workload, asked.patience)

    try:
        done = run_action(asked.actionsets, asked.action, patience=asked.patience, say=say)
    except (ActionFailed, Stranded):
        clean_up()  # failures must not fill the cluster
        raise
    return done, clean_up()


def _report(
    asked: _Asked, done: ActionSet, removed: list[str], output: options.Format, **more: str
) -> None:
    name, seconds = asked.action.name, time.monotonic() - asked.start
    results = ", ".join(f"{k} {v}" for k, v in sorted({**done.outputs, **more}.items()))
    swept = f"; deleted {plural(len(removed), 'old ActionSet')}" if removed else ""
    say(f"{name} done in {seconds:.1f} s: {results or 'no outputs'}{swept}")
    if output is options.Format.JSON:
        emit(
            {
                "action": name,
                "actionset": done.name,
                "workload": asked.action.workload,
                "outputs": dict(done.outputs),
                "artifacts": {name: dict(held) for name, held in done.artifacts.items()},
                "seconds": round(seconds, 3),
                "deleted": removed,
                **more,
            }
        )
