"""Ask the cluster for a backup, through Kanister."""

from __future__ import annotations

from dataclasses import replace

from holdfast.cli import options
from holdfast.cli.kanister import of_kind, prepare, report, run
from holdfast.cli.output import say
from holdfast.defaults import ACTION_SECONDS, BLUEPRINT, KANISTER_NAMESPACE
from holdfast.errors import HoldfastError


def backup(
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
    """Back up a workload through Kanister, and wait until it is done.

    Creates an ActionSet that runs the Blueprint's action backup on the workload's claim: a pod
    that runs `holdfast push`. A backup that is under way already is waited for. One that ends
    neither well nor badly within --timeout is deleted and issued once more. Afterwards the
    workload's finished ActionSets are deleted but for the newest 10.

    First it clears what a restore left behind that nobody works on any more: its ActionSet is
    deleted, and the Job or Deployment that it paused goes on. A restore under way is left alone,
    and the backup goes on beside it: bundles never change.

    Example: holdfast backup --workload gpt --namespace training --claim checkpoints-pvc
    """
    from holdfast.control import orphaned_restores

    request = prepare("backup", {}, workload, namespace, claim, configuration,
                      kanister_namespace, of_kind(blueprint, pause), api, timeout)  # fmt: skip
    resume = replace(request.action, name="resume")
    owner = request.owner(job, deployment, pause)
    not_cleared: HoldfastError | None = None
    try:
        orphaned_restores.clear(request.actionsets, owner, resume, request.timeouts, say)
    except HoldfastError as error:  # a backup is worth having all the same
        say(f"a restore that was left behind is not cleared: {error}")
        not_cleared = error
    report(request, *run(request), output)
    if not_cleared:
        raise not_cleared
