"""Pushes and prunes of one workload, interleaved in a thousand ways, with stalls of hours.

Whatever order their operations on the store take: a snapshot that a push reported never names
anything that is missing, and there is always one. The last tests show that the search finds what it
looks for, by taking half of the protocol away.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import datetime, timedelta
from pathlib import Path
from random import Random

import pytest

from holdfast.bundle import Bundle
from holdfast.copies import copying as copying_module
from holdfast.copies import push as push_module
from holdfast.copies import writing as writing_module
from holdfast.copies.prune import _Prune, prune
from holdfast.copies.push import PushReport, push
from holdfast.store.base import ObjectInfo
from holdfast.store.documents import Snapshot
from holdfast.store.snapshot import Catalog
from holdfast.volume import Volume
from testkit.memory_store import MemoryStore, World
from testkit.stores import GRACE, OWNER, WORKLOAD
from tests.holdfast.faults.beside_prune import ONE, Lost, Work, at_random, volumes
from tests.holdfast.faults.interleave import Actor

#: Kills, generated input or whole stores: minutes in all.
pytestmark = pytest.mark.slow


class Scene:
    """Steps 100, 150 and 200 were pushed. Prune is about to drop the first two together, while a
    volume that was set back to step 100 pushes it again."""

    def __init__(self, old: Volume, middle: Volume, new: Volume) -> None:
        self.push_old, self.push_new = self._pushing(old), self._pushing(new)
        self.world = World()
        for work in (self.push_old, self._pushing(middle), self.push_new):
            work(MemoryStore(self.world))
            self.world.now += 3 * GRACE
        self._before = {s.id for s in Catalog(MemoryStore(self.world)).snapshots(WORKLOAD)}
        self._known: dict[bytes, Snapshot] = {}

    def _pushing(self, volume: Volume) -> Work:
        return lambda store: push(volume, Catalog(store, OWNER), WORKLOAD, grace=GRACE, patience=0)

    def prune(self, store: MemoryStore) -> object:
        return prune(Catalog(store, OWNER), WORKLOAD, ONE, grace=GRACE, patience=0)

    def check(self, world: World, results: list[object]) -> None:
        """Raise Lost unless everything that was reported is whole, and something is there."""
        reported = self._before | {r.snapshot for r in results if isinstance(r, PushReport)}
        whole = 0
        for key in [key for key in world.objects if key.startswith("snapshots/")]:
            data = world.objects[key][0]
            if data not in self._known:
                self._known[data] = Snapshot.parse(data, key)
            snapshot = self._known[data]
            for ref in snapshot.bundles:
                if {ref.manifest, f"{ref.data}/weights"} <= world.objects.keys():
                    whole += 1
                elif snapshot.id in reported:
                    raise Lost(f"{snapshot.id} names {ref.path}")
        if not whole:
            raise Lost("no snapshot is left")


@pytest.fixture
def scene(
    tmp_path: Path, write_bundle: Callable[..., Bundle], monkeypatch: pytest.MonkeyPatch
) -> Scene:
    monkeypatch.setattr(push_module, "ATTEMPTS", 2)
    return Scene(*volumes(tmp_path, write_bundle, monkeypatch, 100, 150, 200))


def two_prunes(scene: Scene, seed: int) -> World:
    """Two prunes and one or two pushes, cut and delayed anywhere."""
    works: list[Work] = [scene.push_old, scene.prune, scene.prune]
    more: list[list[Work]] = [[], [scene.push_new]]
    return at_random(scene, Random(seed), lambda: scene.prune, works, more, may_fail=_too_late)


def _too_late(error: Exception) -> bool:
    return "half of the grace period" in str(error)


def cut_once_each(scene: Scene, first: int, second: int, *, dying: bool) -> bool:
    """A push stops after so many operations while one prune runs and time passes; then a second
    prune is cut after so many while the push goes on. If ``dying``, the first prune was there
    before the push. False when the push or the second prune has no such point."""
    world = scene.world.copy()
    if dying:
        scene.prune(MemoryStore(world))
        world.now += GRACE * 0.8
    pushing = Actor(scene.push_old, world)
    pruning = None
    try:
        for _ in range(first):
            pushing.step()
        if not dying:
            scene.prune(MemoryStore(world))
        world.now += GRACE * (0.3 if dying else 1.1)
        pruning = Actor(scene.prune, world)
        for _ in range(second):
            pruning.step()
        possible = not (pushing.done or pruning.done)
        for actor in (pushing, pruning):
            while not actor.done:
                changes = world.changes
                actor.step()
                if actor.done or world.changes != changes:
                    scene.check(world, [a.result for a in (pushing, pruning) if a.done])
        return possible
    finally:
        for actor in filter(None, (pushing, pruning)):
            actor.abandon()


def every_cut(scene: Scene, pushes: range, prunes: range, *, dying: bool) -> None:
    for first in pushes:
        for second in prunes:
            if not cut_once_each(scene, first, second, dying=dying):
                break


def test_no_order_of_operations_loses_a_reported_snapshot(scene: Scene) -> None:
    for seed in range(300):
        two_prunes(scene, seed)


@pytest.mark.slow
@pytest.mark.parametrize("dying", [False, True])
def test_wherever_a_push_and_a_prune_are_cut_nothing_is_lost(scene: Scene, dying: bool) -> None:
    every_cut(scene, range(60), range(60), dying=dying)


def test_after_any_order_the_next_push_and_prunes_tidy_up(scene: Scene) -> None:
    for seed in range(1000, 1015):
        world = two_prunes(scene, seed)
        catalog = Catalog(MemoryStore(world), OWNER)

        scene.push_new(MemoryStore(world))
        for _ in range(6):
            world.now += 3 * GRACE
            prune(catalog, WORKLOAD, ONE, grace=GRACE, patience=0)

        assert len(catalog.snapshots(WORKLOAD)) == 1
        assert len(list(catalog.store.list("data"))) == 1
        assert len(list(catalog.store.list("manifests"))) == 1
        assert len(list(catalog.store.list("tombstones"))) == 0


def test_the_search_finds_a_push_that_does_not_look_for_tombstones(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    below = copying_module.paths_below
    monkeypatch.setattr(
        copying_module,
        "paths_below",
        lambda store, place, parent: (
            set() if place == "tombstones" else below(store, place, parent)
        ),
    )
    with pytest.raises(Lost):
        every_cut(scene, range(9, 60), range(9, 60), dying=True)


def test_the_search_finds_a_push_without_a_time_limit(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_limit(began: datetime, now: datetime, grace: timedelta) -> None:
        assert now - began >= timedelta(0) and grace == GRACE

    monkeypatch.setattr(writing_module, "check_time", no_limit)
    with pytest.raises(Lost):
        every_cut(scene, range(9, 60), range(9, 60), dying=False)


def prune_that_decided_long_ago(scene: Scene) -> None:
    """A prune lists what it will delete, and then is slow, though never frozen for a whole grace
    period. Meanwhile others delete the same, forget the tombstone, and use the path again."""
    world, listed = scene.world.copy(), []

    def prune_and_tell(store: MemoryStore) -> object:
        look = store.list

        def telling(prefix: str = "") -> Iterator[ObjectInfo]:
            found = look(prefix)
            listed.append(prefix)
            return found

        store.list = telling  # type: ignore[method-assign]
        return scene.prune(store)

    scene.prune(MemoryStore(world))
    world.now += GRACE * 1.1
    late = Actor(prune_and_tell, world)
    try:
        while f"manifests/{WORKLOAD}/" not in listed:
            late.step()
        scene.prune(MemoryStore(world))
        for _ in range(2):
            world.now += GRACE * 0.9
            late.step()
        world.now += GRACE * 0.3
        scene.prune(MemoryStore(world))
        pushed = scene.push_old(MemoryStore(world))
        assert isinstance(pushed, PushReport)
        assert not pushed.bundles[0].path.endswith("-1")
        world.now += GRACE * 0.5
        while not late.done:
            late.step()
        scene.check(world, [pushed])
    finally:
        late.abandon()


def test_a_prune_that_decided_long_ago_gives_up(scene: Scene) -> None:
    prune_that_decided_long_ago(scene)


def test_a_prune_that_never_gives_up_would_lose_what_was_pushed_since(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_Prune, "_too_late", lambda self: False)
    with pytest.raises(Lost):
        prune_that_decided_long_ago(scene)
