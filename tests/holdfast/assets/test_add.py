"""A folder becomes a version: once, whole, and never another one."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from holdfast.assets import add as add_module
from holdfast.assets import folder as folder_module
from holdfast.assets.add import Added, VersionTaken, add
from holdfast.assets.folder import hash_folder
from holdfast.assets.get import get
from holdfast.assets.lineage import lineage, named
from holdfast.assets.promote import delete_version
from holdfast.assets.versions import Wanted, resolve, versions
from holdfast.bundle import Bundle
from holdfast.copies.copying import Copier
from holdfast.copies.prune import prune
from holdfast.copies.pull import pull
from holdfast.copies.verify_store import verify_snapshot
from holdfast.errors import CommitRefused, InvalidBundle, NoSnapshot, OwnerMismatch, UsageError
from holdfast.store.base import Store
from holdfast.store.snapshot import Catalog
from holdfast.volume import Volume
from testkit.counting import counted
from testkit.stores import GRACE, OWNER, age, keys
from tests.holdfast.test_prune import LATER, ONE

Fill = Callable[..., Path]


def bundles_in(catalog: Catalog) -> int:
    return len(keys(catalog.store, "manifests"))


def test_a_folder_comes_back_byte_for_byte(store: Store, fill: Fill, tmp_path: Path) -> None:
    catalog = Catalog(store, OWNER)
    folder = fill()

    added = add(catalog, "dataset", folder, "reviews", "2026-08", labels={"rows": 500})
    got = get(catalog, resolve(Catalog(store), "reviews:2026-08"), tmp_path / "got")

    assert added.created and added.copied_files == added.files == 3
    for path in ("rows.csv", "more/labels.csv", "empty"):
        assert (got.bundle.path / path).read_bytes() == (folder / path).read_bytes()
    assert (got.bundle.path / "MANIFEST.json").read_bytes() == got.bundle.manifest.to_bytes()
    assert dict(added.version.snapshot.labels) == {"rows": 500, "version": "2026-08"}


def test_it_lies_under_its_content_in_a_workload_of_its_own(catalog: Catalog, fill: Fill) -> None:
    added = add(catalog, "model", fill(), "churn", "1")

    ref = added.version.ref
    assert ref.path == f"models/content/gen-0001/{ref.content}/{ref.digest}"
    assert (added.version.snapshot.workload, added.version.snapshot.run) == ("models", "churn")


def test_the_same_again_changes_nothing_and_reads_nothing(
    store: Store, fill: Fill, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(folder_module, "MOMENT", 0)
    folder = fill()
    first = add(Catalog(store, OWNER), "dataset", folder, "reviews", "1")
    before = keys(store)

    again = add(Catalog(store, OWNER), "dataset", folder, "reviews", "1")

    assert not again.created and (again.read, again.copied_files) == (0, 0)
    assert again.version.snapshot.id == first.version.snapshot.id
    assert keys(store) == before


def test_equal_content_is_stored_once_whatever_its_name_version_and_folder(
    catalog: Catalog, fill: Fill
) -> None:
    add(catalog, "dataset", fill("a"), "reviews", "1")

    for name, version in (("reviews", "2"), ("others", "1")):
        added = add(catalog, "dataset", fill(f"b-{name}-{version}"), name, version)
        assert added.created and added.copied_files == 0

    assert bundles_in(catalog) == 1
    assert len(list(versions(catalog, "dataset"))) == 3


def test_equal_content_is_found_by_few_requests(catalog: Catalog, fill: Fill) -> None:
    add(catalog, "dataset", fill("a"), "reviews", "1")
    counting, requests = counted(catalog.store)

    add(Catalog(counting, OWNER), "dataset", fill("b"), "others", "1")

    assert requests["put_file"] == 0
    assert requests.total() <= 40


def test_a_version_with_other_content_is_refused(catalog: Catalog, fill: Fill) -> None:
    add(catalog, "dataset", fill("a"), "reviews", "1")
    other = fill("b", {"rows.csv": b"other"})

    with pytest.raises(VersionTaken, match="a version never changes"):
        add(catalog, "dataset", other, "reviews", "1")

    assert bundles_in(catalog) == 1
    assert add(catalog, "model", other, "reviews", "1").created, "a model is another thing"


@pytest.mark.parametrize("change", ["write", "touch", "add", "remove", "link"])
def test_a_folder_that_changes_while_it_is_added_is_refused_by_the_name_of_the_file(
    catalog: Catalog, fill: Fill, monkeypatch: pytest.MonkeyPatch, change: str
) -> None:
    folder = fill()
    copy = Copier.copy

    def disturbed(self: Copier, *args: object) -> object:
        path = folder / "more/labels.csv"
        if change == "write":
            path.write_bytes(b"NO!\nno\n")
        elif change == "touch":
            os.utime(path)
        elif change == "add":
            (folder / "more/new.csv").write_bytes(b"")
        elif change == "remove":
            path.unlink()
        else:
            path.unlink()
            path.symlink_to(folder / "rows.csv")
        return copy(self, *args)  # type: ignore[arg-type]

    monkeypatch.setattr(Copier, "copy", disturbed)
    name = "more/new.csv" if change == "add" else "more/labels.csv"
    with pytest.raises(CommitRefused, match=rf"changed while it was added.*{name}"):
        add(catalog, "dataset", folder, "reviews", "1")

    assert list(versions(catalog, "dataset")) == []


def test_a_file_that_changes_between_its_hash_and_its_copy_is_refused(
    catalog: Catalog, fill: Fill, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The times need not show it: on some file systems they are coarse."""
    folder = fill()
    copy = Copier.copy

    def disturbed(self: Copier, *args: object) -> object:
        (folder / "rows.csv").write_bytes(b"9" * 2000)
        return copy(self, *args)  # type: ignore[arg-type]

    monkeypatch.setattr(Copier, "copy", disturbed)
    monkeypatch.setattr(folder_module.Hashed, "changes", lambda self: [])
    with pytest.raises(CommitRefused, match=r"rows\.csv: has other bytes"):
        add(catalog, "dataset", folder, "reviews", "1")
    assert bundles_in(catalog) == 0


def test_two_adds_of_one_version_with_other_content_never_both_succeed(
    store: Store, fill: Fill, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = fill("a"), fill("b", {"rows.csv": b"other"})
    write = add_module.write_snapshot
    raced: list[Added] = []

    def overtaken(*args: object, **options: object) -> object:
        monkeypatch.setattr(add_module, "write_snapshot", write)
        raced.append(add(Catalog(store, OWNER), "dataset", second, "reviews", "1", patience=0))
        return write(*args, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(add_module, "write_snapshot", overtaken)
    with pytest.raises(VersionTaken, match="at the same time"):
        add(Catalog(store, OWNER), "dataset", first, "reviews", "1", patience=0)

    (left,) = versions(Catalog(store), "dataset")
    assert left.ref.content == raced[0].version.ref.content


def test_two_adds_of_one_version_with_the_same_content_make_one(
    catalog: Catalog, fill: Fill, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = fill()
    write = add_module.write_snapshot

    def overtaken(*args: object, **options: object) -> object:
        monkeypatch.setattr(add_module, "write_snapshot", write)
        add(Catalog(catalog.store, OWNER), "dataset", folder, "reviews", "1", patience=0)
        return write(*args, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(add_module, "write_snapshot", overtaken)
    add(catalog, "dataset", folder, "reviews", "1", patience=0)

    assert len(list(versions(Catalog(catalog.store), "dataset"))) == 1


def test_what_a_verification_found_bad_is_copied_anew_by_the_next_add(
    catalog: Catalog, fill: Fill, store_directory: Path, tmp_path: Path
) -> None:
    folder = fill()
    first = add(catalog, "dataset", folder, "reviews", "1").version
    (store_directory / first.ref.data / "rows.csv").write_bytes(b"x" * 2000)
    assert not verify_snapshot(catalog, first.snapshot).ok

    again = add(Catalog(catalog.store, OWNER), "dataset", folder, "reviews", "1")

    assert again.created and again.copied_files == 3
    assert get(catalog, resolve(Catalog(catalog.store), "reviews:1"), tmp_path / "got").copied


def test_content_of_which_a_file_is_missing_in_the_store_is_copied_anew(
    catalog: Catalog, fill: Fill, store_directory: Path, tmp_path: Path
) -> None:
    folder = fill()
    first = add(catalog, "dataset", folder, "reviews", "1").version
    (store_directory / first.ref.data / "rows.csv").unlink()

    added = add(catalog, "dataset", folder, "reviews", "2")

    assert added.version.ref.path == f"{first.ref.path}-1"
    assert get(catalog, added.version, tmp_path / "got").copied


def test_another_owners_store_is_refused(catalog: Catalog, fill: Fill) -> None:
    catalog.claim()
    with pytest.raises(OwnerMismatch):
        add(Catalog(catalog.store, "other/stack"), "dataset", fill(), "reviews", "1")


@pytest.mark.parametrize(
    ("name", "version", "labels"),
    [
        ("Reviews", "1", {}),
        ("reviews", "1/2", {}),
        ("reviews", "", {}),
        ("reviews", "1", {"version": "2"}),
        ("reviews", "1", {"step": -1}),
        ("reviews", "1", {"upload": "0" * 64}),
    ],
)
def test_names_versions_and_labels_that_cannot_be_are_misuse(
    catalog: Catalog, fill: Fill, name: str, version: str, labels: dict[str, str | int]
) -> None:
    with pytest.raises(UsageError):
        add(catalog, "dataset", fill(), name, version, labels=labels)
    assert keys(catalog.store) == []


def test_what_no_bundle_can_hold_is_refused_by_name(catalog: Catalog, fill: Fill) -> None:
    folder = fill()
    (folder / "link").symlink_to("rows.csv")
    (folder / "void").mkdir()

    with pytest.raises(CommitRefused, match=r"link: is a symbolic link.*void: is an empty") as not_:
        add(catalog, "dataset", folder, "reviews", "1")
    assert len(not_.value.problems) == 2


# --- hashes that are remembered ------------------------------------------------------------------


@pytest.fixture
def settled(monkeypatch: pytest.MonkeyPatch) -> None:
    """Files that were changed just now count as settled, so that no test has to wait."""
    monkeypatch.setattr(folder_module, "MOMENT", 0)


@pytest.mark.usefixtures("settled")
def test_only_files_that_changed_are_read_again(fill: Fill) -> None:
    folder = fill()
    everything = hash_folder(folder).read
    (folder / "more/labels.csv").write_bytes(b"maybe\n")

    again = hash_folder(folder)

    assert (everything, again.read) == (2007, 6)
    assert set(again.entries) == set(hash_folder(folder, rehash=True).entries)
    assert hash_folder(folder, rehash=True).read == 2006


@pytest.mark.usefixtures("settled")
def test_a_change_that_keeps_size_and_time_is_seen_by_the_time_of_the_inode(fill: Fill) -> None:
    folder = fill()
    hash_folder(folder)
    fill(files={"rows.csv": b"2,1\n" * 500})

    assert hash_folder(folder).read == 2000


def test_a_file_that_changed_a_moment_ago_is_not_remembered(fill: Fill) -> None:
    folder = fill()  # just now, by the time of the inodes
    hash_folder(folder)

    assert hash_folder(folder).read == 2007


@pytest.mark.usefixtures("settled")
@pytest.mark.parametrize("damage", [b"", b"x", b"0" * 64 + b"\n[]", b"\xff\n"])
def test_a_record_that_is_damaged_is_ignored(fill: Fill, cache: Path, damage: bytes) -> None:
    folder = fill()
    hash_folder(folder)
    (record,) = cache.iterdir()
    record.write_bytes(damage)

    assert hash_folder(folder).read == 2007


@pytest.mark.usefixtures("settled")
def test_a_record_with_a_flipped_bit_is_ignored(
    fill: Fill, cache: Path, flip: Callable[..., None]
) -> None:
    folder = fill()
    hash_folder(folder)
    (record,) = cache.iterdir()
    flip(record, 8 * (record.stat().st_size - 5))

    assert hash_folder(folder).read == 2007


def test_a_cache_that_cannot_be_written_costs_only_time(
    fill: Fill, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", "/dev/null")
    assert hash_folder(fill()).read == 2007


# --- bundles and lineage -------------------------------------------------------------------------


def test_a_checkpoint_becomes_a_model_with_its_labels_as_lineage(
    volume: Volume, catalog: Catalog, write_bundle: Callable[..., Bundle], fill: Fill
) -> None:
    data = add(catalog, "dataset", fill(), "reviews", "1").version
    first = add(catalog, "model", fill("old", {"w": b"1"}), "churn", "1").version
    labels = {"dataset": data.ref.content, "code": "abc", "parent": first.ref.content}
    saved = write_bundle(volume.generation_path(1), 300, labels=labels)

    added = add(catalog, "model", saved.path, "churn", "2").version

    assert added.ref.content == saved.manifest.content
    assert lineage(catalog, added.snapshot.labels) == {
        "run": {"value": "run-a"},
        "step": {"value": 300},
        "checkpoint": {"value": saved.manifest.digest},
        "dataset": {"value": data.ref.content, "versions": ["reviews:1"]},
        "code": {"value": "abc"},
        "parent": {"value": first.ref.content, "versions": ["churn:1"]},
    }


def test_a_damaged_checkpoint_never_becomes_a_model(
    volume: Volume, catalog: Catalog, write_bundle: Callable[..., Bundle], flip: Callable[..., None]
) -> None:
    saved = write_bundle(volume.generation_path(1))
    flip(saved.path / ".metadata")
    (saved.path / "extra").write_bytes(b"")

    with pytest.raises(InvalidBundle, match=r"extra: is not in.*\.metadata: has other bytes"):
        add(catalog, "model", saved.path, "churn", "1")


def test_lineage_that_a_person_names_must_exist(catalog: Catalog, fill: Fill) -> None:
    add(catalog, "dataset", fill(), "reviews", "1")
    content = resolve(catalog, "reviews").ref.content

    assert named(catalog, dataset="reviews:1") == {"dataset": content}
    with pytest.raises(NoSnapshot, match="has no version '2': its versions are 1"):
        named(catalog, dataset="reviews:2")


@pytest.mark.parametrize("text", ["", ":1", "a:", "a@", "a:1:2", "a@b@c", "A:1", "a b", "a@-"])
def test_what_names_no_version_is_misuse(text: str) -> None:
    with pytest.raises(UsageError):
        Wanted.parse(text)


# --- retention -----------------------------------------------------------------------------------


def test_retention_never_drops_a_version(
    catalog: Catalog, fill: Fill, store_directory: Path
) -> None:
    for number in range(4):
        add(catalog, "dataset", fill(f"f{number}", {"a": b"%d" % number}), "reviews", str(number))

    for _ in range(3):
        age(store_directory, LATER)
        report = prune(catalog, "datasets", ONE, grace=GRACE)
        assert report.dropped == report.tombstoned == []

    assert len(list(versions(catalog, "dataset"))) == 4


def test_a_deleted_versions_data_go_unless_another_version_or_workload_names_them(
    catalog: Catalog, fill: Fill, store_directory: Path, tmp_path: Path
) -> None:
    shared, alone = fill("a"), fill("b", {"x": b"x"})
    for folder, version in ((shared, "1"), (shared, "2"), (alone, "3")):
        add(catalog, "dataset", folder, "reviews", version)
    for version in ("1", "3"):
        delete_version(catalog, resolve(catalog, f"reviews:{version}"))

    for _ in range(3):
        age(store_directory, LATER)
        prune(catalog, "datasets", ONE, grace=GRACE)

    assert bundles_in(catalog) == 1
    fresh = Catalog(catalog.store)
    assert verify_snapshot(fresh, resolve(fresh, "reviews:2").snapshot, record=False).ok
    assert pull(resolve(fresh, "reviews:2").snapshot, fresh, tmp_path / "p")
    with pytest.raises(NoSnapshot):
        resolve(fresh, "reviews:3")
    delete_version(catalog, resolve(catalog, "reviews:2"))  # also the last one that there is
    assert list(versions(Catalog(catalog.store), "dataset")) == []
