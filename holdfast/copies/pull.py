"""Pull: copy a snapshot's bundles from the store to a volume; recover the state of a starting pod.

Files are written to a hidden ``.pull-<id>`` directory. Each byte is checked against the manifest
and synced, and then one rename gives the bundle its name. Several pods may pull to a shared volume
at once: a flock lets one work while the others wait. On a file system without flock, the second
rename finds that a valid bundle is already there.
"""

from __future__ import annotations

import threading
from pathlib import Path

from holdfast import bundle as bundles
from holdfast import durable
from holdfast.bundle import Bundle
from holdfast.copies.draft import Draft
from holdfast.copies.transfer import each_file, read_remote
from holdfast.errors import HoldfastError, InvalidBundle
from holdfast.failpoint import failpoint
from holdfast.manifest import MANIFEST, FileEntry, Manifest
from holdfast.progress import SILENT, Progress
from holdfast.store.documents import BundleRef, Snapshot
from holdfast.store.lock import run_lock
from holdfast.store.snapshot import Catalog

PULLING = ".pull-"


def pull(
    snapshot: Snapshot, catalog: Catalog, into: Path, *, progress: Progress = SILENT
) -> list[Bundle]:
    """Copy every bundle of a snapshot into the directory ``into``, verified.

    A valid bundle that is already there is not copied again. An invalid one of the same name is
    moved to quarantine.

    Raises:
        Mismatch: the store's bytes differ from the manifest.
        NoSpace: the volume has too little free space; nothing was written.
    """
    into = Path(into)
    with run_lock(into) as held:
        if held:
            remove_leftovers(into)
        return pull_locked(snapshot, catalog, into, into, progress)


def pull_locked(
    snapshot: Snapshot, catalog: Catalog, into: Path, scratch: Path, progress: Progress
) -> list[Bundle]:
    """`pull` for a caller that holds the lock of ``scratch``, the directory on the same file
    system as ``into`` in which the hidden directories are made."""
    manifests = [(ref, catalog.manifest(ref)) for ref in snapshot.bundles]
    if durable.exists(into) and not durable.is_directory(into):
        raise HoldfastError(
            f"'{into}' is a link or a file: nothing is pulled through it; remove it"
        )
    here = {ref.name: _present(into, ref) for ref, _ in manifests}
    missing = [(ref, manifest) for ref, manifest in manifests if here[ref.name] is None]
    check_space(scratch, sum(manifest.size for _, manifest in missing))
    for ref, manifest in missing:
        here[ref.name] = fetch(catalog, ref, manifest, into / ref.name, scratch, progress)
    return [found for found in here.values() if found is not None]


def remove_leftovers(scratch: Path) -> None:
    """Remove what killed pulls left. The caller must hold the lock."""
    durable.sweep_temporaries(scratch, PULLING)


def check_space(directory: Path, size: int) -> None:
    """Create ``directory``; raise NoSpace unless ``size`` bytes fit on its file system."""
    durable.make_directories(directory)
    durable.check_space(directory, size)


def _present(into: Path, ref: BundleRef) -> Bundle | None:
    """The bundle if a valid one is there already; a bad one of its name is quarantined."""
    path = into / ref.name
    if not durable.exists(path):
        return None
    try:
        found = bundles.verify(path)
    except InvalidBundle as error:
        bundles.quarantine(path, str(error))
        return None
    if found.manifest.digest != ref.digest:
        raise HoldfastError(
            f"'{path}' is another bundle of the same name (digest {found.manifest.digest[:12]}…,"
            f" the snapshot has {ref.digest[:12]}…): pull into an empty directory"
        )
    return found


def fetch(
    catalog: Catalog,
    ref: BundleRef,
    manifest: Manifest,
    target: Path,
    scratch: Path,
    progress: Progress,
    *,
    prefix: str = PULLING,
    replace_empty: bool = False,
    title: str = "",
) -> Bundle:
    """Copy one bundle to the directory ``target``, verified; it appears whole or not at all.

    Args:
        scratch: the directory on the same file system in which it is made, in one that begins with
            ``prefix``.
        replace_empty: ``target`` may exist, if it is empty.
        title: what progress calls the copy.
    """

    def copy(entry: FileEntry, stop: threading.Event) -> None:
        draft.write(entry.path, read_remote(catalog.store, ref, entry, progress, stop))
        failpoint("pull.file-written")
        progress.file(entry.path)

    progress.start(title or f"pull {ref.name}", len(manifest.files), manifest.size)
    parents = {entry.path.rpartition("/")[0] for entry in manifest.files}
    draft = Draft(scratch / f"{prefix}{durable.unique()}")
    with durable.no_space_named(scratch), draft:
        draft.make_directories(parents)
        each_file(copy, manifest.files, catalog.store.parallel)
        draft.write(MANIFEST, [manifest.to_bytes()])
        draft.sync_directories(parents)
        durable.make_directories(target.parent)
        bundles.check_tree(draft.path, manifest)
        failpoint("pull.before-rename")
        if replace_empty and durable.exists(target):
            target.rmdir()
        try:
            draft.rename(target)
        except FileExistsError:  # another pod, where the file system has no flock
            found = _present(target.parent, ref) if target.name == ref.name else None
            if found is None:
                raise
            return found
        failpoint("pull.after-rename")
    return Bundle(target, manifest)
