"""A bundle: an immutable directory that is complete because its MANIFEST.json was written last.

The order of writes makes it crash-safe: files, then their directories from the bottom up, then the
manifest, then the bundle's directory, then one rename to the final name, then the parent directory.
Each is synced before the next begins. A crash leaves either no bundle or a complete one.
"""

import errno
import logging
import os
import shutil
import stat
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Self

from holdfast import durable
from holdfast.errors import CommitRefused, InvalidBundle, InvalidManifest, UsageError
from holdfast.failpoint import failpoint
from holdfast.labels import label_problems, step_of
from holdfast.manifest import (
    MANIFEST,
    MAX_MANIFEST_BYTES,
    FileEntry,
    Manifest,
    name_problem,
    path_problems,
    printable,
)
from holdfast.progress import SILENT, Progress

QUARANTINE = ".quarantine"
QUARANTINED = 3  # bad bundles of a run that are kept for inspection

# Errors that say what lies there instead of a file. Any other (no permission, a stale mount, a bad
# sector, too many open files) is a fault of the system and must not condemn a bundle.
_NOT_A_FILE = frozenset({errno.EISDIR, errno.ELOOP, errno.ENOENT, errno.ENOTDIR, errno.ENXIO})


logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Bundle:
    """A committed bundle: its directory and its manifest."""

    path: Path
    manifest: Manifest

    @property
    def name(self) -> str:
        return self.manifest.name

    @property
    def step(self) -> int | None:
        """The training step that a checkpoint holds; see `holdfast.labels.step_of`."""
        return step_of(self.name, self.manifest.labels)


@dataclass
class Tree:
    """The content of a directory. `files` maps the path of each regular file to its size in bytes.

    Paths are relative and separated by `/`. In `directories`, a parent comes before its children.
    `special` describes what is neither a file nor a directory.
    """

    files: dict[str, int] = field(default_factory=dict)
    directories: list[str] = field(default_factory=list)
    empty: list[str] = field(default_factory=list)
    special: list[str] = field(default_factory=list)

    @classmethod
    def of(cls, root: Path) -> Self:
        """Walk `root` without following links."""
        durable.require_utf8()
        tree = cls()
        pending = [""]
        while pending:
            tree._add(root, pending.pop(), pending)
        return tree

    def _add(self, root: Path, directory: str, pending: list[str]) -> None:
        with os.scandir(root / directory) as scan:
            entries = sorted(scan, key=lambda entry: os.fsencode(entry.name))
        if directory:
            self.directories.append(directory)
            if not entries:
                self.empty.append(directory)
        for entry in entries:
            path = f"{directory}/{entry.name}" if directory else entry.name
            found = entry.stat(follow_symlinks=False)
            if stat.S_ISDIR(found.st_mode):
                pending.append(path)
            elif stat.S_ISREG(found.st_mode):
                self.files[path] = found.st_size
            elif stat.S_ISLNK(found.st_mode):
                self.special.append(f"{printable(path)}: is a symbolic link")
            else:
                self.special.append(f"{printable(path)}: is a pipe, socket or device")

    def problems(self) -> list[str]:
        """Every reason why this tree cannot become a bundle."""
        problems = self.special + path_problems(self.files)
        problems += [
            f"{printable(path)}: is an empty directory, which a bundle cannot keep: "
            "remove it or put a file into it"
            for path in self.empty
        ]
        if not self.files:
            problems.append("the directory holds no file")
        return problems


class BundleWriter:
    """Write files into `.path`, a fresh hidden directory, then `commit()` them as one bundle.

    As a context manager it removes the directory at the end unless the bundle was committed.
    Several processes may write into the directory: one creates the writer and commits; the others
    hash and sync their own files and pass it the entries.
    """

    def __init__(self, parent: Path, name: str, kind: str) -> None:
        """Create the hidden directory in `parent`, which is created too if it is missing.

        Raises UsageError for an invalid name, CommitRefused for one that is taken.
        """
        if problem := name_problem(name):
            raise UsageError(f"invalid bundle name {name!r}: {problem}")
        self.parent = Path(parent)
        self.name = name
        self.kind = kind
        self.path = self.parent / f"{durable.TEMPORARY}{name}-{durable.unique()}"
        self._refuse_a_taken_name()
        with durable.no_space_named(self.parent):
            durable.make_directories(self.parent)
            self.path.mkdir()

    def entry(self, path: str, progress: Progress = SILENT) -> FileEntry:
        """Hash and sync a file of this bundle that was written to the relative path `path`."""
        digest, size = durable.hash_file(self.path / path, progress.advance)
        durable.fsync_file(self.path / path)
        return FileEntry(path=path, size=size, sha256=digest)

    def commit(
        self,
        labels: Mapping[str, str | int],
        files: Sequence[FileEntry] | None = None,
        threads: int | None = None,
    ) -> Bundle:
        """Complete the bundle and give it its name. Once this returns, it survives a power cut.

        `files` are the entries of writers that hashed while they wrote. Their hashes are trusted,
        but exactly these files must exist, with these sizes. Without `files`, every file is hashed
        here, on `threads` threads. Raises CommitRefused with every problem, NoSpace on a full
        volume.
        """
        with durable.no_space_named(self.path):
            tree = Tree.of(self.path)
            if problems := tree.problems() + label_problems(labels):
                raise CommitRefused(problems)
            if files is None:
                files = durable.in_threads(self.entry, list(tree.files), threads)
            else:
                if problems := _differences(tree, files):
                    raise CommitRefused(problems)
                paths = [self.path / path for path in tree.files]
                durable.in_threads(durable.fsync_file, paths, threads)
            try:
                manifest = Manifest.build(self.kind, self.name, files, labels)
            except InvalidManifest as error:
                raise CommitRefused([str(error)]) from error
            data = manifest.to_bytes()
            if len(data) > MAX_MANIFEST_BYTES:
                raise CommitRefused(
                    [
                        f"its manifest would be larger than {MAX_MANIFEST_BYTES >> 20} MiB: pack"
                        " small files into archives"
                    ]
                )
            for directory in reversed(tree.directories):  # children come before their parents
                durable.fsync_directory(self.path / directory)
            failpoint("commit.files-written")
            durable.create_file(self.path / MANIFEST, data)
            failpoint("commit.manifest-written")
            durable.fsync_directory(self.path)
            failpoint("commit.before-rename")
            self._refuse_a_taken_name()
            try:
                durable.rename_durably(self.path, self.parent / self.name)
            except FileExistsError:
                self._refuse_a_taken_name()
                raise
            failpoint("commit.after-rename")
        return Bundle(self.parent / self.name, manifest)

    def abort(self) -> None:
        """Remove the hidden directory. Does nothing after a commit."""
        durable.discard(self.path)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.abort()

    def _refuse_a_taken_name(self) -> None:
        if os.path.lexists(self.parent / self.name):
            raise CommitRefused([f"'{self.parent / self.name}' exists: a bundle is never replaced"])


def commit_directory(
    source: Path,
    parent: Path,
    name: str,
    kind: str,
    labels: Mapping[str, str | int],
    move: bool = False,
    threads: int | None = None,
    progress: Progress = SILENT,
) -> Bundle:
    """Make a bundle of a finished directory. Nothing may still be writing to it.

    The source is copied and not changed. With `move`, its files become those of the bundle, which
    needs no extra space, and the source is removed after the commit; files with other hard links
    are copied, as are all where the file system has no links. Raises CommitRefused with every
    problem, or NoSpace, before anything is written.
    """
    source = Path(source)
    if not source.is_dir():
        raise UsageError(f"'{source}' is not a directory")
    if Path(parent).resolve().is_relative_to(source.resolve()):
        raise UsageError(f"'{parent}' lies inside '{source}': choose a place outside of it")
    tree = Tree.of(source)
    if problems := tree.problems() + label_problems(labels):
        raise CommitRefused(problems)
    with BundleWriter(parent, name, kind) as writer, durable.no_space_named(writer.path):
        if not move:
            durable.check_space(writer.path, sum(tree.files.values()), spare=0)
        for directory in tree.directories:
            (writer.path / directory).mkdir()
        transfer = partial(_link_or_copy, source, writer, move, progress)
        progress.start(f"commit {name}", len(tree.files), sum(tree.files.values()))
        bundle = writer.commit(labels, durable.in_threads(transfer, list(tree.files), threads))
    if move:
        durable.discard(source)
    return bundle


def read_bundle(path: Path) -> Bundle:
    """Read only the manifest of a bundle. Raises InvalidBundle."""
    path = Path(path)
    try:
        if not stat.S_ISDIR(os.lstat(path).st_mode):  # a link to a bundle is not the bundle
            raise InvalidBundle(path, ["is not a directory"])
        with durable.open_regular(path / MANIFEST) as file:
            data = file.read(MAX_MANIFEST_BYTES + 1)
        manifest = Manifest.parse(data)
    except OSError as error:
        raise InvalidBundle(path, [unreadable(MANIFEST, error)]) from error
    except InvalidManifest as error:
        raise InvalidBundle(path, [f"{MANIFEST}: {error}"]) from error
    if manifest.name != path.name:
        raise InvalidBundle(path, [f"{MANIFEST}: belongs to a bundle called '{manifest.name}'"])
    return Bundle(path, manifest)


def verify(path: Path, quick: bool = False, threads: int | None = None) -> Bundle:
    """Check a bundle against its manifest: existence and sizes when `quick`, else every byte.

    Raises InvalidBundle with every problem: missing and extra files, wrong sizes and hashes, links,
    special files. Raises OSError when a file cannot be read because of a fault of the system.
    """
    bundle = read_bundle(path)
    tree, problems = _compare(bundle.path, bundle.manifest)
    if not quick:
        entries = bundle.manifest.files
        sound = [entry for entry in entries if tree.files.get(entry.path) == entry.size]
        problems += check_files(bundle.path, sound, threads)
    if problems:
        raise InvalidBundle(bundle.path, problems)
    return bundle


def check_tree(path: Path, manifest: Manifest) -> None:
    """Raise InvalidBundle unless exactly these files lie below `path`, in these sizes.

    For a bundle that has no name yet: it finds what somebody put there while it was written.
    """
    _, problems = _compare(Path(path), manifest)
    if problems:
        raise InvalidBundle(path, problems)


def _compare(path: Path, manifest: Manifest) -> tuple[Tree, list[str]]:
    """What lies in a bundle's directory, and how it differs from the manifest."""
    try:
        tree = Tree.of(path)
    except OSError as error:
        raise InvalidBundle(path, [unreadable("directory", error)]) from error
    tree.files.pop(MANIFEST, None)
    problems = tree.special + [f"{printable(name)}: is an empty directory" for name in tree.empty]
    return tree, problems + _differences(tree, manifest.files)


def check_files(path: Path, entries: Iterable[FileEntry], threads: int | None = None) -> list[str]:
    """Read every byte of these files of a bundle; return the problems found.

    Several processes can share the work: one `verify(path, quick=True)`, then each process checks
    its own part of `manifest.files`.
    """
    found = durable.in_threads(partial(_check_file, Path(path)), list(entries), threads)
    return [problem for problem in found if problem]


def quarantine(path: Path, reason: str) -> Path:
    """Move a bad bundle to `.quarantine/<name>-<id>/` beside it, where no reader looks for bundles.

    It is kept for inspection, with the reason in a `.txt` file of the same name. A run keeps its
    newest three, and fewer where the volume lacks room for another bundle; the newest always stays.
    Raises OSError when it cannot be moved (a read-only volume) or when another process moved it
    first.
    """
    path = Path(path)
    directory = path.parent / QUARANTINE
    durable.make_directories(directory)
    if not durable.is_directory(directory):
        raise NotADirectoryError(errno.ENOTDIR, "a link instead of a directory", str(directory))
    name = os.fsencode(path.name)[:200].decode(errors="ignore")  # with its end it must fit
    kept = directory / f"{name}-{durable.unique()}"
    note = directory / f"{kept.name}.txt"
    try:
        durable.write_durably(note, f"{reason}\n".encode("utf-8", "backslashreplace"))
    except OSError as error:
        if error.errno not in durable.NO_SPACE:  # on a full disk the move matters more
            raise
    try:
        durable.rename_durably(path, kept)
    except BaseException:
        durable.discard(note)
        raise
    _bound_quarantine(kept)
    return kept


def _bound_quarantine(newest: Path) -> None:
    """Delete what was quarantined before, the oldest first, as far as there is too much of it."""
    generation = newest.parents[1]
    places = [newest.parent]
    if generation.name.startswith("gen-"):
        siblings = generation.parent.glob("gen-*")
        places = [path / QUARANTINE for path in siblings if durable.is_directory(path)]
    try:
        found = [
            p for place in places if durable.is_directory(place) for p in durable.entries(place)
        ]
        older = [path for path in found if durable.is_directory(path) and path != newest]
        older.sort(key=lambda path: path.lstat().st_ctime_ns, reverse=True)
        size = sum(Tree.of(newest).files.values()) if durable.is_directory(newest) else 0
        while older and (len(older) >= QUARANTINED or shutil.disk_usage(newest).free < size):
            gone = older.pop()
            durable.discard(gone)
            durable.discard(gone.with_name(f"{gone.name}.txt"))
    except OSError as error:
        logger.warning("could not look through '%s' (%s)", newest.parent, error)


def _link_or_copy(
    source: Path, writer: BundleWriter, move: bool, progress: Progress, path: str
) -> FileEntry:
    old, new = source / path, writer.path / path
    # A file with another link somewhere could be changed through it after the commit.
    if move and old.lstat().st_nlink == 1 and durable.try_link(old, new):
        if new.lstat().st_nlink == 2:
            return writer.entry(path, progress)
        new.unlink()
    digest, size = durable.copy_file(old, new, progress.advance)
    return FileEntry(path=path, size=size, sha256=digest)


def _differences(tree: Tree, entries: Sequence[FileEntry]) -> list[str]:
    """How the files on disk differ from the entries by path and size; reads no content."""
    listed = {entry.path for entry in entries}
    problems = []
    for entry in entries:
        size = tree.files.get(entry.path)
        if size is None:
            problems.append(f"{printable(entry.path)}: is missing")
        elif size != entry.size:
            problems.append(f"{printable(entry.path)}: has {size} bytes instead of {entry.size}")
    extra = [path for path in tree.files if path not in listed]
    return problems + [f"{printable(path)}: is not in the manifest" for path in extra]


def _check_file(root: Path, entry: FileEntry) -> str | None:
    try:
        digest, _ = durable.hash_file(root / entry.path)
    except OSError as error:
        return unreadable(entry.path, error)
    if digest != entry.sha256:
        return f"{printable(entry.path)}: has other bytes than its SHA-256 says"
    return None


def unreadable(path: str, error: OSError) -> str:
    """What is wrong with a file that cannot be opened or read. Raises a fault of the system."""
    if error.errno == errno.ENOENT:
        return f"{printable(path)}: is missing"
    if error.errno in _NOT_A_FILE:
        return f"{printable(path)}: cannot be read: {error.strerror}"
    raise error
