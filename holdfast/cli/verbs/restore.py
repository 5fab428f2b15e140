"""Ask the cluster for a restore, through Kanister."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime
from typing import Annotated

import typer

from holdfast.cli import options
from holdfast.cli.context import is_snapshot
from holdfast.cli.kanister import of_kind, prepare, report, run
from holdfast.cli.output import say
from holdfast.defaults import ACTION_SECONDS, BLUEPRINT, KANISTER_NAMESPACE
from holdfast.errors import UsageError


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
    replace_: Annotated[
        bool,
        typer.Option(
            "--replace",
            envvar="HOLDFAST_REPLACE",
            help="With --configuration: replace a database that is not empty, and artifacts with"
            " other bytes. What was there is kept.",
        ),
    ] = False,
    workload: options.Workload = None,
    job: options.Job = None,
    deployment: options.Deployment = None,
    pause: options.Paused = None,
    namespace: options.Namespace = None,
    claim: options.Claim = None,
    configuration: options.Configuration = None,
    kanister_namespace: options.KanisterNamespace = KANISTER_NAMESPACE,
    blueprint: options.Blueprint = BLUEPRINT,
    api: options.Api = None,
    timeout: options.Timeout = ACTION_SECONDS,
    output: options.Output = options.Format.TABLE,
) -> None:
    """Take a running workload back to a snapshot, through Kanister.

    Training goes on while the snapshot is pulled and verified; then the Job is suspended, the
    snapshot becomes the next generation, and the Job is resumed. Newer bundles stay in the
    generation before: `holdfast switch --generation N` brings them back. A Job that is finished
    is created anew from its own spec; one that does not exist is an error before anything changes.
    An application's Deployment is scaled to zero for the switch, and then to what it was. What is
    in a queue of Kueue, or belongs to a JobSet or a TrainJob, is named with --pause. With
    --configuration it is a pipeline's tracking server that is stopped, while its artifacts and its
    database are put back.

    Example: holdfast restore --workload gpt --before 2026-05-01T12:00:00Z
    """
    from holdfast.control import job as training
    from holdfast.control.deployment import Deployment, delete_ended_pods, require_deployment
    from holdfast.control.topmost import KINDS, Named, require_nothing_above, require_topmost

    wanted = {"snapshot": _chosen(snapshot, before)}
    request = prepare("restore", wanted, workload, namespace, claim, configuration,
                      kanister_namespace, of_kind(blueprint, pause), api, timeout)  # fmt: skip
    timeouts, owner = request.timeouts, request.owner(job, deployment, pause)
    if isinstance(owner, Deployment):
        paused = dict(require_deployment(owner, timeouts))
        if configuration is not None:
            paused["replace"] = str(replace_).lower()
        request = replace(request, action=replace(request.action, options={**wanted, **paused}))
        delete_ended_pods(owner, say)
        done, removed = run(request)
        report(request, done, removed, output, deployment="resumed")
        return
    if isinstance(owner, Named):
        seen = require_topmost(owner, timeouts, say)
        done, removed = run(request)
        jobs, name = training.Jobs(request.api, owner.namespace), owner.name
        if seen and owner.kind is KINDS["job"] and not owner.by_label:
            recreated = training.recreate_if_finished(jobs, name, timeouts, say)
        else:
            recreated = False
        report(request, done, removed, output, owner="created anew" if recreated else "resumed")
        return
    name, jobs = owner.name, owner.jobs
    request = replace(request, action=replace(request.action, options={**wanted, "job": name}))
    seen = training.require_job(jobs, name, timeouts, say)
    if seen:
        require_nothing_above(Named(request.api, jobs.namespace, KINDS["job"], name), timeouts)
    done, removed = run(request)
    recreated = seen and training.recreate_if_finished(jobs, name, timeouts, say)
    report(request, done, removed, output, job="created anew" if recreated else "resumed")


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
                f"invalid time '{snapshot}': expected ISO 8601, such as before=2026-05-01T12:00:00Z"
            ) from None
        return f"before={moment.isoformat()}"  # Python reads any letter between day and hour
    if not is_snapshot(snapshot):
        raise UsageError(
            f"invalid snapshot '{snapshot}': expected an ID, latest or before=TIME: see"
            " `holdfast list`"
        )
    return snapshot
