"""Checks that backup and recovery will work, before they are needed.

Each check is one line: what was found and, unless that is well, the remedy. The volume and the
store are checked at the same time, each in a thread of its own. What has not answered when the time
is up is reported as a failure: the doctor always answers.
"""

from __future__ import annotations

import errno
import secrets
from collections.abc import Callable, Iterable
from contextlib import suppress
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from holdfast import bundle as bundles
from holdfast.copies.remembered import rolled_back
from holdfast.errors import (
    AlreadyExists,
    HoldfastError,
    InvalidBundle,
    PreconditionFailed,
    StoreDenied,
    StoreUnreachable,
)
from holdfast.health import doctor_store
from holdfast.health.examination import Check, Examination, Level, Stop, failed
from holdfast.store.directory import DirectoryStore
from holdfast.store.documents import Snapshot
from holdfast.store.snapshot import is_snapshot_id
from holdfast.text import ago, size
from holdfast.volume import Volume

if TYPE_CHECKING:
    from holdfast.store.base import Store
    from holdfast.store.snapshot import Catalog

CLOCK_WARNING, CLOCK_FAILURE = 30, 300  # seconds; S3 refuses requests that are 15 minutes off


def volume_group(volume: Volume, keep: int) -> list[Examination]:
    """What a trainer needs of its volume, which is to hold `keep` bundles."""

    def exists() -> Iterable[Check]:
        if not volume.root.is_dir():
            remedy = "mount the volume there, or correct --volume (HOLDFAST_VOLUME)"
            raise Stop(Check("volume", Level.FAIL, f"'{volume.root}' is not a directory", remedy))
        present = volume.present()
        state = f"generation {present}" if present else "no generation yet"
        yield Check("volume", Level.OK, f"{volume.run_path}: {state}")

    def writable() -> Iterable[Check]:
        probe = volume.root / f".tmp-doctor-{secrets.token_hex(4)}"
        try:
            probe.write_bytes(b"x")
        except OSError as error:
            if error.errno == errno.EROFS:
                remedy = "expected in a backup's pod; a trainer needs it writable"
                yield Check("volume writable", Level.WARN, "mounted read-only here", remedy)
                return
            remedy = "let the user that trains (`run_as` in the settings) own the directory"
            yield Check("volume writable", Level.FAIL, str(error.strerror), remedy)
        else:
            yield Check("volume writable", Level.OK, "yes")
        finally:
            with suppress(OSError):
                probe.unlink()

    return [
        ("volume", exists),
        ("volume writable", writable),
        ("newest bundle", lambda: _newest_bundle(volume)),
        ("free space", lambda: _free_space(volume, keep)),
    ]


def _newest_bundle(volume: Volume) -> Iterable[Check]:
    present = volume.bundles()
    for bad in volume.damaged():
        remedy = "it is not used: look at it, then delete it"
        yield Check("damaged bundle", Level.WARN, str(bad), remedy)
    if aside := volume.quarantined():
        names = ", ".join(path.name for path in aside[:3])
        remedy = f"the reasons lie beside it in {aside[0].parent}; delete what is understood"
        yield Check("quarantine", Level.WARN, f"{len(aside)} bundles: {names}", remedy)
    if not present:
        remedy = "expected before the first save; otherwise run `holdfast pull`"
        yield Check("newest bundle", Level.WARN, "there is none", remedy)
        return
    try:
        bundles.verify(present[0].path, quick=True)
    except InvalidBundle as error:
        remedy = "training resumes from the one before it"
        yield Check("newest bundle", Level.FAIL, str(error), remedy)
    else:
        age = _seconds_since(present[0].manifest.created)
        found = f"{present[0].name}, {ago(age)} old, files complete (bytes not read)"
        yield Check("newest bundle", Level.OK, found)


def _free_space(volume: Volume, keep: int) -> Iterable[Check]:
    history = [found for _, found in volume.history()]
    if not history:
        yield Check("free space", Level.OK, f"{size(volume.free())}; no bundle to compare it with")
        return
    pinned, newest = len(volume.pins()), volume.bundles() or history
    room = volume.free() + sum(found.manifest.size for found in history)
    needed = (keep + pinned + 2) * newest[0].manifest.size
    rule = (
        f"{size(volume.free())}, {size(room)} with what bundles use; {size(needed)} are needed:"
        f" ({keep} kept + {pinned} pinned + 1 being saved + 1 being restored)"
        f" × {size(newest[0].manifest.size)}"
    )
    if room >= needed:
        yield Check("free space", Level.OK, rule)
    else:
        remedy = "keep fewer bundles (HOLDFAST_KEEP), unpin some, or enlarge the volume"
        yield Check("free space", Level.FAIL, rule, remedy)


def _seconds_since(moment: datetime) -> float:
    return max(0.0, (datetime.now(UTC) - moment).total_seconds())


def store_group(
    store: Store,
    catalog: Catalog,
    workload: str | None,
    max_age: float = 86400,
    volume: Callable[[], Volume] | None = None,
) -> list[Examination]:
    """What a backup needs of the store, and when the last one was made and verified.

    A latest snapshot older than `max_age` (seconds) is worth a warning. What the volume remembers
    of the store shows whether the store was set back.
    """
    checks: list[Examination] = [
        ("store reachable", lambda: _reachable(store)),
        ("owner", lambda: _owner(catalog)),
        ("preconditions", lambda: _preconditions(store)),
        ("clock", lambda: _clock(store)),
        ("listings", lambda: doctor_store.listings(store)),
    ]
    if workload:
        checks += [("latest snapshot", lambda: _snapshots(catalog, workload, max_age))]
    if workload and volume:
        checks += [("history", lambda: _history(catalog, workload, volume))]
    if isinstance(store, DirectoryStore):
        checks += [("permissions", lambda: doctor_store.permissions(store.root))]
    if store.url.startswith("s3://"):
        checks += [("abort-upload rule", lambda: doctor_store.abort_rule(store.url))]
    return [*checks, ("foreign objects", lambda: doctor_store.foreign_objects(store))]


def _reachable(store: Store) -> Iterable[Check]:
    try:
        next(iter(store.list("snapshots")), None)
    except StoreDenied as error:
        if not isinstance(store, DirectoryStore):  # a directory has nobody who answers
            yield Check("store reachable", Level.OK, f"{store.url} answers")
        raise Stop(failed("store access", error)) from None
    except StoreUnreachable as error:
        raise Stop(failed("store reachable", error)) from None
    if isinstance(store, DirectoryStore) and not store.root.is_dir():
        remedy = "expected before the first push, which creates it; otherwise correct --store"
        raise Stop(Check("store", Level.WARN, f"{store.root} does not exist yet", remedy))
    yield Check("store reachable", Level.OK, f"{store.url} answers")
    yield Check("store access", Level.OK, "it exists and may be listed")


def _owner(catalog: Catalog) -> Iterable[Check]:
    catalog.check_owner()
    if catalog.owner is None:
        remedy = "give --owner (HOLDFAST_OWNER), or a push is refused"
        yield Check("owner", Level.WARN, "no owner is named, so none is checked", remedy)
    else:
        yield Check("owner", Level.OK, catalog.owner)


def _snapshots(catalog: Catalog, workload: str, max_age: float) -> Iterable[Check]:
    name, latest = "latest snapshot", None
    for found in catalog.candidates(workload):
        if isinstance(found, Snapshot):
            latest = found
            break
        kind = "damaged" if is_snapshot_id(found.snapshot) else "missing"
        remedy = "recovery does not use it: make a new one with `holdfast push`"
        found_bad = f"{found.snapshot}: {found.reason}"
        yield Check(f"{kind} snapshot", Level.WARN, found_bad, remedy)
    if latest is None:
        remedy = "expected before the first backup; otherwise check that backups run"
        yield Check(name, Level.WARN, f"workload '{workload}' has none", remedy)
        return
    age = _seconds_since(latest.created)
    if age <= max_age:
        yield Check(name, Level.OK, f"{latest.id}, {ago(age)} old, {size(latest.size)}")
    else:
        remedy = "are backups running? see the CronJob's pods, or run `holdfast push`"
        yield Check(name, Level.WARN, f"{latest.id} is {ago(age)} old", remedy)
    name = "last verification"
    if bad := sorted(record.snapshot for record in catalog.failures(workload)):
        remedy = "see `holdfast verify ID` for what is wrong; recovery takes another one"
        yield Check("bad snapshots", Level.FAIL, ", ".join(bad), remedy)
    newest = catalog.last_read_in_full(workload)
    if newest is None:
        remedy = "run `holdfast verify latest`: a backup that was never read may be bad"
        yield Check(name, Level.WARN, "no snapshot was ever read in full", remedy)
        return
    found = f"{newest.snapshot}, {ago(_seconds_since(newest.at))} ago"
    yield Check(
        name, Level.OK if newest.ok else Level.FAIL, found, "" if newest.ok else "see above"
    )


def _history(catalog: Catalog, workload: str, volume: Callable[[], Volume]) -> Iterable[Check]:
    """Whether the store still has the newest snapshot that the volume knows of."""
    try:
        known = volume()
    except HoldfastError:  # the checks of the volume say why
        return
    if lost := rolled_back(known, catalog, workload, catalog.index(workload)):
        found, _, remedy = lost[0].reason.partition("; ")
        yield Check("history", Level.FAIL, f"{lost[0].snapshot}: {found}", remedy)
    else:
        yield Check("history", Level.OK, "the store has what the volume remembers of it")


def _preconditions(store: Store) -> Iterable[Check]:
    """Try both kinds of conditional write on an object that is deleted again."""
    name, key = "preconditions", f"doctor/{secrets.token_hex(8)}.json"
    remedy = "two concurrent pushes could lose a snapshot: use a store that honours it"
    try:
        first = store.put_small(key, b'{"probe":1}', if_absent=True)
        try:
            store.put_small(key, b'{"probe":2}', if_absent=True)
        except AlreadyExists:
            yield Check("create if absent", Level.OK, "honoured")
        else:
            yield Check("create if absent", Level.FAIL, "ignored: it replaced an object", remedy)
        store.put_small(key, b'{"probe":3}')
        try:
            store.put_small(key, b'{"probe":4}', if_match=first.etag)
        except PreconditionFailed:
            yield Check("replace if unchanged", Level.OK, "honoured")
        else:
            yield Check("replace if unchanged", Level.FAIL, "ignored: a stale tag passed", remedy)
    except StoreDenied as error:
        remedy = "expected for a reader; a push needs permission to write and delete"
        yield Check(name, Level.FAIL, f"cannot write: {error}", remedy)
    finally:
        with suppress(HoldfastError):
            store.delete([key])


def _clock(store: Store) -> Iterable[Check]:
    before = datetime.now(UTC)
    theirs = store.now()
    now = before + (datetime.now(UTC) - before) / 2
    off = abs((theirs - now).total_seconds())
    level = Level.OK if off < CLOCK_WARNING else Level.WARN
    level = level if off < CLOCK_FAILURE else Level.FAIL
    remedy = "" if level is Level.OK else "set this machine's clock by NTP"
    yield Check("clock", level, f"{off:.1f} s from the store's", remedy)
