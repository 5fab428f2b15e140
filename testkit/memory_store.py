"""A store in memory, with a clock that a test moves, so that stalls of hours take no time.

It keeps the promises of `holdfast.store.base.Store` as the directory and S3 do: the same tests hold
all three to them.
"""

from __future__ import annotations

import copy
import hashlib
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime

from holdfast.errors import (
    AlreadyExists,
    DeadlineExceeded,
    NotFound,
    PreconditionFailed,
    StoreError,
)
from holdfast.store.base import ObjectInfo, check_key


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
            raise NotFound(f"the store has no '{key}'")
        data, modified = self.objects[key]
        return ObjectInfo(key, len(data), modified, hashlib.md5(data).hexdigest())


class MemoryStore:
    """A `holdfast.store.base.Store` over a `World`; calls ``turn`` before each operation."""

    url = "memory://"
    parallel = 1
    listing_problem = ""

    def __init__(self, world: World, turn: Callable[[], None] = lambda: None) -> None:
        self.world, self.turn = world, turn
        self._expires: float | None = None

    def within(self, seconds: float | None) -> MemoryStore:
        other = copy.copy(self)
        other._expires = None if seconds is None else time.monotonic() + seconds
        return other

    def get(self, key: str) -> bytes:
        self._begin(key)
        self.world.info(key)
        return self.world.objects[key][0]

    def stream(self, key: str) -> Iterator[bytes]:
        yield self.get(key)

    def head(self, key: str) -> ObjectInfo:
        self._begin(key)
        return self.world.info(key)

    def list(self, prefix: str = "") -> Iterator[ObjectInfo]:
        folder = prefix.rstrip("/")
        self._begin(*[folder] if folder else [])
        keys = [key for key in self.world.objects if not folder or key.startswith(f"{folder}/")]
        return iter([self.world.info(key) for key in sorted(keys, key=str.encode)])

    def put_small(
        self, key: str, data: bytes, *, if_absent: bool = False, if_match: str | None = None
    ) -> ObjectInfo:
        self._begin(key)
        there = self.world.objects.get(key, (None,))[0]
        if if_absent and there not in (None, data):
            raise AlreadyExists(f"'{key}' already exists")
        if if_match is not None and (there is None or self.world.info(key).etag != if_match):
            raise PreconditionFailed(f"'{key}' was changed by another writer")
        if not (if_absent and there == data):
            self._change(key, data)
        return self.world.info(key)

    def put_file(self, key: str, chunks: Iterator[bytes | memoryview], size: int) -> None:
        check_key(key)
        data = b"".join(chunks)
        if len(data) != size:
            raise StoreError(f"'{key}' got {len(data)} bytes instead of {size}")
        self._begin(key)
        self._change(key, data)

    def put_stream(self, key: str, chunks: Iterator[bytes | memoryview], hint: int = 0) -> int:
        check_key(key)
        data = b"".join(chunks)
        self._begin(key)
        self._change(key, data)
        return len(data)

    def delete(self, keys: Iterable[str]) -> None:
        for key in [check_key(key) for key in keys]:
            self._begin(key)
            if self.world.objects.pop(key, None):
                self.world.changes += 1

    def now(self) -> datetime:
        self._begin()
        return self.world.now

    def sweep(self, before: datetime) -> int:
        self._begin()
        return 0  # a file arrives whole or not at all: nothing is ever left behind

    def _begin(self, *keys: str) -> None:
        for key in keys:
            check_key(key)
        if self._expires is not None and time.monotonic() > self._expires:
            raise DeadlineExceeded("the store gave no answer before the deadline: raise it")
        self.turn()

    def _change(self, key: str, data: bytes) -> None:
        self.world.objects[key] = (data, self.world.now)
        self.world.changes += 1
