"""Write a snapshot: the last step of everything that makes one, and the only place that does.

    began = catalog.store.now()
    …                              # put what is missing: nothing that has a tombstone is used
    snapshot = write_snapshot(catalog, workload, run, generation, refs, began=began)

Beside a prune (`holdfast.copies.prune`) this is safe because of three rules. A path with a
tombstone counts as absent. What keeps a bundle of another workload, a reference, is written before
the snapshot. And a snapshot counts only if the store stamped it within half of the grace period
after its writer ``began`` to look for tombstones; a later one is withdrawn.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime, timedelta

from holdfast.defaults import GRACE
from holdfast.errors import Mismatch, NotFound
from holdfast.failpoint import failpoint
from holdfast.labels import Labels
from holdfast.manifest import check_name
from holdfast.store import references
from holdfast.store.documents import BundleRef, Snapshot
from holdfast.store.lock import store_lock
from holdfast.store.records import read_at_once
from holdfast.store.snapshot import Catalog

#: how often a writer starts again
ATTEMPTS = 3


class TooLate(Exception):
    """Not within half of the grace period, or something was pruned: copy what ``paths`` names (all
    of it, if empty) to fresh paths and start again. Nothing was left behind that counts."""

    def __init__(self, reason: str, paths: Collection[str] = ()) -> None:
        self.paths = frozenset(paths)
        super().__init__(reason)


@contextmanager
def writing(catalog: Catalog, workload: str, patience: float = 10.0) -> Iterator[None]:
    """Be the one who writes snapshots of a workload, in a store of one's own.

    Raises OwnerMismatch for the store of another owner. The lock is politeness: whoever has waited
    for ``patience`` seconds goes ahead without it, and no snapshot depends on it.
    """
    check_name(workload)
    catalog.claim()
    with store_lock(catalog.store, workload, patience):
        yield


def write_snapshot(
    catalog: Catalog,
    workload: str,
    run: str,
    generation: int,
    bundles: Sequence[BundleRef],
    *,
    began: datetime,
    labels: Labels | None = None,
    grace: timedelta = GRACE,
    looked: Collection[str] = (),
) -> Snapshot:
    """Write the snapshot that names these bundles, all of which are in the store; call it inside
    `writing`.

    Args:
        bundles: of this workload (`BundleRef.at`, `StreamedBundle.commit`, or taken from an earlier
            snapshot); and of others, taken from a snapshot of that workload that is there now.
        began: the store's time (``catalog.store.now()``) before the first look for tombstones and
            before the first byte of what was copied for this snapshot.
        grace: the same for every writer and prune of the store.
        looked: paths of which the caller knows, since ``began``, that they have no tombstone. All
            others are looked up here, those of shared files too, by one list for each workload.

    Raises:
        TooLate: nothing was written, or it was withdrawn. Begin again, at most `ATTEMPTS` times.
    """
    _refuse_dying(catalog, {path for ref in bundles for path in ref.paths} - set(looked))
    failpoint("push.before-snapshot")
    now = catalog.store.now()
    check_time(began, now, grace)
    number = catalog.claim_sequence(workload, run)
    snapshot = Snapshot.build(workload, run, generation, number, now, bundles, labels)
    try:
        if snapshot.paths_of_others:
            references.write(catalog.store, snapshot)
            failpoint("push.references-written")
        data = snapshot.to_bytes()
        written = catalog.store.put_small(snapshot.key, data, if_absent=True)
        check_time(began, written.modified, grace)
        _read_back(catalog, snapshot)
    except TooLate:
        catalog.remove(workload, snapshot.id)
        raise
    failpoint("push.after-snapshot")
    return snapshot


def check_time(began: datetime, now: datetime, grace: timedelta) -> None:
    """Raise TooLate once half of the grace period is over."""
    if now - began > grace / 2:
        raise TooLate(f"took {now - began}, more than half of the grace period {grace}")


def _refuse_dying(catalog: Catalog, paths: set[str]) -> None:
    workloads = sorted({path.partition("/")[0] for path in paths})
    dying = {path for workload in workloads for path in catalog.dying(workload)}
    if found := sorted(dying & paths):
        raise TooLate(f"{', '.join(found[:5])}: about to be deleted by a prune", found)


def _read_back(catalog: Catalog, snapshot: Snapshot) -> None:
    """Every manifest must still be there: our own as it was, those of others by name, since there
    may be many and a snapshot of theirs answers for what they hold. That of shared files is only
    looked for: not everybody may read it."""
    refs = {ref.path: ref for ref in snapshot.bundles}
    paths = {path for ref in snapshot.bundles for path in ref.paths}

    def problem(path: str) -> str | None:
        key = f"manifests/{path}.json"
        try:
            if path not in refs:
                there = catalog.store.list(key.rpartition("/")[0])
                return None if key in {info.key for info in there} else f"'{key}' is gone"
            if refs[path] in snapshot.foreign:
                catalog.store.head(key)
            else:
                catalog.manifest(refs[path])
        except (Mismatch, NotFound) as error:
            return str(error)
        return None

    found = dict(zip(paths, read_at_once(problem, list(paths)), strict=True))
    if bad := {path: reason for path, reason in found.items() if reason}:
        raise TooLate("; ".join(bad.values()), bad)
