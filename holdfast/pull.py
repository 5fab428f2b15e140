"""Pull: copy a snapshot's bundles from the store to a volume; recover the state of a starting pod.

Files are written to a hidden ``.pull-<id>`` directory. Each byte is checked against the manifest
and synced, and then one rename gives the bundle its name. Several pods may pull to a shared volume
at once: a flock lets one work while the others wait. On a file system without flock, the second
rename finds that a valid bundle is already there.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from holdfast import bundle as bundles
from holdfast import durable
from holdfast.bundle import Bundle
from holdfast.errors import (
    DeadlineExceeded,
    HoldfastError,
    InvalidBundle,
    Mismatch,
    NoSnapshot,
    OwnerMismatch,
    RecoveryStopped,
    StoreDenied,
    StoreUnreachable,
)
from holdfast.failpoint import failpoint
from holdfast.labels import newness
from holdfast.manifest import MANIFEST, FileEntry, Manifest
from holdfast.progress import SILENT, Progress
from holdfast.recover import Action, Decision, Start, StoreState, VolumeState, decide
from holdfast.store.documents import BundleRef, Snapshot
from holdfast.store.lock import run_lock
from holdfast.store.snapshot import Catalog
from holdfast.transfer import each_file, read_remote, write_local
from holdfast.volume import Volume

PULLING = ".pull-"

#: seconds within which a starting pod knows whether the store answers
ANSWER = 15.0
ANSWER_WHEN_VALID = 5.0


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
    here = {ref.name: _present(into, ref) for ref, _ in manifests}
    missing = [(ref, manifest) for ref, manifest in manifests if here[ref.name] is None]
    check_space(scratch, sum(manifest.size for _, manifest in missing))
    for ref, manifest in missing:
        here[ref.name] = _pull_bundle(catalog, ref, manifest, into, scratch, progress)
    return [found for found in here.values() if found is not None]


def remove_leftovers(scratch: Path) -> None:
    """Remove what killed pulls left. The caller must hold the lock."""
    for leftover in scratch.glob(f"{PULLING}*"):
        durable.discard(leftover)


def check_space(directory: Path, size: int) -> None:
    """Create ``directory``; raise NoSpace unless ``size`` bytes fit on its file system."""
    durable.make_directories(directory)
    durable.check_space(directory, size)


def pull_if_empty(
    volume: Volume,
    catalog: Catalog | None,
    workload: str,
    start: Start,
    *,
    answer: float = ANSWER,
    progress: Progress = SILENT,
) -> Decision:
    """Make sure that this run's trainer has a state to resume from; see `holdfast.recover`.

    Every byte of the newest bundle of the present generation is read. A bundle that fails is
    quarantined and the one before is tried. Without a valid one the latest snapshot of this run is
    pulled, or the one before if its data are damaged. ``catalog`` None means that no store was
    given. Waits at most ``answer`` seconds for the store's answer; copying has no such limit.

    Raises:
        RecoveryStopped: there is no state, and a start from step 0 was not asked for.
        StoreError, OwnerMismatch: the store is needed but cannot be used now; a retry may help.
    """
    newest = volume.bundles()[:1]
    try:
        valid = bundles.verify(newest[0].path) if newest else None
    except (InvalidBundle, OSError):
        valid = None  # checked again, and quarantined, under the lock
    if valid is not None:
        soon = catalog and catalog.within(min(answer, ANSWER_WHEN_VALID))
        store, problem = _ask(volume, soon, soon, workload)
        return _use(volume, valid, store, problem, start)
    with run_lock(volume.run_path) as held:
        if held:
            remove_leftovers(volume.run_path)
        valid = volume.newest_valid(quarantine=True)
        store, problem = _ask(volume, catalog and catalog.within(answer), catalog, workload)
        if valid is not None:
            return _use(volume, valid, store, problem, start)
        found = VolumeState.BAD if volume.has_bad() else VolumeState.NONE
        decision = decide(found, store, start)
        decision = replace(decision, generation=volume.present() or 1)
        match decision.decision:
            case Action.PULL if catalog is not None:
                return _refill(volume, catalog, workload, decision, progress)
            case Action.STOP:
                raise RecoveryStopped(f"run '{volume.run}': {decision.reason}")
            case Action.RETRY:
                raise problem or StoreUnreachable(
                    f"run '{volume.run}': {decision.reason}: give --store"
                )
    return decision


def _ask(
    volume: Volume, soon: Catalog | None, patient: Catalog | None, workload: str
) -> tuple[StoreState, HoldfastError | None]:
    """What the store has of this run, and the error if it does not answer.

    The first request has the deadline of ``soon``. If it is answered, the search for a snapshot of
    this run among those of other runs has the deadline of ``patient``.
    """
    if soon is None or patient is None:
        return StoreState.UNREACHABLE, None
    try:
        soon.check_owner()
        for _, found in patient.newest(workload):
            # A damaged one may be of this run: then step 0 would be wrong.
            if isinstance(found, Mismatch) or found.run == volume.run:
                return StoreState.SNAPSHOT, None
    except (StoreUnreachable, StoreDenied, DeadlineExceeded, OwnerMismatch) as error:
        return StoreState.UNREACHABLE, error
    return StoreState.EMPTY, None


def _use(
    volume: Volume,
    valid: Bundle,
    store: StoreState,
    problem: HoldfastError | None,
    start: Start,
) -> Decision:
    decision = decide(VolumeState.VALID, store, start)
    reason = f"{decision.reason} ({problem})" if problem else decision.reason
    return replace(decision, bundle=valid.name, generation=volume.present() or 1, reason=reason)


def _refill(
    volume: Volume,
    catalog: Catalog,
    workload: str,
    decision: Decision,
    progress: Progress,
) -> Decision:
    """Pull the latest snapshot, or the one before if its data are damaged, and so on.

    Snapshots that failed an earlier verification are tried last.
    """
    failed = {record.snapshot for record in catalog.failures(workload)}
    damaged: list[str] = []

    def in_turn() -> Iterator[Snapshot]:
        doubtful = []
        for snapshot in catalog.newest_first(workload, volume.run):
            if snapshot.id in failed:
                doubtful.append(snapshot)
            else:
                yield snapshot
        yield from doubtful

    for snapshot in in_turn():
        generation = max(snapshot.generation, decision.generation)
        into = volume.generation_path(generation)
        try:
            pulled = pull_locked(snapshot, catalog, into, volume.run_path, progress)
        except (Mismatch, NoSnapshot) as error:
            progress.note(f"snapshot {snapshot.id} cannot be used: {error}; trying the one before")
            damaged.append(snapshot.id)
            continue
        newest = max(pulled, key=lambda b: newness(b.name, b.manifest.labels))
        reason = f"{decision.reason}: pulled {snapshot.id}"
        if damaged:
            reason += f"; damaged in the store: {', '.join(damaged)}"
        return Decision(Action.PULLED, newest.name, generation, reason)
    raise RecoveryStopped(
        f"run '{volume.run}': all snapshots in the store are damaged"
        f" ({', '.join(damaged) or 'none can be read'}): look at them with `holdfast verify`,"
        " restore the store, or give the run a new name to start from step 0"
    )


def _present(into: Path, ref: BundleRef) -> Bundle | None:
    """The bundle if a valid one is there already; a bad one of its name is quarantined."""
    path = into / ref.name
    if not path.exists():
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


def _pull_bundle(
    catalog: Catalog,
    ref: BundleRef,
    manifest: Manifest,
    into: Path,
    scratch: Path,
    progress: Progress,
) -> Bundle:
    draft = scratch / f"{PULLING}{durable.unique()}"

    def fetch(entry: FileEntry, stop: threading.Event) -> None:
        chunks = read_remote(catalog.store, ref, entry, progress, stop)
        write_local(draft / entry.path, chunks)
        failpoint("pull.file-written")
        progress.file(entry.path)

    progress.start(f"pull {ref.name}", len(manifest.files), manifest.size)
    with durable.no_space_named(scratch):
        draft.mkdir()
        try:
            directories = {
                parent
                for e in manifest.files
                for parent in (draft / e.path).parents
                if parent.is_relative_to(draft)
            }
            for directory in sorted(directories):
                directory.mkdir(exist_ok=True)
            each_file(fetch, manifest.files, catalog.store.parallel)
            for directory in sorted(directories - {draft}, reverse=True):
                durable.fsync_directory(directory)
            durable.create_file(draft / MANIFEST, manifest.to_bytes())
            durable.fsync_directory(draft)
            durable.make_directories(into)
            bundles.check_tree(draft, manifest)
            failpoint("pull.before-rename")
            try:
                durable.rename_durably(draft, into / ref.name)
            except FileExistsError:  # another pod, where the file system has no flock
                found = _present(into, ref)
                if found is None:
                    raise
                return found
            failpoint("pull.after-rename")
        finally:
            durable.discard(draft)
    return Bundle(into / ref.name, manifest)
