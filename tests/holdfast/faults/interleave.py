"""Run several users of one store, one store operation at a time, in an order drawn from a seed.

The store is in memory, with a clock that the schedule moves. Every operation of an actor waits for
its turn; between two of its turns the others may do anything.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from datetime import timedelta
from random import Random

from testkit.memory_store import MemoryStore, World


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
