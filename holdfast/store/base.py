"""What every kind of store can do.

Keys are ``/``-separated and relative to the store's URL. There are two classes of object. *Small*
ones (JSON, at most a few MiB) may be created only if absent, or replaced only if unchanged. *Data
files* are streamed, and overwritten only with the same bytes. Every error is a
`holdfast.errors.StoreError`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from holdfast.errors import UsageError


@dataclass(frozen=True)
class ObjectInfo:
    """What the store says of one object, without its bytes.

    ``size`` is in bytes, ``modified`` is the store's own clock, ``etag`` changes with every write.
    """

    key: str
    size: int
    modified: datetime
    etag: str


class Store(Protocol):
    """What a store must be able to do.

    Everything may raise `StoreUnreachable` (network, time-out, 5xx), `StoreDenied` (credentials,
    permissions, missing bucket or directory) and `DeadlineExceeded`.
    """

    @property
    def url(self) -> str:
        """The address as the user gave it; never holds credentials."""
        ...

    @property
    def parallel(self) -> int:
        """How many data files may be transferred at once within the memory setting."""
        ...

    def within(self, seconds: float | None) -> Store:
        """The same store with another deadline, counted from now; None lifts it."""
        ...

    def get(self, key: str) -> bytes:
        """The bytes of a small object. Raises `NotFound`."""
        ...

    def stream(self, key: str) -> Iterator[bytes | memoryview]:
        """The bytes of an object of any size, in pieces. Raises `NotFound`."""
        ...

    def head(self, key: str) -> ObjectInfo:
        """Size, time and tag of one object. Raises `NotFound`."""
        ...

    def list(self, prefix: str = "") -> Iterator[ObjectInfo]:
        """Every object below a directory-like prefix, sorted by the UTF-8 bytes of the key.

        ``step-1`` never lists ``step-10/…``: a prefix ends at a ``/``, written or not.
        """
        ...

    def put_small(
        self, key: str, data: bytes, *, if_absent: bool = False, if_match: str | None = None
    ) -> ObjectInfo:
        """Write a small object as a whole.

        Args:
            if_absent: create only; an object that holds the very same bytes counts as created by
                this call, so that a lost answer is no failure. Otherwise raises `AlreadyExists`.
            if_match: replace only the version with this etag. Otherwise raises
                `PreconditionFailed`.
        """
        ...

    def put_file(self, key: str, chunks: Iterator[bytes | memoryview], size: int) -> None:
        """Write a data file of ``size`` bytes while reading it.

        An exception from the iterator, also after its last piece, leaves no object. So does any
        other number of bytes, which is a `StoreError`.
        """
        ...

    def delete(self, keys: Iterable[str]) -> None:
        """Remove objects; a missing one is not an error."""
        ...

    def now(self) -> datetime:
        """The time by the store's own clock. Needs permission to write."""
        ...

    def sweep(self, before: datetime) -> int:
        """Remove what interrupted uploads left before a time; returns how many."""
        ...


def check_key(key: str) -> str:
    """Refuse a key that could name anything outside the store; returns the key."""
    if not key or any(part in ("", ".", "..") for part in key.split("/")) or "\0" in key:
        raise UsageError(
            f"invalid store key '{key}': expected a relative path without empty parts, '.' and '..'"
        )
    return key
