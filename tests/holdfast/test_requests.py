"""How much a push asks of a store that holds many snapshots."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime

from holdfast.bundle import Bundle
from holdfast.documents import Verification
from holdfast.push import Select, push
from holdfast.snapshot import NOTHING_BAD, Catalog
from holdfast.store import Store, open_store
from holdfast.volume import Volume
from tests.holdfast.counting import counted
from tests.holdfast.stores import OWNER, WORKLOAD


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

    assert counted_push(volume, store, Select.NEWEST) == few <= 12


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
    damaged = f"snapshots/{WORKLOAD}/9999999999-20260101T000000Z-00000000.json"
    store.put_small(damaged, b"{}")

    fresh = Catalog(store, OWNER)
    assert next(fresh.newest_first(WORKLOAD, volume.run)) == expected
    assert list(fresh.newest_first(WORKLOAD, volume.run)) == [expected, behind]
    assert push(volume, fresh, WORKLOAD).snapshot == expected.id


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
    snapshot, path = "0000000001-20260101T000000Z-00000000", f"a/a/gen-0001/a/{'0' * 64}"
    catalog.record(WORKLOAD, record(snapshot, path, ok=False))

    assert catalog.known_bad(WORKLOAD) == {path}
