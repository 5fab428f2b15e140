"""A directory that is being filled and has no name yet: nothing in it is reached through a link.

Whoever may write to a volume can put a link in the place of a directory at any moment. Each file is
created below descriptors of the directories on its way, none of which is a link, so that nothing
lands elsewhere. And the directory that gets the name must be the one that was filled.
"""

from __future__ import annotations

import fcntl
import os
import stat
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Self

from holdfast import durable
from holdfast.errors import InvalidBundle
from holdfast.manifest import printable

ABANDONED = 60  # seconds; it takes a moment to lock a draft that was just made
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_NEW_FILE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


class Draft:
    """A fresh hidden directory. As a context manager it removes what did not get a name."""

    def __init__(self, path: Path) -> None:
        self.path = path
        path.mkdir()
        self._root = os.open(path, _DIRECTORY)
        with suppress(OSError):  # where there are locks, so that others see that it is in use
            fcntl.flock(self._root, fcntl.LOCK_EX | fcntl.LOCK_NB)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        os.close(self._root)
        durable.discard(self.path)

    def make_directories(self, paths: Iterable[str]) -> None:
        """Create these directories (with ``/``), and those above them."""
        for path in sorted(_with_parents(paths)):
            parent, _, name = path.rpartition("/")
            with self._directory(parent) as descriptor:
                os.mkdir(name, dir_fd=descriptor)

    def write(self, path: str, chunks: Iterable[bytes | memoryview]) -> None:
        """Write a new file and make its bytes durable."""
        parent, _, name = path.rpartition("/")
        with self._directory(parent) as directory:
            descriptor = os.open(name, _NEW_FILE, 0o666, dir_fd=directory)
        try:
            for chunk in chunks:
                durable.write_all(descriptor, memoryview(chunk))
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    def sync_directories(self, paths: Iterable[str]) -> None:
        """Make the entries of these directories and those above durable, children first."""
        for path in [*sorted(_with_parents(paths), reverse=True), ""]:
            with self._directory(path) as descriptor:
                try:
                    os.fsync(descriptor)
                except OSError as error:
                    if error.errno not in durable.NO_DIRECTORY_SYNC:
                        raise

    def rename(self, target: Path) -> None:
        """Give the directory its name, for good. Raises FileExistsError when that is taken, and
        InvalidBundle when it is another directory that got the name."""
        durable.rename_durably(self.path, target)
        found, mine = os.lstat(target), os.fstat(self._root)
        if not stat.S_ISDIR(found.st_mode) or not os.path.samestat(found, mine):
            raise InvalidBundle(target, ["was replaced by another one while it was pulled"])

    @contextmanager
    def _directory(self, path: str) -> Iterator[int]:
        descriptor = os.dup(self._root)
        try:
            for part in path.split("/") if path else ():
                try:
                    below = os.open(part, _DIRECTORY, dir_fd=descriptor)
                except OSError as error:
                    problem = f"{printable(path)}: was replaced while it was written"
                    raise InvalidBundle(self.path, [f"{problem}: {error.strerror}"]) from error
                os.close(descriptor)
                descriptor = below
            yield descriptor
        finally:
            os.close(descriptor)


def remove_abandoned(directory: Path, prefix: str) -> None:
    """Remove the drafts of killed processes: those of this prefix that nobody has locked for a
    minute. Does nothing where the file system has no locks."""
    for path in durable.entries(directory):
        if not path.name.startswith(prefix) or not durable.is_directory(path):
            continue
        with suppress(OSError):
            descriptor = os.open(path, _DIRECTORY)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if time.time() - os.fstat(descriptor).st_mtime > ABANDONED:
                    durable.discard(path)
            finally:
                os.close(descriptor)


def _with_parents(paths: Iterable[str]) -> set[str]:
    found: set[str] = set()
    for path in paths:
        while path and path not in found:
            found.add(path)
            path = path.rpartition("/")[0]
    return found
