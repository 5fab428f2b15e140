"""Prune: drop the snapshots that the policy does not keep, then the data that nobody names.

Data are deleted in two steps, a grace period apart, so that a push beside it never loses what it is
about to name (see `holdfast.push` for its half):

1. A bundle path that no snapshot names, and that nothing was written to for a grace period, gets a
   *tombstone*. From then on every push treats the path as absent. A tombstone is never taken back.
2. When the tombstone is older than the grace period by the store's clock, and still no snapshot
   names the path, the manifest goes, then the data. Whoever is slower than half of a grace period
   between looking and deleting looks again.
3. The tombstone goes two grace periods after the data.

Killed anywhere, the next prune goes on. Deletions share requests, with a look at the clock before
each, so that what a dropped snapshot costs is two small writes: what its bundle's tombstone says.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import nullcontext, suppress
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import TypeVar

from holdfast.durable import in_threads
from holdfast.errors import (
    AlreadyExists,
    HoldfastError,
    Mismatch,
    PreconditionFailed,
    UsageError,
)
from holdfast.failpoint import failpoint
from holdfast.manifest import canonical, check_name
from holdfast.progress import SILENT, Progress
from holdfast.retention import Policy, select_keep
from holdfast.store.base import ObjectInfo, Store
from holdfast.store.documents import BUNDLE_PATH
from holdfast.store.lock import store_lock
from holdfast.store.snapshot import Catalog

# What a tombstone says: the sizes differ, so that a listing shows it.
_DELETED = canonical({"format": 1, "state": "deleted"})
_DYING = canonical({"format": 1, "state": "dying"})

AT_ONCE = 100  # snapshots or bundles; a pin is too late while so many snapshots are deleted
KEYS = 1000  # that S3 deletes by one request
WRITERS = 8  # small objects written at once

T = TypeVar("T")


@dataclass
class PruneReport:
    """What was done, or would be (``dry_run``). Paths are bundle paths; sizes are in bytes."""

    dry_run: bool = False
    kept: dict[str, list[str]] = field(default_factory=dict)
    dropped: list[str] = field(default_factory=list)
    tombstoned: list[str] = field(default_factory=list)
    waiting: list[str] = field(default_factory=list)
    deleted: list[str] = field(default_factory=list)
    deleted_bytes: int = 0
    leftovers: int = 0
    problems: list[str] = field(default_factory=list)


@dataclass
class _Place:
    """All that lies at one bundle path."""

    manifest: str | None = None
    data: list[str] = field(default_factory=list)
    size: int = 0
    written: datetime | None = None
    tombstone: ObjectInfo | None = None

    def add(self, info: ObjectInfo) -> None:
        self.size += info.size
        self.written = max(info.modified, self.written or info.modified)

    @property
    def since(self) -> datetime:
        """When it got its tombstone; without one, when something was last written there."""
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
    """Apply a retention policy to a workload's snapshots and remove what nobody names any more.

    A snapshot younger than ``grace`` is never dropped and displaces no older one. The newest, the
    last that verified, and pinned ones stay whatever the policy says. ``grace`` must be the same
    for every push and prune of the store, and much longer than a push takes. ``dry_run`` deletes
    nothing and changes no document.
    """
    check_name(workload)
    if grace <= timedelta(0):
        raise UsageError(f"grace {grace} must be longer than 0: a push needs time to name its data")
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
    """Remove one snapshot, also a damaged one; its data go with later prunes.

    Raises HoldfastError for one that is pinned, the last that verified, or the only sound one.
    """
    if dry_run:
        catalog.check_owner()
    else:
        catalog.claim()
    with nullcontext() if dry_run else store_lock(catalog.store, workload, patience):
        try:
            catalog.read(workload, snapshot_id)
        except Mismatch:  # nothing can be recovered from it
            kept = set()
        else:
            snapshots = catalog.snapshots(workload)
            results = catalog.verdicts(workload)
            pins = catalog.pins(workload)
            nothing = Policy(keep_last=0, hourly=0, daily=0, weekly=0, monthly=0)
            reasons = select_keep(snapshots, nothing, pinned=pins, verified=results)
            kept = set(reasons.get(snapshot_id, ()))
            if any(results.get(s.id, True) for s in snapshots if s.id != snapshot_id):
                kept.discard("newest")
        if kept:
            raise HoldfastError(
                f"snapshot {snapshot_id} is protected ({', '.join(sorted(kept))}): unpin it, or"
                " push and verify another one first"
            )
        if not dry_run:
            catalog.store.delete([f"snapshots/{workload}/{snapshot_id}.json"])
            catalog.store.delete([f"verified/{workload}/{snapshot_id}.json"])


@dataclass(frozen=True, slots=True)
class _Named:
    """What a prune keeps in memory of a snapshot: little, for there may be many."""

    id: str
    sequence: int
    created: datetime
    paths: tuple[str, ...]


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
        self._drop_snapshots()
        self._bury()
        self._sweep()
        return self.report

    def _drop_snapshots(self) -> None:
        self.decided = self.store.now()
        written = self._look()
        snapshots = [self.read[name] for name in written if name in self.read]
        verified = self.catalog.verdicts(self.workload)
        pins = self.catalog.pins(self.workload)
        kept = self.report.kept = select_keep(
            snapshots, self.policy, pinned=pins, verified=verified
        )
        # A push may still withdraw a young snapshot: it must not have displaced an older one.
        settled = [s for s in snapshots if self.decided - written[s.id] > self.grace]
        for name, why in select_keep(settled, self.policy, verified=verified).items():
            kept.setdefault(name, [f"{reason} before the grace period" for reason in why])
        for snapshot in snapshots:
            if self.decided - written[snapshot.id] <= self.grace:
                kept.setdefault(snapshot.id, ["younger than the grace period"])
        for batch in _batches([s.id for s in snapshots if s.id not in kept], AT_ONCE):
            if not self.report.dry_run:
                pins = self.catalog.pins(self.workload)  # one may have come meanwhile
                batch = [name for name in batch if name not in pins]
                if not self._remove([f"snapshots/{self.workload}/{name}.json" for name in batch]):
                    return
                failpoint("prune.snapshot-dropped")
            self.report.dropped += batch
            for name in batch:
                self.progress.note(f"dropped snapshot {name}")

    def _look(self) -> dict[str, datetime]:
        """List the snapshots, read those that are new to us; returns when each was written."""
        written = self.catalog.written(self.workload)
        unread = [name for name in written if name not in self.read]
        for name, found in self.catalog.scan(self.workload, unread):
            if isinstance(found, Mismatch):
                self.damaged[name] = str(found)
            else:
                paths = tuple(ref.path for ref in found.bundles)
                self.read[name] = _Named(name, found.sequence, found.created, paths)
        return written

    def _bury(self) -> None:
        """Tombstone what nobody names, delete what has been a tombstone for long enough."""
        self.decided = self.store.now()
        places = self._places()  # before the snapshots: what is named afterwards is seen named
        there = self._look().keys()
        if damaged := there & self.damaged.keys():
            self.report.problems += [
                f"{self.damaged[name]}: no data are deleted while it is unknown what it names;"
                f" remove snapshots/{self.workload}/{name}.json if it is of no use"
                for name in sorted(damaged)
            ]
            return
        left = (there & self.read.keys()).difference(self.report.dropped)
        named = {path for name in left for path in self.read[name].paths}
        fresh: list[str] = []
        dead: list[tuple[str, _Place]] = []
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
        self._forget(empty)

    def _places(self) -> dict[str, _Place]:
        places: dict[str, _Place] = {}
        for info in self.store.list(f"tombstones/{self.workload}/"):
            path = info.key.removeprefix("tombstones/").removesuffix(".json")
            places.setdefault(path, _Place()).tombstone = info
        for info in self.store.list(f"data/{self.workload}/"):
            path = "/".join(info.key.split("/")[1:6])
            place = places.setdefault(path, _Place())
            place.data.append(info.key)
            place.add(info)
        for info in self.store.list(f"manifests/{self.workload}/"):
            path = info.key.removeprefix("manifests/").removesuffix(".json")
            place = places.setdefault(path, _Place())
            place.manifest = info.key
            place.add(info)
        odd = [path for path in places if not BUNDLE_PATH.fullmatch(path)]
        self.report.problems += [f"'{path}' is no bundle path: left alone" for path in odd]
        return {path: place for path, place in places.items() if path not in odd}

    def _tombstone(self, paths: Sequence[str]) -> None:
        def write(path: str) -> None:
            with suppress(AlreadyExists):
                self.store.put_small(_tombstone_key(path), _DYING, if_absent=True)
            failpoint("prune.tombstoned")

        if not self.report.dry_run:
            in_threads(write, paths, WRITERS)
        self.report.tombstoned += paths

    def _delete(self, dead: Sequence[tuple[str, _Place]]) -> None:
        for batch in _batches(dead, AT_ONCE):
            paths = [path for path, _ in batch]
            if not self.report.dry_run:
                if not self._delete_bytes([place for _, place in batch]):
                    self.report.waiting += paths
                    continue
                in_threads(self._say_deleted, paths, WRITERS)
            self.report.deleted += paths
            self.report.deleted_bytes += sum(place.size for _, place in batch)
            for path in paths:
                self.progress.note(f"deleted {path}")

    def _delete_bytes(self, places: Sequence[_Place]) -> bool:
        """Remove manifests, then data, so that no reader takes what is left for a bundle."""
        if not self._remove([place.manifest for place in places if place.manifest]):
            return False
        failpoint("prune.manifest-deleted")
        if not self._remove([key for place in places for key in place.data]):
            return False
        failpoint("prune.data-deleted")
        return True

    def _say_deleted(self, path: str) -> None:
        self.store.put_small(_tombstone_key(path), _DELETED)

    def _forget(self, tombstones: Sequence[ObjectInfo]) -> None:
        """Remove the tombstones of paths that have been empty for two grace periods."""

        def correct(tombstone: ObjectInfo) -> None:
            with suppress(PreconditionFailed):  # another prune was quicker
                self.store.put_small(tombstone.key, _DELETED, if_match=tombstone.etag)

        if self.report.dry_run or not tombstones or self._stalled():
            return
        said = [t for t in tombstones if t.size == len(_DELETED)]
        killed_before = [t for t in tombstones if t.size != len(_DELETED)]
        in_threads(correct, killed_before, WRITERS)
        self._remove([t.key for t in said if self.decided - t.modified > 2 * self.grace])

    def _remove(self, keys: Sequence[str]) -> bool:
        """Delete objects, many by one request; False when it is too late to act."""
        for batch in _batches(keys, KEYS):
            if self._stalled():
                return False
            self.store.delete(batch)
        return True

    def _sweep(self) -> None:
        """What is of no use any more: sequence numbers but the greatest, records of snapshots that
        are gone, temporaries older than the grace period."""
        if self.report.dry_run:
            return
        records = [info.key for info in self.store.list(f"verified/{self.workload}/")]
        there = {info.key for info in self.store.list(f"snapshots/{self.workload}/")}
        self.store.delete(
            key for key in records if key.replace("verified/", "snapshots/", 1) not in there
        )
        claims = list(self.store.list(f"sequences/{self.workload}/"))[:-1]
        old = [info.key for info in claims if self.decided - info.modified > self.grace]
        self.store.delete(old)
        self.report.leftovers = self.store.sweep(self.decided - self.grace)

    def _stalled(self) -> bool:
        """Whether this prune decided so long ago that it must not act on it any more."""
        if self.store.now() - self.decided <= self.grace / 2:
            return False
        problem = "this prune was too slow: what it left will be done by the next one"
        if problem not in self.report.problems:
            self.report.problems.append(problem)
        return True


def _tombstone_key(path: str) -> str:
    return f"tombstones/{path}.json"


def _batches(items: Sequence[T], size: int) -> Iterator[Sequence[T]]:
    return (items[start : start + size] for start in range(0, len(items), size))
