"""Hash the files of a folder, and remember the hashes of those that have not changed since.

As git does: a file whose size, times and inode are as they were is not read again. A change within
the last moment before a file was hashed might not show in its times, so such a hash is not
remembered. The record lies in the user's cache, ``$XDG_CACHE_HOME/holdfast/hashes/``, and only ever
saves reading: a copy is hashed again on its way.
"""

from __future__ import annotations

import json
import logging
import os
import stat
import time
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from holdfast import durable
from holdfast.bundle import Tree
from holdfast.errors import CommitRefused, UsageError
from holdfast.manifest import MANIFEST, FileEntry, printable, sha256
from holdfast.progress import SILENT, Progress

#: nanoseconds; a file changed so shortly before it was hashed may change again unnoticed
MOMENT = 2_000_000_000

#: size, time of the last write, time of the last change of anything, inode, device
State = tuple[int, int, int, int, int]

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Hashed:
    """The files of a folder with their hashes, and the state in which each was hashed."""

    root: Path
    entries: tuple[FileEntry, ...]
    states: dict[str, State]
    read: int

    @property
    def size(self) -> int:
        return sum(entry.size for entry in self.entries)

    @property
    def newest(self) -> float:
        """When the latest of the files was written, in seconds since 1970."""
        return max(state[1] for state in self.states.values()) / 1e9

    def changes(self) -> list[str]:
        """What was changed, added or removed in the folder since it was hashed."""
        now = states_of(self.root, _tree(self.root).files)
        changed = [
            path for path in self.states if now.get(path, self.states[path]) != self.states[path]
        ]
        gone = [path for path in self.states if path not in now]
        new = [path for path in now if path not in self.states]
        return [
            *(f"{printable(path)}: changed" for path in sorted(changed)),
            *(f"{printable(path)}: was removed" for path in sorted(gone)),
            *(f"{printable(path)}: was added" for path in sorted(new)),
        ]


def hash_folder(
    root: Path, *, rehash: bool = False, threads: int | None = None, progress: Progress = SILENT
) -> Hashed:
    """Hash every regular file below a folder, but for a MANIFEST.json at its top.

    Args:
        rehash: read every byte, whatever is remembered.

    Raises:
        CommitRefused: the folder cannot become a bundle; the message lists everything.
    """
    root = root.resolve()
    if not root.is_dir():
        raise UsageError(f"'{root}' is not a directory: give the folder that holds the files")
    tree = _tree(root)
    if problems := tree.problems():
        raise CommitRefused(problems)
    known = {} if rehash else _recall(root)
    states = states_of(root, tree.files)
    same = {path for path, state in states.items() if known.get(path, ((), ""))[0] == state}
    unread = [path for path in tree.files if path not in same]
    began = time.time_ns()
    progress.start(f"hash {root.name}", len(unread), sum(tree.files[path] for path in unread))

    def read(path: str) -> FileEntry:
        digest, size = durable.hash_file(root / path, progress.advance)
        progress.file(path)
        return FileEntry(path=path, size=size, sha256=digest)

    entries = {entry.path: entry for entry in durable.in_threads(read, unread, threads)}
    for path in same:
        entries[path] = FileEntry(path=path, size=states[path][0], sha256=known[path][1])
    for entry in entries.values():
        if entry.size != states[entry.path][0]:
            raise changed_meanwhile(root, [f"{printable(entry.path)}: changed"])
    found = Hashed(root, tuple(entries.values()), states, sum(tree.files[path] for path in unread))
    if unread or known.keys() != states.keys():
        _remember(found, began, same)
    return found


def changed_meanwhile(root: Path, problems: list[str]) -> CommitRefused:
    """The error for a folder that was not left alone."""
    first = f"'{root}' changed while it was added; add it again when nothing writes to it"
    return CommitRefused([first, *problems])


def states_of(root: Path, paths: Iterable[str]) -> dict[str, State]:
    """The state of each of these files; one that is gone, or is no regular file, is left out."""
    found = {}
    for path in paths:
        with suppress(FileNotFoundError, NotADirectoryError):
            now = os.lstat(root / path)
            if stat.S_ISREG(now.st_mode):
                found[path] = (
                    now.st_size, now.st_mtime_ns, now.st_ctime_ns, now.st_ino, now.st_dev
                )  # fmt: skip
    return found


def _tree(root: Path) -> Tree:
    tree = Tree.of(root)
    tree.files.pop(MANIFEST, None)
    return tree


def _place(root: Path) -> Path:
    base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(base).expanduser() / "holdfast/hashes" / f"{sha256(os.fsencode(root))}.json"


def _recall(root: Path) -> dict[str, tuple[State, str]]:
    """By path, the state of a file and its hash then; nothing where the record is no good."""
    try:
        check, _, body = _place(root).read_bytes().partition(b"\n")
        if check.decode() != sha256(body):
            return {}
        return {path: (tuple(state), digest) for path, state, digest in json.loads(body)}
    except (OSError, RuntimeError, ValueError, TypeError):
        return {}


def _remember(found: Hashed, began: int, same: set[str]) -> None:
    """Record the hashes of files that had been left alone for a moment when hashing began."""
    rows = [
        (entry.path, found.states[entry.path], entry.sha256)
        for entry in found.entries
        if entry.path in same or began - max(found.states[entry.path][1:3]) > MOMENT
    ]
    body = json.dumps(rows, separators=(",", ":")).encode()
    try:
        place = _place(found.root)
        durable.make_directories(place.parent)
        durable.sweep_temporaries(place.parent)  # of killed ones; an add beside it writes no record
        durable.write_durably(place, f"{sha256(body)}\n".encode() + body)
    except (OSError, RuntimeError) as error:  # a home that is read-only, or none at all
        logger.debug("the hashes of '%s' are not remembered: %s", found.root, error)
