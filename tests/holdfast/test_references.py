"""Snapshots that name bundles of another workload, and bundles that are streamed to a store."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta
from pathlib import Path

import pytest

from holdfast.bundle import Bundle
from holdfast.copies import writing as writing_module
from holdfast.copies.prune import delete_snapshot, prune
from holdfast.copies.pull import pull
from holdfast.copies.push import push
from holdfast.copies.streamed import StreamedBundle
from holdfast.copies.verify_store import verify_snapshot
from holdfast.copies.writing import TooLate, write_snapshot, writing
from holdfast.errors import CommitRefused, NotFound, UsageError
from holdfast.store.base import Store
from holdfast.store.documents import BundleRef, Snapshot
from holdfast.store.s3_parts import MIB, PART
from holdfast.store.snapshot import Catalog
from holdfast.volume import Volume
from testkit.stores import GRACE, OWNER, WORKLOAD, age, keys
from tests.holdfast.test_prune import LATER, ONE


@pytest.fixture
def checkpoint(volume: Volume, catalog: Catalog, save: Callable[..., Bundle]) -> BundleRef:
    """A bundle of workload gpt, pushed."""
    save(100)
    return push(volume, catalog, WORKLOAD).bundles[0]


def name_it(catalog: Catalog, *refs: BundleRef, grace: timedelta = GRACE) -> Snapshot:
    """A snapshot of the workload `pipeline` that names these."""
    with writing(catalog, "pipeline"):
        began = catalog.store.now()
        return write_snapshot(catalog, "pipeline", "all", 1, refs, began=began, grace=grace)


def prunes(catalog: Catalog, directory: Path, workload: str, times: int = 3) -> None:
    """Let the grace period pass and prune, as often as it takes to delete what nobody names."""
    for _ in range(times):
        age(directory, LATER)
        prune(catalog, workload, ONE, grace=GRACE)


def displace(volume: Volume, catalog: Catalog, save: Callable[..., Bundle]) -> None:
    """A newer snapshot, so that retention of one drops the first."""
    save(200)
    push(volume, catalog, WORKLOAD)


def test_a_bundle_that_another_workload_names_outlives_every_snapshot_of_its_own(
    volume: Volume,
    catalog: Catalog,
    save: Callable[..., Bundle],
    checkpoint: BundleRef,
    store_directory: Path,
    tmp_path: Path,
) -> None:
    snapshot = name_it(catalog, checkpoint)
    displace(volume, catalog, save)

    prunes(catalog, store_directory, WORKLOAD)

    assert [s.bundles[0].name for s in catalog.snapshots(WORKLOAD)] == ["step-00000200"]
    assert verify_snapshot(catalog, snapshot).ok
    assert pull(snapshot, catalog, tmp_path / "pulled")[0].manifest.digest == checkpoint.digest


def test_once_the_naming_snapshot_is_gone_its_references_and_then_the_bundle_go(
    volume: Volume,
    catalog: Catalog,
    save: Callable[..., Bundle],
    checkpoint: BundleRef,
    store_directory: Path,
) -> None:
    doomed = name_it(catalog, checkpoint)
    displace(volume, catalog, save)
    name_it(catalog, catalog.snapshots(WORKLOAD)[0].bundles[0])

    delete_snapshot(catalog, "pipeline", doomed.id)
    prunes(catalog, store_directory, WORKLOAD)

    assert keys(catalog.store, f"references/pipeline/{doomed.id}") == []
    assert len(keys(catalog.store, "references")) == 1
    assert not [key for key in keys(catalog.store, "data") if checkpoint.digest in key]
    assert checkpoint.manifest not in keys(catalog.store, "manifests")


def test_retention_of_the_naming_workload_removes_references_only_after_their_snapshot(
    volume: Volume, catalog: Catalog, checkpoint: BundleRef, store_directory: Path
) -> None:
    dropped, kept = (name_it(catalog, checkpoint) for _ in range(2))
    order: list[str] = []
    remove = catalog.store.delete

    def recorded(doomed: Iterator[str]) -> None:
        names = [*doomed]
        order.extend(names)
        remove(names)

    catalog.store.delete = recorded  # type: ignore[method-assign]
    age(store_directory, LATER)
    prune(catalog, "pipeline", ONE, grace=GRACE)

    place = f"references/pipeline/{dropped.id}/{checkpoint.path}.json"
    assert order.index(dropped.key) < order.index(place)
    assert keys(catalog.store, "references") == [place.replace(dropped.id, kept.id)]


def test_an_orphaned_reference_keeps_its_bundle_for_a_grace_period_and_then_goes(
    catalog: Catalog,
    checkpoint: BundleRef,
    store_directory: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("HOLDFAST_FAILPOINT", "push.references-written=raise")
    with pytest.raises(OSError, match="failpoint"):
        name_it(catalog, checkpoint)
    monkeypatch.delenv("HOLDFAST_FAILPOINT")
    later = name_it(catalog, checkpoint)  # so that the number that was taken is no gap

    prune(catalog, "pipeline", ONE, grace=GRACE)
    assert len(keys(catalog.store, "references")) == 2
    age(store_directory, LATER)
    prune(catalog, "pipeline", ONE, grace=GRACE)

    (left,) = keys(catalog.store, "references")
    assert later.id in left


def test_a_bundle_that_is_about_to_be_deleted_is_never_named(
    volume: Volume, catalog: Catalog, checkpoint: BundleRef
) -> None:
    catalog.store.put_small(f"tombstones/{checkpoint.path}.json", b"{}")

    with pytest.raises(TooLate, match="about to be deleted") as late:
        name_it(catalog, checkpoint)

    assert late.value.paths == {checkpoint.path}
    assert keys(catalog.store, "snapshots/pipeline") == keys(catalog.store, "references") == []


def test_a_snapshot_that_comes_too_late_is_withdrawn_with_its_references(
    catalog: Catalog, checkpoint: BundleRef
) -> None:
    with pytest.raises(TooLate, match="half of the grace period"):
        name_it(catalog, checkpoint, grace=timedelta(microseconds=1))

    assert keys(catalog.store, "snapshots/pipeline") == keys(catalog.store, "references") == []


def test_a_bundle_that_is_gone_when_the_snapshot_is_written_withdraws_it(
    catalog: Catalog, checkpoint: BundleRef, monkeypatch: pytest.MonkeyPatch
) -> None:
    def vanish(began: datetime, now: datetime, grace: timedelta) -> None:
        catalog.store.delete([checkpoint.manifest])

    monkeypatch.setattr(writing_module, "check_time", vanish)
    with pytest.raises(TooLate) as late:
        name_it(catalog, checkpoint)

    assert late.value.paths == {checkpoint.path}
    assert keys(catalog.store, "snapshots/pipeline") == keys(catalog.store, "references") == []


def test_a_damaged_bundle_of_another_workload_makes_the_snapshot_bad_but_not_the_record(
    catalog: Catalog, checkpoint: BundleRef, store_directory: Path
) -> None:
    snapshot = name_it(catalog, checkpoint)
    next((store_directory / checkpoint.data).rglob("*.bin")).write_bytes(b"x")

    found = verify_snapshot(catalog, snapshot)

    assert not found.ok and checkpoint.path in found.problems[0]
    assert catalog.failures("pipeline") == [found]
    assert found.bad == (), "only the other workload may condemn its own bundles"


# --- streamed bundles ----------------------------------------------------------------------------


def test_a_streamed_bundle_comes_back_byte_for_byte(store: Store, tmp_path: Path) -> None:
    catalog = Catalog(store, OWNER)
    large = [bytes([n]) * MIB for n in range(21)]
    with writing(catalog, "pipeline"):
        began = store.now()
        made = StreamedBundle(catalog, "pipeline", "tracking", 1, "database", "dump", {"a": "b"})
        threads = [
            threading.Thread(target=made.put, args=args)
            for args in [("database.dump", iter(large)), ("empty", iter(())), ("ä/b", [b"x" * 9])]
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        made.put("exactly", [b"y" * PART], PART)
        ref = made.commit()
        snapshot = write_snapshot(
            catalog, "pipeline", "tracking", 1, [ref], began=began, labels={"mlflow": "3"}
        )

    read = Catalog(store).read("pipeline", snapshot.id)
    (pulled,) = pull(read, catalog, tmp_path / "pulled")
    assert read.labels == {"mlflow": "3"}
    assert (pulled.path / "database.dump").read_bytes() == b"".join(large)
    assert (pulled.path / "ä/b").read_bytes() == b"x" * 9
    assert (pulled.path / "empty").read_bytes() == b""
    assert verify_snapshot(catalog, read).ok
    assert str(ref.labels["upload"]) in ref.path and ref.digest not in ref.path


def test_an_error_from_the_source_uploads_nothing(store: Store) -> None:
    def cut(size: int) -> Iterator[bytes]:
        yield b"x" * size
        raise ChildProcessError("pg_dump failed")

    made = StreamedBundle(Catalog(store, OWNER), "pipeline", "tracking", 1, "database", "dump")
    for size in (10, 3 * PART):
        with pytest.raises(ChildProcessError, match="pg_dump failed"):
            made.put("database.dump", cut(size))

    assert keys(store, "data") == []
    with pytest.raises(CommitRefused):
        made.commit()


def test_what_was_streamed_and_never_committed_is_pruned(
    catalog: Catalog, store_directory: Path
) -> None:
    catalog.claim()
    made = StreamedBundle(catalog, "pipeline", "tracking", 1, "database", "dump")
    made.put("database.dump", [b"x"])

    prunes(catalog, store_directory, "pipeline")

    assert keys(catalog.store, "data") == []


@pytest.mark.parametrize("path", ["../x", "MANIFEST.json", "a//b", ""])
def test_a_path_that_no_bundle_can_have_is_refused_before_it_is_read(
    catalog: Catalog, path: str
) -> None:
    made = StreamedBundle(catalog, "pipeline", "tracking", 1, "database", "dump")
    with pytest.raises(CommitRefused):
        made.put(path, iter(lambda: pytest.fail("read"), b""))


def test_labels_and_names_that_no_bundle_can_have_are_refused_at_once(catalog: Catalog) -> None:
    for name, labels in (("Dump", {}), ("dump", {"upload": "0" * 64}), ("dump", {"step": -1})):
        with pytest.raises(UsageError):
            StreamedBundle(catalog, "pipeline", "tracking", 1, "database", name, labels)


def test_a_file_of_more_bytes_than_were_announced_is_refused_before_s3_runs_out_of_parts(
    s3_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from holdfast.store import open_store
    from holdfast.store import s3 as s3_module

    monkeypatch.setattr(s3_module, "PARTS", 2)
    store = open_store(s3_url)
    with pytest.raises(Exception, match="announce its size"):
        store.put_stream("data/x", (b"x" * MIB for _ in range(40)), 9 * MIB)
    with pytest.raises(NotFound):
        store.head("data/x")
