"""Snapshots: documents in the store that list the bundles of one recoverable state.

A snapshot is written last, after every byte that it names, and never changed. Its ID is the name of
its object, ``<sequence>-<time>-<id>``. The latest is the one with the highest sequence number,
whatever the clocks say. `Catalog` reads and writes everything in a store except data.

Nothing newer is passed over in silence: whoever asks for the latest also learns which newer ones
there are, or were, that cannot be used (`PassedOver`).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

from holdfast.errors import (
    IncompleteListing,
    InvalidManifest,
    Mismatch,
    NoSnapshot,
    NotFound,
    StoreDenied,
    UsageError,
)
from holdfast.manifest import Manifest, check_name
from holdfast.store import references, sequence
from holdfast.store.base import Store
from holdfast.store.documents import (
    MAX_SEQUENCE,
    SNAPSHOT_ID,
    BundleRef,
    Snapshot,
    Verification,
)
from holdfast.store.lock import HOLD, held_since
from holdfast.store.owner import Owned
from holdfast.store.records import AT_ONCE, NOTHING_BAD, Records, read_at_once

__all__ = [
    "AT_ONCE",
    "NOTHING_BAD",
    "BundleRef",
    "Catalog",
    "Choice",
    "Listing",
    "PassedOver",
    "Snapshot",
    "Verification",
]


@dataclass(frozen=True)
class PassedOver:
    """A snapshot that cannot be used although it is newer than the one that is.

    ``snapshot`` is its ID, or its sequence number in ten digits if nothing else is known of it.
    ``run`` is None if it may be of any run.
    """

    snapshot: str
    reason: str
    run: str | None = None

    def __str__(self) -> str:
        return f"passed over {self.snapshot}: {self.reason}"


@dataclass(frozen=True)
class Choice:
    """The snapshot that was asked for, and what was passed over for it, newest first."""

    snapshot: Snapshot
    passed_over: tuple[PassedOver, ...] = ()


@dataclass
class Listing:
    """The snapshots of a workload, newest first; `damaged` says by ID why others are unreadable,
    `missing` which ones are not there although they should be."""

    snapshots: list[Snapshot] = field(default_factory=list)
    damaged: dict[str, str] = field(default_factory=dict)
    missing: list[PassedOver] = field(default_factory=list)


@dataclass(frozen=True)
class Index:
    """What the names in a store say of a workload's snapshots, without reading one.

    ``written`` are their IDs, oldest first, with the store's time of each. ``missing`` are sequence
    numbers that were taken and have no snapshot, ascending: with the store's time, and the reason.
    ``highest`` is the greatest number that was ever taken, 0 if none was.
    """

    written: dict[str, datetime]
    missing: dict[int, tuple[datetime, str]]
    highest: int
    complete: bool


class Catalog(Owned, Records):
    """Everything that a store says about bundles and snapshots, without their data.

    Args:
        owner: ``<project>/<stack>``. With one, the store of another owner is refused. Without
            one the catalog can only read.
    """

    def __init__(self, store: Store, owner: str | None = None) -> None:
        super().__init__(store, owner)
        self._known: dict[tuple[str, str], Snapshot] = {}

    def within(self, seconds: float | None) -> Catalog:
        """The same catalog with another deadline, counted from now."""
        other = Catalog(self.store.within(seconds), self.owner)
        other._known = self._known
        return other

    # Snapshots ------------------------------------------------------------------------------

    def index(self, workload: str) -> Index:
        """What the names in the store say of a workload's snapshots."""
        found = self._index(workload)
        if found.missing:  # a push may have taken the number just now: look again
            found = self._index(workload)
        if found.missing and (under_way := self._under_way(workload, found.missing)):
            missing = {n: found.missing[n] for n in found.missing if n not in under_way}
            return Index(found.written, missing, found.highest, found.complete)
        return found

    def _index(self, workload: str) -> Index:
        taken = sequence.claims(self.store, workload)  # before the snapshots, which come later
        written = self.written(workload)
        there = {int(name[:10]) for name in written}
        missing = {
            claim.number: (claim.modified, "its number is taken, but the snapshot is missing")
            for claim in taken
            if claim.number not in there and not claim.withdrawn
        }
        highest = max([*there, *(claim.number for claim in taken)], default=0)
        hidden = self._hidden(workload, highest + 1)
        if hidden is not None:
            missing[highest + 1] = (
                hidden,
                "its number is taken, but the store does not list it: its listings are incomplete",
            )
        return Index(written, missing, max([highest, *missing]), hidden is None)

    def _hidden(self, workload: str, number: int) -> datetime | None:
        """When a number that no listing shows was taken: numbers come one after the other."""
        try:
            return self.store.head(sequence.key(workload, number)).modified
        except (NotFound, StoreDenied):
            return None

    def _under_way(self, workload: str, missing: dict[int, tuple[datetime, str]]) -> set[int]:
        """Numbers whose push is still about to write its snapshot: it holds the lock."""
        try:
            since = held_since(self.store, workload)
        except StoreDenied:
            return set()
        young = datetime.now(UTC) - HOLD
        return {n for n, (taken, _) in missing.items() if since and since <= taken > young}

    def check_complete(self, workload: str, settled: timedelta | None = None) -> None:
        """Raise IncompleteListing if the newest snapshots may be missing from what the store lists.

        Whoever deletes asks this first. ``settled``: a number that was taken less than this ago
        does not count, since its push may not have ended.
        """
        found = self.index(workload)
        newest = max((int(name[:10]) for name in found.written), default=0)
        recent = None if settled is None else self.store.now() - settled
        for number, (taken, reason) in sorted(found.missing.items(), reverse=True):
            if not found.complete or (number > newest and (recent is None or taken < recent)):
                raise IncompleteListing(
                    f"store {self.store.url}, snapshot {number:010d} of workload '{workload}':"
                    f" {reason}: nothing is deleted until there is a newer one (`holdfast push`),"
                    f" or the loss is accepted (`holdfast delete {number:010d}`)"
                )

    def listing(self, workload: str, run: str | None = None) -> Listing:
        """The snapshots of a workload (of one run, if given), newest first; and the damaged."""
        found = Listing()
        for one in self.candidates(workload, run):
            if isinstance(one, Snapshot):
                found.snapshots.append(one)
            elif is_snapshot_id(one.snapshot):
                found.damaged[one.snapshot] = one.reason
            elif not found.snapshots:  # behind a newer one it is no loss
                found.missing.append(one)
        return found

    def scan(self, workload: str, ids: Sequence[str]) -> Iterator[tuple[str, Snapshot | Mismatch]]:
        """Read these snapshots: each ID with its snapshot, or with the reason why it is damaged.

        Snapshots that are gone are left out. Reads in batches, so memory does not grow with their
        number.
        """
        for start in range(0, len(ids), AT_ONCE):
            batch = ids[start : start + AT_ONCE]
            results = read_at_once(lambda name: self._try_to_read(workload, name), batch)
            for name, result in zip(batch, results, strict=True):
                if result is not None:
                    yield name, result

    def snapshots(self, workload: str, run: str | None = None) -> list[Snapshot]:
        """The readable snapshots of a workload (of one run, if given), newest first."""
        return list(self.newest_first(workload, run))

    def newest_first(self, workload: str, run: str | None = None) -> Iterator[Snapshot]:
        """The same as an iterator, which reads a snapshot only when the caller gets to it."""
        for found in self.candidates(workload, run):
            if isinstance(found, Snapshot):
                yield found

    def candidates(
        self,
        workload: str,
        run: str | None = None,
        *,
        until: datetime | None = None,
        index: Index | None = None,
        answer: float | None = None,
    ) -> Iterator[Snapshot | PassedOver]:
        """The snapshots of a workload (of one run, if given), newest first, and in their midst what
        cannot be used: whatever comes before a snapshot is newer.

        Their keys hold their order, so the newest costs two lists and one read. The batches grow:
        one snapshot is read at first, then twice as many each time.

        Args:
            until: leave out what was made later than this.
            index: of a moment ago, so that the store need not be listed again.
            answer: seconds that each batch after the first has for itself.
        """
        index = index or self.index(workload)
        missing = {
            f"{number:010d}": reason
            for number, (taken, reason) in index.missing.items()
            if until is None or taken <= until
        }
        names, count, catalog = sorted([*index.written, *missing]), 1, self
        while names:
            batch, names = names[: -count - 1 : -1], names[:-count]
            count = min(2 * count, AT_ONCE)
            ids = [name for name in batch if name not in missing]
            read = dict(catalog.scan(workload, ids))
            for name in batch:
                found = read.get(name)
                if isinstance(found, Snapshot):
                    self._known[workload, name] = found  # the newest is usually read again
                    if run in (None, found.run) and (until is None or found.created <= until):
                        yield found
                    continue
                if name in missing:
                    reason = missing[name]
                elif found is not None and (until is None or _made(name) <= until):
                    reason = str(found).removeprefix(f"snapshot {name} ")
                else:
                    continue
                whose = sequence.run_of(catalog.store, workload, int(name[:10]))
                if run is None or whose in (None, run):
                    yield PassedOver(name, reason, whose)
            catalog = self if answer is None else self.within(answer)

    def choose(self, workload: str, run: str | None, which: str) -> Choice:
        """The snapshot for an ID, ``latest`` or ``before=TIME`` (ISO 8601, UTC by default).

        Raises NoSnapshot when there is none, Mismatch when the one that an ID names is damaged.
        """
        if which != "latest" and not which.startswith("before="):
            snapshot = self.read(workload, which)
            if run not in (None, snapshot.run):
                raise UsageError(
                    f"snapshot {which} is of run '{snapshot.run}', not '{run}': give --run"
                    f" {snapshot.run} if you mean it"
                )
            return Choice(snapshot)
        until = None if which == "latest" else _moment(which.removeprefix("before="))
        passed_over: list[PassedOver] = []
        for found in self.candidates(workload, run, until=until):
            if isinstance(found, Snapshot):
                return Choice(found, tuple(passed_over))
            passed_over.append(found)
        raise NoSnapshot(
            f"store {self.store.url} has no snapshot of workload '{workload}'"
            + (f", run '{run}'" if run else "")
            + (f", {which}" if which != "latest" else "")
            + "".join(f"; {one}" for one in passed_over)
            + ": see `holdfast list`"
        )

    def written(self, workload: str) -> dict[str, datetime]:
        """The IDs of a workload's snapshots, oldest first, with the store's time of each.

        Foreign objects are ignored, and so is a number out of range.
        """
        prefix = f"snapshots/{check_name(workload)}/"
        found = {info.key.removeprefix(prefix): info.modified for info in self.store.list(prefix)}
        return {
            name.removesuffix(".json"): modified
            for name, modified in found.items()
            if name.endswith(".json") and is_snapshot_id(name.removesuffix(".json"))
        }

    def _try_to_read(self, workload: str, snapshot_id: str) -> Snapshot | Mismatch | None:
        try:
            return self._known.get((workload, snapshot_id)) or self._read(workload, snapshot_id)
        except NoSnapshot:  # pruned since it was listed
            return None
        except Mismatch as error:
            return error

    def read(self, workload: str, snapshot_id: str) -> Snapshot:
        """One snapshot. Raises NoSnapshot when there is none, Mismatch when it is damaged."""
        if not is_snapshot_id(snapshot_id):
            raise UsageError(
                f"invalid snapshot ID '{snapshot_id}': copy one from `holdfast list`, or use"
                " latest or before=TIME"
            )
        if (workload, snapshot_id) not in self._known:
            self._known[workload, snapshot_id] = self._read(workload, snapshot_id)
        return self._known[workload, snapshot_id]

    def _read(self, workload: str, snapshot_id: str) -> Snapshot:
        key = f"snapshots/{check_name(workload)}/{snapshot_id}.json"
        try:
            data = self.store.get(key)
        except NotFound:
            raise NoSnapshot(
                f"workload '{workload}' has no snapshot {snapshot_id}: see `holdfast list`"
            ) from None
        return Snapshot.parse(data, key)

    def manifest(self, ref: BundleRef) -> Manifest:
        """The manifest of a bundle in the store.

        Raises Mismatch when it is missing, damaged, or not what the snapshot says of it.
        """
        try:
            manifest = Manifest.parse(self.store.get(ref.manifest))
        except NotFound as error:
            raise Mismatch(f"bundle {ref.name}: its manifest is missing in the store") from error
        except InvalidManifest as error:
            raise Mismatch(f"bundle {ref.name}: its manifest in the store {error}") from error
        ref.check(manifest)
        return manifest

    def claim_sequence(self, workload: str, run: str) -> int:
        """Take the next sequence number. No two pushes ever get the same one."""
        taken = [claim.number for claim in sequence.claims(self.store, workload)]
        written = [int(name[:10]) for name in self.written(workload)]
        return sequence.take(self.store, workload, run, [*taken, *written])

    def remove(self, workload: str, snapshot_id: str) -> None:
        """Delete a snapshot on purpose, so that nobody takes it for one that is lost."""
        sequence.withdraw(self.store, check_name(workload), int(snapshot_id[:10]))
        self.store.delete([f"snapshots/{workload}/{snapshot_id}.json"])
        references.remove(self.store, workload, snapshot_id)

    def pin(self, workload: str, snapshot_id: str) -> None:
        """Protect a snapshot from retention. Raises NoSnapshot when it is not there."""
        self._known.pop((workload, snapshot_id), None)
        self.read(workload, snapshot_id)
        self.store.put_small(f"pins/{workload}/{snapshot_id}", b"")
        self._known.pop((workload, snapshot_id), None)
        try:
            self.read(workload, snapshot_id)  # a prune may have been quicker
        except NoSnapshot:
            self.unpin(workload, snapshot_id)
            raise


def is_snapshot_id(text: str) -> bool:
    """Whether this is written like the ID of a snapshot."""
    return SNAPSHOT_ID.fullmatch(text) is not None and 1 <= int(text[:10]) <= MAX_SEQUENCE


def _made(snapshot_id: str) -> datetime:
    """The time in an ID. It may be that of no day at all: then the snapshot is damaged anyway."""
    try:
        return datetime.strptime(snapshot_id[11:27], "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC)
    except ValueError:
        return datetime.min.replace(tzinfo=UTC)


def _moment(text: str) -> datetime:
    try:
        moment = datetime.fromisoformat(text)
        return moment.replace(tzinfo=moment.tzinfo or UTC).astimezone(UTC)
    except (ValueError, OverflowError):
        raise UsageError(
            f"invalid time '{text}': expected ISO 8601, such as before=2026-08-21T10:15:00Z"
        ) from None
