"""What every kind of store can do.

Keys are ``/``-separated and relative to the store's URL. There are two classes of object. *Small*
ones (JSON, at most a few MiB) may be created only if absent, or replaced only if unchanged. *Data
files* are streamed, and overwritten only with the same bytes. Every error is a
`holdfast.errors.StoreError`.
"""

from __future__ import annotations

import errno
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from holdfast.errors import Mismatch, StoreError
from holdfast.manifest import MAX_MANIFEST_BYTES

#: what a file system says that has no locks
NO_LOCKS = (errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS)
_ODD = re.compile(r"[\x00-\x1f\x7f]|[\ud800-\udfff]")  # control characters; bytes, not UTF-8


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

    @property
    def listing_problem(self) -> str:
        """Why listings of this store may be incomplete, as seen so far; "" if they are complete.

        Nothing may be deleted on the word of an incomplete listing.
        """
        ...

    def within(self, seconds: float | None) -> Store:
        """The same store with another deadline, counted from now; None lifts it."""
        ...

    def get(self, key: str) -> bytes:
        """The bytes of a small object. Raises `NotFound`, or `Mismatch` for a large one."""
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

    def put_stream(self, key: str, chunks: Iterator[bytes | memoryview], hint: int = 0) -> int:
        """Write a data file whose size is known only at its end; returns its size in bytes.

        Args:
            hint: about how many bytes will come, where that is known. S3 takes so many parts only:
                more than twice the hint (256 GiB without one) is a `StoreError`.

        An exception from the iterator, also after its last piece, leaves no object.
        """
        ...

    def delete(self, keys: Iterable[str]) -> None:
        """Delete objects; a missing one is not an error.

        All are tried. Those that the store refuses to delete are named by one `NotDeleted`.
        """
        ...

    def now(self) -> datetime:
        """The time by the store's own clock. Needs permission to write."""
        ...

    def sweep(self, before: datetime) -> int:
        """Remove what interrupted uploads left before a time; returns how many."""
        ...


def is_key(text: str) -> bool:
    """Whether every kind of store can hold an object of this key."""
    return not any(part in ("", ".", "..") for part in text.split("/")) and not _ODD.search(text)


def check_document(key: str, size: int) -> None:
    """Refuse to hold an object in memory that is larger than any document (a manifest)."""
    if size > MAX_MANIFEST_BYTES:
        raise Mismatch(
            f"'{key}' has {size} bytes: no document has more than {MAX_MANIFEST_BYTES >> 20} MiB"
        )


def check_key(key: str) -> str:
    """Refuse a key that no store can hold, or that leads out of the store; returns the key."""
    if not is_key(key):
        raise StoreError(
            f"invalid store key {key!r}: expected a relative path without empty parts, '.', '..',"
            " control characters and bytes that are not UTF-8"
        )
    return key
