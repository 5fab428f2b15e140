"""Pause what owns a workload's pods, and let it go on."""

from __future__ import annotations

from holdfast.cli import options
from holdfast.cli.output import say
from holdfast.defaults import ACTION_SECONDS


def pause(
    owner: options.Paused = None,
    namespace: options.Namespace = None,
    claim: options.Claim = None,
    snapshot: options.Snapshot = "latest",
    api: options.Api = None,
    timeout: options.Timeout = ACTION_SECONDS,
) -> None:
    """Pause the topmost owner of a workload's pods, and wait until they are gone.

    The search begins at --pause KIND/NAME or KIND/LABEL=VALUE and goes up: a Job of a JobSet, the
    JobSet of a TrainJob, then the Workload of Kueue that admits it. That one is suspended (scaled
    to zero, deactivated), and its annotations say so, and what it was before. Fails at once where
    something undoes it.

    Example: holdfast pause --pause job/gpt --namespace training --claim checkpoints-pvc
    """
    from holdfast.control.kubernetes import KubernetesAPI
    from holdfast.control.pause import pause as run_pause
    from holdfast.control.run_action import Timeouts
    from holdfast.control.topmost import Named

    where = options.required(namespace, "namespace")
    named = Named.parse(KubernetesAPI(api), where, options.required(owner, "pause"))
    held = options.required(claim, "claim")
    paused = run_pause(named, held, snapshot, Timeouts(timeout=timeout), say)
    say(f"{paused.title} is {paused.kind.done}, and no pod has claim {held}: `holdfast resume`")


def resume(
    owner: options.Paused = None,
    namespace: options.Namespace = None,
    api: options.Api = None,
    timeout: options.Timeout = ACTION_SECONDS,
) -> None:
    """Make what `pause` or a restore paused what it was before.

    An owner that a person paused, or nobody, stays as it is.

    Example: holdfast resume --pause job/gpt --namespace training
    """
    from holdfast.control.kubernetes import KubernetesAPI
    from holdfast.control.pause import resume as run_resume
    from holdfast.control.run_action import Timeouts
    from holdfast.control.topmost import Named

    where = options.required(namespace, "namespace")
    named = Named.parse(KubernetesAPI(api), where, options.required(owner, "pause"))
    run_resume(named, Timeouts(timeout=timeout), say)
