"""The control plane's verbs: ask the cluster for a backup or a restore, through Kanister."""

from __future__ import annotations

import re
import time
from datetime import datetime
from typing import TYPE_CHECKING, Annotated

import typer

from holdfast.cli import options
from holdfast.cli.output import emit, say
from holdfast.errors import UsageError
from holdfast.text import plural

if TYPE_CHECKING:
    from holdfast.kanister import ActionSets, Patience

_SNAPSHOT_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,200}")


def backup(
    workload: options.Workload = None,
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

    Example: holdfast backup --workload gpt --namespace training --claim checkpoints-pvc
    """
    _run(
        "backup",
        options_={},
        workload=workload,
        namespace=namespace,
        claim=claim,
        kanister_namespace=kanister_namespace,
        blueprint=blueprint,
        api=api,
        timeout=timeout,
        output=output,
    )


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
    generation before: `holdfast switch --generation N` brings them back.

    Example: holdfast restore --workload gpt --before 2026-05-01T12:00:00Z
    """
    _run(
        "restore",
        options_={"snapshot": _chosen(snapshot, before), "job": job or workload or ""},
        workload=workload,
        namespace=namespace,
        claim=claim,
        kanister_namespace=kanister_namespace,
        blueprint=blueprint,
        api=api,
        timeout=timeout,
        output=output,
    )


def _chosen(snapshot: str, before: str | None) -> str:
    """The Blueprint's option `snapshot`. Its value reaches a command line: take no other form."""
    if before is not None:
        if snapshot != "latest":
            raise UsageError(f"--snapshot {snapshot} and --before {before}: give only one")
        snapshot = f"before={before}"
    if snapshot.startswith("before="):
        try:
            datetime.fromisoformat(snapshot.removeprefix("before="))
        except ValueError:
            raise UsageError(
                f"'{snapshot}' holds no time: write it like before=2026-05-01T12:00:00Z"
            ) from None
    elif not _SNAPSHOT_ID.fullmatch(snapshot):
        raise UsageError(f"'{snapshot}' is no snapshot ID: see `holdfast list`")
    return snapshot


def _clean_up(actionsets: ActionSets, workload: str, patience: Patience) -> list[str]:
    from holdfast import kanister
    from holdfast.kubernetes import KubernetesError

    try:
        return kanister.clean_up(actionsets, workload, patience=patience)
    except KubernetesError as error:
        say(f"old ActionSets were not deleted: {error}")
        return []


def _run(
    name: str,
    *,
    options_: dict[str, str],
    workload: str | None,
    namespace: str | None,
    claim: str | None,
    kanister_namespace: str,
    blueprint: str,
    api: str | None,
    timeout: float,
    output: options.Format,
) -> None:
    from holdfast import kanister
    from holdfast.kubernetes import KubernetesAPI

    action = kanister.Action(
        name=name,
        workload=options.required(workload, "workload"),
        namespace=options.required(namespace, "namespace"),
        claim=options.required(claim, "claim"),
        blueprint=blueprint,
        options=options_,
    )
    actionsets = kanister.ActionSets(KubernetesAPI(api), kanister_namespace)
    patience = kanister.Patience(timeout=timeout)
    asked = "".join(f", {key} {value}" for key, value in options_.items())
    say(f"{name} of {action.workload}: claim {action.namespace}/{action.claim}{asked}")
    start = time.monotonic()
    try:
        done = kanister.run_action(actionsets, action, patience=patience, say=say)
    except (kanister.ActionFailed, kanister.Stranded):
        _clean_up(actionsets, action.workload, patience)  # failures must not fill the cluster
        raise
    removed = _clean_up(actionsets, action.workload, patience)
    seconds = time.monotonic() - start
    results = ", ".join(f"{key} {value}" for key, value in sorted(done.outputs.items()))
    swept = f"; deleted {plural(len(removed), 'old ActionSet')}" if removed else ""
    say(f"{name} done in {seconds:.1f} s: {results or 'no outputs'}{swept}")
    if output is options.Format.JSON:
        emit(
            {
                "action": name,
                "actionset": done.name,
                "workload": action.workload,
                "outputs": dict(done.outputs),
                "artifacts": {name: dict(held) for name, held in done.artifacts.items()},
                "seconds": round(seconds, 3),
                "deleted": removed,
            }
        )
