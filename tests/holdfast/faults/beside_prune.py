"""What the searches beside prune share: their times, their volumes, what counts as lost."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from random import Random
from typing import Protocol

import pytest

from holdfast.bundle import Bundle
from holdfast.copies import prune as prune_module
from holdfast.retention import Policy
from holdfast.store import records, references
from holdfast.store.documents import Snapshot
from holdfast.volume import Volume
from testkit.memory_store import MemoryStore, World
from testkit.stores import GRACE
from tests.holdfast.faults.interleave import interleave

ONE = Policy(keep_last=1, hourly=0, daily=0, weekly=0, monthly=0)
#: How much time passes between two of the works at the most; none sleeps for longer than FROZEN.
PAUSES = [GRACE * factor for factor in (0.1, 0.3, 0.45, 0.7, 0.95)]
FROZEN = GRACE

Work = Callable[[MemoryStore], object]


class Lost(AssertionError):
    """A snapshot names something that the store does not have, or none is left."""


class Scene(Protocol):
    """Works on a store, and what must be true after each of their operations."""

    world: World

    def check(self, world: World, results: list[object]) -> None:
        """Raise Lost if what the works reported is not whole."""


def volumes(
    parent: Path, write_bundle: Callable[..., Bundle], monkeypatch: pytest.MonkeyPatch, *steps: int
) -> list[Volume]:
    """A volume with one bundle for each step; and one request at a time, for an order that a seed
    gives."""
    monkeypatch.setattr(records, "READERS", 1)
    monkeypatch.setattr(references, "READERS", 1)
    monkeypatch.setattr(prune_module, "WRITERS", 1)
    made = []
    for step in steps:
        volume = Volume(parent / str(step), "run-a")
        write_bundle(volume.generation_path(1), step, {"weights": str(step).encode()})
        made.append(volume)
    return made


def require_whole(world: World, reported: Collection[str]) -> None:
    """Raise Lost unless the snapshots of these ids name only what is there."""
    for key in [key for key in world.objects if key.startswith("snapshots/")]:
        snapshot = Snapshot.parse(world.objects[key][0], key)
        for ref in snapshot.bundles if snapshot.id in reported else ():
            if not {ref.manifest, f"{ref.data}/weights"} <= world.objects.keys():
                raise Lost(f"{snapshot.id} names {ref.path}, with files at {ref.files_at}")


def at_random(
    scene: Scene,
    random: Random,
    first: Callable[[], Work],
    works: list[Work],
    more: Sequence[list[Work]],
    *,
    may_fail: Callable[[Exception], bool] = lambda error: False,
) -> World:
    """Up to two works that `first` draws, so that there may be tombstones of any age; then `works`
    and one list of `more`, cut and delayed anywhere. The world at the end."""
    world = scene.world.copy()
    for _ in range(random.randrange(3)):
        first()(MemoryStore(world))
        world.now += random.choice(PAUSES)
    works = [*works, *random.choice(more)]
    actors = interleave(
        world, works, random, PAUSES, FROZEN, lambda results: scene.check(world, results)
    )
    for actor in actors:
        if actor.error is not None and not may_fail(actor.error):
            raise actor.error
    return world
