"""A pod that is deleted, killed or stopped: the training ends as if nobody had touched it."""

import pytest

from tests.e2e import kube, machine
from tests.e2e.runs import HELD, INTERVAL, JOB, Runs

pytestmark = pytest.mark.e2e
_HERE = f"--namespace={kube.NAMESPACE}"
SAVED = (HELD - 1) * INTERVAL


def test_a_pod_deleted_in_the_middle_of_a_save_completes_it_and_the_next_goes_on(
    runs: Runs,
) -> None:
    run = runs.start("deleted")
    pod, step = run.in_a_save()
    with kube.timed("pod deleted in the middle of a save") as row:
        kube.kubectl("delete", "pod", pod, _HERE, "--wait=false")
        kube.wait("the trainer has its SIGTERM", run.asked_to_stop)
        run.release()
        row.lost = run.goes_on(step)

    assert row.lost == "nothing"
    assert run.pod() != pod
    run.ends_as(runs.calm())


@pytest.mark.e2e_long
def test_a_pod_killed_at_the_end_of_a_short_grace_goes_on_from_the_bundle_before(
    runs: Runs,
) -> None:
    run = runs.start("short")
    pod, step = run.in_a_save()
    with kube.timed("pod deleted with a grace of 1 s while a save lasts longer") as row:
        kube.kubectl("delete", "pod", pod, _HERE, "--grace-period=1", "--wait=false")
        row.lost = run.goes_on(step, SAVED)

    assert run.pod() != pod
    run.ends_as(runs.calm())


def test_a_container_killed_in_the_middle_of_a_save_starts_again_in_its_pod(runs: Runs) -> None:
    run = runs.start("killed")
    pod, step = run.in_a_save()
    with kube.timed("container killed (SIGKILL) in the middle of a save") as row:
        machine.kill_container(pod)
        row.lost = run.goes_on(step, SAVED)

    assert (run.pod(), restarts(pod)) == (pod, 1)
    run.ends_as(runs.calm())


@pytest.mark.e2e_long
def test_a_pod_that_is_killed_six_times_loses_no_more_than_two_intervals_each_time(
    runs: Runs,
) -> None:
    run = runs.start("six", save=2)
    pod, step = run.in_a_save(1)
    lost = []
    with kube.timed("the same pod killed six times, each time in its second save") as row:
        for life in range(1, 7):
            machine.kill_container(pod)
            lost.append(step - life * INTERVAL)
            again, step = run.in_a_save(life + 1)
            assert again == pod
            assert f"resuming from step-{life * INTERVAL:08d}" in run.log()
        run.release()
    row.lost = f"{max(lost)} steps each time"
    assert max(lost) == 2 * INTERVAL

    run.ends_as(runs.calm())
    assert (run.pod(), restarts(pod)) == (pod, 6)


def test_a_pod_stopped_while_it_starts_is_no_failure(runs: Runs) -> None:
    run = runs.start("starting", save=None)
    pod = kube.wait("a trainer that starts", lambda: starting(run.pod()))
    kube.kubectl("delete", "pod", pod, _HERE, "--wait=false")

    run.ends_as(runs.calm())
    assert run.pod() != pod
    assert "failed" not in kube.get("job", JOB)["status"]


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"HOLDFAST_RUN": "a/b"}, "run name"),
        ({"HOLDFAST_START": "require"}, "start is 'require'"),
    ],
    ids=["a wrong setting: 2", "nothing to recover from: 76"],
)
def test_what_no_retry_can_help_fails_the_job_at_once(
    runs: Runs, wrong: dict[str, str], says: str
) -> None:
    run = runs.start("refused", save=None, **wrong)

    failed = kube.wait("the Job has failed", lambda: condition("Failed"), 60)

    assert failed["reason"] == "PodFailurePolicy"
    assert says in run.log(container="recover")


def starting(pod: str) -> str:
    """The pod's name once its trainer's container runs."""
    statuses = (kube.get("pod", pod) or {}).get("status", {}) if pod else {}
    states = statuses.get("containerStatuses", ())
    return pod if any("running" in each["state"] for each in states) else ""


def restarts(pod: str) -> int:
    return kube.get("pod", pod)["status"]["containerStatuses"][0]["restartCount"]


def condition(kind: str) -> dict[str, str]:
    states = kube.get("job", JOB)["status"].get("conditions", ())
    return next((each for each in states if each["type"] == kind), {})
