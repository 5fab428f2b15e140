"""How much a push, a prune or the doctor asks of a store that holds many snapshots."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from holdfast.bundle import Bundle
from holdfast.copies import prune as prune_module
from holdfast.copies.prune import PruneReport, prune
from holdfast.copies.push import push
from holdfast.defaults import Select
from holdfast.health.doctor import store_group
from holdfast.health.examination import examine
from holdfast.recovery.recover import Start
from holdfast.recovery.refill import pull_if_empty
from holdfast.store import open_store
from holdfast.store.base import Store
from holdfast.store.documents import Snapshot, Verification
from holdfast.store.snapshot import AT_ONCE, NOTHING_BAD, Catalog
from holdfast.volume import Volume
from testkit.counting import counted
from testkit.stores import GRACE, OWNER, WORKLOAD, age
from tests.holdfast.test_prune import ONE


def counted_push(volume: Volume, store: Store, select: Select) -> int:
    counting, requests = counted(store)
    report = push(volume, Catalog(counting, OWNER), WORKLOAD, select=select)
    assert not report.created
    return requests.total()


def fill(volume: Volume, store: Store, save: Callable[..., Bundle], steps: range) -> None:
    for step in steps:
        save(step)
        push(volume, Catalog(store, OWNER), WORKLOAD)


def verified(store: Store) -> None:
    """Every snapshot was verified, and nothing found."""
    catalog = Catalog(store, OWNER)
    for snapshot in catalog.snapshots(WORKLOAD):
        catalog.record(WORKLOAD, record(snapshot.id))


def record(snapshot: str, *bad: str, ok: bool = True, size: int = 0) -> Verification:
    now = datetime.now(UTC).replace(microsecond=0)
    return Verification(snapshot=snapshot, at=now, kind="full", ok=ok, bytes=size, bad=bad)


def test_a_push_with_nothing_new_asks_as_much_of_twenty_snapshots_as_of_three(
    volume: Volume, store_url: str, save: Callable[..., Bundle]
) -> None:
    store = open_store(store_url)
    fill(volume, store, save, range(3))
    verified(store)
    few = counted_push(volume, store, Select.NEWEST)
    fill(volume, store, save, range(3, 20))
    verified(store)

    assert counted_push(volume, store, Select.NEWEST) == few <= 15


def test_a_push_of_all_bundles_reads_no_more_snapshots_than_there_are_bundles(
    volume: Volume, store: Store, save: Callable[..., Bundle]
) -> None:
    fill(volume, store, save, range(15))
    volume.keep(4)

    counting, requests = counted(store)
    report = push(volume, Catalog(counting, OWNER), WORKLOAD, select=Select.ALL)

    assert not report.created and not report.skipped
    assert requests["get"] <= 3 + 2 * 4


def test_the_newest_readable_snapshot_of_the_run_is_found_behind_others(
    volume: Volume, store: Store, save: Callable[..., Bundle]
) -> None:
    fill(volume, store, save, range(2))
    catalog = Catalog(store, OWNER)
    expected, behind = catalog.snapshots(WORKLOAD)
    other = Volume(volume.root, "run-b")
    for step in range(20):
        save_into(other, save, volume, step)
    push(other, catalog, WORKLOAD, select=Select.ALL)
    damaged = f"snapshots/{WORKLOAD}/0000000999-20260101T000000Z-00000000.json"
    store.put_small(damaged, b"{}")

    fresh = Catalog(store, OWNER)
    assert next(fresh.newest_first(WORKLOAD, volume.run)) == expected
    assert list(fresh.newest_first(WORKLOAD, volume.run)) == [expected, behind]
    again = push(volume, fresh, WORKLOAD)
    assert fresh.read(WORKLOAD, again.snapshot).sequence == 1000, "newer than the damaged one"
    assert again.bundles == expected.bundles


def save_into(other: Volume, save: Callable[..., Bundle], volume: Volume, step: int) -> None:
    bundle = save(step + 100)
    target = other.generation_path(1) / bundle.name
    target.parent.mkdir(parents=True, exist_ok=True)
    bundle.path.rename(target)


def test_a_record_that_names_a_bad_bundle_is_always_longer_than_one_that_names_none() -> None:
    snapshot = "0000000001-20260101T000000Z-00000000"
    shortest = f"a/a/gen-0001/a/{'0' * 64}"

    assert len(record(snapshot, shortest).to_bytes()) > NOTHING_BAD
    assert len(record(snapshot, ok=False, size=2**53 - 1).to_bytes()) <= NOTHING_BAD


def test_a_short_record_of_a_bad_bundle_is_read(store: Store) -> None:
    catalog = Catalog(store, OWNER)
    snapshot = "0000000001-20260101T000000Z-00000000"
    path = f"{WORKLOAD}/a/gen-0001/a/{'0' * 64}"
    catalog.record(WORKLOAD, record(snapshot, path, ok=False))

    assert catalog.known_bad(WORKLOAD) == {path}


@pytest.mark.parametrize("at_once", [100, 5])
def test_a_dropped_snapshot_costs_two_small_writes_in_all(
    volume: Volume,
    catalog: Catalog,
    save: Callable[..., Bundle],
    store_directory: Path,
    monkeypatch: pytest.MonkeyPatch,
    at_once: int,
) -> None:
    """Its bundle's tombstone, and that the data are gone. All else is paid per batch, or once: such
    as the list of what was dropped."""
    fill(volume, catalog.store, save, range(12))
    monkeypatch.setattr(prune_module, "AT_ONCE", at_once)
    batches = -(-11 // at_once)

    def later(by: timedelta) -> tuple[PruneReport, dict[str, int]]:
        age(store_directory, by)
        counting, requests = counted(catalog.store)
        report = prune(Catalog(counting, OWNER), WORKLOAD, ONE, grace=GRACE)
        return report, {name: requests[name] for name in ("put_small", "get", "delete")}

    lock = 3
    report, asked = later(3 * GRACE)
    assert len(report.dropped) == len(report.tombstoned) == 11
    assert asked == {"put_small": lock + 11 + 1, "get": 12, "delete": 1 + batches}

    report, asked = later(3 * GRACE)
    assert len(report.deleted) == 11
    assert asked == {"put_small": lock + 11, "get": 1, "delete": 2 * batches}

    report, asked = later(3 * GRACE)
    assert asked == {"put_small": lock, "get": 1, "delete": 1}
    assert not list(catalog.store.list("tombstones"))


def test_the_doctor_asks_as_much_of_seventy_snapshots_as_of_three(
    volume: Volume, catalog: Catalog, save: Callable[..., Bundle]
) -> None:
    def asked() -> int:
        verified(catalog.store)
        counting, requests = counted(catalog.store)
        checks = examine(store_group(counting, Catalog(counting, OWNER), WORKLOAD))
        assert {check.name for check in checks} >= {"latest snapshot", "last verification"}
        return requests["get"]

    fill(volume, catalog.store, save, range(3))
    few = asked()
    latest = catalog.snapshots(WORKLOAD)[0]
    for sequence in range(10, 80):
        snapshot = Snapshot.build(WORKLOAD, volume.run, 1, sequence, latest.created, latest.bundles)
        catalog.store.put_small(snapshot.key, snapshot.to_bytes())

    assert asked() <= few + AT_ONCE


def test_a_pod_that_starts_reads_as_much_of_seventy_snapshots_as_of_one(
    volume: Volume, catalog: Catalog, save: Callable[..., Bundle], tmp_path: Path
) -> None:
    """Or a long-lived store would look like one that does not answer."""
    fill(volume, catalog.store, save, range(1))
    verified(catalog.store)
    latest = catalog.snapshots(WORKLOAD)[0]

    def asked(volume: Volume) -> int:
        counting, requests = counted(catalog.store)
        pull_if_empty(volume, Catalog(counting, OWNER), WORKLOAD, Start.AUTO)
        return requests["get"]

    few = asked(volume), asked(Volume(tmp_path / "empty", volume.run))
    for sequence in range(10, 80):
        snapshot = Snapshot.build(WORKLOAD, volume.run, 1, sequence, latest.created, latest.bundles)
        catalog.store.put_small(snapshot.key, snapshot.to_bytes())
    verified(catalog.store)

    assert (asked(volume), asked(Volume(tmp_path / "as-empty", volume.run))) == few


def test_a_damaged_newest_snapshot_does_not_hide_the_latest_from_the_doctor(
    volume: Volume, catalog: Catalog, save: Callable[..., Bundle]
) -> None:
    fill(volume, catalog.store, save, range(2))
    good = catalog.snapshots(WORKLOAD)[0].id
    damaged = "0000000999-20260101T000000Z-00000000"
    catalog.store.put_small(f"snapshots/{WORKLOAD}/{damaged}.json", b"{}")

    checks = {c.name: c.found for c in examine(store_group(catalog.store, catalog, WORKLOAD))}

    assert checks["damaged snapshot"].startswith(damaged)
    assert checks["latest snapshot"].startswith(good)
