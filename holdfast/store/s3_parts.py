"""How a file goes to S3 in parts: how large they are, and how much memory transfers may hold."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

MIB = 1024 * 1024
PART = 8 * MIB
PARTS = 9_000  # S3 allows 10,000
UNKNOWN = 256 * 1024 * MIB  # bytes that a file of unknown size may have


def first_bytes(
    chunks: Iterator[bytes | memoryview], size: int
) -> tuple[bytes, Iterator[bytes | memoryview]]:
    """The first ``size`` bytes or a little more, or all where there are fewer; and the rest."""
    held: list[bytes] = []
    got = 0
    for chunk in chunks:
        held.append(bytes(chunk))  # a view's buffer may be used again
        got += len(chunk)
        if got >= size:
            break
    return b"".join(held), chunks


def part_size(size: int) -> int:
    """Bytes per part: at least 8 MiB, whole MiB, and never more than 9,000 parts."""
    return max(PART, -(-size // (PARTS * MIB)) * MIB)


class Budget:
    """Bytes that transfers may hold together: one that needs more than are free waits for them.

    One that needs more than the total runs alone.
    """

    def __init__(self, total: int) -> None:
        self.total = total
        self._free = total
        self._changed = threading.Condition()

    @contextmanager
    def hold(self, amount: int) -> Iterator[None]:
        amount = min(amount, self.total)
        with self._changed:
            self._changed.wait_for(lambda: self._free >= amount)
            self._free -= amount
        try:
            yield
        finally:
            with self._changed:
                self._free += amount
                self._changed.notify_all()


class Watched:
    """An iterator that raises once it was stopped, so that an abandoned upload never completes."""

    def __init__(self, chunks: Iterator[bytes | memoryview], check: Callable[[], None]) -> None:
        self._chunks, self._check = chunks, check
        self._stopped = False

    def __iter__(self) -> Watched:
        return self

    def __next__(self) -> bytes | memoryview:
        if self._stopped:
            raise InterruptedError("the upload was abandoned")
        self._check()
        return next(self._chunks)

    def stop(self) -> None:
        self._stopped = True
