"""Checks that backup and recovery will work, before they are needed.

Each check is one line: what was found and, unless that is well, the remedy. The volume and the
store are checked at the same time, each in a thread of its own. What has not answered when the time
is up is reported as a failure: the doctor always answers.
"""

from __future__ import annotations

import errno
import queue
import secrets
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from typing import TYPE_CHECKING

from holdfast import bundle as bundles
from holdfast.errors import (
    AlreadyExists,
    HoldfastError,
    InvalidBundle,
    PreconditionFailed,
    StoreDenied,
    StoreUnreachable,
)
from holdfast.store.directory import DirectoryStore
from holdfast.store.documents import Snapshot
from holdfast.text import ago, size
from holdfast.volume import Volume

if TYPE_CHECKING:
    from holdfast.store.base import Store
    from holdfast.store.snapshot import Catalog

#: seconds in which the doctor answers, whatever the volume and the store do
BUDGET = 18.0
CLOCK_WARNING, CLOCK_FAILURE = 30, 300  # seconds; S3 refuses requests that are 15 minutes off


class Level(StrEnum):
    OK = "ok"
    WARN = "warn"
    FAIL = "fail"


@dataclass(frozen=True)
class Check:
    """One line of the report. `remedy` is empty when the level is ok."""

    name: str
    level: Level
    found: str
    remedy: str = ""


Examination = tuple[str, Callable[[], Iterable[Check]]]


class _Stop(Exception):
    """The rest of this group needs what this check did not find."""

    def __init__(self, check: Check) -> None:
        self.check = check


def examine(*groups: Sequence[Examination], budget: float = BUDGET) -> list[Check]:
    """Run groups of examinations side by side; in a group one after the other.

    A group ends at the first examination that the rest depends on. One that has not ended within
    the budget (seconds) is a failure by that name.
    """
    results: queue.Queue[tuple[int, str, Check | None]] = queue.Queue()
    doing = dict.fromkeys(range(len(groups)), "")

    def run(number: int) -> None:
        for name, examination in groups[number]:
            doing[number] = name
            try:
                for check in examination():
                    results.put((number, name, check))
            except _Stop as stop:
                results.put((number, name, stop.check))
                break
            except HoldfastError as error:
                results.put((number, name, failed(name, error)))
            except OSError as error:
                found = f"{error.filename}: {error.strerror}" if error.filename else str(error)
                check = Check(name, Level.FAIL, found, "is it mounted, and may this user read it?")
                results.put((number, name, check))
            except Exception as error:  # the doctor always answers
                found = f"{type(error).__name__}: {error}"
                results.put(
                    (number, name, Check(name, Level.FAIL, found, "please report this bug"))
                )
        results.put((number, "", None))

    end = time.monotonic() + budget
    for number in doing:
        threading.Thread(target=run, args=(number,), daemon=True).start()
    found: dict[int, list[Check]] = {number: [] for number in doing}
    waiting = set(doing)
    while waiting:
        try:
            number, _, check = results.get(timeout=max(0.0, end - time.monotonic()))
        except queue.Empty:
            break
        if check is None:
            waiting.discard(number)
        else:
            found[number].append(check)
    for number in sorted(waiting):
        late = f"no answer within {budget:.0f} s"
        remedy = "is the storage behind it overloaded, hung or cut off?"
        found[number].append(Check(doing[number], Level.FAIL, late, remedy))
    return [check for number in sorted(found) for check in found[number]]


def failed(name: str, error: HoldfastError) -> Check:
    """An error as a check: its line ends with the remedy."""
    found, _, remedy = str(error).rpartition(": ")
    return Check(name, Level.FAIL, found or remedy, remedy if found else "")


def volume_group(volume: Volume, keep: int) -> list[Examination]:
    """What a trainer needs of its volume, which is to hold `keep` bundles."""

    def exists() -> Iterable[Check]:
        if not volume.root.is_dir():
            remedy = "mount the volume there, or correct --volume (HOLDFAST_VOLUME)"
            raise _Stop(Check("volume", Level.FAIL, f"'{volume.root}' is not a directory", remedy))
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
        f"{size(volume.free())}; with what bundles use {size(room)} of {size(needed)} ="
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
    store: Store, catalog: Catalog, workload: str | None, max_age: float = 86400
) -> list[Examination]:
    """What a backup needs of the store, and when the last one was made and verified.

    A latest snapshot older than `max_age` (seconds) is worth a warning.
    """
    checks: list[Examination] = [
        ("store reachable", lambda: _reachable(store)),
        ("owner", lambda: _owner(catalog)),
        ("preconditions", lambda: _preconditions(store)),
        ("clock", lambda: _clock(store)),
    ]
    if workload:
        checks += [("latest snapshot", lambda: _snapshots(catalog, workload, max_age))]
    if store.url.startswith("s3://"):
        checks += [("abort-upload rule", lambda: _abort_rule(store.url))]
    return checks


def _reachable(store: Store) -> Iterable[Check]:
    try:
        next(iter(store.list("snapshots")), None)
    except StoreDenied as error:
        yield Check("store reachable", Level.OK, f"{store.url} answers")
        raise _Stop(failed("store access", error)) from None
    except StoreUnreachable as error:
        raise _Stop(failed("store reachable", error)) from None
    if isinstance(store, DirectoryStore) and not store.root.is_dir():
        remedy = "expected before the first push, which creates it; otherwise correct --store"
        raise _Stop(Check("store", Level.WARN, f"{store.root} does not exist yet", remedy))
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
        remedy = "recovery does not use it: make a new one with `holdfast push`"
        found_bad = f"{found.snapshot}: {found.reason}"
        yield Check("damaged snapshot", Level.WARN, found_bad, remedy)
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


def _abort_rule(url: str) -> Iterable[Check]:
    """Interrupted uploads cost money, invisibly, until a rule of the bucket aborts them."""
    name, bucket = "abort-upload rule", url.removeprefix("s3://").split("/")[0]
    remedy = "add a lifecycle rule AbortIncompleteMultipartUpload after 7 days to the bucket"
    try:
        import boto3
        from botocore.config import Config
        from botocore.exceptions import BotoCoreError, ClientError
    except ImportError:
        yield Check(name, Level.WARN, "not checked: boto3 is not installed here", remedy)
        return
    config = Config(connect_timeout=3, read_timeout=5, retries={"total_max_attempts": 1})
    try:
        client = boto3.client("s3", config=config)
        rules = client.get_bucket_lifecycle_configuration(Bucket=bucket)["Rules"]
    except ClientError as error:
        code = error.response.get("Error", {}).get("Code", "")
        if code != "NoSuchLifecycleConfiguration":
            yield Check(name, Level.WARN, f"not checked: {code}", remedy)
            return
        rules = []
    except BotoCoreError as error:
        yield Check(name, Level.WARN, f"not checked: {type(error).__name__}", remedy)
        return
    days = [
        rule["AbortIncompleteMultipartUpload"]["DaysAfterInitiation"]
        for rule in rules
        if rule.get("Status") == "Enabled" and "AbortIncompleteMultipartUpload" in rule
    ]
    if days:
        yield Check(name, Level.OK, f"after {min(days)} days")
    else:
        yield Check(name, Level.WARN, "the bucket has none", remedy)
