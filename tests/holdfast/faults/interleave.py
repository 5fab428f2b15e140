"""Run several users of one store, one store operation at a time, in any order a seed says.

The store is a dictionary with a clock that the schedule moves, so stalls of hours take no time.
Every operation of an actor waits for its turn; between two of its turns the others may do anything.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from random import Random

from holdfast.errors import AlreadyExists, NotFound, PreconditionFailed
from holdfast.store.base import ObjectInfo


@dataclass
class World:
    """What is in the store, and what time it is there."""

    objects: dict[str, tuple[bytes, datetime]] = field(default_factory=dict)
    now: datetime = datetime(2026, 8, 21, tzinfo=UTC)
    changes: int = 0

    def copy(self) -> World:
        return World(dict(self.objects), self.now)

    def info(self, key: str) -> ObjectInfo:
        if key not in self.objects:
            raise NotFound(key)
        data, modified = self.objects[key]
        return ObjectInfo(key, len(data), modified, hashlib.md5(data).hexdigest())


class MemoryStore:
    """A `holdfast.store.base.Store` over a `World`; calls ``turn`` before each operation."""

    url = "memory://"
    parallel = 1

    def __init__(self, world: World, turn: Callable[[], None] = lambda: None) -> None:
        self.world, self.turn = world, turn

    def within(self, seconds: float | None) -> MemoryStore:
        return self

    def get(self, key: str) -> bytes:
        self.turn()
        self.world.info(key)
        return self.world.objects[key][0]

    def stream(self, key: str) -> Iterator[bytes]:
        yield self.get(key)

    def head(self, key: str) -> ObjectInfo:
        self.turn()
        return self.world.info(key)

    def list(self, prefix: str = "") -> Iterator[ObjectInfo]:
        self.turn()
        top = f"{prefix.rstrip('/')}/" if prefix else ""
        return iter([self.world.info(k) for k in sorted(self.world.objects) if k.startswith(top)])

    def put_small(
        self, key: str, data: bytes, *, if_absent: bool = False, if_match: str | None = None
    ) -> ObjectInfo:
        self.turn()
        there = self.world.objects.get(key, (None,))[0]
        if if_absent and there not in (None, data):
            raise AlreadyExists(key)
        if if_match is not None and (there is None or self.world.info(key).etag != if_match):
            raise PreconditionFailed(key)
        if not (if_absent and there == data):
            self._change(key, data)
        return self.world.info(key)

    def put_file(self, key: str, chunks: Iterator[bytes | memoryview], size: int) -> None:
        data = b"".join(chunks)
        self.turn()
        self._change(key, data)

    def delete(self, keys: Iterable[str]) -> None:
        for key in list(keys):
            self.turn()
            if self.world.objects.pop(key, None):
                self.world.changes += 1

    def now(self) -> datetime:
        self.turn()
        return self.world.now

    def sweep(self, before: datetime) -> int:
        return 0

    def _change(self, key: str, data: bytes) -> None:
        self.world.objects[key] = (data, self.world.now)
        self.world.changes += 1


class Abandoned(Exception):
    """The schedule ended before this actor."""


class Actor:
    """A thread that moves only when it is told to, from one store operation to the next."""

    def __init__(self, work: Callable[[MemoryStore], object], world: World) -> None:
        self.result: object = None
        self.error: Exception | None = None
        self.done = self._abandoned = False
        self.moved = world.now
        self._work = work
        self._world = world
        self._store = MemoryStore(world, self._turn)
        self._go = threading.Semaphore(0)
        self._stopped = threading.Semaphore(0)
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()
        self._stopped.acquire()

    def step(self) -> None:
        """Let it do one operation and run up to the next."""
        if self.done:
            return
        self.moved = self._world.now
        self._go.release()
        self._stopped.acquire()

    def abandon(self) -> None:
        """End its thread, wherever it is."""
        self._abandoned = True
        while not self.done:
            self.step()

    def _turn(self) -> None:
        self._stopped.release()
        self._go.acquire()
        if self._abandoned:
            raise Abandoned

    def _run(self) -> None:
        self._turn()
        try:
            self.result = self._work(self._store)
        except Exception as error:
            self.error = error
        self.done = True
        self._stopped.release()


def interleave(
    world: World,
    works: Iterable[Callable[[MemoryStore], object]],
    random: Random,
    pauses: list[timedelta],
    frozen: timedelta,
    check: Callable[[list[object]], None],
) -> list[Actor]:
    """Run the works to their ends in an order drawn from ``random``.

    Runs of turns have random lengths, with a pause from ``pauses`` at times between them. No actor
    is frozen for longer than ``frozen`` between two of its operations; all of them together may
    take any time. After each change ``check`` gets the results of the works that have ended.
    """
    actors = [Actor(work, world) for work in works]

    def turn(actor: Actor) -> None:
        before = world.changes
        actor.step()
        if world.changes != before or actor.done:
            check([a.result for a in actors if a.done and a.error is None])

    try:
        while alive := [actor for actor in actors if not actor.done]:
            if random.random() < 0.5:
                later = world.now + random.choice(pauses)
                for actor in alive:
                    if later - actor.moved > frozen:
                        turn(actor)
                world.now = later
            actor = random.choice(alive)
            for _ in range(random.choice((random.randrange(1, 30), 999))):
                turn(actor)
                if actor.done:
                    break
    finally:
        for actor in actors:
            actor.abandon()
    return actors
