"""A snapshot that names bundles of another workload, beside prunes of both, in every order.

Whatever order their operations on the store take: a snapshot that was reported never names anything
that is missing. The last tests show that the search finds what it looks for, by taking parts of the
protocol away.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from random import Random

import pytest

from holdfast.bundle import Bundle
from holdfast.copies import prune as prune_module
from holdfast.copies import writing as writing_module
from holdfast.copies.prune import prune
from holdfast.copies.push import PushReport, push
from holdfast.copies.writing import TooLate, write_snapshot, writing
from holdfast.errors import IncompleteListing
from holdfast.store import records as records_module
from holdfast.store import references
from holdfast.store.documents import Snapshot
from holdfast.store.snapshot import Catalog
from holdfast.volume import Volume
from testkit.memory_store import MemoryStore, World
from testkit.stores import GRACE, OWNER, WORKLOAD
from tests.holdfast.faults.interleave import Actor, interleave
from tests.holdfast.faults.test_push_beside_prune import FROZEN, ONE, PAUSES, Lost

#: Thousands of interleavings: minutes in all.
pytestmark = pytest.mark.slow


class Scene:
    """Steps 100 and 200 were pushed, and the pipeline named both once. Prune is about to drop step
    100 and that snapshot, while the pipeline names what it finds again."""

    def __init__(self, volumes: list[Volume]) -> None:
        self.world = World()
        for volume in volumes:
            push(volume, self.catalog(MemoryStore(self.world)), WORKLOAD, grace=GRACE)
            self.world.now += 3 * GRACE
        for _ in range(2):
            self.name(MemoryStore(self.world))
            self.world.now += 3 * GRACE

    def catalog(self, store: MemoryStore) -> Catalog:
        return Catalog(store, OWNER)

    def name(self, store: MemoryStore) -> Snapshot | None:
        catalog = self.catalog(store)
        with writing(catalog, "pipeline", patience=0):
            for _ in range(2):
                began = store.now()
                found = catalog.snapshots(WORKLOAD)
                dying = catalog.dying(WORKLOAD)
                refs = [ref for one in found for ref in one.bundles if ref.path not in dying]
                if not refs:
                    return None
                try:
                    return write_snapshot(
                        catalog, "pipeline", "all", 1, refs, began=began, grace=GRACE
                    )
                except TooLate:
                    continue
        return None

    def prune(self, store: MemoryStore) -> object:
        return self._prune(store, WORKLOAD)

    def prune_pipeline(self, store: MemoryStore) -> object:
        return self._prune(store, "pipeline")

    def _prune(self, store: MemoryStore, workload: str) -> object:
        try:
            return prune(self.catalog(store), workload, ONE, grace=GRACE, patience=0)
        except IncompleteListing:  # the one that names took a number long ago, and is not done
            return None

    def check(self, world: World, results: list[object]) -> None:
        reported = {one.id for one in results if isinstance(one, Snapshot)}
        reported |= {one.snapshot for one in results if isinstance(one, PushReport)}
        for key in [key for key in world.objects if key.startswith("snapshots/")]:
            snapshot = Snapshot.parse(world.objects[key][0], key)
            for ref in snapshot.bundles if snapshot.id in reported else ():
                if not {ref.manifest, f"{ref.data}/weights"} <= world.objects.keys():
                    raise Lost(f"{snapshot.id} names {ref.path}")


@pytest.fixture
def scene(
    tmp_path: Path, write_bundle: Callable[..., Bundle], monkeypatch: pytest.MonkeyPatch
) -> Scene:
    monkeypatch.setattr(records_module, "READERS", 1)
    monkeypatch.setattr(references, "READERS", 1)
    monkeypatch.setattr(prune_module, "WRITERS", 1)
    volumes = []
    for step in (100, 200):
        volume = Volume(tmp_path / str(step), "run-a")
        write_bundle(volume.generation_path(1), step, {"weights": str(step).encode()})
        volumes.append(volume)
    return Scene(volumes)


def at_random(scene: Scene, seed: int) -> World:
    """Prunes of both workloads beside one that names, cut and delayed anywhere."""
    random = Random(seed)
    world = scene.world.copy()
    for _ in range(random.randrange(3)):
        random.choice([scene.prune, scene.prune_pipeline])(MemoryStore(world))
        world.now += random.choice(PAUSES)
    works = [scene.name, scene.prune, scene.prune_pipeline]
    works += random.choice(([], [scene.prune], [scene.name]))
    actors = interleave(
        world, works, random, PAUSES, FROZEN, lambda results: scene.check(world, results)
    )
    for actor in actors:
        if actor.error is not None:
            raise actor.error
    return world


def every_cut(scene: Scene) -> None:
    """One that names stops after so many operations. Prunes of both workloads follow, each a grace
    period later, and it goes on; then others."""
    for number in range(60):
        world = scene.world.copy()
        naming = Actor(scene.name, world)
        try:
            for _ in range(number):
                naming.step()
            for _ in range(4):
                scene.prune_pipeline(MemoryStore(world))
                scene.prune(MemoryStore(world))
                world.now += GRACE * 1.1
            ended = naming.done
            while not naming.done:
                naming.step()
            for _ in range(3):
                scene.prune_pipeline(MemoryStore(world))
                scene.prune(MemoryStore(world))
                world.now += GRACE * 1.1
            scene.check(world, [naming.result])
            if ended:
                return
        finally:
            naming.abandon()


def test_no_order_of_operations_loses_what_a_reported_snapshot_names(scene: Scene) -> None:
    for seed in range(300):
        at_random(scene, seed)


def test_wherever_the_one_that_names_is_cut_nothing_is_lost(scene: Scene) -> None:
    every_cut(scene)


def test_in_the_end_only_what_is_named_and_its_references_are_left(scene: Scene) -> None:
    for seed in range(1000, 1010):
        world = at_random(scene, seed)
        catalog = scene.catalog(MemoryStore(world))
        for _ in range(8):
            world.now += 3 * GRACE
            scene.prune_pipeline(MemoryStore(world))
            scene.prune(MemoryStore(world))

        (last,) = catalog.snapshots("pipeline")
        kept = {ref.path for ref in last.bundles}
        kept |= {ref.path for one in catalog.snapshots(WORKLOAD) for ref in one.bundles}
        there = {info.key for info in catalog.store.list("manifests")}
        assert there == {f"manifests/{path}.json" for path in kept}
        assert len(list(catalog.store.list("references"))) == len(last.foreign)


def test_the_search_finds_a_snapshot_without_references(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(references, "write", lambda store, snapshot: None)
    with pytest.raises(Lost):
        every_cut(scene)


def test_the_search_finds_references_that_are_written_after_the_snapshot(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And without a time limit, which is what makes the order matter."""
    write, read_back = references.write, writing_module._read_back
    monkeypatch.setattr(references, "write", lambda store, snapshot: None)

    def late(catalog: Catalog, snapshot: Snapshot) -> None:
        read_back(catalog, snapshot)
        write(catalog.store, snapshot)

    def no_limit(began: object, now: object, grace: timedelta) -> None:
        """Whatever it took."""

    monkeypatch.setattr(writing_module, "_read_back", late)
    monkeypatch.setattr(writing_module, "check_time", no_limit)
    with pytest.raises(Lost):
        every_cut(scene)


def test_the_search_finds_a_prune_that_lists_no_references(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(references, "kept", lambda store, workload: set())
    with pytest.raises(Lost):
        every_cut(scene)
