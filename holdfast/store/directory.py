"""A directory as a store: the embedded default, on a local disk or a mounted volume.

Keys are paths. Every write goes to a temporary file below ``.tmp/``, is fsynced, becomes visible
by one link (create) or rename (replace), and the parent directory is fsynced, so that a power cut
leaves the whole object or none. Conditional replacement holds a flock on ``.lock``. Both names are
reserved at the store's root.
"""

from __future__ import annotations

import copy
import errno
import fcntl
import os
import secrets
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from functools import wraps
from io import FileIO
from pathlib import Path
from stat import S_ISREG
from typing import BinaryIO, Concatenate, ParamSpec, TypeVar

from holdfast.defaults import MEMORY
from holdfast.durable import (
    fsync_directory,
    make_directories,
    open_regular,
    require_utf8,
    write_all,
)
from holdfast.errors import (
    AlreadyExists,
    NoSpace,
    NotDeleted,
    NotFound,
    PreconditionFailed,
    StoreDenied,
    StoreError,
    StoreUnreachable,
)
from holdfast.store.base import NO_LOCKS, ObjectInfo, check_document, check_key, is_key
from holdfast.store.deadline import Deadline

TEMPORARY = ".tmp"
LOCK = ".lock"
#: errors of a file system that has no hard links
NO_LINKS = (errno.EPERM, errno.EMLINK, errno.EOPNOTSUPP, errno.ENOSYS)
LOCK_SECONDS = 60  # it is held for a few system calls only
CHUNK = 4 * 1024 * 1024


P = ParamSpec("P")
R = TypeVar("R")


def _in_time(method: Callable[Concatenate[DirectoryStore, P], R]) -> Callable[..., R]:
    """Let a method of a store end at the store's deadline, also when the storage hangs."""

    @wraps(method)
    def limited(store: DirectoryStore, *args: P.args, **options: P.kwargs) -> R:
        return store._deadline.run(lambda: method(store, *args, **options))

    return limited


class DirectoryStore:
    """The `holdfast.store.base.Store` over a directory of this machine or of a mounted volume."""

    parallel = 2
    listing_problem = ""

    def __init__(
        self,
        root: str | Path,
        *,
        url: str = "",
        memory: int = MEMORY,
        deadline: float | None = None,
    ) -> None:
        require_utf8()  # keys are paths
        self.root = Path(root)
        self.url = url or self.root.as_uri()
        self._chunk = max(64 * 1024, min(CHUNK, memory // 16))
        self._deadline = Deadline(self.url, deadline)

    def within(self, seconds: float | None) -> DirectoryStore:
        other = copy.copy(self)
        other._deadline = Deadline(self.url, seconds)
        return other

    @_in_time
    def get(self, key: str) -> bytes:
        with self._errors(key), self._open(key) as file:
            check_document(key, os.fstat(file.fileno()).st_size)
            return file.readall()

    def stream(self, key: str) -> Iterator[bytes]:
        run = self._deadline.run
        with self._errors(key), run(lambda: self._open(key)) as file:
            while chunk := run(lambda: file.read(self._chunk)):
                yield chunk

    @_in_time
    def head(self, key: str) -> ObjectInfo:
        with self._errors(key):
            return self._info(key, self._path(key))

    def list(self, prefix: str = "") -> Iterator[ObjectInfo]:
        objects = self._objects(prefix)
        if self._deadline.seconds is None:
            return objects
        return iter(self._deadline.run(lambda: [*objects]))

    def _objects(self, prefix: str) -> Iterator[ObjectInfo]:
        top = self._path(prefix.rstrip("/")) if prefix.strip("/") else self.root
        with self._errors(prefix):
            self._deadline.check()
            self._check_mounted()
            if top.is_dir():
                yield from self._walk(top, "" if top == self.root else f"{prefix.rstrip('/')}/")

    @_in_time
    def put_small(
        self, key: str, data: bytes, *, if_absent: bool = False, if_match: str | None = None
    ) -> ObjectInfo:
        path = self._path(key)
        with self._errors(key), self._temporary() as (temporary, file):
            write_all(file.fileno(), memoryview(data))
            os.fsync(file.fileno())
            if if_absent:
                try:
                    self._publish(temporary, path, self._create)
                except FileExistsError:
                    if not self._holds(key, data):
                        raise AlreadyExists(f"store {self.url}: '{key}' already exists") from None
            elif if_match is not None:
                with self._flock():
                    try:
                        current = self._info(key, path).etag
                    except FileNotFoundError:
                        current = ""
                    if current != if_match:
                        raise PreconditionFailed(
                            f"store {self.url}: '{key}' was changed by another writer"
                        )
                    self._publish(temporary, path, os.replace)
            else:
                self._publish(temporary, path, os.replace)
            return self._info(key, path)

    @_in_time
    def put_file(self, key: str, chunks: Iterator[bytes | memoryview], size: int) -> None:
        self._write(key, chunks, size)

    @_in_time
    def put_stream(self, key: str, chunks: Iterator[bytes | memoryview], hint: int = 0) -> int:
        return self._write(key, chunks, None)

    def _write(self, key: str, chunks: Iterator[bytes | memoryview], size: int | None) -> int:
        path, written = self._path(key), 0
        with self._temporary() as (temporary, file):
            for chunk in chunks:  # its errors are the caller's, so they are not translated
                self._deadline.check()
                with self._errors(key):
                    write_all(file.fileno(), memoryview(chunk))
                    written += len(chunk)
            if size not in (None, written):
                raise StoreError(f"store {self.url}: '{key}' got {written} bytes instead of {size}")
            with self._errors(key):
                os.fsync(file.fileno())
                self._publish(temporary, path, os.replace)
        return written

    @_in_time
    def delete(self, keys: Iterable[str]) -> None:
        left: dict[Path, str] = {}
        refused: list[str] = []
        reason = ""
        for key in keys:
            path = self._path(key)
            try:
                with suppress(FileNotFoundError, NotADirectoryError):
                    path.unlink()
                    left[path.parent] = key
            except OSError as error:
                refused.append(key)
                reason = error.strerror
        for directory, key in left.items():
            with self._errors(key), suppress(FileNotFoundError):
                fsync_directory(directory)
                with suppress(OSError):  # the first one that is not empty ends it
                    while directory != self.root:
                        directory.rmdir()
                        directory = directory.parent
        if refused:
            raise NotDeleted(refused, f"{reason}: give this user the right to it")

    @_in_time
    def now(self) -> datetime:
        with self._errors(TEMPORARY), self._temporary() as (temporary, _):
            return _time(temporary.stat().st_mtime_ns)

    @_in_time
    def sweep(self, before: datetime) -> int:
        self._deadline.check()
        swept = 0
        with self._errors(TEMPORARY), suppress(FileNotFoundError):
            for path in (self.root / TEMPORARY).iterdir():
                with suppress(OSError):  # gone, or in use (NFS keeps such a file): the next time
                    if _time(path.stat().st_mtime_ns) < before:
                        path.unlink()
                        swept += 1
        return swept

    def _path(self, key: str) -> Path:
        self._deadline.check()
        check_key(key)
        if key.split("/")[0] in (TEMPORARY, LOCK):
            raise StoreError(f"invalid store key '{key}': the store uses it for itself")
        return self.root / key

    def _open(self, key: str) -> FileIO:
        """A regular file: anything else (a pipe, a device, a link) counts as no object."""
        try:
            return open_regular(self._path(key))
        except OSError as error:
            if error.errno in (errno.ELOOP, errno.ENXIO, errno.ENODEV):
                raise FileNotFoundError(errno.ENOENT, "not a regular file") from error
            raise

    def _holds(self, key: str, data: bytes) -> bool:
        """Whether the object has exactly these bytes."""
        try:
            with self._open(key) as file:
                return file.read(len(data) + 1) == data
        except (FileNotFoundError, IsADirectoryError):
            return False

    def _walk(self, directory: Path, prefix: str) -> Iterator[ObjectInfo]:
        self._deadline.check()
        with os.scandir(directory) as scan:
            entries = [
                (entry.name + ("/" if entry.is_dir(follow_symlinks=False) else ""), entry.path)
                for entry in scan
                if is_key(entry.name) and (prefix or entry.name not in (TEMPORARY, LOCK))
            ]
        for name, path in sorted(entries, key=lambda entry: entry[0].encode()):
            with suppress(FileNotFoundError):  # deleted while listing: as if listed later
                if name.endswith("/"):
                    yield from self._walk(Path(path), prefix + name)
                else:
                    yield self._info(prefix + name, Path(path))

    def _info(self, key: str, path: Path) -> ObjectInfo:
        stat = path.lstat()
        if not S_ISREG(stat.st_mode):
            raise FileNotFoundError(errno.ENOENT, "not a regular file", str(path))
        etag = f"{stat.st_ino:x}-{stat.st_mtime_ns:x}-{stat.st_size:x}"
        return ObjectInfo(key, stat.st_size, _time(stat.st_mtime_ns), etag)

    @contextmanager
    def _temporary(self) -> Iterator[tuple[Path, BinaryIO]]:
        self._deadline.check()
        path = self.root / TEMPORARY / secrets.token_hex(16)
        with self._errors(TEMPORARY):
            self._check_mounted()
            make_directories(path.parent)
            file = path.open("xb", buffering=0)
        try:
            with file:
                yield path, file
        finally:
            path.unlink(missing_ok=True)

    def _publish(self, temporary: Path, path: Path, how: Callable[[Path, Path], None]) -> None:
        for last_try in (False, True):
            try:
                make_directories(path.parent)
                how(temporary, path)
                break
            except FileNotFoundError:  # a delete removed the empty directory in between
                if last_try:
                    raise
        fsync_directory(path.parent)

    def _create(self, temporary: Path, path: Path) -> None:
        """Give a file its name unless it is taken."""
        try:
            os.link(temporary, path)
        except OSError as error:
            if error.errno not in NO_LINKS:
                raise
            with self._flock():  # all writers of such a file system come here
                if os.path.lexists(path):
                    raise FileExistsError(errno.EEXIST, "the name is taken", str(path)) from None
                temporary.replace(path)

    @contextmanager
    def _flock(self) -> Iterator[None]:
        """Keep other writers out, where the file system has locks; for a minute at most."""
        descriptor = os.open(
            self.root / LOCK, os.O_CREAT | os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC, 0o666
        )
        try:
            end = time.monotonic() + LOCK_SECONDS
            while True:
                try:
                    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    self._deadline.check()
                    if time.monotonic() > end:
                        raise StoreUnreachable(
                            f"store {self.url}: another process holds '{LOCK}' for more than"
                            f" {LOCK_SECONDS} s: see whether it hangs"
                        ) from None
                    time.sleep(0.01)
                except OSError as error:
                    if error.errno not in NO_LOCKS:
                        raise
                    break
            yield
        finally:
            os.close(descriptor)

    def _check_mounted(self) -> None:
        """A store's last two directories (its prefix) may be missing; what holds them may not.

        An unmounted volume would otherwise look like an empty store.
        """
        if not self.root.is_dir() and not self.root.parent.parent.is_dir():
            raise FileNotFoundError(errno.ENOENT, "no such directory", str(self.root.parent.parent))

    @contextmanager
    def _errors(self, key: str) -> Iterator[None]:
        try:
            yield
        except FileNotFoundError as error:
            if not self.root.parent.parent.is_dir():
                raise StoreDenied(
                    f"store {self.url}: directory '{self.root.parent.parent}' does not exist:"
                    " mount the store's volume there, or correct the URL"
                ) from error
            raise NotFound(f"store {self.url} has no '{key}'") from error
        except OSError as error:
            reason = f"store {self.url}, '{key}': {error.strerror}"
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise NoSpace(f"{reason}: prune old snapshots or enlarge the store") from error
            if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
                raise StoreDenied(
                    f"{reason}: give this user the right to it, or mount it writable"
                ) from error
            if error.errno in (errno.ENOTDIR, errno.EISDIR):
                raise NotFound(f"store {self.url} has no '{key}'") from error
            raise StoreUnreachable(f"{reason}: check the disk or the mount") from error


def _time(nanoseconds: int) -> datetime:
    return datetime.fromtimestamp(nanoseconds / 1e9, UTC)
