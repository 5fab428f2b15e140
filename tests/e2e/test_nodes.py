"""The node's agent dies and starts again: the training does not notice."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from holdfast.volume import Volume
from tests.e2e import kube, machine
from tests.e2e.conftest import Stack
from tests.e2e.runs import STEPS, Runs, instead_of

pytestmark = [pytest.mark.e2e, machine.needs_node]


@pytest.fixture(scope="module")
def runs(stack: Stack) -> Iterator[Runs]:
    with instead_of() as runs:
        runs.calm()
        yield runs


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


def on_this_machine() -> Path:
    """The directory of the volume, which is a hostPath."""
    return Path(kube.get("pv", "checkpoints-vol")["spec"]["hostPath"]["path"])


def steps(volume: Path, run: str) -> int:
    """The step of the newest bundle."""
    return max((bundle.step or 0 for bundle in Volume(volume, run).bundles()), default=0)
