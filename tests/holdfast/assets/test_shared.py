"""Equal content is stored once, whatever workload has it: a version uses the files that are there.

Whoever names files of another workload keeps them, whatever is pruned, deleted or damaged.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from holdfast.assets.add import add
from holdfast.assets.diff import diff, side_of
from holdfast.assets.get import get, get_on_volume
from holdfast.assets.promote import delete_version
from holdfast.assets.versions import Version, resolve
from holdfast.bundle import Bundle, check_files
from holdfast.copies.prune import delete_snapshot, prune
from holdfast.copies.pull import pull
from holdfast.copies.push import PushReport, push
from holdfast.copies.verify_store import verify_snapshot
from holdfast.store.base import Store
from holdfast.store.snapshot import Catalog
from holdfast.volume import Volume
from testkit.counting import counted
from testkit.stores import GRACE, OWNER, WORKLOAD, age, keys
from tests.holdfast.test_prune import LATER, ONE

Fill = Callable[..., Path]
Save = Callable[..., Bundle]


def data_in(catalog: Catalog) -> set[str]:
    """The paths of bundles that have files in the store."""
    return {"/".join(key.split("/")[1:6]) for key in keys(catalog.store, "data")}


def prune_all(catalog: Catalog, directory: Path) -> None:
    """Let grace periods pass and prune every workload, as often as it takes to delete for good."""
    for _ in range(3):
        age(directory, LATER)
        for workload in (WORKLOAD, "datasets", "models", "serving"):
            prune(catalog, workload, ONE, grace=GRACE)


def fresh(catalog: Catalog) -> Catalog:
    return Catalog(catalog.store, OWNER)


@pytest.fixture
def saved(save: Save) -> Bundle:
    return save(100)


@pytest.fixture
def pushed(volume: Volume, catalog: Catalog, saved: Bundle) -> PushReport:
    return push(volume, catalog, WORKLOAD)


def plain_copy(saved: Bundle, into: Path) -> Path:
    """The files of a bundle as a folder, without its manifest."""
    for entry in saved.manifest.files:
        (into / entry.path).parent.mkdir(parents=True, exist_ok=True)
        (into / entry.path).write_bytes((saved.path / entry.path).read_bytes())
    return into


# --- what is found -------------------------------------------------------------------------------


def test_a_folder_that_is_a_dataset_and_a_model_is_stored_once(
    store: Store, fill: Fill, tmp_path: Path
) -> None:
    catalog = Catalog(store, OWNER)
    add(catalog, "dataset", fill("a"), "reviews", "1")

    added = add(catalog, "model", fill("b"), "churn", "1")

    assert (added.created, added.copied_files, len(data_in(catalog))) == (True, 0, 1)
    assert added.version.ref.path.startswith("models/content/")
    assert added.version.ref.files_at.startswith("datasets/content/")
    got = get(fresh(catalog), resolve(fresh(catalog), "churn:1"), tmp_path / "got")
    assert got.bundle.manifest.kind == "model"


def test_a_checkpoint_that_was_pushed_becomes_a_model_and_nothing_is_copied(
    store: Store, volume: Volume, saved: Bundle, tmp_path: Path
) -> None:
    catalog = Catalog(store, OWNER)
    push(volume, catalog, WORKLOAD)

    added = add(catalog, "model", saved.path, "churn", "1")

    assert (added.copied_files, added.copied_bytes, len(data_in(catalog))) == (0, 0, 1)
    assert added.version.ref.files_at.startswith(f"{WORKLOAD}/")
    reference = f"references/models/{added.version.snapshot.id}/{added.version.ref.files_at}.json"
    assert keys(store, "references") == [reference]
    version = resolve(fresh(catalog), "churn:1")
    assert verify_snapshot(fresh(catalog), version.snapshot).ok
    got = get(fresh(catalog), version, tmp_path / "got").bundle
    assert got.manifest.content == saved.manifest.content
    assert check_files(got.path, saved.manifest.files) == []


def test_a_folder_with_the_files_of_a_checkpoint_is_found_without_its_manifest(
    catalog: Catalog, pushed: PushReport, saved: Bundle, tmp_path: Path
) -> None:
    added = add(catalog, "model", plain_copy(saved, tmp_path / "plain"), "churn", "1")

    assert (added.copied_files, added.version.ref.files_at) == (0, pushed.bundles[0].path)


def test_a_checkpoint_that_is_a_model_already_is_pushed_without_a_copy(
    store: Store, volume: Volume, saved: Bundle, tmp_path: Path
) -> None:
    catalog = Catalog(store, OWNER)
    model = add(catalog, "model", saved.path, "churn", "1").version

    report = push(volume, catalog, WORKLOAD)

    (ref,) = report.bundles
    assert (report.copied_files, len(data_in(catalog))) == (0, 1)
    assert (ref.kind, ref.workload, ref.files_at) == ("checkpoint", WORKLOAD, model.ref.path)
    snapshot = fresh(catalog).read(WORKLOAD, report.snapshot)
    assert verify_snapshot(fresh(catalog), snapshot).ok
    (pulled,) = pull(snapshot, fresh(catalog), tmp_path / "pulled")
    assert pulled.manifest == saved.manifest
    assert push(volume, fresh(catalog), WORKLOAD).created == ()


def test_a_third_name_of_a_checkpoint_uses_the_same_files(
    catalog: Catalog, pushed: PushReport, saved: Bundle, fill: Fill, tmp_path: Path
) -> None:
    """Also one whose manifest says less, and one of another kind."""
    plain = plain_copy(saved, tmp_path / "plain")
    for kind, folder, version in (
        ("model", saved.path, "1"),
        ("model", plain, "2"),
        ("model", saved.path, "3"),
        ("dataset", plain, "1"),
    ):
        added = add(fresh(catalog), kind, folder, "churn", version)
        assert (added.copied_files, added.version.ref.files_at) == (0, pushed.bundles[0].path)

    assert len(data_in(catalog)) == 1
    assert len(keys(catalog.store, "manifests/models")) == 1


def test_an_application_with_a_model_that_was_a_checkpoint_is_pushed_and_pulled(
    catalog: Catalog, pushed: PushReport, saved: Bundle, tmp_path: Path
) -> None:
    version = add(catalog, "model", saved.path, "churn", "1").version
    application = Volume(tmp_path / "application", "serve", "model")
    got = get_on_volume(fresh(catalog), "churn:1", application)
    assert (got.bundle.manifest.kind, got.copied) == ("model", True)

    report = push(application, catalog, "serving")

    (ref,) = report.bundles
    assert (report.copied_files, ref) == (0, version.ref)
    below = f"references/serving/{report.snapshot}"
    assert sorted(keys(catalog.store, below)) == sorted(
        f"{below}/{path}.json" for path in (ref.path, ref.files_at)
    )
    assert pull(catalog.read("serving", report.snapshot), catalog, tmp_path / "pulled")
    assert push(application, catalog, "serving").created == ()


def test_a_copy_is_made_for_those_who_may_not_read_the_checkpoint(
    catalog: Catalog, pushed: PushReport, saved: Bundle
) -> None:
    added = add(catalog, "model", saved.path, "churn", "1", copy=True)

    assert added.copied_files == 2
    assert added.version.ref.files_at == added.version.ref.path
    assert add(catalog, "model", saved.path, "churn", "2", copy=True).copied_files == 0


def test_what_is_about_to_be_deleted_or_was_found_bad_is_copied_instead(
    catalog: Catalog, pushed: PushReport, saved: Bundle, store_directory: Path, flip: Callable
) -> None:
    path = pushed.bundles[0].path
    catalog.store.put_small(f"tombstones/{path}.json", b"{}")
    assert add(catalog, "model", saved.path, "churn", "1").copied_files == 2

    delete_version(catalog, resolve(fresh(catalog), "churn:1"))
    prune_all(catalog, store_directory)
    catalog.store.delete([f"tombstones/{path}.json"])
    flip(store_directory / f"data/{path}/.metadata")
    snapshot = fresh(catalog).read(WORKLOAD, pushed.snapshot)
    assert not verify_snapshot(fresh(catalog), snapshot).ok
    assert add(fresh(catalog), "model", saved.path, "churn", "2").copied_files == 2


def test_damage_found_in_a_version_is_not_used_by_the_next_add(
    catalog: Catalog, pushed: PushReport, saved: Bundle, store_directory: Path, flip: Callable
) -> None:
    """The damage is in the files of a checkpoint, of which nobody else knows."""
    first = add(catalog, "model", saved.path, "churn", "1").version
    flip(store_directory / f"data/{pushed.bundles[0].path}/.metadata")
    assert not verify_snapshot(catalog, first.snapshot).ok

    again = add(fresh(catalog), "model", saved.path, "churn", "1")

    assert (again.created, again.copied_files) == (True, 2)
    assert verify_snapshot(fresh(catalog), resolve(fresh(catalog), "churn:1").snapshot).ok


def test_a_push_of_a_new_checkpoint_asks_two_lists_more(
    volume: Volume, catalog: Catalog, pushed: PushReport, save: Save
) -> None:
    for number in range(5):
        add(catalog, "model", save(200 + number).path, "churn", str(number))
    save(300)
    counting, requests = counted(catalog.store)

    push(volume, Catalog(counting, OWNER), WORKLOAD)

    assert requests["get"] <= 4, "no snapshot of a dataset or model is read"


# --- what stays ----------------------------------------------------------------------------------


@pytest.fixture
def model(catalog: Catalog, pushed: PushReport, saved: Bundle) -> Version:
    """A checkpoint of the store, as version 1 of a model."""
    return add(catalog, "model", saved.path, "churn", "1").version


def test_a_model_outlives_the_checkpoint_that_it_was(
    volume: Volume,
    catalog: Catalog,
    save: Save,
    model: Version,
    store_directory: Path,
    tmp_path: Path,
) -> None:
    save(200)
    push(volume, catalog, WORKLOAD)

    prune_all(catalog, store_directory)

    assert [s.bundles[0].name for s in fresh(catalog).snapshots(WORKLOAD)] == ["step-00000200"]
    version = resolve(fresh(catalog), "churn:1")
    assert verify_snapshot(fresh(catalog), version.snapshot).ok
    assert get(fresh(catalog), version, tmp_path / "got").copied


def test_a_model_outlives_the_deletion_of_its_checkpoints_snapshot(
    volume: Volume, catalog: Catalog, save: Save, model: Version, store_directory: Path
) -> None:
    first = fresh(catalog).snapshots(WORKLOAD)[0]
    save(200)
    push(volume, catalog, WORKLOAD)
    delete_snapshot(fresh(catalog), WORKLOAD, first.id)

    prune_all(catalog, store_directory)

    assert verify_snapshot(fresh(catalog), resolve(fresh(catalog), "churn:1").snapshot).ok


def test_a_checkpoint_outlives_the_model_whose_files_it_uses(
    volume: Volume, catalog: Catalog, saved: Bundle, store_directory: Path, tmp_path: Path
) -> None:
    add(catalog, "model", saved.path, "churn", "1")
    snapshot = push(volume, catalog, WORKLOAD).snapshot
    delete_version(catalog, resolve(fresh(catalog), "churn:1"))

    prune_all(catalog, store_directory)

    assert pull(fresh(catalog).read(WORKLOAD, snapshot), fresh(catalog), tmp_path / "pulled")


def test_once_nobody_names_them_the_files_go(
    volume: Volume, catalog: Catalog, save: Save, model: Version, store_directory: Path
) -> None:
    save(200)
    push(volume, catalog, WORKLOAD)
    prune_all(catalog, store_directory)
    assert len(data_in(catalog)) == 2

    delete_version(fresh(catalog), resolve(fresh(catalog), "churn:1"))
    prune_all(catalog, store_directory)

    assert len(data_in(catalog)) == 1
    assert keys(catalog.store, "references") == keys(catalog.store, "manifests/models") == []


def test_a_version_differs_from_one_with_files_of_its_own_by_the_files_that_differ(
    catalog: Catalog, model: Version, saved: Bundle, tmp_path: Path
) -> None:
    folder = plain_copy(saved, tmp_path / "plain")
    (folder / "card.md").write_bytes(b"of a model")
    add(catalog, "model", folder, "churn", "2")
    old, new = (resolve(fresh(catalog), f"churn:{number}") for number in (1, 2))

    found = diff(*(side_of(catalog, one.snapshot, str(one)) for one in (old, new)))

    assert (found.added, found.removed, found.changed) == ({"card.md": 10}, {}, {})
    assert found.unchanged == 2
