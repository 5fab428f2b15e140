"""Prune: what goes, when, and what never goes."""

from collections.abc import Callable, Iterable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from holdfast.bundle import Bundle
from holdfast.copies import prune as prune_module
from holdfast.copies.prune import PruneReport, prune
from holdfast.copies.push import push
from holdfast.copies.verify_store import verify_snapshot
from holdfast.defaults import Select
from holdfast.errors import NotDeleted, OwnerMismatch, UsageError
from holdfast.retention import Policy
from holdfast.store.snapshot import Catalog, Snapshot
from holdfast.volume import Volume
from testkit.stores import GRACE, OWNER, WORKLOAD, age, keys

ONE = Policy(keep_last=1, hourly=0, daily=0, weekly=0, monthly=0)
LATER = GRACE + timedelta(minutes=1)


@pytest.fixture
def snapshots(
    volume: Volume,
    catalog: Catalog,
    save: Callable[..., Bundle],
    store_directory: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> list[Snapshot]:
    """Three snapshots, oldest first, of which nothing is younger than the grace period."""
    for step in (100, 200, 300):
        save(step)
    with monkeypatch.context() as earlier:
        earlier.setattr(catalog.store, "now", lambda: datetime.now(UTC) - 3 * GRACE)
        push(volume, catalog, WORKLOAD, select=Select.ALL)
    age(store_directory, 3 * GRACE)
    return sorted(catalog.snapshots(WORKLOAD), key=lambda s: s.sequence)


@pytest.fixture
def run(catalog: Catalog, store_directory: Path) -> Callable[..., PruneReport]:
    """`run()` prunes to one snapshot; `run(later)` lets so much time pass before."""

    def prune_to_one(later: timedelta = timedelta(0)) -> PruneReport:
        age(store_directory, later)
        return prune(catalog, WORKLOAD, ONE, grace=GRACE)

    return prune_to_one


def paths(snapshots: list[Snapshot]) -> list[str]:
    return [ref.path for snapshot in snapshots for ref in snapshot.bundles]


def test_data_go_a_grace_period_after_the_last_snapshot_that_names_them(
    catalog: Catalog, snapshots: list[Snapshot], run: Callable[..., PruneReport]
) -> None:
    gone, kept = snapshots[:2], snapshots[2]

    first = run()
    assert first.dropped == [snapshot.id for snapshot in gone]
    assert first.tombstoned == paths(gone)
    assert (first.deleted, len(keys(catalog.store, "data"))) == ([], 6)

    early = run(GRACE / 2)
    assert (early.waiting, early.deleted) == (paths(gone), [])

    last = run(LATER)
    assert last.deleted == paths(gone)
    assert last.deleted_bytes > 0
    assert {key.split("/")[4] for key in keys(catalog.store, "data")} == {"step-00000300"}
    assert len(keys(catalog.store, "manifests")) == 1
    assert verify_snapshot(catalog, kept).ok


def test_a_tombstone_goes_two_grace_periods_after_its_data(
    catalog: Catalog, snapshots: list[Snapshot], run: Callable[..., PruneReport]
) -> None:
    run()
    run(LATER)
    run(LATER)
    assert len(keys(catalog.store, "tombstones")) == 2
    run(LATER)
    assert keys(catalog.store, "tombstones") == []


def test_a_dry_run_says_what_would_be_done_and_does_nothing(
    catalog: Catalog, snapshots: list[Snapshot], store_directory: Path
) -> None:
    before = keys(catalog.store)

    plan = prune(catalog, WORKLOAD, ONE, grace=GRACE, dry_run=True)

    assert plan.dry_run
    assert plan.dropped == [snapshot.id for snapshot in snapshots[:2]]
    assert plan.tombstoned == paths(snapshots[:2])
    assert plan.kept == {snapshots[2].id: ["newest", "last 1 of 1"]}
    assert keys(catalog.store) == before


def test_pinned_and_verified_snapshots_stay(
    catalog: Catalog,
    snapshots: list[Snapshot],
    run: Callable[..., PruneReport],
    store_directory: Path,
    flip: Callable[..., None],
) -> None:
    catalog.pin(WORKLOAD, snapshots[0].id)
    verify_snapshot(catalog, snapshots[1])
    flip(store_directory / snapshots[2].bundles[0].data / ".metadata")
    assert not verify_snapshot(catalog, snapshots[2]).ok

    report = run()

    assert report.kept == {
        snapshots[0].id: ["pinned"],
        snapshots[1].id: ["last verified", "last 1 of 1"],
        snapshots[2].id: ["newest"],
    }
    assert report.dropped == []


def test_a_young_snapshot_displaces_no_older_one_yet(
    volume: Volume,
    catalog: Catalog,
    snapshots: list[Snapshot],
    save: Callable[..., Bundle],
    run: Callable[..., PruneReport],
) -> None:
    save(400)
    newest = push(volume, catalog, WORKLOAD).snapshot

    report = run()

    assert report.kept.keys() == {newest, snapshots[2].id}
    assert report.dropped == [snapshot.id for snapshot in snapshots[:2]]


def test_a_snapshot_younger_than_the_grace_period_is_not_dropped(
    volume: Volume, catalog: Catalog, save: Callable[..., Bundle], run: Callable[..., PruneReport]
) -> None:
    for step in (100, 200):
        save(step)
        push(volume, catalog, WORKLOAD)

    assert run().dropped == []


def test_a_pushed_bundle_that_had_a_tombstone_is_copied_to_a_fresh_path(
    volume: Volume,
    catalog: Catalog,
    snapshots: list[Snapshot],
    save: Callable[..., Bundle],
    run: Callable[..., PruneReport],
) -> None:
    run()
    volume.keep(1)
    for bundle in volume.bundles():  # an old state comes back, as by a restore from elsewhere
        bundle.path.rename(volume.root / "away")
    again = save(100)
    assert again.manifest.content == snapshots[0].bundles[0].content

    # the very same bundle, so that its first path is the tombstoned one
    original = catalog.manifest(snapshots[0].bundles[0])
    (again.path / "MANIFEST.json").write_bytes(original.to_bytes())
    report = push(volume, catalog, WORKLOAD)

    assert report.bundles[0].path == f"{snapshots[0].bundles[0].path}-1"
    last = run(LATER)
    assert snapshots[0].bundles[0].path in last.deleted
    assert verify_snapshot(catalog, catalog.read(WORKLOAD, report.snapshot)).ok


def test_leftovers_of_a_killed_push_go_the_same_way(
    catalog: Catalog, snapshots: list[Snapshot], run: Callable[..., PruneReport]
) -> None:
    path = f"gpt/run-a/gen-0001/step-00000900/{'0' * 64}"
    catalog.store.put_small(f"data/{path}/weights", b"half")

    assert path in run().waiting  # a push may be at it
    assert path in run(LATER).tombstoned
    assert path in run(LATER).deleted
    assert not [key for key in keys(catalog.store, "data") if "step-00000900" in key]


def test_nothing_is_deleted_while_a_snapshot_cannot_be_read(
    catalog: Catalog,
    snapshots: list[Snapshot],
    run: Callable[..., PruneReport],
    store_directory: Path,
    flip: Callable[..., None],
) -> None:
    run()
    flip(store_directory / snapshots[2].key, 99)
    fresh = Catalog(catalog.store, OWNER)

    age(store_directory, LATER)
    report = prune(fresh, WORKLOAD, ONE, grace=GRACE)

    assert report.deleted == []
    assert "no data are deleted" in report.problems[0]
    assert len(keys(catalog.store, "data")) == 6


def test_what_is_no_bundle_path_is_left_alone(
    catalog: Catalog, snapshots: list[Snapshot], run: Callable[..., PruneReport]
) -> None:
    catalog.store.put_small("data/gpt/readme", b"a note")
    run()

    assert "left alone" in run(LATER).problems[0]
    assert catalog.store.get("data/gpt/readme") == b"a note"


def test_another_workloads_data_are_left_alone(
    volume: Volume,
    catalog: Catalog,
    snapshots: list[Snapshot],
    run: Callable[..., PruneReport],
) -> None:
    push(volume, catalog, "other", select=Select.ALL)
    before = keys(catalog.store, "data/other")
    run()
    run(LATER)

    assert keys(catalog.store, "data/other") == before


def test_old_sequence_numbers_go_and_the_greatest_stays(
    catalog: Catalog, snapshots: list[Snapshot], run: Callable[..., PruneReport]
) -> None:
    run()

    assert keys(catalog.store, "sequences") == ["sequences/gpt/0000000003.json"]
    assert catalog.claim_sequence(WORKLOAD, "run-a") == 4


def test_a_prune_that_was_stopped_for_long_decides_anew(
    catalog: Catalog,
    snapshots: list[Snapshot],
    run: Callable[..., PruneReport],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    run()
    clock = [datetime.now(UTC)]

    def slow_clock() -> datetime:
        clock.append(clock[-1] + GRACE * 0.6)
        return clock[-1]

    monkeypatch.setattr(catalog.store, "now", slow_clock)

    report = run(LATER)

    assert report.deleted == []
    assert "took too long" in report.problems[0]
    assert len(keys(catalog.store, "data")) == 6


def test_a_prune_that_is_stopped_between_manifest_and_data_leaves_the_data_to_the_next(
    catalog: Catalog,
    snapshots: list[Snapshot],
    run: Callable[..., PruneReport],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    run()
    delete, now = catalog.store.delete, catalog.store.now

    def delete_then_stop(doomed: list[str]) -> None:
        delete(doomed)
        monkeypatch.setattr(catalog.store, "now", lambda: now() + GRACE)

    monkeypatch.setattr(catalog.store, "delete", delete_then_stop)
    stopped = run(LATER)
    assert (stopped.deleted, stopped.waiting) == ([], paths(snapshots[:2]))
    assert "took too long" in stopped.problems[0]
    assert len(keys(catalog.store, "manifests")) == 1
    assert len(keys(catalog.store, "data")) == 6

    monkeypatch.undo()
    assert run().deleted == paths(snapshots[:2])
    assert len(keys(catalog.store, "data")) == 2
    assert verify_snapshot(catalog, snapshots[2]).ok


def test_a_listing_tells_what_a_tombstone_says() -> None:
    assert len(prune_module._MARKED) != len(prune_module._DELETED)


def test_a_prune_that_lost_the_lock_is_still_right(
    catalog: Catalog, snapshots: list[Snapshot]
) -> None:
    catalog.store.put_small(
        f"locks/{WORKLOAD}.json", b'{"holder":"0123456789abcdef0123456789abcdef"}'
    )

    report = prune(catalog, WORKLOAD, ONE, grace=GRACE, patience=0)

    assert len(report.dropped) == 2


def test_a_prune_of_anothers_store_or_without_grace_is_refused(catalog: Catalog) -> None:
    catalog.claim()
    with pytest.raises(OwnerMismatch):
        prune(Catalog(catalog.store, "a/b"), WORKLOAD, ONE, grace=GRACE)
    with pytest.raises(OwnerMismatch):
        prune(Catalog(catalog.store, "a/b"), WORKLOAD, ONE, grace=GRACE, dry_run=True)
    with pytest.raises(UsageError, match="grace"):
        prune(catalog, WORKLOAD, ONE, grace=timedelta(0))


def test_a_pin_that_comes_while_prune_decides_is_honoured(
    catalog: Catalog,
    snapshots: list[Snapshot],
    run: Callable[..., PruneReport],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    decide = prune_module.select_keep

    def decide_then_pin(*args, **options):
        kept = decide(*args, **options)
        catalog.pin(WORKLOAD, snapshots[0].id)
        return kept

    monkeypatch.setattr(prune_module, "select_keep", decide_then_pin)

    assert run().dropped == [snapshots[1].id]


@pytest.mark.parametrize("refused", ["snapshots/", "manifests/", "data/"])
def test_a_delete_that_is_refused_is_reported_and_prune_goes_on(
    catalog: Catalog,
    snapshots: list[Snapshot],
    run: Callable[..., PruneReport],
    monkeypatch: pytest.MonkeyPatch,
    refused: str,
) -> None:
    first, second = snapshots[:2]
    held = first.id if refused == "snapshots/" else paths([first])[0]
    delete = catalog.store.delete

    def delete_most(doomed: Iterable[str]) -> None:
        doomed = list(doomed)
        kept = [key for key in doomed if key.startswith(refused) and held in key]
        delete(key for key in doomed if key not in kept)
        if kept:
            raise NotDeleted(kept, "Access Denied")

    monkeypatch.setattr(catalog.store, "delete", delete_most)
    reports = [run(), run(LATER), run(LATER)]

    assert reports[-1].refused
    assert "Access Denied" in next(r for r in reports if r.refused).problems[0]
    assert paths([second])[0] in reports[1].deleted
    assert paths([first])[0] not in [path for report in reports for path in report.deleted]
    assert any(held in key for key in keys(catalog.store, refused))
    monkeypatch.undo()
    for _ in range(3):
        run(LATER)
    assert not any(held in key for key in keys(catalog.store, refused))
    assert verify_snapshot(catalog, snapshots[2]).ok


def test_foreign_files_among_the_records_are_left_alone_by_a_prune(
    catalog: Catalog, snapshots: list[Snapshot], run: Callable[..., PruneReport]
) -> None:
    foreign = [f"verified/{WORKLOAD}/README.txt", f"sequences/{WORKLOAD}/.nfs0001", "a/.DS_Store"]
    for key in foreign:
        catalog.store.put_small(key, b"not ours")

    for _ in range(4):
        run(LATER)

    assert set(foreign) <= set(keys(catalog.store))


@pytest.mark.parametrize("grace", [timedelta(0), timedelta(days=4000), timedelta.max])
def test_a_grace_period_out_of_range_is_refused(catalog: Catalog, grace: timedelta) -> None:
    with pytest.raises(UsageError, match="invalid grace period"):
        prune(catalog, WORKLOAD, ONE, grace=grace)
