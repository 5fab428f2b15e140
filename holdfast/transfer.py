"""One data file, between a volume and a store, hashed on the way: used by push, pull and verify."""

from __future__ import annotations

import hashlib
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from holdfast.bundle import Bundle
from holdfast.documents import BundleRef
from holdfast.durable import open_regular
from holdfast.errors import InvalidBundle, Mismatch, NotFound
from holdfast.manifest import FileEntry, printable
from holdfast.progress import Progress
from holdfast.store import Store

CHUNK = 1024 * 1024


class Cancelled(Exception):
    """Another file of the same copy failed: this one is not worth finishing."""


def each_file(
    work: Callable[[FileEntry, threading.Event], None], entries: Sequence[FileEntry], parallel: int
) -> None:
    """Run ``work`` over the files, several at once; the first error stops the others."""
    stop = threading.Event()
    errors: list[BaseException] = []

    def run(entry: FileEntry) -> None:
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
    bundle: Bundle, entry: FileEntry, progress: Progress, stop: threading.Event
) -> Iterator[bytes]:
    """The bytes of a bundle's file; raises InvalidBundle at the end unless they are the right ones.

    Raised inside the iterator, so that an upload which consumes it is never completed.
    """
    digest, size = hashlib.sha256(), 0
    try:
        with open_regular(bundle.path / entry.path) as file:
            while chunk := file.read(CHUNK):
                if stop.is_set():
                    raise Cancelled
                digest.update(chunk)
                size += len(chunk)
                progress.advance(len(chunk))
                yield chunk
    except OSError as error:
        problem = f"{printable(entry.path)}: cannot be read: {error.strerror}"
        raise InvalidBundle(bundle.path, [problem]) from error
    if problem := _problem(entry, size, digest.hexdigest()):
        raise InvalidBundle(bundle.path, [f"{printable(entry.path)}: {problem}"])


def read_remote(
    store: Store, ref: BundleRef, entry: FileEntry, progress: Progress, stop: threading.Event
) -> Iterator[bytes | memoryview]:
    """The bytes of a bundle's file in the store; raises Mismatch unless they are the right ones."""
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


def write_local(path: Path, chunks: Iterator[bytes | memoryview]) -> None:
    """Write a new file and make its bytes durable."""
    with path.open("xb", buffering=0) as file:
        for chunk in chunks:
            rest = memoryview(chunk)
            while rest:
                rest = rest[file.write(rest) :]
        os.fsync(file.fileno())


def _problem(entry: FileEntry, size: int, digest: str) -> str | None:
    if size > entry.size:
        return f"has more than {entry.size} bytes"
    if size != entry.size:
        return f"has {size} bytes instead of {entry.size}"
    if digest != entry.sha256:
        return "has other bytes than its SHA-256 says"
    return None
