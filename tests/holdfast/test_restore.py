"""Stage, switch, and back again."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from holdfast.bundle import Bundle, verify
from holdfast.copies.push import push
from holdfast.errors import HoldfastError, InvalidBundle, Mismatch, UsageError
from holdfast.recovery.restore import Stage, stage, switch, switch_to_generation
from holdfast.store.snapshot import Catalog, Snapshot
from holdfast.volume import Volume
from testkit.stores import WORKLOAD


@pytest.fixture
def trained(volume: Volume, catalog: Catalog, save: Callable[..., Bundle]) -> list[Snapshot]:
    """A run with steps 100, 200 and 300, each with a snapshot; oldest first."""
    taken = []
    for step in (100, 200, 300):
        save(step)
        taken.append(catalog.read(WORKLOAD, push(volume, catalog, WORKLOAD).snapshot))
    return taken


def names(volume: Volume, generation: int | None = None) -> list[str]:
    return [bundle.name[-3:] for bundle in volume.bundles(generation)]


def test_an_earlier_step_becomes_the_present_and_newer_ones_stay_behind(
    volume: Volume, catalog: Catalog, trained: list[Snapshot], save: Callable[..., Bundle]
) -> None:
    staged = stage(volume, catalog, trained[0])

    assert (staged.generation, staged.bundles) == (2, ("step-00000100",))
    assert (volume.present(), names(volume)) == (1, ["300", "200", "100"])  # training goes on
    assert switch(volume, staged.id) == 2
    assert (volume.present(), names(volume), names(volume, 1)) == (
        2,
        ["100"],
        ["300", "200", "100"],
    )
    assert verify(volume.generation_path(2) / "step-00000100").manifest.digest == (
        trained[0].bundles[0].digest
    )
    save(200)  # the new history goes its own way
    assert names(volume) == ["200", "100"]


def test_switching_twice_is_switching_once(
    volume: Volume, catalog: Catalog, trained: list[Snapshot]
) -> None:
    staged = stage(volume, catalog, trained[0])

    assert [switch(volume, staged.id) for _ in range(3)] == [2, 2, 2]
    later = stage(volume, catalog, trained[1])
    assert switch(volume, later.id) == 3
    assert switch(volume, staged.id) == 2
    assert volume.generations() == [1, 2, 3]


def test_a_stage_that_a_later_one_replaced_cannot_be_switched_to(
    volume: Volume, catalog: Catalog, trained: list[Snapshot]
) -> None:
    first, second = (stage(volume, catalog, snapshot) for snapshot in trained[:2])

    with pytest.raises(HoldfastError, match="stage the snapshot again"):
        switch(volume, first.id)
    assert switch(volume, second.id) == 2
    assert not list(volume.run_path.glob(".pull-*"))


@pytest.mark.parametrize("stage_id", ["", "../gen-0001", "a/b"])
def test_a_stage_id_is_no_path(volume: Volume, stage_id: str) -> None:
    with pytest.raises(UsageError):
        switch(volume, stage_id)


def test_a_stage_of_damaged_data_changes_nothing(
    volume: Volume,
    catalog: Catalog,
    trained: list[Snapshot],
    store_directory: Path,
    flip: Callable[..., None],
) -> None:
    flip(store_directory / trained[0].bundles[0].data / ".metadata")
    before = sorted(volume.root.rglob("*"))

    with pytest.raises(Mismatch):
        stage(volume, catalog, trained[0])
    assert sorted(volume.root.rglob("*")) == sorted({*before, volume.run_path / ".lock"})


def test_a_stage_that_was_cut_short_on_the_disk_is_not_switched_to(
    volume: Volume, catalog: Catalog, trained: list[Snapshot]
) -> None:
    staged = stage(volume, catalog, trained[0])
    (staged.path / "step-00000100/.metadata").write_bytes(b"")

    with pytest.raises(InvalidBundle):
        switch(volume, staged.id)
    assert volume.present() == 1


def test_a_snapshot_of_another_run_is_not_staged(
    volume: Volume, catalog: Catalog, trained: list[Snapshot]
) -> None:
    with pytest.raises(UsageError, match="--run run-a"):
        stage(Volume(volume.root, "run-b"), catalog, trained[0])


def test_a_restore_into_a_lost_volume_begins_with_generation_one(
    volume: Volume, catalog: Catalog, trained: list[Snapshot], tmp_path: Path
) -> None:
    fresh = Volume(tmp_path / "fresh", volume.run)

    assert switch(fresh, stage(fresh, catalog, trained[2]).id) == 1
    assert names(fresh) == ["300"]


def restored(volume: Volume, catalog: Catalog, snapshot: Snapshot) -> Stage:
    staged = stage(volume, catalog, snapshot)
    switch(volume, staged.id)
    return staged


@pytest.mark.parametrize("links", [True, False], ids=["links", "copies"])
def test_undoing_a_restore_brings_the_old_history_back_as_a_new_generation(
    volume: Volume,
    catalog: Catalog,
    trained: list[Snapshot],
    monkeypatch: pytest.MonkeyPatch,
    links: bool,
) -> None:
    restored(volume, catalog, trained[0])
    if not links:
        monkeypatch.setattr(os, "link", refuse_links)

    assert switch_to_generation(volume, 1) == 3

    assert (names(volume), names(volume, 2), names(volume, 1)) == (
        ["300", "200", "100"],
        ["100"],
        ["300", "200", "100"],
    )
    for bundle in volume.bundles():
        original = volume.generation_path(1) / bundle.name
        assert verify(bundle.path).manifest == verify(original).manifest
        shared = (bundle.path / ".metadata").samefile(original / ".metadata")
        assert shared is links


def refuse_links(*args: object, **options: object) -> None:
    raise PermissionError(1, "Operation not permitted")


@pytest.mark.parametrize("number", [0, 2, 7])
def test_only_an_older_generation_can_be_gone_back_to(
    volume: Volume, catalog: Catalog, trained: list[Snapshot], number: int
) -> None:
    restored(volume, catalog, trained[0])

    with pytest.raises(UsageError, match="older generations are 1"):
        switch_to_generation(volume, number)


def test_a_push_after_a_restore_makes_the_restored_state_the_latest(
    volume: Volume, catalog: Catalog, trained: list[Snapshot]
) -> None:
    restored(volume, catalog, trained[0])

    report = push(volume, catalog, WORKLOAD)

    latest = catalog.choose(WORKLOAD, volume.run, "latest").snapshot
    assert (latest.id, latest.generation) == (report.snapshot, 2)
    assert latest.bundles == trained[0].bundles  # no second copy of the data
    assert report.copied_files == 0
