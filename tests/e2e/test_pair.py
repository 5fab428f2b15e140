"""A training of two pods: one of them is lost, then the place where they meet."""

from collections.abc import Iterator
from typing import Any

import pytest

from tests.e2e import kube
from tests.e2e.conftest import SMALL, Stack
from tests.e2e.runs import HELD, INTERVAL, JOB, Runs, instead_of

pytestmark = [pytest.mark.e2e, pytest.mark.e2e_long]
PAIR = "pair"
_HERE = f"--namespace={PAIR}"
SAVED = (HELD - 1) * INTERVAL


@pytest.fixture(scope="module")
def pair(stack: Stack) -> Iterator[Runs]:
    """A second workload on the directory of the first, which pauses meanwhile."""
    _suspend(True)
    for manifest in _claimed(kube.get("pv", "checkpoints-vol")["spec"]):
        kube.apply(manifest)
    stack.give_secret(PAIR)
    try:
        stack.up(more={"holdfast:workloads": {PAIR: _workload()}})
        with instead_of(PAIR, PAIR) as runs:
            runs.calm()
            yield runs
    finally:
        stack.up(more={})
        kube.kubectl("delete", "namespace", PAIR)
        kube.kubectl("delete", "pv", PAIR)
        _suspend(False)


def test_a_pod_of_two_is_lost_in_the_middle_of_a_save_and_both_go_on_with_the_next(
    pair: Runs,
) -> None:
    run = pair.start("one-of-two")
    pod, step = run.in_a_save()
    with kube.timed("one of two pods lost, that of rank 0, in the middle of a save") as row:
        kube.kubectl("delete", "pod", pod, _HERE, "--grace-period=1", "--wait=false")
        row.lost = run.goes_on(step, SAVED)

    assert pod not in run.pods()
    run.ends_as(pair.calm())


def test_the_meeting_place_is_lost_and_two_pods_go_on_at_the_next_one(pair: Runs) -> None:
    run = pair.start("meeting-place")
    _, step = run.in_a_save()
    pods = run.pods()
    with kube.timed("meeting place of two pods lost, while a save lasts for more than 10 s") as row:
        kube.kubectl("delete", "pod", "--selector=app.kubernetes.io/component=rendezvous", _HERE,
                     "--grace-period=1")  # fmt: skip
        row.lost = run.goes_on(step, SAVED)

    run.ends_as(pair.calm())
    assert run.pods() == pods


def _workload() -> dict[str, Any]:
    claim = {"kind": "existing-claim", "name": PAIR, "size": "1Gi"}
    return {
        **SMALL,
        "run": PAIR,
        "namespace": PAIR,
        "nodes": 2,
        "backup_timeout": 600,
        "resources": {"cpu": "700m", "memory": "2Gi"},
        "volume": {**claim, "access_modes": ["ReadWriteMany"]},
        "env": {"HOLDFAST_TRAINING_BLOCK": "64"},
    }


def _claimed(volume: dict[str, Any]) -> list[dict[str, Any]]:
    """A namespace with a claim of its own on a directory that is there."""
    modes, storage = ["ReadWriteMany"], {"storage": "1Gi"}
    spec = {
        "accessModes": modes,
        "capacity": storage,
        "hostPath": volume["hostPath"],
        "persistentVolumeReclaimPolicy": "Retain",
        "storageClassName": PAIR,
        "claimRef": {"namespace": PAIR, "name": PAIR},
    }
    wanted = {"accessModes": modes, "resources": {"requests": storage}, "storageClassName": PAIR,
              "volumeName": PAIR}  # fmt: skip
    return [
        {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": PAIR}},
        {"apiVersion": "v1", "kind": "PersistentVolume", "metadata": {"name": PAIR}, "spec": spec},
        {
            "apiVersion": "v1",
            "kind": "PersistentVolumeClaim",
            "metadata": {"name": PAIR, "namespace": PAIR},
            "spec": wanted,
        },
    ]


def _suspend(value: bool) -> None:
    patch = f'--patch={{"spec":{{"suspend":{str(value).lower()}}}}}'
    kube.kubectl("patch", "job", JOB, f"--namespace={kube.NAMESPACE}", "--type=merge", patch)
