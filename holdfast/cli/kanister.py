"""What `backup` and `restore` share: run an action through Kanister, and report its result."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from holdfast.cli import options
from holdfast.cli.output import emit, say
from holdfast.defaults import BLUEPRINT, TOPMOST
from holdfast.text import plural

if TYPE_CHECKING:
    from holdfast.control.actionset import Action, ActionSet, ActionSets
    from holdfast.control.deployment import Deployment
    from holdfast.control.job import OwnerJob
    from holdfast.control.kubernetes import KubernetesAPI
    from holdfast.control.run_action import Timeouts
    from holdfast.control.topmost import Named


@dataclass(frozen=True)
class Request:
    """An action to run, and the cluster that runs it."""

    action: Action
    actionsets: ActionSets
    api: KubernetesAPI
    timeouts: Timeouts
    start: float

    def owner(
        self, job: str | None, deployment: str | None, paused: str | None = None
    ) -> OwnerJob | Deployment | Named:
        """What a restore pauses: what is above the object that ``paused`` names, else the named
        Deployment, else the named Job, else the Job that has the workload's name."""
        from holdfast.control.deployment import Deployment
        from holdfast.control.job import Jobs, OwnerJob
        from holdfast.control.topmost import Named

        namespace = self.action.namespace
        if paused is not None:
            return Named.parse(self.api, namespace, paused)
        if deployment is not None:
            return Deployment(self.api, namespace, deployment)
        return OwnerJob(Jobs(self.api, namespace), job or self.action.workload)


def of_kind(blueprint: str, paused: str | None) -> str:
    """The Blueprint that pauses what ``--pause`` names, unless another one is given."""
    return TOPMOST if paused is not None and blueprint == BLUEPRINT else blueprint


def prepare(
    name: str,
    options_: dict[str, str],
    workload: str | None,
    namespace: str | None,
    claim: str | None,
    configuration: str | None,
    kanister_namespace: str,
    blueprint: str,
    api: str | None,
    timeout: float,
) -> Request:
    """Check what was typed, and find the API server; nothing is created yet."""
    from holdfast.control.actionset import Action, ActionSets
    from holdfast.control.kubernetes import KubernetesAPI
    from holdfast.control.run_action import Timeouts

    action = Action(
        name=name,
        workload=options.required(workload, "workload"),
        namespace=options.required(namespace, "namespace"),
        claim="" if configuration else options.required(claim, "claim"),
        configuration=configuration or "",
        blueprint=blueprint,
        options=options_,
    )
    server = KubernetesAPI(api)
    with_options = "".join(f", {key} {value}" for key, value in options_.items())
    say(f"{name} of {action.workload}: {action.subject}{with_options}")
    return Request(
        action=action,
        actionsets=ActionSets(server, kanister_namespace),
        api=server,
        timeouts=Timeouts(timeout=timeout),
        start=time.monotonic(),
    )


def run(request: Request) -> tuple[ActionSet, list[str]]:
    """Run it to its end: the complete ActionSet, and the names of old ones that were deleted."""
    from holdfast.control.leftover_pods import Pods, delete_leftover_pods
    from holdfast.control.run_action import ActionFailed, Orphaned, run_action

    def clean_up() -> list[str]:
        action = request.action
        pods = Pods(request.actionsets.api, action.subject)
        delete_leftover_pods(request.actionsets, pods, say)
        return _clean_up(request.actionsets, action.workload, request.timeouts)

    try:
        done = run_action(request.actionsets, request.action, timeouts=request.timeouts, say=say)
    except (ActionFailed, Orphaned):
        clean_up()  # failures must not fill the cluster
        raise
    return done, clean_up()


def report(
    request: Request, done: ActionSet, removed: list[str], output: options.Format, **more: str
) -> None:
    name, seconds = request.action.name, time.monotonic() - request.start
    results = ", ".join(f"{k} {v}" for k, v in sorted({**done.outputs, **more}.items()))
    swept = f"; deleted {plural(len(removed), 'old ActionSet')}" if removed else ""
    say(f"{name} done in {seconds:.1f} s: {results or 'no outputs'}{swept}")
    if output is options.Format.JSON:
        emit(
            {
                "action": name,
                "actionset": done.name,
                "workload": request.action.workload,
                "outputs": dict(done.outputs),
                "artifacts": {name: dict(held) for name, held in done.artifacts.items()},
                "seconds": round(seconds, 3),
                "deleted": removed,
                **more,
            }
        )


def _clean_up(actionsets: ActionSets, workload: str, timeouts: Timeouts) -> list[str]:
    from holdfast.control.kubernetes import KubernetesError
    from holdfast.control.run_action import clean_up

    try:
        return clean_up(actionsets, workload, timeouts=timeouts)
    except KubernetesError as error:
        say(f"old ActionSets were not deleted: {error}")
        return []
