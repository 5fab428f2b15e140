"""The node's agent dies, the node dies without notice, and comes back sooner or later.

One node is all nodes here: that a pod moves to another one is not shown.
"""

from pathlib import Path

import pytest

from holdfast.volume import Volume
from tests.e2e import kube, machine
from tests.e2e.runs import HELD, INTERVAL, STEPS, Runs

pytestmark = [pytest.mark.e2e, machine.needs_node]
SAVED = (HELD - 1) * INTERVAL


def test_a_training_saves_on_while_the_kubelet_is_dead(runs: Runs) -> None:
    run = runs.start("kubelet")
    pod, _ = run.in_a_save()
    volume = on_this_machine()
    try:
        machine.kill_kubelet()
        with kube.timed("kubelet killed, and started again when the training had ended"):
            (volume / f".held-{run.name}").unlink()
            kube.wait("the last save", lambda: steps(volume, "kubelet") >= STEPS, 60)
    finally:
        machine.boot()

    run.ends_as(runs.calm())
    assert run.pod() == pod


def test_a_node_that_dies_without_notice_and_comes_back_goes_on_from_the_bundle_before(
    runs: Runs,
) -> None:
    run = runs.start("power")
    _, step = run.in_a_save()
    with kube.timed("node dies without notice in the middle of a save, boots at once") as row:
        with machine.away():
            pass
        row.lost = run.goes_on(step, SAVED)

    run.ends_as(runs.calm())


@pytest.mark.e2e_long
def test_a_pod_of_a_node_that_stays_away_has_no_second_until_someone_says_that_it_is_off(
    runs: Runs,
) -> None:
    run = runs.start("away")
    pod, step = run.in_a_save()
    with kube.timed("node dies, is marked out of service, and comes back", "") as row:
        with machine.away():
            kube.wait("Kubernetes notices", lambda: machine.ready() == "Unknown", 120)
            assert run.pod() == pod
            machine.taint()
            kube.wait("a pod that waits for a node", lambda: run.pod() not in (pod, ""), 180)
        row.lost = run.goes_on(step, SAVED)

    run.ends_as(runs.calm())


def on_this_machine() -> Path:
    """The directory of the volume, which is a hostPath."""
    return Path(kube.get("pv", "checkpoints-vol")["spec"]["hostPath"]["path"])


def steps(volume: Path, run: str) -> int:
    """The step of the newest bundle."""
    return max((bundle.step or 0 for bundle in Volume(volume, run).bundles()), default=0)
