"""Checkpoints and models that share their files, beside prunes of both, in every order.

Whatever order their operations on the store take: a version or snapshot that was reported never
lacks a file. The last tests show that the search finds what it looks for, by taking parts of the
protocol away.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from random import Random

import pytest

from holdfast.assets.add import Added, add
from holdfast.assets.promote import delete_version
from holdfast.assets.versions import resolve
from holdfast.bundle import Bundle
from holdfast.copies import shared as shared_module
from holdfast.copies import writing as writing_module
from holdfast.copies.prune import prune
from holdfast.copies.push import PushReport, push
from holdfast.errors import IncompleteListing, NoSnapshot, StoreError
from holdfast.store import references
from holdfast.store.base import Store
from holdfast.store.snapshot import Catalog
from holdfast.volume import Volume
from testkit.memory_store import MemoryStore, World
from testkit.stores import GRACE, OWNER, WORKLOAD
from tests.holdfast.faults.beside_prune import ONE, Lost, Work, at_random, require_whole, volumes
from tests.holdfast.faults.interleave import Actor

#: Thousands of interleavings: minutes in all.
pytestmark = pytest.mark.slow


class Scene:
    """Steps 100 and 200 were pushed, and prune is about to drop step 100. Step 300 is a model, its
    version about to be deleted. Meanwhile step 100 becomes a model, and step 300 is pushed."""

    def __init__(self, volumes: list[Volume]) -> None:
        self.world = World()
        self.old, new, self.model = volumes
        for volume in (self.old, new):
            push(volume, Catalog(MemoryStore(self.world), OWNER), WORKLOAD, grace=GRACE)
            self.world.now += 3 * GRACE
        self._add(MemoryStore(self.world), self.model, "other")
        self.world.now += 3 * GRACE

    def add(self, store: MemoryStore) -> object:
        return self._add(store, self.old, "churn")

    def push(self, store: MemoryStore) -> object:
        catalog = Catalog(store, OWNER)
        return self._tried(push, self.model, catalog, WORKLOAD, grace=GRACE, patience=0)

    def prune(self, store: MemoryStore) -> object:
        return self._tried(prune, Catalog(store, OWNER), WORKLOAD, ONE, grace=GRACE, patience=0)

    def prune_models(self, store: MemoryStore) -> object:
        return self._tried(prune, Catalog(store, OWNER), "models", ONE, grace=GRACE, patience=0)

    def delete(self, store: MemoryStore) -> object:
        catalog = Catalog(store, OWNER)
        try:
            return self._tried(delete_version, catalog, resolve(catalog, "other:1"))
        except NoSnapshot:
            return None

    def _add(self, store: MemoryStore, volume: Volume, name: str) -> object:
        folder = volume.bundles()[0].path
        catalog = Catalog(store, OWNER)
        return self._tried(add, catalog, "model", folder, name, "1", grace=GRACE, patience=0)

    def _tried(self, work: Callable[..., object], *args: object, **options: object) -> object:
        """None, where it was too late, or another one had taken a number long ago."""
        try:
            return work(*args, **options)
        except IncompleteListing:
            return None
        except StoreError as error:
            if "half of the grace period" not in str(error):
                raise
            return None

    def check(self, world: World, results: list[object]) -> None:
        reported = {one.snapshot for one in results if isinstance(one, PushReport)}
        reported |= {one.version.snapshot.id for one in results if isinstance(one, Added)}
        require_whole(world, reported)


@pytest.fixture
def scene(
    tmp_path: Path, write_bundle: Callable[..., Bundle], monkeypatch: pytest.MonkeyPatch
) -> Scene:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return Scene(volumes(tmp_path, write_bundle, monkeypatch, 100, 200, 300))


def prunes_of_both(scene: Scene, seed: int) -> World:
    """Prunes of both workloads beside an add, a push and a delete, cut and delayed anywhere."""
    random = Random(seed)
    prunes: list[Work] = [scene.prune, scene.prune_models]
    first: list[Work] = [*prunes, scene.delete]
    more: list[list[Work]] = [[], [scene.delete], [scene.add], [scene.prune]]
    works = [scene.add, scene.push, *prunes]
    return at_random(scene, random, lambda: random.choice(first), works, more)


def every_cut(scene: Scene, work: Work, *before: Work) -> None:
    """What uses the files of another stops after so many operations. Prunes of both workloads
    follow, each a grace period later, and it goes on; then more prunes."""
    prepared = scene.world.copy()
    for act in before:
        act(MemoryStore(prepared))
    for number in range(80):
        world = prepared.copy()
        working = Actor(work, world)
        try:
            for _ in range(number):
                working.step()
            for _ in range(4):
                scene.prune_models(MemoryStore(world))
                scene.prune(MemoryStore(world))
                world.now += GRACE * 1.1
            ended = working.done
            while not working.done:
                working.step()
            if working.error:
                raise working.error
            for _ in range(3):
                scene.prune_models(MemoryStore(world))
                scene.prune(MemoryStore(world))
                world.now += GRACE * 1.1
            scene.check(world, [working.result])
            if ended:
                return
        finally:
            working.abandon()
    raise AssertionError("the work has more operations than were tried")


def test_no_order_of_operations_loses_files_that_are_shared(scene: Scene) -> None:
    for seed in range(200):
        prunes_of_both(scene, seed)


def test_wherever_an_add_of_a_checkpoint_is_cut_nothing_is_lost(scene: Scene) -> None:
    every_cut(scene, scene.add)


def test_wherever_a_push_of_a_model_is_cut_nothing_is_lost(scene: Scene) -> None:
    every_cut(scene, scene.push, scene.delete)


def test_the_files_are_shared_where_nothing_is_in_the_way(scene: Scene) -> None:
    """So that the other tests search where there is something to find."""
    world = scene.world.copy()
    added, pushed = scene.add(MemoryStore(world)), scene.push(MemoryStore(world))

    assert isinstance(added, Added) and added.version.ref.files_at.startswith(WORKLOAD)
    assert isinstance(pushed, PushReport) and pushed.bundles[0].files_at.startswith("models")


def test_in_the_end_only_what_is_named_and_its_references_are_left(scene: Scene) -> None:
    for seed in range(1000, 1008):
        world = prunes_of_both(scene, seed)
        catalog = Catalog(MemoryStore(world), OWNER)
        for _ in range(8):
            world.now += 3 * GRACE
            scene.prune_models(MemoryStore(world))
            scene.prune(MemoryStore(world))

        named = [*catalog.snapshots(WORKLOAD), *catalog.snapshots("models")]
        kept = {path for one in named for ref in one.bundles for path in ref.paths}
        there = {info.key for info in catalog.store.list("manifests")}
        assert there == {f"manifests/{path}.json" for path in kept}
        references_left = len(list(catalog.store.list("references")))
        assert references_left == sum(len(one.paths_of_others) for one in named)


def test_the_search_finds_files_without_references(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(references, "write", lambda store, snapshot: None)
    with pytest.raises(Lost):
        every_cut(scene, scene.add)


def every_cut_of_prune(scene: Scene, work: Work, pruned: Work, *before: Work) -> None:
    """A prune that marked the files a grace period ago is about to delete them, and stops after so
    many operations, while others use them."""
    marked = scene.world.copy()
    for act in (*before, pruned):
        act(MemoryStore(marked))
    marked.now += GRACE * 1.1
    for number in range(60):
        world = marked.copy()
        pruning = Actor(pruned, world)
        try:
            for _ in range(number):
                pruning.step()
            result = work(MemoryStore(world))
            while not pruning.done:
                pruning.step()
            scene.check(world, [result])
        finally:
            pruning.abandon()


def test_wherever_a_prune_of_the_checkpoint_is_cut_the_model_is_whole(scene: Scene) -> None:
    every_cut_of_prune(scene, scene.add, scene.prune)


def test_wherever_a_prune_of_the_model_is_cut_the_checkpoint_is_whole(scene: Scene) -> None:
    every_cut_of_prune(scene, scene.push, scene.prune_models, scene.delete)


def test_the_search_finds_a_push_that_does_not_look_for_tombstones_of_models(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    below = shared_module.paths_below

    def blind(store: Store, place: str, parent: str) -> set[str]:
        return set() if place == "tombstones" else below(store, place, parent)

    monkeypatch.setattr(writing_module, "_refuse_dying", lambda catalog, paths: None)
    monkeypatch.setattr(shared_module, "paths_below", blind)
    with pytest.raises(Lost):
        every_cut_of_prune(scene, scene.push, scene.prune_models, scene.delete)
