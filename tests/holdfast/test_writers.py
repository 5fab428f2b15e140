"""A switch and a trainer never meet, whatever Kubernetes says of the pause."""

import errno
import fcntl
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from functools import partial
from itertools import combinations
from pathlib import Path

import pytest

from holdfast.bundle import Bundle
from holdfast.copies.push import push
from holdfast.errors import DeadlineExceeded, HoldfastError
from holdfast.recovery.recover import Action, Start
from holdfast.recovery.refill import pull_if_empty
from holdfast.recovery.restore import stage, switch, switch_to_generation
from holdfast.recovery.writers import (
    StageVoid,
    Superseded,
    Writer,
    WriterPresent,
    no_writers,
    void_stages,
)
from holdfast.store.snapshot import Catalog, Snapshot
from holdfast.volume import Volume
from testkit.stores import WORKLOAD
from tests.holdfast.conftest import ROOT

WRITER = """
import sys
from pathlib import Path
from holdfast.recovery.writers import Writer
from holdfast.volume import Volume
held = Writer(Volume(Path(sys.argv[1]), sys.argv[2]))
print("open", flush=True)
sys.stdin.read()
"""


@pytest.fixture
def snapshot(volume: Volume, catalog: Catalog, save: Callable[..., Bundle]) -> Snapshot:
    """A run with steps 100 and 200 on its volume; the snapshot has step 100."""
    save(100)
    taken = catalog.read(WORKLOAD, push(volume, catalog, WORKLOAD).snapshot)
    save(200)
    return taken


@pytest.fixture
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """No switch waits for a writer that may be about to end."""
    monkeypatch.setattr("holdfast.recovery.restore.no_writers", partial(no_writers, patience=0))


@pytest.fixture
def trainer(volume: Volume) -> Iterator[subprocess.Popen[str]]:
    """A process that has the run open for writing, as a trainer has."""
    with subprocess.Popen(
        [sys.executable, "-c", WRITER, str(volume.root), volume.run],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "open\n"
        yield process
        process.kill()


@pytest.mark.usefixtures("at_once")
def test_nothing_is_switched_while_a_trainer_runs(
    volume: Volume, catalog: Catalog, snapshot: Snapshot, trainer: subprocess.Popen[str]
) -> None:
    staged = stage(volume, catalog, snapshot)

    with pytest.raises(WriterPresent, match="suspend its Job"):
        switch(volume, staged.id)
    assert volume.generations() == [1]
    trainer.kill()
    trainer.wait()
    assert switch(volume, staged.id) == 2  # the stage was not lost


@pytest.mark.usefixtures("at_once", "trainer")
def test_no_restore_is_undone_while_a_trainer_runs(
    volume: Volume, catalog: Catalog, snapshot: Snapshot, trainer: subprocess.Popen[str]
) -> None:
    trainer.kill()
    trainer.wait()
    switch(volume, stage(volume, catalog, snapshot).id)

    with Writer(volume), pytest.raises(WriterPresent):
        switch_to_generation(volume, 1)
    assert switch_to_generation(volume, 1) == 3


def test_a_switch_waits_for_a_trainer_that_is_just_ending(
    volume: Volume, catalog: Catalog, snapshot: Snapshot
) -> None:
    staged, writer = stage(volume, catalog, snapshot), Writer(volume)
    soon = threading.Timer(0.2, writer.close)
    soon.start()

    assert switch(volume, staged.id) == 2
    soon.join()


def test_a_pod_that_starts_takes_the_stage_from_a_restore_whose_pause_was_undone(
    volume: Volume, catalog: Catalog, snapshot: Snapshot
) -> None:
    staged = stage(volume, catalog, snapshot)
    decision = pull_if_empty(volume, catalog, WORKLOAD, Start.AUTO)

    assert (decision.decision, decision.generation) == (Action.USE, 1)
    with pytest.raises(StageVoid, match="Pause the topmost owner"):
        switch(volume, staged.id)
    with pytest.raises(StageVoid):
        switch(volume, staged.id[:4])
    assert volume.generations() == [1]
    assert switch(volume, stage(volume, catalog, snapshot).id) == 2  # a new restore works
    assert not [path.name for path in volume.run_path.glob(".void-*")]


def test_a_pod_that_starts_after_the_switch_goes_on_from_what_was_restored(
    volume: Volume, catalog: Catalog, snapshot: Snapshot
) -> None:
    staged = stage(volume, catalog, snapshot)
    switch(volume, staged.id)

    decision = pull_if_empty(volume, catalog, WORKLOAD, Start.AUTO)
    assert (decision.bundle, decision.generation) == ("step-00000100", 2)
    assert switch(volume, staged.id) == 2  # and a repeated switch still finds that it is done


@pytest.mark.parametrize("point", ["switch.before-rename", "switch.after-rename"])
def test_a_pod_that_starts_in_the_middle_of_a_switch_is_before_or_behind_it(
    volume: Volume,
    catalog: Catalog,
    snapshot: Snapshot,
    tmp_path: Path,
    run_python: Callable[..., subprocess.CompletedProcess[str]],
    point: str,
) -> None:
    staged, here = stage(volume, catalog, snapshot), tmp_path / "here"
    code = (
        "import sys; from pathlib import Path\n"
        "from holdfast.recovery.restore import switch\n"
        "from holdfast.volume import Volume\n"
        "print(switch(Volume(Path(sys.argv[1]), sys.argv[2]), sys.argv[3]))"
    )
    ended: list[subprocess.CompletedProcess[str]] = []
    thread = threading.Thread(
        target=lambda: ended.append(
            run_python(code, volume.root, volume.run, staged.id, failpoint=f"{point}=hold:{here}")
        )
    )
    thread.start()
    while not here.exists():
        assert thread.is_alive()
        thread.join(0.02)
    decision = pull_if_empty(volume, catalog, WORKLOAD, Start.AUTO)
    here.unlink()
    thread.join()

    if point == "switch.after-rename":
        assert (ended[0].stdout, decision.generation) == ("2\n", 2)
    else:
        assert "StageVoid" in ended[0].stderr
        assert (ended[0].returncode, decision.generation, volume.present()) == (1, 1, 1)


def test_a_switch_that_comes_after_its_client_gave_up_changes_nothing(
    volume: Volume, catalog: Catalog, snapshot: Snapshot
) -> None:
    staged, now = stage(volume, catalog, snapshot), datetime.now(UTC)

    with pytest.raises(DeadlineExceeded, match="nobody waits for this switch since"):
        switch(volume, staged.id, until=now - timedelta(seconds=1))
    assert volume.present() == 1
    assert switch(volume, staged.id, until=now + timedelta(minutes=5)) == 2
    assert switch(volume, staged.id, until=now - timedelta(seconds=1)) == 2  # it was in time


def test_a_trainer_that_was_left_behind_saves_nothing_more(
    volume: Volume, catalog: Catalog, snapshot: Snapshot, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a file system without locks nobody sees that a trainer runs."""

    def no_locks(*_: object) -> None:
        raise OSError(errno.ENOLCK, "no locks")

    monkeypatch.setattr(fcntl, "flock", no_locks)
    with Writer(volume) as writer:
        assert not writer.locked
        writer.require_present(1)
        assert switch(volume, stage(volume, catalog, snapshot).id) == 2
        with pytest.raises(Superseded, match="generation 2 is the present one since a restore"):
            writer.require_present(1)


def test_an_old_volume_without_a_file_for_writers_is_switched_as_before(
    volume: Volume, catalog: Catalog, snapshot: Snapshot
) -> None:
    assert not (volume.run_path / ".writers").exists()
    assert switch(volume, stage(volume, catalog, snapshot).id) == 2


def test_the_first_pod_of_a_run_voids_nothing(volume: Volume) -> None:
    assert void_stages(volume) == []


@pytest.mark.usefixtures("at_once")
def test_in_every_order_of_a_restore_and_a_pod_nothing_is_saved_behind_the_switch(
    volume: Volume, catalog: Catalog, snapshot: Snapshot
) -> None:
    """A pause that does not hold lets a pod do its steps anywhere between those of the restore."""
    outcomes = set()
    for places in combinations(range(7), 2):
        restored = _Restored(volume, catalog, snapshot)
        pod = _Pod(volume)
        restore_steps, pod_steps = iter(restored.steps), iter(pod.steps)
        for place in range(7):
            next(restore_steps if place in places else pod_steps)()
        assert pod.saved_in in (None, pod.generation_when_saved)
        outcomes.add((restored.switched, pod.saved_in is not None))
        pod.end()
    assert outcomes == {(True, True), (False, True)}  # here locks work: no pod is left behind


class _Restored:
    """The steps of a restore that no pause protects."""

    def __init__(self, volume: Volume, catalog: Catalog, snapshot: Snapshot) -> None:
        self.volume, self.catalog, self.snapshot = volume, catalog, snapshot
        self.switched = False
        self.steps = [self._stage, self._switch]

    def _stage(self) -> None:
        self.stage = stage(self.volume, self.catalog, self.snapshot)

    def _switch(self) -> None:
        try:
            switch(self.volume, self.stage.id)
            self.switched = True
        except (StageVoid, WriterPresent):
            pass


class _Pod:
    """The steps of a pod: its init container, its trainer, one save, its end."""

    def __init__(self, volume: Volume) -> None:
        self.volume = volume
        self.saved_in: int | None = None
        self.generation_when_saved: int | None = None
        self.writer: Writer | None = None
        self.steps = [self._recover, self._open, self._look, self._save, self.end]

    def _recover(self) -> None:
        void_stages(self.volume)

    def _open(self) -> None:
        self.writer = Writer(self.volume)

    def _look(self) -> None:
        self.generation = self.volume.present() or 1

    def _save(self) -> None:
        assert self.writer is not None
        try:
            self.writer.require_present(self.generation)
        except HoldfastError:
            return
        self.saved_in, self.generation_when_saved = self.generation, self.volume.present()

    def end(self) -> None:
        if self.writer is not None:
            self.writer.close()
