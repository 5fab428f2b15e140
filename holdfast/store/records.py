"""What a store says about a workload's snapshots beside the snapshots themselves.

Pins, the results of verifications, and which bundles retention dropped.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from typing import TypeVar

from holdfast.durable import in_threads
from holdfast.errors import AlreadyExists, Mismatch, NotFound, PreconditionFailed, StoreError
from holdfast.manifest import check_name
from holdfast.store.base import ObjectInfo, Store
from holdfast.store.documents import SNAPSHOT_ID, Dropped, Verification

READERS = 8  # small objects read at once
AT_ONCE = 64  # of which the results are held at a time, where there may be many
NOTHING_BAD = 200  # bytes: a verification record that names a bad bundle is longer
MOST_DROPPED = 2000  # bundles that are remembered as dropped; more than a volume ever keeps

T = TypeVar("T")


class Records:
    """The part of a `holdfast.store.snapshot.Catalog` that is about records."""

    store: Store

    def pins(self, workload: str) -> set[str]:
        """The IDs of the snapshots that retention must keep."""
        prefix = f"pins/{check_name(workload)}/"
        names = (info.key.removeprefix(prefix) for info in self.store.list(prefix))
        return {name for name in names if SNAPSHOT_ID.fullmatch(name)}

    def unpin(self, workload: str, snapshot_id: str) -> None:
        """Remove the pin of a snapshot; a missing pin is not an error."""
        self.store.delete([f"pins/{check_name(workload)}/{snapshot_id}"])

    def record(self, workload: str, verification: Verification) -> None:
        """Store the result of a verification in place of the one before. A quick check that found
        nothing never replaces a full one."""
        key = f"verified/{check_name(workload)}/{verification.snapshot}.json"
        if verification.kind == "quick" and verification.ok:
            with suppress(NotFound, Mismatch, ValueError):
                if Verification.parse(self.store.get(key), key).kind == "full":
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

    def dying(self, workload: str) -> set[str]:
        """Paths of a workload's bundles with a tombstone: whoever writes takes them for absent."""
        prefix = f"tombstones/{check_name(workload)}/"
        found = (info.key.removeprefix("tombstones/") for info in self.store.list(prefix))
        return {key.removesuffix(".json") for key in found}

    def dropped(self, workload: str) -> tuple[str, ...]:
        """The digests of bundles whose last snapshot was deleted on purpose, oldest first."""
        return self._dropped(workload)[0]

    def record_dropped(self, workload: str, digests: Iterable[str]) -> None:
        """Remember that these bundles lost their last snapshot on purpose: call this first.

        A bundle that gets a snapshot later may stay in the list: a snapshot counts for more.
        """
        new = tuple(dict.fromkeys(digests))
        for _ in range(10):
            known, etag = self._dropped(workload)
            both = (*(digest for digest in known if digest not in new), *new)[-MOST_DROPPED:]
            if both == known:
                return
            document = Dropped(workload=workload, bundles=both).to_bytes()
            with suppress(AlreadyExists, PreconditionFailed):  # another one was quicker
                if etag:
                    self.store.put_small(_dropped_key(workload), document, if_match=etag)
                else:
                    self.store.put_small(_dropped_key(workload), document, if_absent=True)
                return
        raise StoreError(
            f"store {self.store.url}: '{_dropped_key(workload)}' was changed by others 10 times in"
            " a row: try again"
        )

    def _dropped(self, workload: str) -> tuple[tuple[str, ...], str]:
        """The list, and the tag of its document: "" if there is none. A damaged list is empty."""
        key = _dropped_key(check_name(workload))
        etag = ""
        try:
            etag = self.store.head(key).etag
            return Dropped.parse(self.store.get(key), key).bundles, etag
        except NotFound:
            return (), ""
        except (Mismatch, ValueError):
            return (), etag

    def _verified(self, workload: str) -> Iterator[ObjectInfo]:
        return self.store.list(f"verified/{check_name(workload)}/")

    def _records(self, keys: Sequence[str]) -> list[Verification]:
        def read(key: str) -> Verification | None:
            try:
                return Verification.parse(self.store.get(key), key)
            except (NotFound, Mismatch, ValueError):  # as if it was never verified
                return None

        return [record for record in read_at_once(read, keys) if record]


def read_at_once(read: Callable[[str], T], names: Sequence[str]) -> list[T]:
    """What ``read`` makes of each name, several at a time."""
    return in_threads(read, names, READERS)


def _dropped_key(workload: str) -> str:
    return f"dropped/{workload}.json"
