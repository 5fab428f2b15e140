"""Volume → store → volume, on both kinds of store."""

import errno
import fcntl
import shutil
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from holdfast import durable
from holdfast.bundle import Bundle, verify
from holdfast.copies import pull as pull_module
from holdfast.copies.prune import delete_snapshot
from holdfast.copies.pull import pull
from holdfast.copies.push import EmptyVolume, push
from holdfast.copies.verify_store import verify_snapshot
from holdfast.defaults import Select
from holdfast.errors import HoldfastError, InvalidBundle, Mismatch, NoSpace, StoreError
from holdfast.manifest import MANIFEST
from holdfast.store.base import Store
from holdfast.store.snapshot import Catalog
from holdfast.volume import Volume
from testkit.stores import OWNER, WORKLOAD, keys


def names(volume: Volume) -> list[str]:
    return [bundle.name for bundle in volume.bundles()]


def files(directory: Path) -> dict[str, bytes]:
    return {
        path.relative_to(directory).as_posix(): path.read_bytes()
        for path in directory.rglob("*")
        if path.is_file()
    }


def test_a_bundle_comes_back_byte_for_byte(
    volume: Volume, store: Store, save: Callable[..., Bundle], tmp_path: Path
) -> None:
    catalog = Catalog(store, OWNER)
    odd = {"empty": b"", "große Datei.bin": b"x" * 9_000_000, "a#b/c d": b"1", ".tmp-x": b"2"}
    saved = save(100, **odd)

    report = push(volume, catalog, WORKLOAD)
    pulled = pull(catalog.read(WORKLOAD, report.snapshot), catalog, tmp_path / "elsewhere")

    assert report.created == (report.snapshot,)
    assert report.copied_files == len(saved.manifest.files)
    assert report.copied_bytes == saved.manifest.size
    assert [bundle.path for bundle in pulled] == [tmp_path / "elsewhere" / saved.name]
    assert files(pulled[0].path) == files(saved.path)
    assert verify(pulled[0].path).manifest == saved.manifest


def test_the_store_has_the_documented_layout(
    volume: Volume, store: Store, save: Callable[..., Bundle]
) -> None:
    digest = save(100).manifest.digest
    report = push(volume, Catalog(store, OWNER), WORKLOAD)

    place = f"gpt/run-a/gen-0001/step-00000100/{digest}"
    assert [key for key in keys(store) if key != "CLOCK"] == [
        "OWNER.json",
        f"data/{place}/.metadata",
        f"data/{place}/rank-0/model.bin",
        "locks/gpt.json",
        f"manifests/{place}.json",
        "sequences/gpt/0000000001.json",
        f"snapshots/gpt/{report.snapshot}.json",
    ]


def test_nothing_new_makes_no_new_snapshot(
    volume: Volume, store: Store, save: Callable[..., Bundle]
) -> None:
    save(100)
    first = push(volume, Catalog(store, OWNER), WORKLOAD)
    before = keys(store)

    again = push(volume, Catalog(store, OWNER), WORKLOAD)

    assert (again.snapshot, again.created, again.copied_files) == (first.snapshot, (), 0)
    assert again.bundles == first.bundles
    assert keys(store) == before


def test_a_volume_and_a_store_that_are_both_empty_are_no_error(
    volume: Volume, catalog: Catalog
) -> None:
    report = push(volume, catalog, WORKLOAD)

    assert (report.snapshot, report.bundles) == ("", ())
    assert "no bundle yet" in report.message


def test_an_empty_volume_beside_a_full_store_is_an_error(
    volume: Volume, catalog: Catalog, save: Callable[..., Bundle]
) -> None:
    save(100)
    push(volume, catalog, WORKLOAD)
    shutil.rmtree(volume.generation_path(1))

    with pytest.raises(EmptyVolume, match="pull --if-empty"):
        push(volume, catalog, WORKLOAD)
    assert push(Volume(volume.root, "run-b"), catalog, WORKLOAD).snapshot == ""


@pytest.mark.parametrize("name", ["rank-0/model.bin", "big"])
def test_a_bundle_that_differs_from_its_manifest_is_refused(
    volume: Volume, store: Store, save: Callable[..., Bundle], flip: Callable[..., None], name: str
) -> None:
    catalog = Catalog(store, OWNER)
    bundle = save(100, big=b"z" * 20_000_000)
    flip(bundle.path / name)

    with pytest.raises(InvalidBundle, match="other bytes than its SHA-256"):
        push(volume, catalog, WORKLOAD)

    assert catalog.snapshots(WORKLOAD) == []
    assert keys(store, "manifests") == []
    assert not any(key.endswith(name) for key in keys(store, "data"))
    flip(bundle.path / name)
    assert push(volume, catalog, WORKLOAD).created


@pytest.mark.parametrize("harm", ["missing", "short", "long"])
def test_a_file_that_is_missing_or_of_another_size_is_refused(
    volume: Volume, catalog: Catalog, save: Callable[..., Bundle], harm: str
) -> None:
    file = save(100).path / "rank-0/model.bin"
    data = file.read_bytes()
    file.write_bytes(data[:-1] if harm == "short" else data + b"x")
    if harm == "missing":
        file.unlink()

    with pytest.raises(InvalidBundle, match=r"model\.bin"):
        push(volume, catalog, WORKLOAD)
    assert catalog.snapshots(WORKLOAD) == []


def test_an_interrupted_push_goes_on_with_what_is_there(
    volume: Volume,
    store: Store,
    save: Callable[..., Bundle],
    flip: Callable[..., None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(store, "parallel", 1)  # the good file first, then the bad one
    catalog = Catalog(store, OWNER)
    bundle = save(100)
    flip(bundle.path / "rank-0/model.bin")
    with pytest.raises(InvalidBundle):
        push(volume, catalog, WORKLOAD)
    flip(bundle.path / "rank-0/model.bin")

    report = push(volume, catalog, WORKLOAD)

    assert report.copied_files == 1  # the other file had arrived
    assert verify_snapshot(catalog, catalog.read(WORKLOAD, report.snapshot)).ok


def test_an_unreadable_bundle_is_reported_and_the_one_before_is_pushed(
    volume: Volume, catalog: Catalog, save: Callable[..., Bundle], flip: Callable[..., None]
) -> None:
    save(100)
    flip(save(200).path / MANIFEST, 40)

    report = push(volume, catalog, WORKLOAD)

    assert [ref.name for ref in report.bundles] == ["step-00000100"]
    assert [skipped.name for skipped in report.skipped] == ["step-00000200"]


def test_a_bundle_that_keep_k_removes_meanwhile_is_skipped_for_the_newer_one(
    volume: Volume, catalog: Catalog, save: Callable[..., Bundle], monkeypatch: pytest.MonkeyPatch
) -> None:
    save(100)
    copy, lost = catalog.store.put_file, threading.Event()

    def trainer_goes_on(key: str, chunks, size: int) -> None:
        if not lost.is_set():
            lost.set()
            save(200)
            volume.keep(1)
        copy(key, chunks, size)

    monkeypatch.setattr(catalog.store, "put_file", trainer_goes_on)

    report = push(volume, catalog, WORKLOAD)

    assert [ref.name for ref in report.bundles] == ["step-00000200"]
    assert [skipped.name for skipped in report.skipped] == ["step-00000100"]


def test_all_bundles_get_a_snapshot_each_in_their_order(
    volume: Volume, catalog: Catalog, save: Callable[..., Bundle]
) -> None:
    for step in (100, 200, 300):
        save(step)

    report = push(volume, catalog, WORKLOAD, select=Select.ALL)

    assert len(report.created) == 3
    snapshots = catalog.snapshots(WORKLOAD)
    assert [s.bundles[0].name[-3:] for s in snapshots] == ["300", "200", "100"]
    assert report.snapshot == snapshots[0].id
    assert push(volume, catalog, WORKLOAD, select=Select.ALL).created == ()


def test_what_retention_dropped_is_not_pushed_again(
    volume: Volume, catalog: Catalog, save: Callable[..., Bundle]
) -> None:
    for step in (100, 200, 300):
        save(step)
    push(volume, catalog, WORKLOAD, select=Select.ALL)
    oldest = catalog.snapshots(WORKLOAD)[-1]
    delete_snapshot(catalog, WORKLOAD, oldest.id)
    save(400)

    report = push(volume, catalog, WORKLOAD, select=Select.ALL)

    assert [catalog.read(WORKLOAD, i).bundles[0].name[-3:] for i in report.created] == ["400"]
    assert [(skipped.name[-3:], skipped.reason) for skipped in report.skipped] == [
        ("100", "retention dropped it before")
    ]


def test_a_copy_that_failed_verification_is_made_anew_beside_it(
    volume: Volume,
    catalog: Catalog,
    save: Callable[..., Bundle],
    store_directory: Path,
    flip: Callable[..., None],
) -> None:
    save(100)
    first = push(volume, catalog, WORKLOAD)
    flip(store_directory / first.bundles[0].data / ".metadata")
    assert not verify_snapshot(catalog, catalog.read(WORKLOAD, first.snapshot)).ok

    second = push(volume, catalog, WORKLOAD)

    assert second.snapshot != first.snapshot
    assert second.bundles[0].path == f"{first.bundles[0].path}-1"
    assert verify_snapshot(catalog, catalog.read(WORKLOAD, second.snapshot)).ok
    assert push(volume, catalog, WORKLOAD).created == ()


@pytest.mark.parametrize("harm", ["flip", "short", "long", "missing", "manifest"])
def test_wrong_bytes_in_the_store_never_become_a_bundle(
    volume: Volume,
    catalog: Catalog,
    save: Callable[..., Bundle],
    store_directory: Path,
    flip: Callable[..., None],
    tmp_path: Path,
    harm: str,
) -> None:
    save(100)
    report = push(volume, catalog, WORKLOAD)
    ref = report.bundles[0]
    file = store_directory / ref.data / "rank-0/model.bin"
    data = file.read_bytes()
    match harm:
        case "flip":
            flip(file)
        case "short":
            file.write_bytes(data[:-1])
        case "long":
            file.write_bytes(data + b"x")
        case "missing":
            file.unlink()
        case "manifest":
            flip(store_directory / ref.manifest, 99)
    into = tmp_path / "into"

    with pytest.raises(Mismatch, match=ref.name):
        pull(catalog.read(WORKLOAD, report.snapshot), catalog, into)
    assert [path.name for path in into.iterdir()] == [".lock"]
    found = verify_snapshot(catalog, catalog.read(WORKLOAD, report.snapshot))
    assert (found.ok, found.bad) == (False, (ref.path,))
    assert catalog.verifications(WORKLOAD)[report.snapshot] == found


def test_a_quick_verification_sees_sizes_and_a_full_one_every_byte(
    volume: Volume,
    catalog: Catalog,
    save: Callable[..., Bundle],
    store_directory: Path,
    flip: Callable[..., None],
) -> None:
    save(100)
    report = push(volume, catalog, WORKLOAD)
    snapshot = catalog.read(WORKLOAD, report.snapshot)

    assert verify_snapshot(catalog, snapshot).bytes == snapshot.size
    flip(store_directory / report.bundles[0].data / ".metadata")
    assert verify_snapshot(catalog, snapshot, quick=True).ok
    assert not verify_snapshot(catalog, snapshot).ok


def test_pulling_what_is_there_copies_nothing_and_replaces_what_is_bad(
    volume: Volume,
    catalog: Catalog,
    save: Callable[..., Bundle],
    flip: Callable[..., None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    bundle = save(100)
    snapshot = catalog.read(WORKLOAD, push(volume, catalog, WORKLOAD).snapshot)
    with monkeypatch.context() as patched:
        patched.setattr(catalog.store, "stream", None)
        assert pull(snapshot, catalog, volume.generation_path(1)) == [bundle]
    flip(bundle.path / ".metadata")

    assert pull(snapshot, catalog, volume.generation_path(1)) == [bundle]
    assert verify(bundle.path)
    assert len(volume.quarantined()) == 1


def test_another_bundle_of_the_same_name_is_never_replaced(
    volume: Volume, catalog: Catalog, save: Callable[..., Bundle]
) -> None:
    bundle = save(100)
    snapshot = catalog.read(WORKLOAD, push(volume, catalog, WORKLOAD).snapshot)
    shutil.rmtree(bundle.path)
    other = save(100, more=b"data")

    with pytest.raises(HoldfastError, match="another bundle of the same name"):
        pull(snapshot, catalog, volume.generation_path(1))
    assert verify(other.path).manifest == other.manifest


def test_a_volume_without_space_is_refused_before_anything_is_written(
    volume: Volume,
    catalog: Catalog,
    save: Callable[..., Bundle],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    save(100)
    snapshot = catalog.read(WORKLOAD, push(volume, catalog, WORKLOAD).snapshot)
    monkeypatch.setattr(durable, "SPARE", 1 << 60)

    with pytest.raises(NoSpace, match="bytes free"):
        pull(snapshot, catalog, tmp_path / "into")
    assert [path.name for path in (tmp_path / "into").iterdir()] == [".lock"]


@pytest.mark.parametrize("locks", [True, False], ids=["flock", "no-flock"])
def test_two_pods_that_pull_at_once_end_with_one_valid_bundle(
    volume: Volume,
    catalog: Catalog,
    save: Callable[..., Bundle],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    locks: bool,
) -> None:
    save(100)
    snapshot = catalog.read(WORKLOAD, push(volume, catalog, WORKLOAD).snapshot)
    into = tmp_path / "into"
    meeting = threading.Barrier(2, timeout=30)

    def no_locks(descriptor: int, how: int) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    def meet(moment: str) -> None:
        if moment == "pull.before-rename":
            meeting.wait()

    if not locks:  # both arrive at the rename at the same time
        monkeypatch.setattr(fcntl, "flock", no_locks)
        monkeypatch.setattr(pull_module, "failpoint", meet)

    with ThreadPoolExecutor(2) as pods:
        results = list(pods.map(lambda _: pull(snapshot, catalog, into), range(2)))

    assert [found[0].manifest.digest for found in results] == [snapshot.bundles[0].digest] * 2
    assert verify(into / "step-00000100")
    assert not list(into.glob(".pull-*"))


def test_a_killed_pulls_leftovers_are_removed_by_the_next(
    volume: Volume, catalog: Catalog, save: Callable[..., Bundle], tmp_path: Path
) -> None:
    save(100)
    snapshot = catalog.read(WORKLOAD, push(volume, catalog, WORKLOAD).snapshot)
    leftover = tmp_path / "into/.pull-abcdef01/rank-0"
    leftover.mkdir(parents=True)

    pull(snapshot, catalog, tmp_path / "into")

    assert not leftover.exists()


def test_one_failed_file_ends_the_others(
    volume: Volume, catalog: Catalog, save: Callable[..., Bundle], monkeypatch: pytest.MonkeyPatch
) -> None:
    save(100, **{f"part-{n}": b"x" for n in range(20)})
    sent: list[str] = []

    def refuse(key: str, chunks, size: int) -> None:
        sent.append(key)
        raise StoreError("no")

    monkeypatch.setattr(catalog.store, "put_file", refuse)

    with pytest.raises(StoreError):
        push(volume, catalog, WORKLOAD)
    assert len(sent) <= 2 * catalog.store.parallel


def test_a_manifest_that_is_damaged_in_the_store_is_copied_anew_beside_it(
    volume: Volume, catalog: Catalog, save: Callable[..., Bundle]
) -> None:
    """Shown to fail: with a push that tries the same path again and again."""
    save(100)
    first = push(volume, catalog, WORKLOAD)
    catalog.store.put_small(first.bundles[0].manifest, b"{}")
    catalog.store.delete([f"snapshots/{WORKLOAD}/{first.snapshot}.json"])

    again = push(volume, Catalog(catalog.store, OWNER), WORKLOAD)

    assert again.bundles[0].path == f"{first.bundles[0].path}-1"
    assert verify_snapshot(catalog, catalog.read(WORKLOAD, again.snapshot)).ok
