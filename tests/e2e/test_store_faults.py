"""The S3 server is stopped, slow or failing: during a backup, and while a volume is refilled."""

import subprocess
from contextlib import ExitStack

import pytest

from cluster import s3
from tests.e2e import kube, store, trainer

pytestmark = [pytest.mark.e2e, pytest.mark.usefixtures("training")]
#: Bytes a second: a bundle takes several seconds.
_SLOW = 6 * 2**20


def test_without_the_store_a_backup_fails_soon_and_the_training_goes_on() -> None:
    known = store.snapshots()
    with store.stopped():
        with kube.timed("a backup while the S3 server is stopped, until it has failed"):
            done = trainer.backup()
        _failed(done)
        trainer.saves(trainer.saved() + 20)
    assert store.snapshots() == known

    with kube.timed("the next backup once the S3 server is back, until it is made"):
        snapshot = trainer.backed_up()
    store.verify(snapshot)


def test_a_store_that_refuses_everything_fails_the_backup_and_nothing_is_marked_complete() -> None:
    known = store.snapshots()
    with store.behind_a_proxy("refusing") as proxy:
        with kube.timed("a backup while S3 answers 503 to everything, until it has failed"):
            done = trainer.backup()
        assert "refused" in proxy.log()
    _failed(done)
    assert store.snapshots() == known


def test_a_backup_to_a_slow_store_takes_its_time_and_is_whole() -> None:
    event = "a backup while S3 takes 6 MiB a second, until it is made"
    with store.behind_a_proxy("slow", _SLOW), kube.timed(event):
        snapshot = trainer.backed_up()
    store.verify(snapshot)


def test_a_backup_is_whole_where_each_request_fails_twice() -> None:
    with store.behind_a_proxy("failing") as proxy:
        with kube.timed("a backup while each request to S3 fails twice, until it is made"):
            snapshot = trainer.backed_up()
        assert {"refused", "cut"} <= {line.partition(":")[0] for line in proxy.log().splitlines()}
    store.verify(snapshot)


def test_an_empty_volume_waits_for_a_store_that_is_stopped_and_never_starts_at_step_0() -> None:
    bits, newest, last = _lose_the_volume()
    with ExitStack() as broken:
        broken.enter_context(store.stopped())
        trainer.resume()
        kube.wait("a second try", lambda: _tries() > 1, 180)
        assert not trainer.saved()
        with kube.timed(
            "a volume lost while the S3 server was stopped; it is started", f"{last - newest} steps"
        ):
            broken.close()
            assert trainer.resumed() == newest
    bits.go_on("refilled", newest)


@pytest.mark.e2e_long
def test_an_empty_volume_is_refilled_from_a_slow_store() -> None:
    bits, newest, last = _lose_the_volume()
    event = "a volume lost while S3 gives 6 MiB a second"
    with store.behind_a_proxy("slow", _SLOW), kube.timed(event, f"{last - newest} steps"):
        trainer.resume()
        assert trainer.resumed() == newest
    bits.go_on("refilled", newest)


@pytest.mark.e2e_long
def test_an_empty_volume_is_refilled_where_each_request_fails_twice() -> None:
    bits, newest, last = _lose_the_volume()
    with store.behind_a_proxy("failing") as proxy:
        with kube.timed(
            "a volume lost while each request to S3 fails twice", f"{last - newest} steps"
        ):
            trainer.resume()
            assert trainer.resumed() == newest
        assert {"refused", "cut"} <= {line.partition(":")[0] for line in proxy.log().splitlines()}
    bits.go_on("refilled", newest)


def _lose_the_volume() -> tuple[trainer.Bits, int, int]:
    """What the training saved, the newest step that the store has, and the last that was lost."""
    snapshot = trainer.backed_up()
    newest = store.step_of(snapshot)
    trainer.saves(newest + 20)
    bits = trainer.Bits()
    bits.look("lost")
    last = trainer.saved()
    trainer.suspend()
    trainer.erase_volume()
    return bits, newest, last


def _failed(done: subprocess.CompletedProcess[str]) -> None:
    assert done.returncode == 1, done.stdout + done.stderr
    assert f"store s3://{s3.BUCKET}/" in done.stderr  # the reason, in the words of the task


def _tries() -> int:
    """How often `recover` was started: in the same pod again, or in a new one."""
    states = [
        state
        for pod in kube.pods()
        for state in pod["status"].get("initContainerStatuses", [])
        if state["name"] == "recover"
    ]
    return sum(1 + state["restartCount"] for state in states)
