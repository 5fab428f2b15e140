"""Snapshots, pins and owners: the documents of a store."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import pytest
import rfc8785
from hypothesis import given, settings
from hypothesis import strategies as st

from holdfast.bundle import Bundle
from holdfast.copies.push import push
from holdfast.errors import Mismatch, NoSnapshot, OwnerMismatch, UsageError
from holdfast.manifest import FileEntry, Manifest
from holdfast.store.base import Store
from holdfast.store.documents import BundleRef, Snapshot, bundle_path
from holdfast.store.snapshot import Catalog
from holdfast.volume import Volume
from testkit.stores import OWNER, WORKLOAD, keys

MANIFEST = Manifest.build(
    "checkpoint",
    "step-00000100",
    [FileEntry(path="weights", size=3, sha256="0" * 64)],
    {"run": "run-a", "generation": 1, "step": 100},
)


MOMENT = datetime(2026, 8, 21, 10, 15, tzinfo=UTC)


def made(sequence: int = 7, run: str = "run-a", created: datetime = MOMENT) -> Snapshot:
    ref = BundleRef.at(bundle_path(WORKLOAD, "run-a", 1, MANIFEST), MANIFEST)
    return Snapshot.build(WORKLOAD, run, 1, sequence, created, [ref])


def test_a_snapshots_id_says_its_place_and_its_time() -> None:
    snapshot = made()

    assert snapshot.id.startswith("0000000007-20260821T101500Z-")
    assert snapshot.key == f"snapshots/gpt/{snapshot.id}.json"


def test_a_snapshot_is_canonical_json_and_reads_back_equal() -> None:
    snapshot = made()
    data = snapshot.to_bytes()

    assert data == rfc8785.dumps(snapshot.model_dump())
    assert Snapshot.parse(data, snapshot.key) == snapshot


@settings(max_examples=200)
@given(st.data())
def test_no_flipped_bit_in_a_snapshot_goes_unnoticed(data: st.DataObject) -> None:
    snapshot = made()
    damaged = bytearray(snapshot.to_bytes())
    bit = data.draw(st.integers(0, len(damaged) * 8 - 1))
    damaged[bit // 8] ^= 1 << (bit % 8)

    with pytest.raises(Mismatch, match="is damaged"):
        Snapshot.parse(bytes(damaged), snapshot.key)


def test_a_snapshot_under_another_name_is_damaged() -> None:
    snapshot = made()

    with pytest.raises(Mismatch, match="it belongs at"):
        Snapshot.parse(snapshot.to_bytes(), snapshot.key.replace("0000000007", "0000000008"))


def test_a_bundle_keeps_its_place_in_the_store_wherever_it_is_restored() -> None:
    first = bundle_path(WORKLOAD, "run-a", 1, MANIFEST)

    assert bundle_path(WORKLOAD, "run-b", 5, MANIFEST) == first
    assert first == f"gpt/run-a/gen-0001/step-00000100/{MANIFEST.digest}"


@pytest.mark.parametrize(
    "labels", [{"run": "../../up"}, {"run": "a/b"}, {"generation": 0}, {"generation": "1"}]
)
def test_labels_cannot_place_a_bundle_elsewhere(labels: dict[str, str | int]) -> None:
    manifest = Manifest.build("checkpoint", "step", MANIFEST.files, labels)

    place = bundle_path(WORKLOAD, "run-a", 3, manifest)

    assert place == f"gpt/run-a/gen-0003/step/{manifest.digest}"


@pytest.mark.parametrize("owner", ["project", "a/b/c", "/", ""])
def test_an_owner_is_a_project_and_a_stack(store: Store, owner: str) -> None:
    with pytest.raises(UsageError, match="<project>/<stack>"):
        Catalog(store, owner)


def test_a_store_has_one_owner_until_it_is_adopted(store: Store) -> None:
    Catalog(store, OWNER).claim()
    Catalog(store, OWNER).claim()
    other = Catalog(store, "project/other")

    for use in (other.claim, other.check_owner):
        with pytest.raises(OwnerMismatch, match=r"belongs to .*`holdfast adopt project/stack`"):
            use()
    other.adopt(OWNER)
    other.adopt(OWNER)
    other.claim()
    with pytest.raises(OwnerMismatch):
        Catalog(store, OWNER).check_owner()


def test_a_store_is_adopted_only_from_whom_it_belongs_to(store: Store) -> None:
    other = Catalog(store, "project/other")
    with pytest.raises(OwnerMismatch, match="has no owner yet"):
        other.adopt(OWNER)
    Catalog(store, OWNER).claim()

    with pytest.raises(OwnerMismatch, match=f"belongs to '{OWNER}'.*from 'project/typo'"):
        other.adopt("project/typo")
    Catalog(store, OWNER).check_owner()
    with pytest.raises(UsageError, match="--owner"):
        Catalog(store).adopt(OWNER)


def test_a_prefix_with_a_foreign_owner_file_is_not_ours(store: Store) -> None:
    store.put_small("OWNER.json", b"hello")

    with pytest.raises(OwnerMismatch, match="not a Holdfast store"):
        Catalog(store, OWNER).claim()


def test_writing_needs_an_owner_and_reading_does_not(store: Store) -> None:
    with pytest.raises(UsageError, match="--owner"):
        Catalog(store).claim()
    assert Catalog(store).snapshots(WORKLOAD) == []


def test_no_two_pushes_get_the_same_sequence_number(store: Store) -> None:
    catalog = Catalog(store, OWNER)

    assert [catalog.claim_sequence(WORKLOAD, "run-a") for _ in range(3)] == [1, 2, 3]
    store.put_small(made(sequence=9).key, b"")
    assert catalog.claim_sequence(WORKLOAD, "run-a") == 10
    assert catalog.claim_sequence("another", "run-a") == 1


def test_latest_is_by_sequence_and_before_is_by_time(store: Store) -> None:
    catalog = Catalog(store, OWNER)
    first = made(1)
    second = made(2, created=MOMENT - timedelta(hours=1))  # the store's clock was set back
    other = made(3, run="run-b")
    for snapshot in (first, second, other):
        store.put_small(snapshot.key, snapshot.to_bytes())

    assert catalog.choose(WORKLOAD, "run-a", "latest").snapshot == second
    assert catalog.choose(WORKLOAD, "run-a", first.id).snapshot == first
    assert catalog.choose(WORKLOAD, "run-a", "before=2026-08-21T12:00:00+02:00").snapshot == second
    assert catalog.choose(WORKLOAD, "run-a", "before=2026-08-21T10:15:00").snapshot == second
    with pytest.raises(NoSnapshot):
        catalog.choose(WORKLOAD, "run-a", "before=2026-08-21T09:00:00Z")
    with pytest.raises(UsageError, match="invalid time"):
        catalog.choose(WORKLOAD, "run-a", "before=yesterday")
    with pytest.raises(UsageError, match="invalid snapshot ID"):
        catalog.choose(WORKLOAD, "run-a", "../../OWNER")
    with pytest.raises(UsageError, match="--run run-b"):
        catalog.choose(WORKLOAD, "run-a", other.id)


def test_a_damaged_snapshot_is_listed_apart_and_does_not_hide_the_others(store: Store) -> None:
    good, bad = made(1), made(2)
    store.put_small(good.key, good.to_bytes())
    store.put_small(bad.key, bad.to_bytes()[:-1])

    listing = Catalog(store, OWNER).listing(WORKLOAD)

    assert listing.snapshots == [good]
    assert list(listing.damaged) == [bad.id]


def test_a_pin_needs_a_snapshot(
    volume: Volume, catalog: Catalog, save: Callable[..., Bundle]
) -> None:
    save(100)
    snapshot = push(volume, catalog, WORKLOAD).snapshot

    catalog.pin(WORKLOAD, snapshot)
    assert catalog.pins(WORKLOAD) == {snapshot}
    catalog.unpin(WORKLOAD, snapshot)
    catalog.unpin(WORKLOAD, snapshot)
    assert catalog.pins(WORKLOAD) == set()
    with pytest.raises(NoSnapshot):
        catalog.pin(WORKLOAD, made().id)
    assert keys(catalog.store, "pins") == []
