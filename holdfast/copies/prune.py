"""Prune: drop the snapshots that the policy does not keep, then the data that no snapshot names.

Data are deleted in two steps, a grace period apart, so that a concurrent push never loses what it
is about to name (see `holdfast.copies.push` for its half of the protocol):

1. A bundle path that no snapshot names, and that nothing was written to for a grace period, gets a
   *tombstone*. From then on every push treats the path as absent. A tombstone is never withdrawn.
2. Once the tombstone is older than the grace period by the store's clock, and still no snapshot
   names the path, the manifest is deleted, then the data. A prune that takes longer than half of a
   grace period between listing and deleting stops there.
3. The tombstone is deleted two grace periods after the data.

A prune may be killed anywhere: the next one goes on. Many objects are deleted by one request, with
a look at the clock before each. A dropped snapshot costs two small writes, both to the tombstone
of its bundle.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import nullcontext, suppress
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import TypeVar

from holdfast.defaults import SHARED
from holdfast.durable import in_threads
from holdfast.errors import (
    AlreadyExists,
    HoldfastError,
    IncompleteListing,
    Mismatch,
    NoSnapshot,
    NotDeleted,
    PreconditionFailed,
    UsageError,
)
from holdfast.failpoint import failpoint
from holdfast.manifest import canonical, check_name
from holdfast.progress import SILENT, Progress
from holdfast.retention import Policy, select_keep
from holdfast.store import references, sequence
from holdfast.store.base import ObjectInfo, Store
from holdfast.store.documents import BUNDLE_PATH, SNAPSHOT_ID, digest_of
from holdfast.store.lock import store_lock
from holdfast.store.snapshot import Catalog

# The two states of a tombstone. Their sizes differ, so that a listing tells them apart.
_DELETED = canonical({"format": 1, "state": "deleted"})
_MARKED = canonical({"format": 1, "state": "dying"})

AT_ONCE = 100  # snapshots or bundles; pins are read again after so many snapshots
KEYS = 1000  # S3 deletes no more by one request
WRITERS = 8  # small objects written at once

LONGEST_GRACE = timedelta(days=3660)

T = TypeVar("T")


@dataclass
class PruneReport:
    """What was done, or would be done (``dry_run``).

    Paths are bundle paths; sizes are in bytes. ``refused`` holds the keys that the store would not
    delete: the prune went on with the rest, and the next one tries again.
    """

    dry_run: bool = False
    kept: dict[str, list[str]] = field(default_factory=dict)
    dropped: list[str] = field(default_factory=list)
    tombstoned: list[str] = field(default_factory=list)
    waiting: list[str] = field(default_factory=list)
    deleted: list[str] = field(default_factory=list)
    deleted_bytes: int = 0
    leftovers: int = 0
    refused: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)


@dataclass
class _Stored:
    """Everything that is stored at one bundle path."""

    manifest: str | None = None
    data: list[str] = field(default_factory=list)
    size: int = 0
    written: datetime | None = None
    tombstone: ObjectInfo | None = None

    def add(self, info: ObjectInfo) -> None:
        self.size += info.size
        self.written = max(info.modified, self.written or info.modified)

    @property
    def keys(self) -> set[str]:
        return {*self.data, *([self.manifest] if self.manifest else [])}

    @property
    def since(self) -> datetime:
        """When it was marked by a tombstone, or else last written to."""
        changed = self.tombstone.modified if self.tombstone else self.written
        assert changed is not None
        return changed


def prune(
    catalog: Catalog,
    workload: str,
    policy: Policy,
    *,
    grace: timedelta,
    dry_run: bool = False,
    patience: float = 10.0,
    progress: Progress = SILENT,
) -> PruneReport:
    """Apply a retention policy to a workload's snapshots and delete data that none names any more.

    A snapshot younger than ``grace`` is never dropped and displaces no older one. The newest, the
    last that verified, the last good one, and pinned ones are kept whatever the policy says.
    ``grace`` must be the same for every push and prune of the store, and much longer than a push
    takes. ``dry_run`` deletes nothing and changes no document.
    """
    check_name(workload)
    if not timedelta(0) < grace <= LONGEST_GRACE:
        raise UsageError(
            f"invalid grace period '{grace}': expected more than 0, and at most ten years"
        )
    run = _Prune(catalog, workload, policy, grace, PruneReport(dry_run=dry_run), progress)
    if dry_run:
        catalog.check_owner()
        return run.run()
    catalog.claim()
    with store_lock(catalog.store, workload, patience):
        return run.run()


def delete_snapshot(
    catalog: Catalog,
    workload: str,
    snapshot_id: str,
    *,
    dry_run: bool = False,
    patience: float = 10.0,
) -> None:
    """Delete one snapshot, readable or damaged; later prunes delete its data.

    The ten digits of a missing one accept its loss: from then on nobody asks for it.
    Raises HoldfastError for a pinned one, the last that verified, and the only good one.
    """
    if dry_run:
        catalog.check_owner()
    else:
        catalog.claim()
    with nullcontext() if dry_run else store_lock(catalog.store, workload, patience):
        if snapshot_id.isdecimal():
            _accept_loss(catalog, workload, snapshot_id, dry_run)
            return
        catalog.check_complete(workload)
        lost: set[str] = set()
        try:
            doomed = catalog.read(workload, snapshot_id)
        except Mismatch:  # nothing can be recovered from it
            kept = set()
        else:
            snapshots = catalog.snapshots(workload)
            lost = {ref.digest for ref in doomed.bundles}
            lost -= {ref.digest for s in snapshots if s != doomed for ref in s.bundles}
            results = catalog.verdicts(workload)
            pins = catalog.pins(workload)
            nothing = Policy(keep_last=0, hourly=0, daily=0, weekly=0, monthly=0)
            reasons = select_keep(snapshots, nothing, pinned=pins, verified=results)
            kept = set(reasons.get(snapshot_id, ()))
            if workload in SHARED.values():  # each is the only one of its version
                kept &= {"pinned"}
            if any(results.get(s.id, True) for s in snapshots if s.id != snapshot_id):
                kept.discard("newest")
            check_listings(catalog.store)
        if kept:
            raise HoldfastError(
                f"snapshot {snapshot_id} is protected ({', '.join(sorted(kept))}): unpin it, or"
                " push and verify another one first"
            )
        if not dry_run:
            if lost:
                catalog.record_dropped(workload, sorted(lost))
            catalog.remove(workload, snapshot_id)
            catalog.store.delete([f"verified/{workload}/{snapshot_id}.json"])


def _accept_loss(catalog: Catalog, workload: str, number: str, dry_run: bool) -> None:
    if int(number) not in catalog.index(workload).missing:
        raise NoSnapshot(
            f"workload '{workload}' has no snapshot {number}, and none of that number is missing:"
            " see `holdfast list`"
        )
    if not dry_run:
        sequence.withdraw(catalog.store, workload, int(number))


@dataclass(frozen=True, slots=True)
class _Named:
    """What a prune remembers of a snapshot: little, since there may be many."""

    id: str
    sequence: int
    created: datetime
    paths: tuple[str, ...]
    files_at: tuple[str, ...]
    healthy: bool | None


@dataclass
class _Prune:
    catalog: Catalog
    workload: str
    policy: Policy
    grace: timedelta
    report: PruneReport
    progress: Progress
    decided: datetime = field(init=False)
    read: dict[str, _Named] = field(default_factory=dict)
    damaged: dict[str, str] = field(default_factory=dict)

    @property
    def store(self) -> Store:
        return self.catalog.store

    def run(self) -> PruneReport:
        self.catalog.check_complete(self.workload, self.grace / 2)
        self._drop_snapshots()
        self._collect()
        self._sweep()
        return self.report

    def _drop_snapshots(self) -> None:
        self.decided = self.store.now()
        written = self._read_snapshots()
        snapshots = [self.read[name] for name in written if name in self.read]
        verified = self.catalog.verdicts(self.workload)
        pins = self.catalog.pins(self.workload)
        kept = self.report.kept = select_keep(
            snapshots, self.policy, pinned=pins, verified=verified
        )
        if self.workload in SHARED.values():
            for snapshot in snapshots:
                kept.setdefault(snapshot.id, ["versions are deleted by a person only"])
        # A push may still withdraw a young snapshot: it must not have displaced an older one.
        settled = [s for s in snapshots if self.decided - written[s.id] > self.grace]
        for name, why in select_keep(settled, self.policy, verified=verified).items():
            kept.setdefault(name, [f"{reason} before the grace period" for reason in why])
        for snapshot in snapshots:
            if self.decided - written[snapshot.id] <= self.grace:
                kept.setdefault(snapshot.id, ["younger than the grace period"])
        dropped = [s for s in snapshots if s.id not in kept]
        if not self.report.dry_run:  # first, or a number would outlive its dropped snapshot
            newest = max((s.sequence for s in snapshots), default=0)
            since = self.decided - self.grace
            self._delete_keys(sequence.settled(self.store, self.workload, newest, since))
        if dropped and not self.report.dry_run:
            left = {path for s in snapshots if s.id in kept for path in s.paths}
            lost = [path for s in dropped for path in s.paths if path not in left]
            self.catalog.record_dropped(self.workload, map(digest_of, lost))
        for batch in _batches([s.id for s in dropped], AT_ONCE):
            if not self.report.dry_run:
                pins = self.catalog.pins(self.workload)  # one may have come meanwhile
                batch = [name for name in batch if name not in pins]
                keys = {f"snapshots/{self.workload}/{name}.json": name for name in batch}
                if not self._remove(list(keys)):
                    return
                failpoint("prune.snapshot-dropped")
                batch = [name for key, name in keys.items() if key not in self.report.refused]
            self.report.dropped += batch
            for name in batch:
                self.progress.note(f"dropped snapshot {name}")

    def _read_snapshots(self) -> dict[str, datetime]:
        """List the snapshots and read those not read before; returns when each was written."""
        written = self.catalog.written(self.workload)
        check_listings(self.store)
        unread = [name for name in written if name not in self.read]
        for name, found in self.catalog.scan(self.workload, unread):
            if isinstance(found, Mismatch):
                self.damaged[name] = str(found)
            else:
                paths = tuple(ref.path for ref in found.bundles)
                shared = tuple(r.files_at for r in found.bundles if r.files_at != r.path)
                self.read[name] = _Named(
                    name, found.sequence, found.created, paths, shared, found.healthy
                )
        return written

    def _collect(self) -> None:
        """Mark data that no snapshot names, and delete those marked a grace period ago."""
        self.decided = self.store.now()
        places = self._stored()  # before the snapshots, so that one written meanwhile is seen
        there = self._read_snapshots().keys()
        if damaged := there & self.damaged.keys():
            self.report.problems += [
                f"{self.damaged[name]}: no data are deleted, since it may name them; if it is of no"
                f" use, remove it by `holdfast delete {name}`"
                for name in sorted(damaged)
            ]
            return
        left = (there & self.read.keys()).difference(self.report.dropped)
        named = {path for name in left for path in self.read[name].paths}
        named |= {path for name in left for path in self.read[name].files_at}
        named |= references.kept(self.store, self.workload)  # after the places, as the snapshots
        fresh: list[str] = []
        dead: list[tuple[str, _Stored]] = []
        empty: list[ObjectInfo] = []
        for path, place in sorted(places.items()):
            if path in named:
                continue
            if self.decided - place.since <= self.grace:  # perhaps a push is at it
                self.report.waiting.append(path)
            elif place.tombstone is None:
                fresh.append(path)
            elif place.manifest or place.data:
                dead.append((path, place))
            else:
                empty.append(place.tombstone)
        self._tombstone(fresh)
        self._delete(dead)
        self._remove_tombstones(empty)

    def _stored(self) -> dict[str, _Stored]:
        places: dict[str, _Stored] = {}
        for info in self.store.list(f"tombstones/{self.workload}/"):
            path = info.key.removeprefix("tombstones/").removesuffix(".json")
            places.setdefault(path, _Stored()).tombstone = info
        for info in self.store.list(f"data/{self.workload}/"):
            path = "/".join(info.key.split("/")[1:6])
            place = places.setdefault(path, _Stored())
            place.data.append(info.key)
            place.add(info)
        for info in self.store.list(f"manifests/{self.workload}/"):
            path = info.key.removeprefix("manifests/").removesuffix(".json")
            place = places.setdefault(path, _Stored())
            place.manifest = info.key
            place.add(info)
        odd = [path for path in places if not BUNDLE_PATH.fullmatch(path)]
        self.report.problems += [f"'{path}' is not a bundle path: left alone" for path in odd]
        return {path: place for path, place in places.items() if path not in odd}

    def _tombstone(self, paths: Sequence[str]) -> None:
        def write(path: str) -> None:
            with suppress(AlreadyExists):
                self.store.put_small(_tombstone_key(path), _MARKED, if_absent=True)
            failpoint("prune.tombstoned")

        if not self.report.dry_run:
            in_threads(write, paths, WRITERS)
        self.report.tombstoned += paths

    def _delete(self, dead: Sequence[tuple[str, _Stored]]) -> None:
        for batch in _batches(dead, AT_ONCE):
            if not self.report.dry_run:
                done = self._delete_bytes([place for _, place in batch])
                refused = set(self.report.refused)
                left = [path for path, place in batch if not done or refused & place.keys]
                self.report.waiting += left
                batch = [(path, place) for path, place in batch if path not in left]
                in_threads(self._mark_deleted, [path for path, _ in batch], WRITERS)
            paths = [path for path, _ in batch]
            self.report.deleted += paths
            self.report.deleted_bytes += sum(place.size for _, place in batch)
            for path in paths:
                self.progress.note(f"deleted {path}")

    def _delete_bytes(self, places: Sequence[_Stored]) -> bool:
        """Delete manifests, then data: without a manifest no reader uses the rest."""
        if not self._remove([place.manifest for place in places if place.manifest]):
            return False
        failpoint("prune.manifest-deleted")
        refused = set(self.report.refused)
        gone = [place for place in places if place.manifest not in refused]
        if not self._remove([key for place in gone for key in place.data]):
            return False
        failpoint("prune.data-deleted")
        return True

    def _mark_deleted(self, path: str) -> None:
        self.store.put_small(_tombstone_key(path), _DELETED)

    def _remove_tombstones(self, tombstones: Sequence[ObjectInfo]) -> None:
        """Delete the tombstones of paths that have been empty for two grace periods."""

        def correct(tombstone: ObjectInfo) -> None:
            with suppress(PreconditionFailed):  # another prune was quicker
                self.store.put_small(tombstone.key, _DELETED, if_match=tombstone.etag)

        if self.report.dry_run or not tombstones or self._too_late():
            return
        said = [t for t in tombstones if t.size == len(_DELETED)]
        killed_before = [t for t in tombstones if t.size != len(_DELETED)]
        in_threads(correct, killed_before, WRITERS)
        self._remove([t.key for t in said if self.decided - t.modified > 2 * self.grace])

    def _remove(self, keys: Sequence[str]) -> bool:
        """Delete objects, many by one request; False once it is too late to delete any.

        What the store refuses to delete is reported, and the rest goes on.
        """
        for batch in _batches(keys, KEYS):
            if self._too_late():
                return False
            self._delete_keys(batch)
        return True

    def _delete_keys(self, keys: Sequence[str]) -> None:
        check_listings(self.store)
        try:
            if keys:
                self.store.delete(keys)
        except NotDeleted as error:
            self.report.refused += error.keys
            self.report.problems.append(str(error))

    def _sweep(self) -> None:
        """Delete what is of no use any more: references and verification records of snapshots that
        are gone, temporary files older than the grace period."""
        if self.report.dry_run:
            return
        made = references.made(self.store, self.workload, self.decided - self.grace)
        records = [info.key for info in self.store.list(f"verified/{self.workload}/")]
        there = {info.key for info in self.store.list(f"snapshots/{self.workload}/")}
        self._remove([key for key, named_by in made.items() if named_by not in there])
        self._delete_keys(
            [
                key
                for key in records
                if SNAPSHOT_ID.fullmatch(key.rpartition("/")[2].removesuffix(".json"))
                and key.replace("verified/", "snapshots/", 1) not in there
            ]
        )
        self.report.leftovers = self.store.sweep(self.decided - self.grace)

    def _too_late(self) -> bool:
        """Whether this prune decided too long ago to still act on it."""
        if self.store.now() - self.decided <= self.grace / 2:
            return False
        problem = "this prune took too long: the next one will do the rest"
        if problem not in self.report.problems:
            self.report.problems.append(problem)
        return True


def check_listings(store: Store) -> None:
    """Raise IncompleteListing if a listing was seen to lack objects: they may be needed."""
    if store.listing_problem:
        raise IncompleteListing(
            f"store {store.url}: {store.listing_problem}: nothing is deleted; use a server or proxy"
            " that lists every object, and ask `holdfast doctor`"
        )


def _tombstone_key(path: str) -> str:
    return f"tombstones/{path}.json"


def _batches(items: Sequence[T], size: int) -> Iterator[Sequence[T]]:
    return (items[start : start + size] for start in range(0, len(items), size))
