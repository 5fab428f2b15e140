"""Restores on the cluster: to an earlier step and back, by time, a finished Job, a namespace."""

import json
import subprocess
from datetime import datetime, timedelta

import pytest

from tests.e2e import inspector, kube, store, trainer
from tests.e2e.conftest import Stack
from tests.e2e.inspector import inspect

pytestmark = [pytest.mark.e2e, pytest.mark.usefixtures("training")]


def test_a_restore_goes_back_to_an_earlier_step() -> None:
    bits = trainer.Bits()
    snapshot, step = _backed_up_and_left_behind(bits)
    before = trainer.generation()

    last = trainer.saved()
    with kube.timed("a restore to an earlier step", f"{last - step} steps, on purpose"):
        _restored(trainer.restore(f"--snapshot={snapshot}"))
        assert trainer.resumed() == step
    assert trainer.generation() == before + 1
    bits.go_on("restored", step)


@pytest.mark.e2e_long
def test_a_restore_is_undone_by_the_pod_of_the_runbook() -> None:
    bits = trainer.Bits()
    snapshot, _ = _backed_up_and_left_behind(bits)
    before, last = trainer.generation(), trainer.saved()
    trainer.pin(last)
    _restored(trainer.restore(f"--snapshot={snapshot}"))
    trainer.resumed()

    with kube.timed("the undoing of a restore, by the runbook's pod"):
        trainer.suspend()
        try:
            listed = inspect("holdfast", "list")
            inspect("holdfast", "switch", f"--generation={before}")
        finally:
            inspector.remove()
        trainer.resume()
        assert trainer.resumed() >= last
    assert snapshot in listed
    assert trainer.generation() == before + 2
    bits.look("undone")


@pytest.mark.e2e_long
def test_a_restore_by_time_takes_the_newest_snapshot_before_it() -> None:
    bits = trainer.Bits()
    snapshot, step = _backed_up_and_left_behind(bits)
    newer = trainer.backed_up()
    (wanted,) = [each for each in store.snapshots() if each["snapshot"] == snapshot]
    moment = datetime.fromisoformat(wanted["created"]) + timedelta(seconds=1)
    assert newer != snapshot

    last = trainer.saved()
    with kube.timed("a restore to a time", f"{last - step} steps, on purpose"):
        _restored(trainer.restore(f"--before={moment.isoformat()}"))
        assert trainer.resumed() == step
    bits.go_on("restored", step)


def test_a_finished_training_is_restored_and_ends_with_the_same_bits(changing: Stack) -> None:
    trainer.suspend()  # else it may be past the end before the end is set
    try:
        newest = json.loads(inspect("holdfast", "latest", "--output=json"))
    finally:
        inspector.remove()
    end = (newest["labels"]["step"] // 10 + 8) * 10
    changing.up(workload={"env": {"HOLDFAST_TRAINING_STEPS": str(end)}})
    trainer.resumed()
    trainer.suspend()
    snapshot = trainer.backed_up()
    step = store.step_of(snapshot)
    assert step < end
    trainer.resume()
    kube.wait("the training ends", lambda: _finished() == "Complete", 240)
    first = store.content_of(trainer.backed_up())

    with kube.timed(
        "a finished training restored to an earlier step, until it is finished again",
        f"{end - step} steps, on purpose",
    ):
        done = trainer.restore(f"--snapshot={snapshot}")
        _restored(done, job="created anew")
        kube.wait("the training ends again", lambda: _finished() == "Complete", 240)
    assert store.content_of(trainer.backed_up()) == first


def test_a_namespace_destroyed_with_its_volume_is_rebuilt_from_the_store(training: Stack) -> None:
    bits = trainer.Bits()
    _, step = _backed_up_and_left_behind(bits)
    last, generation = trainer.saved(), trainer.generation()
    erase = trainer.eraser()
    with kube.timed(
        "a namespace and what its volume held destroyed; `up --refresh`", f"{last - step} steps"
    ):
        kube.kubectl("delete", "namespace", kube.NAMESPACE)
        erase()
        training.engine().refresh()
        training.up()
        assert trainer.resumed() == step
    assert trainer.generation() == generation
    bits.go_on("rebuilt", step)
    store.verify(trainer.backed_up())


def test_a_trainer_that_fails_on_a_lost_volume_goes_on_in_another_pod() -> None:
    bits = trainer.Bits()
    _, step = _backed_up_and_left_behind(bits)
    pod, last = trainer.pod(), trainer.saved()
    with kube.timed("a volume lost beneath a trainer that then fails", f"{last - step} steps"):
        trainer.dies_on_an_empty_volume(pod)
        kube.wait("another pod", lambda: trainer.pod() not in ("", pod))
        assert trainer.resumed() == step
    bits.go_on("refilled", step)


def test_a_person_deletes_a_snapshot_through_kanister_and_the_others_stay_whole() -> None:
    first = trainer.backed_up()
    trainer.saves(store.step_of(first) + 10)
    second = trainer.backed_up()
    trainer.act("delete", snapshot=first)
    known = [each["snapshot"] for each in store.snapshots()]
    assert first not in known
    assert second in known
    store.verify(second)


def _backed_up_and_left_behind(bits: trainer.Bits) -> tuple[str, int]:
    """A snapshot, its step, and a training that has saved more than once since."""
    snapshot = trainer.backed_up()
    step = store.step_of(snapshot)
    trainer.saves(step + 20)
    bits.look("first")
    return snapshot, step


def _restored(done: subprocess.CompletedProcess[str], job: str = "resumed") -> None:
    assert done.returncode == 0, f"{done.stderr}\n{kube.explanation()}"
    assert f"job {job}" in done.stderr


def _finished() -> str:
    job = kube.get("job", trainer.JOB) or {"status": {}}
    conditions = job["status"].get("conditions", [])
    met = [each["type"] for each in conditions if each["status"] == "True"]
    return next((kind for kind in met if kind in ("Complete", "Failed")), "")
