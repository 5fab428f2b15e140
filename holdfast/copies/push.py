"""Push: copy bundles from a volume to a store, and write a snapshot for each.

A push may be killed at any point, because of its order: data files (read, hashed and sent in one
pass), then the manifest, then the snapshot. A reader sees the snapshot or nothing, and the next
push reuses what was copied.

Push beside prune. A path with a tombstone counts as absent, even if its bytes are there: the bundle
is copied to a new path ``-n``. `holdfast.copies.writing` withdraws a snapshot that comes too late,
and the push starts again. Prune deletes a path with a tombstone after the whole grace period, if no
snapshot names it then. So nothing is deleted that a snapshot names.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from datetime import timedelta

from holdfast.bundle import Bundle
from holdfast.copies.copying import Copier
from holdfast.copies.followed import HELD, followed, marker
from holdfast.copies.remembered import remember, rolled_back
from holdfast.copies.shared import find_shared, is_whole
from holdfast.copies.writing import ATTEMPTS, TooLate, write_snapshot, writing
from holdfast.defaults import GRACE, SHARED, Select
from holdfast.errors import HoldfastError, InvalidBundle, StoreDenied, StoreError
from holdfast.manifest import Manifest
from holdfast.progress import SILENT, Progress
from holdfast.store.documents import BundleRef, Snapshot, bundle_path, shared_path
from holdfast.store.snapshot import Catalog, Index, PassedOver
from holdfast.volume import Volume


class EmptyVolume(HoldfastError):
    """The volume has no bundle, but the store has snapshots of this run."""


@dataclass(frozen=True)
class Skipped:
    """A bundle that was not pushed, and why."""

    name: str
    reason: str


@dataclass(frozen=True)
class PushReport:
    """What a push did.

    ``snapshot`` is the latest one that holds the volume's newest bundle, "" if there is none yet.
    ``created`` are the new ones, oldest first. Sizes are in bytes.
    """

    snapshot: str
    created: tuple[str, ...]
    bundles: tuple[BundleRef, ...]
    copied_files: int
    copied_bytes: int
    skipped: tuple[Skipped, ...]
    message: str


class _Vanished(Exception):
    """Keep-K removed the bundle while it was being copied."""


def push(
    volume: Volume,
    catalog: Catalog,
    workload: str,
    *,
    select: Select = Select.NEWEST,
    grace: timedelta = GRACE,
    patience: float = 10.0,
    progress: Progress = SILENT,
) -> PushReport:
    """Protect the newest bundle of the volume's present generation, or all of them.

    One snapshot per bundle. A bundle that retention dropped is not pushed again. ``patience``
    (seconds) is how long to wait politely for another push or prune of the workload.

    Raises:
        InvalidBundle: a bundle's bytes differ from its manifest; it was not copied.
        EmptyVolume: the volume has no bundle, the store has snapshots of this run.
        OwnerMismatch: the store has another owner.
        StoreError: the store refused or failed.
    """
    with writing(catalog, workload, patience):
        return _Push(volume, catalog, workload, grace, progress).run(select)


class _Push:
    def __init__(
        self, volume: Volume, catalog: Catalog, workload: str, grace: timedelta, progress: Progress
    ) -> None:
        self.volume, self.catalog, self.workload = volume, catalog, workload
        self.store, self.grace, self.progress = catalog.store, grace, progress
        self.skipped: dict[str, Skipped] = {}
        self.created: list[Snapshot] = []
        self.copier = Copier(catalog, progress)
        self._index: Index | None = None

    def run(self, select: Select) -> PushReport:
        self._index = self.catalog.index(self.workload)
        for lost in rolled_back(self.volume, self.catalog, self.workload, self._index):
            self.progress.note(str(lost))
        for error in self.volume.damaged():
            self._skip(error.path.name, "; ".join(error.problems))
        for _ in range(ATTEMPTS):  # again when keep-K was quicker: then there is a newer one
            found = self.volume.bundles()
            if not found:
                return self._nothing()
            bad = self.catalog.known_bad(self.workload)
            if select is Select.ALL:
                self._protect_older(found, bad)
                self._index = None
            latest = self._latest(found[0], bad) or self._protect(found[0], bad)
            if latest is not None:
                return self._report(latest)
        raise HoldfastError(
            f"run '{self.volume.run}': its newest bundle was removed {ATTEMPTS} times while it was"
            " copied: keep more bundles, or save less often"
        )

    def _latest(self, newest: Bundle, bad: set[str]) -> Snapshot | None:
        """The run's last snapshot, if it protects the newest bundle and nothing newer is lost."""
        index, self._index = self._index, None  # it is of use once
        search = self.catalog.candidates(self.workload, self.volume.run, index=index)
        found = next(search, None)
        if isinstance(found, PassedOver):
            self.progress.note(f"{found}; making a new snapshot")
            return None
        while found is not None and not found.has(self.volume.kind):
            found = next((one for one in search if isinstance(one, Snapshot)), None)
        if found is None or found.generation != self.volume.present():
            return None
        return found if _names(found, newest) and _sound(found, bad) else None

    def _protect_older(self, found: list[Bundle], bad: set[str]) -> None:
        """Copy the bundles behind the newest that the store never had; one bad bundle does not keep
        the others from it."""
        for bundle in self._unprotected(found, bad):
            try:
                self._protect(bundle, bad)
            except InvalidBundle as error:
                self._skip(bundle.name, "; ".join(error.problems))

    def _unprotected(self, found: list[Bundle], bad: set[str]) -> list[Bundle]:
        """The bundles behind the newest that no snapshot names and none named that was deleted on
        purpose, oldest first.

        Reads snapshots only until all bundles are found in them.
        """
        missing = {bundle.manifest.digest: bundle for bundle in reversed(found[1:])}
        snapshots = self.catalog.newest_first(self.workload, self.volume.run)
        while missing and (snapshot := next(snapshots, None)):
            if _sound(snapshot, bad):
                for ref in snapshot.bundles:
                    missing.pop(ref.digest, None)
        if missing:
            for digest in self.catalog.dropped(self.workload):
                if bundle := missing.pop(digest, None):
                    self._skip(bundle.name, "retention dropped it before")
        return list(missing.values())

    def _protect(self, bundle: Bundle, bad: set[str]) -> Snapshot | None:
        """A new snapshot that names the bundle; None when it is skipped."""
        for _ in range(ATTEMPTS):
            try:
                return self._copy_and_snapshot(bundle, bad)
            except _Vanished:
                self._skip(bundle.name, "keep-K removed it while it was copied")
                return None
            except TooLate as error:
                bad |= error.paths  # the next attempt takes fresh paths
                self.progress.note(f"{bundle.name}: {error}; starting again")
        raise StoreError(
            f"bundle {bundle.name} could not be pushed within half of the grace period"
            f" ({self.grace / 2}) in {ATTEMPTS} attempts: raise --grace here and for prune"
        )

    def _copy_and_snapshot(self, bundle: Bundle, bad: set[str]) -> Snapshot:
        began, present = self.store.now(), self.volume.present() or 1
        ref = self._copy(bundle, present, bad)
        held = marker(self.volume.generation_path(present)).get(HELD)
        snapshot = write_snapshot(
            self.catalog,
            self.workload,
            self.volume.run,
            present,
            [ref],
            began=began,
            labels={HELD: str(held)} if held and followed(self.volume) else None,
            grace=self.grace,
            looked=[ref.path],
        )
        self.created.append(snapshot)
        return snapshot

    def _copy(self, bundle: Bundle, present: int, bad: set[str]) -> BundleRef:
        """Copy what is missing of the bundle to the store; what all share is there already."""
        if shared := self._shared(bundle, bad):
            return shared
        base = bundle_path(self.workload, self.volume.run, present, bundle.manifest)
        try:
            return self.copier.copy(bundle, base, bad, self._find)
        except (InvalidBundle, OSError):
            if not os.path.lexists(bundle.path):
                raise _Vanished from None
            raise

    def _shared(self, bundle: Bundle, bad: set[str]) -> BundleRef | None:
        """The bundle among the store's datasets or models, where `holdfast get` took it from."""
        base = shared_path(bundle.manifest)
        if base is None:
            return None
        path, known = self.copier.place(base, bad)
        if not known or path in self.catalog.known_bad(path.partition("/")[0]):
            return None
        whole = is_whole(self.store, path, bundle.manifest)
        files_at = path if whole else find_shared(self.catalog, bundle.manifest, bad)
        return BundleRef.at(path, bundle.manifest, files_at) if files_at else None

    def _find(self, manifest: Manifest, bad: set[str]) -> str | None:
        """The files of a dataset or model with the content of a bundle that is to be copied."""
        try:
            found = find_shared(self.catalog, manifest, bad)
        except StoreDenied:  # rights from before they were shared with all
            return None
        return found if found and found.partition("/")[0] in SHARED.values() else None

    def _skip(self, name: str, reason: str) -> None:
        if name not in self.skipped:
            self.skipped[name] = Skipped(name, reason)
            self.progress.note(f"skipped {name}: {reason}")

    def _nothing(self) -> PushReport:
        run = self.volume.run
        if self.skipped:
            raise EmptyVolume(
                f"run '{run}' has no readable bundle to push, only"
                f" {', '.join(sorted(self.skipped))}: see `holdfast verify`"
            )
        protected = self.catalog.newest_first(self.workload, run)
        if latest := next((one for one in protected if one.has(self.volume.kind)), None):
            raise EmptyVolume(
                f"run '{run}' has no bundle on the volume '{self.volume.root}', but snapshots in"
                f" the store (latest {latest.id}): mount the right volume, or refill it with"
                " `holdfast pull --if-empty`"
            )
        return self._report(None)

    def _report(self, latest: Snapshot | None) -> PushReport:
        if latest is None:
            others = Volume(self.volume.root, self.volume.run, None).bundles()
            kinds = ", ".join(sorted({bundle.manifest.kind for bundle in others}))
            what = f"bundle of kind {self.volume.kind}, only of {kinds}" if kinds else "bundle"
            message = f"run '{self.volume.run}' has no {what} yet: nothing to push"
        elif self.created:
            message = f"pushed {', '.join(s.bundles[0].name for s in self.created)}"
        else:
            message = f"nothing new: {latest.bundles[0].name} is protected already"
        if latest is not None:
            remember(self.volume, self.catalog, latest)
        return PushReport(
            snapshot=latest.id if latest else "",
            created=tuple(snapshot.id for snapshot in self.created),
            bundles=latest.bundles if latest else (),
            copied_files=self.copier.files,
            copied_bytes=self.copier.bytes,
            skipped=tuple(self.skipped.values()),
            message=message,
        )


def _names(snapshot: Snapshot, bundle: Bundle) -> bool:
    return any(ref.digest == bundle.manifest.digest for ref in snapshot.bundles)


def _sound(snapshot: Snapshot, bad: set[str]) -> bool:
    return not bad.intersection(ref.path for ref in snapshot.bundles)
