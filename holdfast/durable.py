"""Write, rename and remove files so that the result survives a power cut.

A rename makes new bytes visible all at once; only an fsync makes them durable. So each function
here syncs the bytes, then sets the name, then syncs the directory that holds the name. An
incomplete file or directory is called `.tmp-…`; the only writer of a directory may remove such
leftovers. Functions raise OSError as the system calls do.
"""

import contextlib
import errno
import hashlib
import io
import logging
import os
import shutil
import stat
import sys
import uuid
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

from holdfast.errors import NoSpace, UsageError

TEMPORARY = ".tmp-"
BLOCK = 1 << 20  # bytes per read: small enough to stay in the cache while it is hashed
#: errors of a file system that cannot sync a directory, where nothing more can be done
NO_DIRECTORY_SYNC = frozenset({errno.EINVAL, errno.ENOTSUP, errno.ENOSYS})
#: errors of a disk that is full, or full for this user
NO_SPACE = (errno.ENOSPC, errno.EDQUOT)
#: errors of one file or directory on a damaged medium, beside which others may still be readable
UNREADABLE = frozenset(
    {errno.EIO, errno.EBADMSG, errno.ENODATA, getattr(errno, "EUCLEAN", errno.EIO)}
)

logger = logging.getLogger(__name__)

SPARE = 16 << 20  # bytes to leave free, for directories and the journal

T = TypeVar("T")
R = TypeVar("R")


def require_utf8() -> None:
    """Raise UsageError unless this process takes file names as UTF-8, as our formats do.

    Python takes the encoding of file names from the locale. In another one, a name in a bundle
    means another file: a good bundle would look as if files were missing, and others too many.
    """
    encoding = sys.getfilesystemencoding()
    if encoding.lower() != "utf-8":
        raise UsageError(
            f"file names are '{encoding}' in this process, not UTF-8: set PYTHONUTF8=1, or a UTF-8"
            " locale such as LC_ALL=C.UTF-8"
        )


def unique() -> str:
    """Eight random hexadecimal digits, for the name of something temporary or quarantined."""
    return uuid.uuid4().hex[:8]


def default_threads() -> int:
    """How many files to hash or sync at once: hashing is bound by cores, syncing by the disk."""
    return max(4, min(16, os.cpu_count() or 1))


def fsync_file(path: Path) -> None:
    """Make a file's bytes durable. For its name to last, its directory must be synced too."""
    _fsync(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)


def fsync_directory(path: Path) -> None:
    """Make a directory's entries durable: files created, renamed and removed in it.

    Some network and FUSE file systems cannot sync a directory. That is not an error: on these it
    depends on the server which names survive a power cut.
    """
    try:
        _fsync(path, os.O_RDONLY | os.O_DIRECTORY)
    except OSError as error:
        if error.errno not in NO_DIRECTORY_SYNC:
            raise


def make_directories(path: Path) -> None:
    """Create a directory and its missing parents, each durable in its own parent."""
    missing = []
    while not path.is_dir():
        missing.append(path)
        path = path.parent
    for directory in reversed(missing):
        directory.mkdir(exist_ok=True)
        fsync_directory(directory.parent)


def write_durably(path: Path, data: bytes) -> None:
    """Write or replace a small file. After a crash it holds either the old or the new bytes."""
    draft = _draft(path, data)
    try:
        os.replace(draft, path)  # noqa: PTH105 (all system calls of this module in one style)
    except BaseException:
        draft.unlink(missing_ok=True)
        raise
    fsync_directory(path.parent)


def create_file(path: Path, data: bytes) -> None:
    """Write and sync a new file under its final name, in a directory that is itself temporary."""
    with path.open("xb", buffering=0) as file:
        write_all(file.fileno(), memoryview(data))
        os.fsync(file.fileno())


def rename_durably(src: Path, dst: Path) -> None:
    """Move a directory within one file system. Never replaces: raises FileExistsError.

    For a directory that is not empty this is also safe when another process takes the name at the
    same moment: POSIX refuses to rename onto a directory that is not empty.
    """
    if os.path.lexists(dst):
        raise FileExistsError(errno.EEXIST, "the name is taken", str(dst))
    try:
        os.rename(src, dst)  # noqa: PTH104 (all system calls of this module in one style)
    except OSError as error:
        if error.errno in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR):
            raise FileExistsError(errno.EEXIST, "the name is taken", str(dst)) from error
        raise
    fsync_directory(dst.parent)
    if src.parent != dst.parent:
        fsync_directory(src.parent)


def remove_tree(path: Path) -> None:
    """Remove a directory. A crash never leaves a part of it under its own name.

    Raises OSError when it cannot be renamed. What cannot be deleted after that is only left over.
    """
    hidden = path.with_name(f"{TEMPORARY}delete-{unique()}")
    rename_durably(path, hidden)
    discard(hidden)


def discard(path: Path) -> bool:
    """Delete a file, a link or a directory as far as possible; return whether it is gone.

    Never raises OSError, because no clean-up may stop the work that it follows. What cannot be
    deleted now (a file that NFS keeps while someone reads it, a missing permission, a read-only
    file system) is logged and left for the next clean-up.
    """
    left: list[tuple[str, OSError]] = []

    def note(_: object, name: str, info: tuple[type, BaseException, object]) -> None:
        error = info[1]
        if isinstance(error, OSError) and not isinstance(error, FileNotFoundError):
            left.append((name, error))

    try:
        if stat.S_ISDIR(os.lstat(path).st_mode):
            shutil.rmtree(path, onerror=note)
        else:
            os.unlink(path)  # noqa: PTH108
    except FileNotFoundError:
        return True
    except OSError as error:
        left.append((str(path), error))
    if left:
        name, error = left[0]
        more = f", nor {len(left) - 1} more below '{path}'" if left[1:] else ""
        logger.warning(
            "could not delete '%s' (%s)%s: left there, to be tried again later",
            name, error.strerror, more,
        )  # fmt: skip
    return not left


def sweep_temporaries(directory: Path, prefix: str = TEMPORARY) -> list[Path]:
    """Remove the leftovers of killed writers in a directory, by `prefix`; return what was removed.

    Only the directory's single writer may call this: the unfinished work of another writer looks
    the same. What cannot be removed is logged and left, see `discard`.
    """
    try:
        leftovers = [path for path in entries(directory) if path.name.startswith(prefix)]
    except OSError as error:
        logger.warning("could not look for leftovers in '%s' (%s)", directory, error.strerror)
        return []
    return [path for path in leftovers if discard(path)]


def entries(directory: Path) -> list[Path]:
    """What lies in a directory, by the bytes of the names; nothing if it is not there.

    Raises OSError when it cannot be listed, where `Path.glob` finds nothing in it.
    """
    try:
        names = os.listdir(directory)  # noqa: PTH208
    except FileNotFoundError:
        return []
    return [directory / name for name in sorted(names, key=os.fsencode)]


def is_directory(path: Path) -> bool:
    """Whether this is a directory and not a link to one. Raises OSError when nobody can tell."""
    try:
        return stat.S_ISDIR(os.lstat(path).st_mode)
    except (FileNotFoundError, NotADirectoryError):
        return False


def exists(path: Path) -> bool:
    """Whether this name is taken, by a link too. Raises OSError when nobody can tell."""
    try:
        os.lstat(path)
    except (FileNotFoundError, NotADirectoryError):
        return False
    return True


def _nothing(count: int) -> None:
    """Nobody watches."""


def hash_file(path: Path, advance: Callable[[int], None] = _nothing) -> tuple[str, int]:
    """SHA-256 (hexadecimal) and size in bytes of a regular file; see `open_regular`.

    ``advance`` is told how many bytes more were read, block by block.
    """
    digest = hashlib.sha256()
    size = 0
    block = memoryview(bytearray(BLOCK))
    with open_regular(path) as file:
        while read := file.readinto(block):
            digest.update(block[:read])
            size += read
            advance(read)
    return digest.hexdigest(), size


def copy_file(src: Path, dst: Path, advance: Callable[[int], None] = _nothing) -> tuple[str, int]:
    """Copy a regular file durably; return the SHA-256 and the size in bytes of what was copied."""
    digest = hashlib.sha256()
    size = 0
    block = memoryview(bytearray(BLOCK))
    with open_regular(src) as source, dst.open("xb", buffering=0) as target:
        while read := source.readinto(block):
            write_all(target.fileno(), block[:read])
            digest.update(block[:read])
            size += read
            advance(read)
        os.fsync(target.fileno())
    return digest.hexdigest(), size


def try_link(src: Path, dst: Path) -> bool:
    """Hard-link a file where the file system can; else return False, and the caller copies it."""
    try:
        os.link(src, dst, follow_symlinks=False)
    except FileExistsError:
        raise
    except OSError:  # file systems refuse in many ways; the copy fails too if it is another fault
        return False
    return True


def open_regular(path: Path) -> io.FileIO:
    """Open a regular file for unbuffered reading; raises OSError for a link, pipe or device.

    Nothing else is ever opened, since that alone can block or move a device; a file that is
    replaced at that moment is noticed afterwards, and opening it does not block.
    """
    if not stat.S_ISREG(os.lstat(path).st_mode):
        raise OSError(errno.ENXIO, "not a regular file", str(path))
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(errno.ENXIO, "not a regular file", str(path))
    return open(descriptor, "rb", buffering=0)  # noqa: PTH123


def write_all(descriptor: int, data: memoryview) -> None:
    """Write every byte: one `write` may take fewer, as it does when a disk fills up."""
    while data:
        data = data[os.write(descriptor, data) :]


def in_threads(work: Callable[[T], R], items: Sequence[T], threads: int | None = None) -> list[R]:
    """`[work(item) for item in items]` on a pool of threads; raises the first exception."""
    if len(items) < 2:
        return [work(item) for item in items]
    with ThreadPoolExecutor(min(threads or default_threads(), len(items))) as pool:
        return list(pool.map(work, items))


def check_space(directory: Path, size: int, spare: int | None = None) -> None:
    """Raise NoSpace unless `size` bytes, and `spare` ones (default: 16 MiB), are free there.

    A sparse file counts with all of its bytes: no copy of it keeps its holes.
    """
    needed = size + (SPARE if spare is None else spare)
    free = shutil.disk_usage(directory).free
    if size and free < needed:
        raise NoSpace(
            f"'{directory}' has {free} bytes free, {needed} are needed: keep fewer bundles"
            " or enlarge the volume"
        )


@contextlib.contextmanager
def no_space_named(path: Path) -> Iterator[None]:
    """Translate the errors 'no space left' and 'over quota' into NoSpace, with the remedy."""
    try:
        yield
    except OSError as error:
        if error.errno not in NO_SPACE:
            raise
        raise NoSpace(
            f"no space for '{path}' ({error.strerror}): keep fewer bundles or enlarge the volume"
        ) from error


def _fsync(path: Path, flags: int) -> None:
    descriptor = os.open(path, flags | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _draft(path: Path, data: bytes) -> Path:
    """A synced temporary file beside `path`, whose directory entry is not synced yet."""
    draft = path.with_name(f"{TEMPORARY}{unique()}")
    try:
        create_file(draft, data)
    except BaseException:
        draft.unlink(missing_ok=True)
        raise
    return draft
