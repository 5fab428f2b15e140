"""A version comes back whole or not at all; an alias says which; a volume gets the model."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from holdfast.assets import aliases
from holdfast.assets.add import add
from holdfast.assets.diff import diff, side_of
from holdfast.assets.get import get, get_on_volume
from holdfast.assets.promote import delete_version, promote
from holdfast.assets.versions import resolve
from holdfast.bundle import Bundle
from holdfast.copies.pull import pull
from holdfast.copies.push import push
from holdfast.errors import (
    HoldfastError,
    InvalidBundle,
    Mismatch,
    NoSnapshot,
    StoreUnreachable,
    UsageError,
)
from holdfast.store.base import ObjectInfo, Store
from holdfast.store.snapshot import Catalog
from holdfast.volume import Volume
from testkit.stores import OWNER, WORKLOAD, keys

Fill = Callable[..., Path]


@pytest.fixture
def churn(catalog: Catalog, fill: Fill) -> Callable[[str], None]:
    """`churn("2")` adds a version of a model of its own content."""
    return lambda version: void(
        add(catalog, "model", fill(f"m{version}", {"w": version.encode()}), "churn", version)
    )


def void(_: object) -> None:
    """For what is done for its effect."""


@pytest.fixture
def application(tmp_path: Path) -> Volume:
    (tmp_path / "application").mkdir()
    return Volume(tmp_path / "application", "serve", "model")


# --- into a directory ----------------------------------------------------------------------------


def test_an_empty_directory_is_filled_and_a_full_one_left_alone(
    catalog: Catalog, fill: Fill, tmp_path: Path
) -> None:
    version = add(catalog, "dataset", fill(), "reviews", "1").version
    (tmp_path / "empty").mkdir()
    (tmp_path / "full").mkdir()
    (tmp_path / "full/mine").write_bytes(b"mine")

    assert get(catalog, version, tmp_path / "empty").copied
    with pytest.raises(HoldfastError, match="holds something else"):
        get(catalog, version, tmp_path / "full")
    assert [path.name for path in (tmp_path / "full").iterdir()] == ["mine"]


def test_the_same_again_is_verified_and_copies_nothing(
    catalog: Catalog, fill: Fill, flip: Callable[..., None], tmp_path: Path
) -> None:
    version = add(catalog, "dataset", fill(), "reviews", "1").version
    get(catalog, version, tmp_path / "got")

    assert not get(catalog, version, tmp_path / "got").copied
    flip(tmp_path / "got/rows.csv")
    with pytest.raises(InvalidBundle, match=r"rows\.csv"):
        get(catalog, version, tmp_path / "got")


@pytest.mark.parametrize("damage", ["flip", "missing"])
def test_a_store_that_lies_fills_no_directory(
    catalog: Catalog,
    fill: Fill,
    flip: Callable[..., None],
    store_directory: Path,
    tmp_path: Path,
    damage: str,
) -> None:
    version = add(catalog, "dataset", fill(), "reviews", "1").version
    path = store_directory / version.ref.data / "rows.csv"
    if damage == "flip":
        flip(path)
    else:
        path.unlink()
    (tmp_path / "in/got").mkdir(parents=True)

    with pytest.raises(Mismatch, match=r"rows\.csv"):
        get(catalog, version, tmp_path / "in/got")
    assert [path.name for path in (tmp_path / "in").iterdir()] == ["got"]
    assert list((tmp_path / "in/got").iterdir()) == []


def test_a_link_is_not_followed(catalog: Catalog, fill: Fill, tmp_path: Path) -> None:
    version = add(catalog, "dataset", fill(), "reviews", "1").version
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "link").symlink_to("elsewhere")

    with pytest.raises(HoldfastError, match="link"):
        get(catalog, version, tmp_path / "link")


def test_a_name_alone_is_the_newest_version_and_one_of_two_kinds_must_be_told(
    catalog: Catalog, fill: Fill
) -> None:
    for version in ("10", "9"):
        add(catalog, "dataset", fill(version, {"a": version.encode()}), "reviews", version)
    assert resolve(catalog, "reviews").version == "9", "the newest is the one that was added last"

    add(catalog, "model", fill(), "reviews", "9")
    with pytest.raises(UsageError, match="is a dataset and a model"):
        resolve(catalog, "reviews:9")
    assert resolve(catalog, "reviews:9", "model").kind == "model"


# --- aliases -------------------------------------------------------------------------------------


def test_an_alias_means_what_was_promoted_last_and_keeps_its_history(
    store: Store, fill: Fill
) -> None:
    catalog = Catalog(store, OWNER)
    for version in ("1", "2"):
        add(catalog, "model", fill(version, {"w": version.encode()}), "churn", version)

    for version in ("1", "2", "2", "1"):
        promote(catalog, resolve(catalog, f"churn:{version}"), "production")

    assert resolve(Catalog(store), "churn@production").version == "1"
    moves = aliases.history(store, "models", "churn")
    assert sorted((one.sequence, one.version) for one in moves) == [(1, "1"), (2, "2"), (3, "1")]
    assert keys(store, "aliases") == [
        f"aliases/models/churn/production/{number:010d}.json" for number in (1, 2, 3)
    ]


def test_an_alias_that_was_never_given_is_said_with_the_versions_there_are(
    catalog: Catalog, churn: Callable[[str], None]
) -> None:
    churn("1")
    with pytest.raises(NoSnapshot, match="has no alias 'production': its versions are 1"):
        resolve(catalog, "churn@production")


def test_a_version_that_an_alias_means_is_not_deleted_unless_told(
    catalog: Catalog, churn: Callable[[str], None], fill: Fill
) -> None:
    churn("1")
    churn("2")
    promote(catalog, resolve(catalog, "churn:1"), "production")

    with pytest.raises(HoldfastError, match="churn@production"):
        delete_version(catalog, resolve(catalog, "churn:1"))
    delete_version(catalog, resolve(catalog, "churn:1"), aliased=True)

    with pytest.raises(NoSnapshot, match="is version 1, which was deleted: promote another"):
        resolve(Catalog(catalog.store), "churn@production")
    churn("1")
    assert resolve(Catalog(catalog.store), "churn@production").version == "1", "the same again"


def test_a_version_that_is_deleted_while_it_is_promoted_is_said(
    catalog: Catalog, churn: Callable[[str], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    churn("1")
    churn("2")
    version = resolve(catalog, "churn:1")
    append = aliases.append

    def overtaken(*args: object) -> aliases.Alias:
        delete_version(Catalog(catalog.store, OWNER), version)
        return append(*args)  # type: ignore[arg-type]

    monkeypatch.setattr(aliases, "append", overtaken)
    with pytest.raises(NoSnapshot, match="was deleted"):
        promote(catalog, version, "production", patience=0)


@pytest.mark.parametrize("damage", [b"{}", b"", b"\xff"])
def test_a_damaged_record_of_an_alias_is_an_error_and_not_the_one_before(
    catalog: Catalog, churn: Callable[[str], None], store_directory: Path, damage: bytes
) -> None:
    churn("1")
    churn("2")
    for version in ("1", "2"):
        promote(catalog, resolve(catalog, f"churn:{version}"), "production")
    newest = store_directory / "aliases/models/churn/production/0000000002.json"
    first = newest.with_name("0000000001.json").read_bytes()

    for data in (damage, first):
        newest.write_bytes(data)
        with pytest.raises(Mismatch, match="0000000002"):
            resolve(catalog, "churn@production")


def test_foreign_objects_among_the_aliases_are_ignored(
    catalog: Catalog, churn: Callable[[str], None]
) -> None:
    churn("1")
    promote(catalog, resolve(catalog, "churn:1"), "production")
    for name in ("README", "9999999999", "0000000009.json.bak", "deeper/0000000009.json"):
        catalog.store.put_small(f"aliases/models/churn/production/{name}", b"x")

    assert resolve(catalog, "churn@production").version == "1"


# --- onto an application's volume ----------------------------------------------------------------


def test_a_promoted_model_becomes_the_only_bundle_of_the_next_generation(
    catalog: Catalog, churn: Callable[[str], None], application: Volume
) -> None:
    for number, version in enumerate(("1", "2", "1"), start=1):
        if number < 3:
            churn(version)
        promote(catalog, resolve(catalog, f"churn:{version}"), "production")

        got = get_on_volume(catalog, "churn@production", application)

        (bundle,) = application.bundles()
        assert (got.copied, got.generation) == (True, number)
        assert (bundle.path / "w").read_bytes() == version.encode()


def test_the_model_that_is_there_already_is_left_as_it_is(
    catalog: Catalog, churn: Callable[[str], None], application: Volume
) -> None:
    churn("1")
    get_on_volume(catalog, "churn", application)

    again = get_on_volume(catalog, "churn", application)

    assert not again.copied
    assert application.generations() == [1]


def test_older_models_leave_the_volume(
    catalog: Catalog, churn: Callable[[str], None], application: Volume
) -> None:
    for version in "12345":
        churn(version)
        get_on_volume(catalog, f"churn:{version}", application, keep=2)

    assert len(application.history()) == 2


def test_a_damaged_model_on_the_volume_is_set_aside_and_fetched_again(
    catalog: Catalog,
    churn: Callable[[str], None],
    application: Volume,
    flip: Callable[..., None],
) -> None:
    churn("1")
    get_on_volume(catalog, "churn", application)
    flip(application.bundles()[0].path / "w")

    got = get_on_volume(catalog, "churn", application)

    assert got.copied and application.newest_valid(quarantine=False) == got.bundle
    assert len(application.quarantined()) == 1


def test_without_the_store_a_valid_model_is_kept_and_without_one_it_is_an_error(
    catalog: Catalog,
    churn: Callable[[str], None],
    application: Volume,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    churn("1")
    get_on_volume(catalog, "churn", application)

    def unreachable(self: object, prefix: str = "") -> Iterator[ObjectInfo]:
        raise StoreUnreachable("no answer")

    monkeypatch.setattr("holdfast.store.directory.DirectoryStore.list", unreachable)
    kept = get_on_volume(catalog, "churn", application)
    assert (kept.version, kept.problem, kept.copied) == (None, "no answer", False)
    assert kept.bundle == application.bundles()[0]

    empty = Volume(application.root, "other", "model")
    with pytest.raises(StoreUnreachable):
        get_on_volume(catalog, "churn", empty)


def test_damage_in_the_store_leaves_a_valid_model_in_use(
    catalog: Catalog,
    churn: Callable[[str], None],
    application: Volume,
    store_directory: Path,
    flip: Callable[..., None],
) -> None:
    churn("1")
    get_on_volume(catalog, "churn", application)
    churn("2")
    flip(store_directory / resolve(catalog, "churn").ref.data / "w")

    kept = get_on_volume(catalog, "churn", application)

    assert "other bytes" in kept.problem
    assert (application.bundles()[0].path / "w").read_bytes() == b"1"
    assert not [path for path in application.run_path.iterdir() if path.name.startswith(".pull")]


def test_a_push_of_a_model_that_the_store_has_names_it_and_copies_nothing(
    catalog: Catalog, churn: Callable[[str], None], application: Volume, tmp_path: Path
) -> None:
    churn("1")
    get_on_volume(catalog, "churn", application)

    report = push(application, catalog, WORKLOAD)

    (ref,) = report.bundles
    assert (ref.workload, report.copied_files) == ("models", 0)
    assert len(keys(catalog.store, f"references/{WORKLOAD}/{report.snapshot}")) == 1
    assert pull(catalog.read(WORKLOAD, report.snapshot), catalog, tmp_path / "pulled")
    assert push(application, catalog, WORKLOAD).created == ()


def test_a_push_of_a_model_that_is_about_to_be_deleted_copies_it(
    catalog: Catalog, churn: Callable[[str], None], application: Volume
) -> None:
    churn("1")
    get_on_volume(catalog, "churn", application)
    path = resolve(catalog, "churn").ref.path
    catalog.store.put_small(f"tombstones/{path}.json", b"{}")

    report = push(application, catalog, WORKLOAD)

    assert report.copied_files == 1
    assert [ref.workload for ref in report.bundles] == [WORKLOAD]


# --- differences ---------------------------------------------------------------------------------


def test_a_difference_says_what_was_added_removed_and_changed(catalog: Catalog, fill: Fill) -> None:
    old = {"same": b"s", "gone": b"12", "other": b"1"}
    new = {"same": b"s", "new/file": b"123", "other": b"22"}
    for version, files in (("1", old), ("2", new)):
        add(catalog, "dataset", fill(version, files), "reviews", version, labels={"rows": 7})
    first, second = (resolve(catalog, f"reviews:{v}") for v in "12")

    found = diff(*(side_of(catalog, one.snapshot, str(one)) for one in (first, second)))

    assert (found.added, found.removed) == ({"new/file": 3}, {"gone": 2})
    assert (found.changed, found.unchanged) == ({"other": (1, 2)}, 1)
    assert found.labels == {"version": ("1", "2")}


def test_two_snapshots_of_a_training_can_be_compared(
    volume: Volume, catalog: Catalog, save: Callable[..., Bundle]
) -> None:
    for step in (100, 200):
        save(step)
        push(volume, catalog, WORKLOAD)
    newest, older = catalog.snapshots(WORKLOAD)

    found = diff(*(side_of(catalog, one, one.id) for one in (older, newest)))

    assert list(found.changed) == ["rank-0/model.bin"]
    assert found.labels["step"] == (100, 200)
