"""Backups on the cluster: asked for, scheduled, two at once, and killed half-way."""

from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from tests.e2e import kube, machine, store, trainer

pytestmark = [pytest.mark.e2e, pytest.mark.usefixtures("training", "no_pod_is_left")]
_HERE = f"--namespace={kube.NAMESPACE}"
_KILL = ("--grace-period=0", "--force")
#: Bytes of an upload that pass before the store holds on: less than a bundle has.
_HALF = 8 * 2**20


@pytest.fixture
def no_pod_is_left() -> Iterator[None]:
    """No task's pod outlives its backup."""
    yield
    kube.wait("no pod of a task is left", lambda: not kube.get("pods", selector=trainer.TASKS))


def test_a_backup_copies_the_newest_bundle_and_every_byte_of_it_is_right() -> None:
    before = trainer.saved()
    with kube.timed("a backup that someone asks for, until it is made"):
        snapshot = trainer.backed_up()

    newest = store.snapshots()[0]
    assert newest["snapshot"] == snapshot
    assert int(newest["bundles"][0].removeprefix("step-")) >= before > 0
    store.verify(snapshot)


def test_the_schedule_backs_up_and_prunes_in_a_pod_of_its_own() -> None:
    known = [each["snapshot"] for each in store.snapshots()]
    with kube.timed("a backup by its schedule: until its pod has also pruned"):
        kube.kubectl("create", "job", "now", "--from=cronjob/gpt-backup", _HERE)
        try:
            status = kube.wait("the schedule's Job has ended", lambda: _ended("now"), 180)
            said = kube.kubectl("logs", "job/now", "--all-containers", _HERE)
        finally:
            kube.kubectl("delete", "job", "now", _HERE)

    assert status == "Complete", said
    assert "backup done in" in said
    newest, *others = [each["snapshot"] for each in store.snapshots()]
    assert newest not in known
    assert set(others) <= set(known)


def test_two_backups_at_once_both_end_with_a_snapshot_that_is_right() -> None:
    with kube.timed("two backups at once, until both are done"):
        other = trainer.meanwhile(trainer.backup)
        mine = trainer.backed_up()
        others = trainer.snapshot_of(other.result())

    known = {each["snapshot"] for each in store.snapshots() if not each["damaged"]}
    assert {mine, others} <= known
    for snapshot in {mine, others}:
        store.verify(snapshot)


def test_a_task_killed_half_way_leaves_no_snapshot_and_the_next_backup_is_whole() -> None:
    known = store.snapshots()
    with store.behind_a_proxy("stuck", _HALF) as proxy:
        asked = trainer.meanwhile(trainer.backup)
        kube.wait("half of the bundle is in the store", lambda: "stuck after" in proxy.log())
        with kube.timed("a backup's task killed half-way, until the backup has failed"):
            kube.kubectl("delete", "pod", trainer.task(), _HERE, *_KILL)
            assert asked.result().returncode == 1
    assert store.snapshots() == known

    with kube.timed("the next backup after one killed half-way, until it is made"):
        snapshot = trainer.backed_up()
    store.verify(snapshot)


def test_a_controller_killed_in_a_backup_strands_neither_the_backup_nor_its_pod() -> None:
    """The controller forgets what it did. `holdfast backup` notices at its deadline, deletes the
    ActionSet and the pod, and asks again."""
    known = store.snapshots()
    with ExitStack() as broken:
        proxy = broken.enter_context(store.behind_a_proxy("stuck", _HALF))
        asked = trainer.meanwhile(lambda: trainer.backup(timeout=45))
        kube.wait("half of the bundle is in the store", lambda: "stuck after" in proxy.log())
        stranded = trainer.task()
        assert store.snapshots() == known
        (operator,) = kube.pods("app=kanister-operator", kube.KANISTER)
        with kube.timed("the controller killed in a backup that has 45 s, until it is made"):
            kube.kubectl("delete", "pod", operator["metadata"]["name"],
                         f"--namespace={kube.KANISTER}", *_KILL)  # fmt: skip
            broken.close()
            done = asked.result()

    store.verify(trainer.snapshot_of(done))
    assert "orphaned: " in done.stderr
    assert f"deleted pods that Kanister left behind: {stranded}" in done.stderr
    assert kube.get("pod", stranded) is None


@machine.needs_node
def test_a_kubelet_killed_in_a_backup_strands_neither_the_backup_nor_its_pod() -> None:
    """Kanister follows the task's log through the kubelet. Its controller of 0.119.0 does not
    survive the loss of that stream, and then has forgotten the backup like one that was killed."""
    with ExitStack() as broken:
        proxy = broken.enter_context(store.behind_a_proxy("stuck", _HALF))
        asked = trainer.meanwhile(lambda: trainer.backup(timeout=60))
        kube.wait("half of the bundle is in the store", lambda: "stuck after" in proxy.log())
        with kube.timed("the kubelet killed in a backup that has 60 s, until it is made"):
            machine.kill_kubelet()
            machine.boot()
            broken.close()
            done = asked.result()

    store.verify(trainer.snapshot_of(done))


def _ended(job: str) -> str:
    """`Complete` or `Failed`; empty while it runs."""
    conditions = kube.get("job", job)["status"].get("conditions", [])
    met = [each["type"] for each in conditions if each["status"] == "True"]
    return next((kind for kind in met if kind in ("Complete", "Failed")), "")
