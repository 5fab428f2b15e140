"""Copy one data file between a volume and a store, hashed on the way: for push, pull, verify."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from holdfast.bundle import Bundle, unreadable
from holdfast.durable import open_regular
from holdfast.errors import InvalidBundle, Mismatch, NotFound
from holdfast.manifest import FileEntry, printable
from holdfast.progress import Progress
from holdfast.store.base import Store
from holdfast.store.documents import BundleRef

CHUNK = 1024 * 1024

T = TypeVar("T")


class Blocks:
    """Buffers to read files into, reused when no view of them is left.

    A network client keeps a buffer until its bytes are sent. New memory for each chunk would cost
    a page fault per 4 KiB, a tenth of the processor time of a push.
    """

    def __init__(self) -> None:
        self._blocks: list[bytearray] = []
        self._lock = threading.Lock()

    def take(self) -> memoryview:
        """A block of CHUNK bytes. It is in use until the view, and every view of that, is gone.

        The bytearray itself knows: it cannot be resized while a view of it exists.
        """
        with self._lock:
            for block in self._blocks:
                try:
                    block.append(0)
                except BufferError:
                    continue
                block.pop()
                return memoryview(block)
            self._blocks.append(bytearray(CHUNK))
            return memoryview(self._blocks[-1])


class Cancelled(Exception):
    """Another file of the same copy failed, so this one need not be finished."""


def each_file(
    work: Callable[[T, threading.Event], None], entries: Sequence[T], parallel: int
) -> None:
    """Run ``work`` over entries of files, several at once; the first error stops the others."""
    stop = threading.Event()
    errors: list[BaseException] = []

    def run(entry: T) -> None:
        if stop.is_set():
            return
        try:
            work(entry, stop)
        except Cancelled:
            pass
        except BaseException as error:
            errors.append(error)
            stop.set()

    with ThreadPoolExecutor(max(1, min(parallel, len(entries)))) as pool:
        try:
            list(pool.map(run, entries))
        except BaseException:  # an interrupt of the main thread
            stop.set()
            raise
    if errors:
        raise errors[0]


def read_local(
    bundle: Bundle,
    entry: FileEntry,
    progress: Progress,
    stop: threading.Event,
    blocks: Blocks | None = None,
) -> Iterator[memoryview]:
    """The bytes of a bundle's file; raises InvalidBundle if they differ from the manifest.

    The error comes from the iterator, so that an upload which consumes it is never completed.
    """
    blocks = blocks or Blocks()
    digest, size = hashlib.sha256(), 0
    try:
        with open_regular(bundle.path / entry.path) as file:
            while read := file.readinto(block := blocks.take()):
                chunk = block[:read]
                if stop.is_set():
                    raise Cancelled
                digest.update(chunk)
                size += len(chunk)
                progress.advance(len(chunk))
                yield chunk
    except OSError as error:
        raise InvalidBundle(bundle.path, [unreadable(entry.path, error)]) from error
    if problem := _problem(entry, size, digest.hexdigest()):
        raise InvalidBundle(bundle.path, [f"{printable(entry.path)}: {problem}"])


def read_remote(
    store: Store, ref: BundleRef, entry: FileEntry, progress: Progress, stop: threading.Event
) -> Iterator[bytes | memoryview]:
    """The bytes of a bundle's file in the store; raises Mismatch if they differ."""
    digest, size = hashlib.sha256(), 0
    try:
        for chunk in store.stream(ref.key(entry)):
            if stop.is_set():
                raise Cancelled
            digest.update(chunk)
            size += len(chunk)
            if size > entry.size:
                break
            progress.advance(len(chunk))
            yield chunk
    except NotFound as error:
        raise Mismatch(
            f"bundle {ref.name}, {printable(entry.path)}: is missing in the store"
        ) from error
    if problem := _problem(entry, size, digest.hexdigest()):
        raise Mismatch(f"bundle {ref.name}, {printable(entry.path)} in the store: {problem}")


def _problem(entry: FileEntry, size: int, digest: str) -> str | None:
    if size > entry.size:
        return f"has more than {entry.size} bytes"
    if size != entry.size:
        return f"has {size} bytes instead of {entry.size}"
    if digest != entry.sha256:
        return "has other bytes than its SHA-256 says"
    return None
