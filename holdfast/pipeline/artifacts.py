"""Where the tracking server keeps its artifacts: a directory, or a prefix of a bucket.

Files are listed with a *tag* that changes whenever a file does, so that a backup copies only what
is new. Nothing but restores writes here, and those write each file whole or not at all.
"""

from __future__ import annotations

import os
import stat
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol
from urllib.parse import unquote, urlsplit

from holdfast import durable
from holdfast.errors import HoldfastError, NotFound, UsageError
from holdfast.pipeline.relay import relay
from holdfast.store import open_store
from holdfast.store.base import Store, is_key

#: what restores leave in the root of the artifacts begins like this, and is no artifact
OURS = ".holdfast-"
_BEFORE = f"{OURS}before-"
_DRAFT = f"{OURS}tmp-"
_CHUNK = 1024 * 1024
#: a file that changed so recently may change again without another time stamp
_RACY_NS = 2_000_000_000


class Vanished(Exception):
    """The file was removed since it was listed."""


@dataclass(frozen=True, slots=True)
class Artifact:
    """One file. ``tag`` differs for other bytes, once the file is ``settled``: one that has just
    changed may change again within the same time stamp."""

    path: str
    size: int
    tag: str
    settled: bool = True

    def same(self, other: Artifact) -> bool:
        """Whether nobody has written to it, as far as tag and size tell."""
        return (self.size, self.tag) == (other.size, other.tag)


@dataclass
class Found:
    """The files by path, and what cannot be copied: its path, and why."""

    files: dict[str, Artifact] = field(default_factory=dict)
    skipped: dict[str, str] = field(default_factory=dict)


class Artifacts(Protocol):
    """What can be done with either kind. Paths are relative, with ``/``."""

    @property
    def url(self) -> str: ...

    @property
    def parallel(self) -> int:
        """How many files may be read or written at once."""
        ...

    def list(self) -> Found:
        """Every file, without its bytes."""
        ...

    def find(self, path: str) -> Artifact | None:
        """One file as it is now; None if it is not there."""
        ...

    def read(self, path: str) -> Iterator[bytes | memoryview]:
        """The bytes of a file. Raises Vanished."""
        ...

    def write(self, path: str, chunks: Iterator[bytes | memoryview], size: int) -> None:
        """Create or replace a file as a whole; an error from the iterator changes nothing."""
        ...

    def set_aside(self, path: str, name: str) -> None:
        """Keep a file out of the way, below ``.holdfast-before-<name>/``, before it is replaced."""
        ...


def open_artifacts(place: str, *, memory: int, deadline: float | None = None) -> Artifacts:
    """The artifacts at a directory's path or at ``s3://bucket/prefix``."""
    if place.startswith("s3://"):
        return BucketArtifacts(open_store(place, memory=memory, deadline=deadline))
    path = Path(unquote(urlsplit(place).path)) if place.startswith("file://") else Path(place)
    if "://" in place and not place.startswith("file://"):
        raise UsageError(f"invalid artifacts '{place}': expected a directory or s3://bucket/prefix")
    if not path.is_absolute():
        raise UsageError(f"invalid artifacts '{place}': expected an absolute path")
    if not path.is_dir():
        raise HoldfastError(f"artifacts '{path}' is not a directory: is the volume mounted there?")
    return DirectoryArtifacts(path)


class DirectoryArtifacts:
    """Artifacts on a volume. Links and special files are skipped, and named."""

    parallel = 4

    def __init__(self, root: Path) -> None:
        self.root = root
        self.url = str(root)

    def list(self) -> Found:
        found = Found()
        racy = time.time_ns() - _RACY_NS
        waiting = [""]
        while waiting:
            below = waiting.pop()
            try:
                entries = os.scandir(self.root / below)
            except FileNotFoundError:  # deleted since its parent was read
                if not below:
                    raise
                continue
            with entries:
                for entry in entries:
                    path = f"{below}{entry.name}"
                    if not below and entry.name.startswith(OURS):
                        continue
                    if entry.is_dir(follow_symlinks=False):
                        waiting.append(f"{path}/")
                    elif problem := _unusable(path, entry):
                        found.skipped[os.fsencode(path).decode(errors="replace")] = problem
                    else:
                        with suppress(FileNotFoundError):
                            held = entry.stat(follow_symlinks=False)
                            found.files[path] = _artifact(path, held, racy)
        return found

    def find(self, path: str) -> Artifact | None:
        try:
            held = os.lstat(self.root / path)
        except (FileNotFoundError, NotADirectoryError):
            return None
        if not stat.S_ISREG(held.st_mode):
            return None
        return _artifact(path, held, time.time_ns() - _RACY_NS)

    def read(self, path: str) -> Iterator[bytes]:
        try:
            file = durable.open_regular(self.root / path)
        except (FileNotFoundError, NotADirectoryError) as error:
            raise Vanished(path) from error
        with file:
            while chunk := file.read(_CHUNK):
                yield chunk

    def write(self, path: str, chunks: Iterator[bytes | memoryview], size: int) -> None:
        target = self.root / path
        self._directory(target.parent)
        draft = self.root / f"{_DRAFT}{os.getpid()}-{id(chunks):x}"
        descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
        try:
            try:
                for chunk in chunks:
                    durable.write_all(descriptor, memoryview(chunk))
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
            draft.replace(target)
        except BaseException:
            draft.unlink(missing_ok=True)
            raise
        durable.fsync_directory(target.parent)

    def set_aside(self, path: str, name: str) -> None:
        kept = self.root / f"{_BEFORE}{name}" / path
        self._directory(kept.parent)
        (self.root / path).replace(kept)
        durable.fsync_directory(kept.parent)

    def sweep(self) -> None:
        """Remove what a restore that was killed left half written."""
        for path in self.root.glob(f"{_DRAFT}*"):
            path.unlink(missing_ok=True)

    def _directory(self, path: Path) -> None:
        """Create a directory and those above it, none of which may be a link: it could lead out."""
        parts = path.relative_to(self.root).parts
        at = self.root
        for part in parts:
            at = at / part
            with suppress(FileExistsError):
                at.mkdir()
                durable.fsync_directory(at.parent)
            if not stat.S_ISDIR(os.lstat(at).st_mode):
                raise HoldfastError(
                    f"artifacts '{self.root}': '{at}' is not a directory, but the snapshot has"
                    " files in it: move it away"
                )


class BucketArtifacts:
    """Artifacts below a prefix of a bucket; endpoint and login come from the AWS_* variables."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self.url = store.url
        self.parallel = store.parallel

    def list(self) -> Found:
        found = Found()
        for info in self._store.list():
            if info.key.startswith(OURS) or info.key.endswith("/"):
                continue
            if not is_key(info.key):
                found.skipped[info.key] = "its name has an empty part, '.', '..' or a control sign"
                continue
            found.files[info.key] = Artifact(info.key, info.size, info.etag)
        return found

    def find(self, path: str) -> Artifact | None:
        try:
            info = self._store.head(path)
        except NotFound:
            return None
        return Artifact(path, info.size, info.etag)

    def read(self, path: str) -> Iterator[bytes | memoryview]:
        try:
            yield from relay(iter(self._store.stream(path)))
        except NotFound as error:
            raise Vanished(path) from error

    def write(self, path: str, chunks: Iterator[bytes | memoryview], size: int) -> None:
        self._store.put_file(path, relay(chunks), size)

    def set_aside(self, path: str, name: str) -> None:
        found = self._store.head(path)
        pieces = relay(iter(self._store.stream(path)))
        self._store.put_file(f"{_BEFORE}{name}/{path}", pieces, found.size)


def below(uri: str, place: str) -> str | None:
    """The path of a URI that leads below a place of artifacts; None if it leads elsewhere."""
    path = unquote(urlsplit(uri).path) if uri.startswith("file:") else uri
    root = place.rstrip("/")
    if path.rstrip("/") == root:
        return ""
    return path.removeprefix(f"{root}/") if path.startswith(f"{root}/") else None


def _artifact(path: str, held: os.stat_result, racy: int) -> Artifact:
    tag = f"{held.st_mtime_ns}-{held.st_ctime_ns}-{held.st_ino}"
    settled = max(held.st_mtime_ns, held.st_ctime_ns) < racy
    return Artifact(path, held.st_size, tag, settled)


def _unusable(path: str, entry: os.DirEntry[str]) -> str:
    """Why a directory's entry cannot be copied; "" if it can."""
    if entry.is_symlink():
        return "is a link"
    if not entry.is_file(follow_symlinks=False):
        return "is not a regular file"
    try:
        path.encode()
    except UnicodeEncodeError:
        return "its name is not UTF-8"
    return ""
