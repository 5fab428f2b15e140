"""SIGKILL at every boundary of save, push, pull, stage, switch, undo, keep-K, quarantine and prune:
before every system call that matters, and at every failpoint as often as it is passed.

After each kill: nothing incomplete passes for complete, the next run ends where an undisturbed one
does, and nothing is left over.

Shown to fail: with `shutil.rmtree` for `remove_tree` in `Volume.keep` (a half bundle under its own
name), without `_remove_stages` in `stage` and without `remove_leftovers` in `pull_if_empty` (left
over for ever), and with a push that skips whatever a killed one had begun (a snapshot of nothing).
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import pytest

from holdfast.assets.add import add
from holdfast.assets.get import get, get_on_volume
from holdfast.assets.promote import promote
from holdfast.assets.versions import resolve
from holdfast.bundle import commit_directory
from holdfast.copies.draft import remove_abandoned
from holdfast.copies.prune import prune
from holdfast.copies.push import push
from holdfast.copies.streamed import StreamedBundle
from holdfast.copies.writing import write_snapshot, writing
from holdfast.defaults import Select
from holdfast.failpoint import FAILPOINTS
from holdfast.recovery.recover import Start
from holdfast.recovery.refill import pull_if_empty
from holdfast.recovery.restore import stage, switch, switch_to_generation
from testkit.stores import GRACE, WORKLOAD, age
from tests.holdfast.faults.killing import Place, kill_at, kill_at_every_call, passes
from tests.holdfast.test_prune import LATER, ONE

#: Kills, generated input or whole stores: minutes in all.
pytestmark = pytest.mark.slow

Act = Callable[[Place], object]
TRAINER_ONLY = {"save.shard-written"}  # tests/training kills there


def void(_: object) -> None:
    """For what is done for its effect."""


@pytest.fixture(autouse=True)
def cache(scratch: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Hashes are remembered elsewhere than in the places that are looked through."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(scratch / "cache"))


def write(place: Place, step: int) -> None:
    """What a torch-free writer saves: three files, one of them in a directory."""
    source = place.root / f"source-{step}"
    (source / "rng").mkdir(parents=True, exist_ok=True)
    (source / "weights").write_bytes(f"weights {step}".encode() * 99)
    (source / "rng/0").write_bytes(bytes([step % 251]))
    (source / "empty").write_bytes(b"")
    generation = place.volume.present() or 1
    labels: dict[str, str | int] = {"run": "run-a", "generation": generation, "step": step}
    path = place.volume.generation_path(generation)
    commit_directory(source, path, f"step-{step:08d}", "checkpoint", labels, move=True)


def nothing(place: Place) -> None:
    """A volume that nobody has written to."""


def two(place: Place) -> None:
    for step in (100, 200):
        write(place, step)


def pushed(place: Place) -> None:
    two(place)
    push(place.volume, place.catalog, WORKLOAD, select=Select.ALL)


def lost(place: Place) -> None:
    pushed(place)
    place.volume.root.rename(place.root / "lost")


def restored(place: Place) -> None:
    pushed(place)
    restore(place)


def damaged(place: Place) -> None:
    two(place)
    (place.volume.generation_path(1) / "step-00000200/weights").write_bytes(b"cut")


def old(place: Place) -> None:
    """Snapshots of two steps, nothing younger than three grace periods."""
    pushed(place)
    age(place.store, 3 * GRACE)


def buried(place: Place) -> None:
    old(place)
    prune_to_one(place)
    age(place.store, LATER)


def save(place: Place) -> None:
    if not (place.volume.generation_path(1) / "step-00000200").exists():
        write(place, 200)


def restore(place: Place) -> None:
    if place.volume.present() == 1:
        oldest = place.catalog.snapshots(WORKLOAD)[-1]
        switch(place.volume, stage(place.volume, place.catalog, oldest).id)


def undo(place: Place) -> None:
    if place.volume.present() == 2:
        switch_to_generation(place.volume, 1)


def prune_to_one(place: Place) -> None:
    prune(place.catalog, WORKLOAD, ONE, grace=GRACE, patience=0)


def keep(place: Place) -> None:
    place.volume.keep(1)


def push_all(place: Place) -> None:
    push(place.volume, place.catalog, WORKLOAD, select=Select.ALL, patience=0)


def pushed_by_another(place: Place) -> None:
    write(place, 100)
    push(place.volume, place.catalog, "other")


def stream(place: Place) -> None:
    """A bundle that is on no volume, in one snapshot with one of another workload."""
    catalog = place.catalog
    if catalog.snapshots(WORKLOAD):
        return
    with writing(catalog, WORKLOAD, patience=0):
        began = catalog.store.now()
        made = StreamedBundle(catalog, WORKLOAD, "run-a", 1, "database", "dump")
        made.put("database.dump", [b"dump" * 99])
        made.put("roles.sql", [b"roles"])
        named = [made.commit(), *catalog.snapshots("other")[0].bundles]
        write_snapshot(catalog, WORKLOAD, "run-a", 1, named, began=began, grace=GRACE)


def folder(place: Place, number: int) -> Path:
    """What one version of a model is made from: two files, the same each time."""
    made = place.root / f"model-{number}"
    (made / "more").mkdir(parents=True, exist_ok=True)
    (made / "weights").write_bytes(f"weights {number}".encode() * 99)
    (made / "more/vocabulary").write_bytes(b"words")
    return made


def add_model(place: Place, number: int = 1) -> None:
    add(place.catalog, "model", place.root / f"model-{number}", "churn", str(number), patience=0)


def add_checkpoint(place: Place) -> None:
    path = place.volume.generation_path(1) / "step-00000100"
    add(place.catalog, "model", path, "churn", "1", patience=0)


def modelled(place: Place) -> None:
    write(place, 100)
    add_checkpoint(place)


def added(place: Place) -> None:
    for number in (1, 2):
        folder(place, number)
        add_model(place, number)


def promoted(place: Place) -> None:
    added(place)
    promote(place.catalog, resolve(place.catalog, "churn:1"), "production", patience=0)
    place.application.root.mkdir()
    get_on_volume(place.catalog, "churn@production", place.application)


def move_alias(place: Place) -> None:
    promote(place.catalog, resolve(place.catalog, "churn:2"), "production", patience=0)


def get_model(place: Place) -> None:
    get(place.catalog, resolve(place.catalog, "churn:1"), place.got)


def get_second(place: Place) -> None:
    get_on_volume(place.catalog, "churn:2", place.application)


def tidy_models(place: Place) -> None:
    age(place.store, 3 * GRACE + timedelta(minutes=1))
    prune(place.catalog, "models", ONE, grace=GRACE, patience=0)


def tidy_drafts(place: Place) -> None:
    """A minute later the next get removes what a killed one left beside its directory."""
    for path in place.root.glob(".pull-*"):
        os.utime(path, (1, 1))
    remove_abandoned(place.root, ".pull-")


def pull(place: Place) -> None:
    pull_if_empty(place.volume, place.catalog, WORKLOAD, Start.REQUIRE)


def look(place: Place) -> None:
    place.volume.newest_valid(quarantine=True)


def tidy_store(place: Place) -> None:
    """A grace period later the next prune removes what a killed process left in the store."""
    age(place.store, 3 * GRACE + timedelta(minutes=1))
    prune_to_one(place)


def tidy_volume(place: Place) -> None:
    place.volume.sweep()


@dataclass(frozen=True)
class Scene:
    """What exists before, what is killed, what tidies up later, and the least number of calls (so
    that a harness that counts nothing is noticed)."""

    prepare: Act
    work: Act
    tidy: Act
    calls: int
    whole: bool = True


SCENES = {
    "save": Scene(lambda place: write(place, 100), save, tidy_volume, 15),
    "keep": Scene(two, keep, tidy_volume, 5),
    "quarantine": Scene(damaged, look, tidy_volume, 5, whole=False),
    "push": Scene(lambda place: write(place, 100), push_all, tidy_store, 40),
    "stream": Scene(pushed_by_another, stream, tidy_store, 40),
    "add": Scene(lambda place: void(folder(place, 1)), add_model, tidy_models, 35),
    "add a checkpoint": Scene(pushed, add_checkpoint, tidy_models, 25),
    "push a model": Scene(modelled, push_all, tidy_store, 25),
    "promote": Scene(promoted, move_alias, tidy_models, 15),
    "get": Scene(added, get_model, tidy_drafts, 5),
    "get on a volume": Scene(promoted, get_second, get_second, 15),
    "pull": Scene(lost, pull, pull, 10),
    "restore": Scene(pushed, restore, tidy_volume, 15),
    "undo": Scene(restored, undo, tidy_volume, 15),
    "bury": Scene(old, prune_to_one, tidy_store, 10),
    "delete": Scene(buried, prune_to_one, tidy_store, 20),
}


@pytest.fixture
def scratch() -> Iterator[Path]:
    """A directory in memory where there is one: a killed process loses nothing of either."""
    memory = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    with tempfile.TemporaryDirectory(prefix="holdfast-", dir=memory) as directory:
        yield Path(directory)


@pytest.fixture(params=SCENES)
def scene(request: pytest.FixtureRequest) -> Scene:
    return SCENES[request.param]


@pytest.fixture
def template(scratch: Path, scene: Scene) -> Place:
    place = Place(scratch / "template")
    place.store.parents[1].mkdir(parents=True)
    scene.prepare(place)
    return place


def undisturbed(template: Place, scene: Scene, scratch: Path) -> dict[str, list[str]]:
    place = template.copy(scratch / "undisturbed")
    scene.work(place)
    scene.tidy(place)
    assert place.leftovers() == []
    return place.has()


def go_on(place: Place, scene: Scene, expected: dict[str, list[str]]) -> None:
    """The promise, of a place that a killed process left."""
    if scene.whole:
        place.check()
    scene.work(place)
    scene.tidy(place)
    place.check()
    assert place.has() == expected
    assert place.leftovers() == []


def test_killed_before_any_call_nothing_half_done_counts_and_the_next_run_ends_as_if_undisturbed(
    template: Place, scene: Scene, scratch: Path
) -> None:
    expected = undisturbed(template, scene, scratch)

    moments = 0
    for place in kill_at_every_call(template, scratch, scene.work):
        moments += 1
        go_on(place, scene, expected)

    assert moments > scene.calls


def test_killed_at_any_failpoint_however_often_it_is_passed_the_next_run_goes_on(
    template: Place, scene: Scene, scratch: Path
) -> None:
    expected = undisturbed(template, scene, scratch)

    for name, times in passes(template, scratch, scene.work).items():
        for number in range(1, times + 1):
            go_on(kill_at(template, scratch, scene.work, f"{name}@{number}"), scene, expected)


def test_the_scenes_pass_every_failpoint_and_at_least_thirty_kill_points(scratch: Path) -> None:
    points = set()
    for title, scene in SCENES.items():
        place = Place(scratch / title / "template")
        place.store.parents[1].mkdir(parents=True)
        scene.prepare(place)
        passed = passes(place, scratch / title, scene.work)
        points |= {(title, name, n + 1) for name, times in passed.items() for n in range(times)}

    elsewhere = {name for name in FAILPOINTS if name.startswith("pipeline.")} | TRAINER_ONLY
    assert {name for _, name, _ in points} == FAILPOINTS - elsewhere
    assert len(points) >= 30
