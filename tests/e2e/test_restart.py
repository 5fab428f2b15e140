"""What starts again in the pod of a trainer that failed: itself alone, or `recover` before it."""

import json
import re
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import pytest

from infra.kubernetes.restart import RESTART_ALL, RESTARTING_JOB
from tests.e2e import kube, machine
from tests.e2e.conftest import Stack
from tests.e2e.runs import HELD, INTERVAL, Run, Runs, instead_of

pytestmark = pytest.mark.e2e
SAVED = (HELD - 1) * INTERVAL
_STEP = re.compile(r"^(\S+) step +\d+/", re.M)


@pytest.fixture(scope="session", autouse=True)
def a_cluster_that_can() -> None:
    """Before the stack is deployed: these tests alone would need none."""
    command = ("create", "--dry-run=server", "--filename=-")
    asked = kube.attempt(*command, given=json.dumps(RESTARTING_JOB))
    if RESTART_ALL in asked.stderr:
        pytest.skip(f"the API server knows no {RESTART_ALL}: docs/cluster.md says how to start one")
    assert asked.returncode == 0, asked.stderr


@dataclass
class Restart:
    """A pod before its trainer was killed, and once it had saved again; both as the API server
    shows them."""

    before: dict[str, Any]
    after: dict[str, Any]

    def is_in_place(self) -> bool:
        return self.before["metadata"]["uid"] == self.after["metadata"]["uid"]

    def ran_again(self) -> set[str]:
        """Names of the containers that are others now."""
        return {
            name for name, identity in _containers(self.before).items()
            if _containers(self.after)[name] != identity
        }  # fmt: skip


def test_all_containers_of_a_pod_restart_in_place_when_its_trainer_is_killed(stack: Stack) -> None:
    with instead_of() as runs:
        runs.calm()
        alone = killed(runs, "alone", "container killed (SIGKILL), it alone starts again")
    try:
        stack.up(workload={"restart": "all-containers"})
        with instead_of() as runs:
            together = killed(runs, "together", "container killed (SIGKILL), `recover` starts too")
    finally:
        stack.up(workload={})

    assert alone.is_in_place()
    assert alone.ran_again() == {"trainer"}
    assert together.is_in_place()
    assert together.ran_again() == {"recover", "trainer"}


def killed(runs: Runs, name: str, event: str) -> Restart:
    """Kill the trainer of a new run in the middle of a save; it must end as if nobody had."""
    run = runs.start(name)
    pod, step = run.in_a_save()
    before = kube.get("pod", pod)
    with kube.timed(f"{event}; until its first step") as row:
        at = datetime.now(UTC)
        machine.kill_container(pod)
        row.lost = run.goes_on(step, SAVED)
    row.seconds = (first_step(run, pod, at) - at).total_seconds()

    after = kube.get("pod", pod)
    run.ends_as(runs.calm())
    return Restart(before, after)


def first_step(run: Run, pod: str, after: datetime) -> datetime:
    """When a trainer printed its first step after a time, by the node's clock."""
    log = kube.kubectl("logs", pod, f"--namespace={run.namespace}", "--container=trainer",
                       "--timestamps")  # fmt: skip
    times = (datetime.fromisoformat(time) for time in _STEP.findall(log))
    return next(time for time in times if time > after)


def _containers(pod: dict[str, Any]) -> dict[str, str]:
    status = pod["status"]
    each = (*status["initContainerStatuses"], *status["containerStatuses"])
    return {one["name"]: one["containerID"] for one in each}
