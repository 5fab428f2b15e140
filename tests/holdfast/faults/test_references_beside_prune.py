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
from holdfast.copies import writing as writing_module
from holdfast.copies.prune import prune
from holdfast.copies.push import PushReport, push
from holdfast.copies.writing import TooLate, write_snapshot, writing
from holdfast.errors import IncompleteListing
from holdfast.store import references
from holdfast.store.documents import Snapshot
from holdfast.store.snapshot import Catalog
from holdfast.volume import Volume
from testkit.memory_store import MemoryStore, World
from testkit.stores import GRACE, OWNER, WORKLOAD
from tests.holdfast.faults.beside_prune import ONE, Lost, Work, at_random, require_whole, volumes
from tests.holdfast.faults.interleave import Actor

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
        require_whole(world, reported)


@pytest.fixture
def scene(
    tmp_path: Path, write_bundle: Callable[..., Bundle], monkeypatch: pytest.MonkeyPatch
) -> Scene:
    return Scene(volumes(tmp_path, write_bundle, monkeypatch, 100, 200))


def prunes_of_both(scene: Scene, seed: int) -> World:
    """Prunes of both workloads beside one that names, cut and delayed anywhere."""
    random = Random(seed)
    prunes: list[Work] = [scene.prune, scene.prune_pipeline]
    more: list[list[Work]] = [[], [scene.prune], [scene.name]]
    return at_random(scene, random, lambda: random.choice(prunes), [scene.name, *prunes], more)


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
        prunes_of_both(scene, seed)


def test_wherever_the_one_that_names_is_cut_nothing_is_lost(scene: Scene) -> None:
    every_cut(scene)


def test_in_the_end_only_what_is_named_and_its_references_are_left(scene: Scene) -> None:
    for seed in range(1000, 1010):
        world = prunes_of_both(scene, seed)
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
