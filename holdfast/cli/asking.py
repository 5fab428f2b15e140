"""What `backup` and `restore` share: ask the cluster, through Kanister, and say what came of it."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from holdfast.cli import options
from holdfast.cli.output import emit, say
from holdfast.text import plural

if TYPE_CHECKING:
    from holdfast.control.actionset import Action, ActionSet, ActionSets
    from holdfast.control.job import Jobs
    from holdfast.control.run_action import Patience


@dataclass(frozen=True)
class Asked:
    """An action, and whom to ask for it."""

    action: Action
    actionsets: ActionSets
    jobs: Jobs
    patience: Patience
    start: float


def ask(
    name: str,
    options_: dict[str, str],
    workload: str | None,
    namespace: str | None,
    claim: str | None,
    kanister_namespace: str,
    blueprint: str,
    api: str | None,
    timeout: float,
) -> Asked:
    from holdfast.control.actionset import Action, ActionSets
    from holdfast.control.job import Jobs
    from holdfast.control.kubernetes import KubernetesAPI
    from holdfast.control.run_action import Patience

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
    return Asked(
        action=action,
        actionsets=ActionSets(server, kanister_namespace),
        jobs=Jobs(server, action.namespace),
        patience=Patience(timeout=timeout),
        start=time.monotonic(),
    )


def run(asked: Asked) -> tuple[ActionSet, list[str]]:
    """The complete ActionSet, and the names of the old ones that were deleted."""
    from holdfast.control.run_action import ActionFailed, Stranded, run_action

    def clean_up() -> list[str]:
        return _clean_up(asked.actionsets, asked.action.workload, asked.patience)

    try:
        done = run_action(asked.actionsets, asked.action, patience=asked.patience, say=say)
    except (ActionFailed, Stranded):
        clean_up()  # failures must not fill the cluster
        raise
    return done, clean_up()


def report(
    asked: Asked, done: ActionSet, removed: list[str], output: options.Format, **more: str
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


def _clean_up(actionsets: ActionSets, workload: str, patience: Patience) -> list[str]:
    from holdfast.control.kubernetes import KubernetesError
    from holdfast.control.run_action import clean_up

    try:
        return clean_up(actionsets, workload, patience=patience)
    except KubernetesError as error:
        say(f"old ActionSets were not deleted: {error}")
        return []
