"""S3, and what speaks its protocol, through obstore.

Small objects and data files use clients of their own: a small request is over in seconds or has
failed, a data request may take as long as its bytes need. `holdfast.store.s3_client` makes them.

Not visible here: multipart uploads that were cut off. They cost money until the bucket's lifecycle
rule aborts them (``holdfast doctor`` looks for the rule).
"""

from __future__ import annotations

import asyncio
import copy
import itertools
import logging
import os
import threading
from collections.abc import Callable, Coroutine, Iterable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import cache
from typing import TYPE_CHECKING, Any, TypeVar

import obstore
from obstore.exceptions import BaseError

from holdfast.defaults import MEMORY
from holdfast.errors import (
    AlreadyExists,
    DeadlineExceeded,
    NotDeleted,
    NotFound,
    StoreDenied,
    StoreError,
    StoreUnreachable,
)
from holdfast.printable import without_secrets
from holdfast.store.base import ObjectInfo, check_document, check_key
from holdfast.store.deadline import Deadline
from holdfast.store.listing import list_completely
from holdfast.store.s3_client import FORBIDDEN, connect, is_panic, translate_error
from holdfast.store.s3_parts import (
    MIB,
    PART,
    PARTS,
    UNKNOWN,
    Budget,
    Watched,
    first_bytes,
    part_size,
)
from holdfast.store.s3_settings import endpoint

if TYPE_CHECKING:
    from obstore import BytesStream
    from obstore.store import S3Store

HOPELESS = 20  # deletes that were refused in a row
AT_ONCE = 1000  # keys that S3 deletes by one request
SMALL_SECONDS = 15.0
STALL_SECONDS = 60.0
CLOCK = "CLOCK"

T = TypeVar("T")
_log = logging.getLogger(__name__)


class S3:
    """The `holdfast.store.base.Store` over a bucket and a prefix in it."""

    parallel = 4

    def __init__(
        self, bucket: str, prefix: str, *, memory: int = MEMORY, deadline: float | None = None
    ) -> None:
        self.bucket, self.prefix = bucket, prefix
        self.url = f"s3://{bucket}/{prefix}".rstrip("/")
        self._budget = Budget(max(memory * 3 // 4, 2 * PART))
        self._share = self._budget.total // self.parallel
        self._chunk = max(64 * 1024, min(2 * MIB, self._share // 4))
        self._asynchronous = not endpoint().startswith("http://")
        self._proven = threading.Event()
        self._clients: dict[tuple[float, ...], S3Store] = {}
        self._problems: list[str] = []
        self._until(deadline)

    def within(self, seconds: float | None) -> S3:
        other = copy.copy(self)
        other._until(seconds)
        return other

    def _until(self, seconds: float | None) -> None:
        self._deadline = Deadline(self.url, seconds)
        patience = min(SMALL_SECONDS, max(1.0, (seconds or 3600) / 3))
        self._small = self._client(patience, 0, 4, 2 * patience)
        # A download has no time limit as a whole, but none of its pieces may stall.
        self._download = self._client(30 * 86400.0, STALL_SECONDS / 2, 8, 180)

    def _client(self, seconds: float, stall: float, retries: int, retry_seconds: float) -> S3Store:
        limits = (seconds, stall, retries, retry_seconds)
        if limits not in self._clients:
            self._clients[limits] = connect(
                self.bucket, self.prefix, seconds, stall, retries, retry_seconds
            )
        return self._clients[limits]

    def get(self, key: str) -> bytes:
        check_key(key)

        def read() -> bytes:
            answer = obstore.get(self._small, key)
            check_document(key, answer.meta["size"])
            return bytes(answer.bytes())

        return self._call(key, read, reading=True)

    def stream(self, key: str) -> Iterator[bytes]:
        check_key(key)
        return self._stream_ahead(key) if self._asynchronous else self._stream(key)

    def _stream(self, key: str) -> Iterator[bytes]:
        pieces = self._call(
            key, lambda: iter(obstore.get(self._download, key).stream(self._chunk)), reading=True
        )
        while (piece := self._call(key, lambda: next(pieces, None))) is not None:
            yield piece

    def _stream_ahead(self, key: str) -> Iterator[bytes]:
        """The same, but obstore's threads fetch the next piece while the caller uses this one.

        Over TLS a blocking call wakes its thread for each record (16 KiB) and takes twice the
        processor time. Over plain http the blocking call takes a sixth less.
        """
        pieces = self._wait(key, _submit(_open(self._download, key, self._chunk)))
        ahead = _submit(_next(pieces))
        try:
            while (piece := self._wait(key, ahead)) is not None:
                ahead = _submit(_next(pieces))
                yield piece
        finally:
            ahead.cancel()

    def head(self, key: str) -> ObjectInfo:
        check_key(key)
        return self._call(key, lambda: _info(obstore.head(self._small, key)), reading=True)

    def list(self, prefix: str = "") -> Iterator[ObjectInfo]:
        top = check_key(prefix.rstrip("/")) if prefix.strip("/") else None

        def objects_after(key: str | None) -> Iterator[ObjectInfo]:
            last = key or ""
            try:
                for info in self._pages(top, key):
                    last = info.key
                    yield info
            except BaseError as error:
                if "object with invalid path" not in str(error) or not top or top.count("/") > 1:
                    raise
                # A foreign key such as `snapshots/w//x`: no name of ours begins before a digit.
                yield from self._pages(top, max(f"{top}/0", last))

        found, problem = self._call(prefix, lambda: list_completely(objects_after), listing=True)
        if problem and not self._problems:
            self._problems.append(problem)
            _log.warning("warning: store %s: %s: see `holdfast doctor`", self.url, problem)
        return iter(found)

    def _pages(self, top: str | None, after: str | None) -> Iterator[ObjectInfo]:
        """What the server lists below a prefix and after a key."""
        below = f"{top}/" if top else ""
        for page in obstore.list(self._small, top, offset=after):
            self._deadline.check()
            # The folder marker of the prefix itself comes without its slash, or has no key.
            yield from (_info(o) for o in page if o["path"].startswith(below) and o["path"])

    @property
    def listing_problem(self) -> str:
        return next(iter(self._problems), "")

    def put_small(
        self, key: str, data: bytes, *, if_absent: bool = False, if_match: str | None = None
    ) -> ObjectInfo:
        check_key(key)
        if if_absent:
            self._create(key, data)
        elif if_match is not None:
            mode = {"e_tag": if_match}
            self._call(key, lambda: obstore.put(self._small, key, data, mode=mode))
        else:
            self._call(key, lambda: obstore.put(self._small, key, data, use_multipart=False))
        return self.head(key)

    def _create(self, key: str, data: bytes) -> None:
        """Create if absent, and read back where the answer does not settle what happened.

        "Already exists" may be the answer to a retry of our own write. On S3 it is also the answer
        to a conflict after which nothing exists. After a lost connection either may be true.
        """
        for last_try in (False, True):
            try:
                self._call(key, lambda: obstore.put(self._small, key, data, mode="create"))
                return
            except (AlreadyExists, StoreUnreachable) as error:
                try:
                    if self.get(key) == data:
                        return
                except NotFound:
                    if last_try:
                        raise error from None
                    continue
                except StoreUnreachable:
                    raise error from None
                raise AlreadyExists(f"store {self.url}: '{key}' already exists") from None

    def put_file(self, key: str, chunks: Iterator[bytes | memoryview], size: int) -> None:
        check_key(key)
        part = part_size(size)
        chunks = self._counted(key, chunks, size)
        if size <= PART:
            with self._budget.hold(size):
                data = b"".join(chunks)
                self._put(key, data)
            return
        self._put_parts(key, chunks, part, -(-size // part))

    def put_stream(self, key: str, chunks: Iterator[bytes | memoryview], hint: int = 0) -> int:
        check_key(key)
        part = part_size(2 * hint or UNKNOWN)
        with self._budget.hold(PART):
            head, chunks = first_bytes(chunks, PART)
            if len(head) < PART:  # it ended there
                self._put(key, head)
                return len(head)
        size = 0

        def counted() -> Iterator[bytes | memoryview]:
            nonlocal size
            for chunk in itertools.chain([head], chunks):
                size += len(chunk)
                if size > part * PARTS:
                    raise StoreError(
                        f"store {self.url}: '{key}' has more than {part * PARTS} bytes, twice what"
                        " was announced: S3 takes no more parts; announce its size"
                    )
                yield chunk

        self._put_parts(key, counted(), part, PARTS)
        return size

    def _put(self, key: str, data: bytes) -> None:
        client = self._upload(PART)
        self._call(key, lambda: obstore.put(client, key, data, use_multipart=False))

    def _put_parts(
        self, key: str, chunks: Iterator[bytes | memoryview], part: int, parts: int
    ) -> None:
        """Send a file in parts, as many at once as the memory allows."""
        at_once = max(1, min(8, self._share // part - 1, parts))
        source = Watched(chunks, self._deadline.check)
        with self._budget.hold((at_once + 1) * part):
            try:
                self._call(
                    key,
                    lambda: obstore.put(
                        self._upload(part), key, source, chunk_size=part, max_concurrency=at_once
                    ),
                )
            except BaseException:
                source.stop()
                raise

    def _counted(
        self, key: str, chunks: Iterator[bytes | memoryview], size: int
    ) -> Iterator[bytes | memoryview]:
        """The same pieces; an error at the end unless they were ``size`` bytes together."""
        got = 0
        for chunk in chunks:
            got += len(chunk)
            yield chunk
        if got != size:
            raise StoreError(f"store {self.url}: '{key}' got {got} bytes instead of {size}")

    def _upload(self, part: int) -> S3Store:
        return self._client(STALL_SECONDS + part / MIB, 0, 8, 180)

    def delete(self, keys: Iterable[str]) -> None:
        doomed = [check_key(key) for key in keys]
        refused: list[str] = []
        reason = ""
        for batch in (doomed[at : at + AT_ONCE] for at in range(0, len(doomed), AT_ONCE)):
            try:
                self._call(batch[0], lambda batch=batch: obstore.delete(self._small, batch))
            except StoreDenied as error:
                reason = str(error)
                refused += self._refused(batch)
        if refused:
            raise NotDeleted(refused, reason)

    def _refused(self, doomed: Sequence[str]) -> Sequence[str]:
        """Which of these keys cannot be deleted, after a request for all of them failed.

        Some may not have been tried: one after the other now, until it is clear that none can be.
        """
        folders = [f"/{key.rpartition('/')[0]}" for key in doomed]
        there = {info.key for info in self.list(os.path.commonpath(folders).strip("/"))}
        left = [key for key in doomed if key in there]
        refused = []
        for tried, key in enumerate(left):
            if tried == HOPELESS == len(refused):
                return left
            try:
                self._call(key, lambda key=key: obstore.delete(self._small, [key]))
            except StoreDenied:
                refused.append(key)
        return refused

    def now(self) -> datetime:
        return self.put_small(CLOCK, b"").modified

    def sweep(self, before: datetime) -> int:
        self._deadline.check()
        return 0  # S3 hides unfinished uploads: the bucket's lifecycle rule removes them

    def _call(
        self,
        key: str,
        request: Callable[[], T],
        *,
        listing: bool = False,
        reading: bool = False,
    ) -> T:
        """Run a blocking request within the deadline, with its errors translated."""
        with self._errors(key, listing, reading):
            result = self._deadline.run(request)
        self._proven.set()
        return result

    def _wait(self, key: str, future: Future[T]) -> T:
        """What `_submit` began, within the deadline, with its errors translated."""
        with self._errors(key, listing=False, reading=True):
            self._deadline.check()
            try:
                result = self._deadline.wait(future)
            except DeadlineExceeded:
                future.cancel()
                raise
        self._proven.set()
        return result

    @contextmanager
    def _errors(self, key: str, listing: bool, reading: bool) -> Iterator[None]:
        try:
            yield
        except FileNotFoundError as error:
            if error.errno is not None:  # of the file system, so it is the caller's own
                raise
            if not listing and not self._proven.is_set():
                self._call("", lambda: next(iter(obstore.list(self._small)), None), listing=True)
            raise NotFound(f"store {self.url} has no '{key}'") from error
        except BaseError as error:
            translated = translate_error(error, self.url, self.bucket, self.prefix, key)
            if reading and isinstance(error, FORBIDDEN) and self._is_absent(key):
                translated = NotFound(f"store {self.url} has no '{key}'")
            raise translated from None
        except BaseException as error:
            if not is_panic(error):
                raise
            reason = without_secrets(str(error))[:200]
            raise StoreError(
                f"store {self.url}, '{key}': the S3 client failed ({reason}): check the AWS_*"
                " variables and the credentials"
            ) from None

    def _is_absent(self, key: str) -> bool:
        """Whether the listing lacks a key that could not be read.

        To an identity that may not list the whole bucket, S3 answers 403 for a missing key, not
        404. Keys are listed in order: the first one at or after this key decides.
        """
        folder, before = key.rpartition("/")[0] or None, key[:-1] or None

        def lookup() -> bool:
            pages = obstore.list(self._small, folder, offset=before, chunk_size=10)
            return next(
                (o["path"] != key for page in pages for o in page if o["path"] >= key), True
            )

        try:
            return self._call(key, lookup, listing=True)
        except StoreError:
            return False


@cache
def _loop() -> asyncio.AbstractEventLoop:
    """The event loop that all downloads of this process share; it only passes pieces on."""
    loop = asyncio.new_event_loop()
    threading.Thread(target=loop.run_forever, name="downloads", daemon=True).start()
    return loop


_starting = threading.Lock()


def _submit(work: Coroutine[Any, Any, T]) -> Future[T]:
    """Run a coroutine on the downloads' event loop; any thread may wait for its result.

    A thread of obstore delivers the result. It may still need the interpreter after the verb ended:
    see `holdfast.cli.app.App`.
    """
    with _starting:
        loop = _loop()
    return asyncio.run_coroutine_threadsafe(work, loop)


async def _open(store: S3Store, key: str, size: int) -> BytesStream:
    return (await obstore.get_async(store, key)).stream(size)


async def _next(pieces: BytesStream) -> bytes | None:
    return await anext(pieces, None)


def _info(meta: obstore.ObjectMeta) -> ObjectInfo:
    return ObjectInfo(
        meta["path"], meta["size"], meta["last_modified"].astimezone(UTC), meta["e_tag"] or ""
    )
