"""Two advisory locks. They save double work; nothing depends on them to be safe.

`run_lock` is a flock on a volume: of several pods that recover at once, one pulls, and the others
wait and find the bundle. `store_lock` is a small object: it lets one push or prune of a workload
work at a time. Whoever has waited long enough goes ahead without it, and push and prune stay
correct.
"""

from __future__ import annotations

import fcntl
import os
import re
import secrets
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import datetime, timedelta
from pathlib import Path

from holdfast.durable import make_directories
from holdfast.errors import (
    AlreadyExists,
    DeadlineExceeded,
    NotFound,
    PreconditionFailed,
    StoreError,
)
from holdfast.manifest import canonical
from holdfast.store.base import NO_LOCKS, Store

LOCK = ".lock"
HOLD = timedelta(minutes=10)  # an older lock was left behind by a killed process
_FREE = canonical({"holder": None})
_HELD = re.compile(rb'\{"holder":"[0-9a-f]{32}"\}')


@contextmanager
def run_lock(directory: Path, patience: float | None = None) -> Iterator[bool]:
    """Hold an exclusive lock on a directory; it ends with the process, however that ends.

    Waits up to ``patience`` seconds (None: for ever), then raises DeadlineExceeded. Yields False
    where the file system has no locks.
    """
    held = True
    make_directories(directory)
    descriptor = os.open(directory / LOCK, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o666)
    try:
        end = None if patience is None else time.monotonic() + patience
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | (fcntl.LOCK_NB if end else 0))
                break
            except OSError as error:
                if error.errno in NO_LOCKS:
                    held = False
                    break
                if not isinstance(error, BlockingIOError):
                    raise
                if end is not None and time.monotonic() > end:
                    raise DeadlineExceeded(
                        f"another process has been restoring '{directory}' for more than"
                        f" {patience:g} s: wait for it to end"
                    ) from None
                time.sleep(0.1)
        yield held
    finally:
        os.close(descriptor)


@contextmanager
def store_lock(store: Store, workload: str, patience: float = 10.0) -> Iterator[bool]:
    """Hold ``locks/<workload>.json``; yields whether it was got within ``patience`` seconds.

    Only what a push or prune has written there keeps others waiting. Anything else is replaced, and
    what cannot be replaced, such as a directory of that name, is not waited for.
    """
    key = f"locks/{workload}.json"
    mine = canonical({"holder": secrets.token_hex(16)})
    end = time.monotonic() + patience
    while not (held := _take(store, key, mine)) and held is not None and time.monotonic() < end:
        time.sleep(min(0.5, patience))
    try:
        yield bool(held)
    finally:
        if held:
            with suppress(StoreError, DeadlineExceeded):  # taken over, or it will expire
                store.put_small(key, _FREE, if_match=held)


def held_since(store: Store, workload: str) -> datetime | None:
    """When, by the store's clock, the holder of ``locks/<workload>.json`` took it; None if free."""
    key = f"locks/{workload}.json"
    try:
        return store.head(key).modified if _HELD.fullmatch(store.get(key)) else None
    except NotFound:
        return None


def _take(store: Store, key: str, mine: bytes) -> str | None:
    """The etag of our lock, "" while another holds it, or None if nobody can have it."""
    try:
        current = store.head(key)
        if current.size == len(mine) and _HELD.fullmatch(store.get(key)):
            age = store.now() - current.modified
            if -HOLD < age < HOLD:  # older, or from a clock that was wrong: left behind
                return ""
        return store.put_small(key, mine, if_match=current.etag).etag
    except NotFound:
        try:
            return store.put_small(key, mine, if_absent=True).etag
        except (AlreadyExists, NotFound):
            return "" if _is_object(store, key) else None
    except PreconditionFailed:
        return ""


def _is_object(store: Store, key: str) -> bool:
    try:
        store.head(key)
    except NotFound:
        return False
    return True
