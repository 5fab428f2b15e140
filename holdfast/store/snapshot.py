"""Snapshots: documents in the store that list the bundles of one recoverable state.

A snapshot is written last, after every byte that it names, and never changed. Its ID is the name of
its object, ``<sequence>-<time>-<id>``. The latest is the one with the highest sequence number,
whatever the clocks say. `Catalog` reads and writes everything in a store except data.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime

from pydantic import ValidationError

from holdfast.durable import in_threads
from holdfast.errors import (
    AlreadyExists,
    InvalidManifest,
    Mismatch,
    NoSnapshot,
    NotFound,
    OwnerMismatch,
    StoreError,
    UsageError,
)
from holdfast.manifest import Manifest, canonical, check_name
from holdfast.store.base import ObjectInfo, Store
from holdfast.store.documents import SNAPSHOT_ID, BundleRef, Snapshot, Verification

__all__ = ["BundleRef", "Catalog", "Listing", "Snapshot", "Verification"]

OWNER = "OWNER.json"
READERS = 8  # small objects read at once
AT_ONCE = 64  # of which the results are held at a time, where there may be many
NOTHING_BAD = 200  # bytes: a verification record that names a bad bundle is longer


@dataclass
class Listing:
    """The snapshots of a workload, newest first; `damaged` says by ID why others are unreadable."""

    snapshots: list[Snapshot] = field(default_factory=list)
    damaged: dict[str, str] = field(default_factory=dict)


class Catalog:
    """Everything that a store says about bundles and snapshots, without their data.

    Args:
        owner: ``<project>/<stack>``. With one, the store of another owner is refused. Without
            one the catalog can only read.
    """

    def __init__(self, store: Store, owner: str | None = None) -> None:
        if owner is not None and len([part for part in owner.split("/") if part]) != 2:
            raise UsageError(
                f"invalid owner '{owner}': expected <project>/<stack>, such as team/prod"
            )
        self.store = store
        self.owner = owner
        self._known: dict[str, Snapshot] = {}

    def within(self, seconds: float | None) -> Catalog:
        """The same catalog with another deadline, counted from now."""
        other = Catalog(self.store.within(seconds), self.owner)
        other._known = self._known
        return other

    # Owner ------------------------------------------------------------------------------------

    def check_owner(self) -> None:
        """Refuse the store of another owner; a store without an owner is accepted."""
        found = self._found_owner()
        if found and self.owner not in (None, found):
            raise OwnerMismatch(
                f"store {self.store.url} belongs to '{found}', not to '{self.owner}': correct the"
                f" prefix; or, if that stack is gone for good, `holdfast adopt {found}`"
            )

    def claim(self) -> None:
        """Become the owner of a store that has none; refuse the store of another owner."""
        try:
            self.store.put_small(OWNER, self._owner_document(), if_absent=True)
        except AlreadyExists:
            self.check_owner()

    def adopt(self, previous: str) -> None:
        """Take the store over from ``previous``, its owner so far; a repeat changes nothing.

        Raises OwnerMismatch when the store has another owner, or none yet.
        """
        data = self._owner_document()
        try:
            etag = self.store.head(OWNER).etag
        except NotFound:
            etag = ""
        found = self._found_owner()
        if found == self.owner:
            return
        if found != previous:
            state = f"belongs to '{found}'" if found else "has no owner yet"
            raise OwnerMismatch(
                f"store {self.store.url} {state}, so it cannot be taken over from '{previous}':"
                " correct --store or the name"
            )
        self.store.put_small(OWNER, data, if_match=etag)

    def _found_owner(self) -> str | None:
        try:
            found = json.loads(self.store.get(OWNER))
            return f"{found['project']}/{found['stack']}"
        except NotFound:
            return None
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise OwnerMismatch(
                f"store {self.store.url}: invalid {OWNER} ({error}): this prefix is not a Holdfast"
                " store; use another prefix"
            ) from error

    def _owner_document(self) -> bytes:
        if self.owner is None:
            raise UsageError("writing to a store needs an owner: give --owner <project>/<stack>")
        project, stack = self.owner.split("/")
        return canonical({"format": 1, "project": project, "stack": stack})

    # Snapshots ------------------------------------------------------------------------------

    def listing(self, workload: str, run: str | None = None) -> Listing:
        """The snapshots of a workload (of one run, if given), newest first; and the damaged."""
        found = Listing()
        for snapshot_id, result in self.scan(workload, list(self.written(workload))[::-1]):
            if isinstance(result, Mismatch):
                found.damaged[snapshot_id] = str(result)
            elif run in (None, result.run):
                found.snapshots.append(result)
        return found

    def scan(self, workload: str, ids: Sequence[str]) -> Iterator[tuple[str, Snapshot | Mismatch]]:
        """Read these snapshots: each ID with its snapshot, or with the reason why it is damaged.

        Snapshots that are gone are left out. Reads in batches, so memory does not grow with their
        number.
        """
        for start in range(0, len(ids), AT_ONCE):
            batch = ids[start : start + AT_ONCE]
            results = in_threads(lambda name: self._try_to_read(workload, name), batch, READERS)
            for name, result in zip(batch, results, strict=True):
                if result is not None:
                    yield name, result

    def snapshots(self, workload: str, run: str | None = None) -> list[Snapshot]:
        """The readable snapshots of a workload (of one run, if given), newest first."""
        return list(self.newest_first(workload, run))

    def newest_first(self, workload: str, run: str | None = None) -> Iterator[Snapshot]:
        """The same as an iterator, which reads a snapshot only when the caller gets to it."""
        for _, found in self.newest(workload):
            if isinstance(found, Snapshot) and run in (None, found.run):
                yield found

    def newest(self, workload: str) -> Iterator[tuple[str, Snapshot | Mismatch]]:
        """The snapshots of a workload, newest first; or the reason why one is damaged.

        Their keys hold their order, so the newest costs one list and one read. The batches grow:
        one snapshot is read at first, then twice as many each time.
        """
        ids, count = list(self.written(workload)), 1
        while ids:
            for name, found in self.scan(workload, ids[: -count - 1 : -1]):
                if isinstance(found, Snapshot):
                    self._known[name] = found  # the newest is usually read again
                yield name, found
            ids, count = ids[:-count], min(2 * count, AT_ONCE)

    def written(self, workload: str) -> dict[str, datetime]:
        """The IDs of a workload's snapshots, oldest first, with the store's time of each."""
        prefix = f"snapshots/{check_name(workload)}/"
        return {
            info.key.removeprefix(prefix).removesuffix(".json"): info.modified
            for info in self.store.list(prefix)
        }

    def _try_to_read(self, workload: str, snapshot_id: str) -> Snapshot | Mismatch | None:
        try:
            return self._known.get(snapshot_id) or self._read(workload, snapshot_id)
        except NoSnapshot:  # pruned since it was listed
            return None
        except Mismatch as error:
            return error

    def read(self, workload: str, snapshot_id: str) -> Snapshot:
        """One snapshot. Raises NoSnapshot when there is none, Mismatch when it is damaged."""
        if not SNAPSHOT_ID.fullmatch(snapshot_id):
            raise UsageError(
                f"invalid snapshot ID '{snapshot_id}': copy one from `holdfast list`, or use"
                " latest or before=TIME"
            )
        if snapshot_id not in self._known:
            self._known[snapshot_id] = self._read(workload, snapshot_id)
        return self._known[snapshot_id]

    def _read(self, workload: str, snapshot_id: str) -> Snapshot:
        try:
            data = self.store.get(f"snapshots/{check_name(workload)}/{snapshot_id}.json")
        except NotFound:
            raise NoSnapshot(
                f"workload '{workload}' has no snapshot {snapshot_id}: see `holdfast list`"
            ) from None
        return Snapshot.parse(data, snapshot_id)

    def resolve(self, workload: str, run: str, which: str) -> Snapshot:
        """The snapshot for an ID, ``latest`` or ``before=TIME`` (ISO 8601, UTC by default)."""
        if which != "latest" and not which.startswith("before="):
            snapshot = self.read(workload, which)
            if snapshot.run != run:
                raise UsageError(
                    f"snapshot {which} is of run '{snapshot.run}', not '{run}': give --run"
                    f" {snapshot.run} if you mean it"
                )
            return snapshot
        moment = None if which == "latest" else _moment(which.removeprefix("before="))
        for snapshot in self.newest_first(workload, run):
            if moment is None or snapshot.created <= moment:
                return snapshot
        raise NoSnapshot(
            f"store {self.store.url} has no snapshot of workload '{workload}', run '{run}'"
            + (f", {which}" if which != "latest" else "")
            + ": see `holdfast list`"
        )

    def manifest(self, ref: BundleRef) -> Manifest:
        """The manifest of a bundle in the store. Raises Mismatch when it is missing or differs."""
        try:
            manifest = Manifest.parse(self.store.get(ref.manifest))
        except NotFound as error:
            raise Mismatch(f"bundle {ref.name}: its manifest is missing in the store") from error
        except InvalidManifest as error:
            raise Mismatch(f"bundle {ref.name}: its manifest in the store {error}") from error
        if (manifest.digest, manifest.name) != (ref.digest, ref.name):
            raise Mismatch(f"bundle {ref.name}: its manifest in the store is of another bundle")
        return manifest

    def claim_sequence(self, workload: str) -> int:
        """Take the next sequence number. No two pushes ever get the same one."""
        taken = [
            int(key.rsplit("/", 1)[1][:10])
            for kind in ("sequences", "snapshots")
            for key in (info.key for info in self.store.list(f"{kind}/{workload}/"))
        ]
        number = max(taken, default=0) + 1
        for candidate in range(number, number + 100):
            data = canonical({"claim": secrets.token_hex(16)})
            try:
                self.store.put_small(
                    f"sequences/{workload}/{candidate:010d}.json", data, if_absent=True
                )
            except AlreadyExists:
                continue
            return candidate
        raise StoreError(
            f"store {self.store.url}: 100 sequence numbers in a row are taken: try again"
        )

    # Pins and verifications -----------------------------------------------------------------

    def pins(self, workload: str) -> set[str]:
        """The IDs of the snapshots that retention must keep."""
        prefix = f"pins/{check_name(workload)}/"
        return {info.key.removeprefix(prefix) for info in self.store.list(prefix)}

    def pin(self, workload: str, snapshot_id: str) -> None:
        """Protect a snapshot from retention. Raises NoSnapshot when it is not there."""
        self._known.pop(snapshot_id, None)
        self.read(workload, snapshot_id)
        self.store.put_small(f"pins/{workload}/{snapshot_id}", b"")
        self._known.pop(snapshot_id, None)
        try:
            self.read(workload, snapshot_id)  # a prune may have been quicker
        except NoSnapshot:
            self.unpin(workload, snapshot_id)
            raise

    def unpin(self, workload: str, snapshot_id: str) -> None:
        """Remove the pin of a snapshot; a missing pin is not an error."""
        self.store.delete([f"pins/{check_name(workload)}/{snapshot_id}"])

    def record(self, workload: str, verification: Verification) -> None:
        """Store the result of a verification in place of the one before. A quick check that found
        nothing never replaces a full one."""
        key = f"verified/{check_name(workload)}/{verification.snapshot}.json"
        if verification.kind == "quick" and verification.ok:
            with suppress(NotFound, ValidationError):
                earlier = Verification.model_validate_json(self.store.get(key))
                if earlier.kind == "full":
                    return
        self.store.put_small(key, verification.to_bytes())

    def verifications(self, workload: str) -> dict[str, Verification]:
        """The last verification of each snapshot that was ever verified."""
        records = self._records([info.key for info in self._verified(workload)])
        return {record.snapshot: record for record in records}

    def verdicts(self, workload: str) -> dict[str, bool]:
        """By snapshot ID, whether its last verification passed."""
        keys = [info.key for info in self._verified(workload)]
        return {
            record.snapshot: record.ok
            for start in range(0, len(keys), AT_ONCE)
            for record in self._records(keys[start : start + AT_ONCE])
        }

    def last_read_in_full(self, workload: str) -> Verification | None:
        """The newest verification that read every byte. Reads as few records as it can."""
        by_age = sorted(self._verified(workload), key=lambda info: info.modified, reverse=True)
        for start in range(0, len(by_age), AT_ONCE):
            records = self._records([info.key for info in by_age[start : start + AT_ONCE]])
            if full := [record for record in records if record.kind == "full"]:
                return max(full, key=lambda record: (record.at, record.snapshot))
        return None

    def failures(self, workload: str) -> list[Verification]:
        """The verifications that found something bad.

        Reads only the records that are long enough to name a bundle.
        """
        keys = [info.key for info in self._verified(workload) if info.size > NOTHING_BAD]
        return [record for record in self._records(keys) if not record.ok]

    def known_bad(self, workload: str) -> set[str]:
        """Paths of bundles that failed verification in the store. A push treats them as absent."""
        return {path for record in self.failures(workload) for path in record.bad}

    def _verified(self, workload: str) -> Iterator[ObjectInfo]:
        return self.store.list(f"verified/{check_name(workload)}/")

    def _records(self, keys: Sequence[str]) -> list[Verification]:
        def read(key: str) -> Verification | None:
            try:
                return Verification.model_validate_json(self.store.get(key))
            except (NotFound, ValidationError):  # gone or damaged: the same as never verified
                return None

        return [record for record in in_threads(read, keys, READERS) if record]


def _moment(text: str) -> datetime:
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise UsageError(
            f"invalid time '{text}': expected ISO 8601, such as before=2026-08-21T10:15:00Z"
        ) from None
    return moment.replace(tzinfo=moment.tzinfo or UTC)
