"""Only bundles of one kind are the states of a run, whatever else lies beside them."""

from __future__ import annotations

import shutil
from collections.abc import Callable

import pytest

from holdfast.bundle import Bundle
from holdfast.copies.push import EmptyVolume, push
from holdfast.defaults import Select
from holdfast.errors import RecoveryStopped, UsageError
from holdfast.recovery.recover import Action, Start
from holdfast.recovery.refill import pull_if_empty
from holdfast.recovery.restore import stage, switch_to_generation
from holdfast.store.snapshot import Catalog
from holdfast.volume import Volume
from testkit.stores import WORKLOAD


@pytest.fixture
def other(volume: Volume, write_bundle: Callable[..., Bundle]) -> Callable[[int, str], Bundle]:
    """`other(step, kind)` commits a bundle of another kind, which a greater step makes newer."""
    return lambda step, kind: write_bundle(volume.generation_path(1), step, kind=kind)


def model_of(volume: Volume) -> Volume:
    return Volume(volume.root, volume.run, "model")


def test_a_newer_bundle_of_another_kind_is_not_the_newest_checkpoint(
    volume: Volume,
    catalog: Catalog,
    save: Callable[..., Bundle],
    other: Callable[[int, str], Bundle],
) -> None:
    saved = save(100)
    made = other(900, "model")

    assert volume.newest_valid(quarantine=True) == saved
    assert [ref.name for ref in push(volume, catalog, WORKLOAD, select=Select.ALL).bundles] == [
        saved.name
    ]
    assert len(catalog.snapshots(WORKLOAD)) == 1
    assert model_of(volume).newest_valid(quarantine=True) == made
    assert len(Volume(volume.root, volume.run, None).bundles()) == 2


def test_keeping_the_newest_checkpoints_neither_counts_nor_removes_other_kinds(
    volume: Volume, save: Callable[..., Bundle], other: Callable[[int, str], Bundle]
) -> None:
    old, new = save(100), save(200)
    kept = [other(step, "dataset") for step in (1, 300, 400)]

    assert volume.keep(1) == [old.path]
    assert all(path.exists() for path in [new.path, *(bundle.path for bundle in kept)])


def test_a_refill_takes_no_snapshot_of_another_kind_and_says_so(
    volume: Volume,
    catalog: Catalog,
    save: Callable[..., Bundle],
    other: Callable[[int, str], Bundle],
) -> None:
    saved = save(100)
    push(volume, catalog, WORKLOAD)
    other(900, "model")
    push(model_of(volume), catalog, WORKLOAD)
    shutil.rmtree(volume.run_path)

    found = pull_if_empty(volume, catalog, WORKLOAD, Start.AUTO)

    assert (found.decision, found.bundle) == (Action.PULLED, saved.name)
    assert "it holds a model" in found.passed_over[0].reason


def test_a_run_of_which_the_store_has_other_kinds_only_does_not_begin_at_step_0(
    volume: Volume, catalog: Catalog, other: Callable[[int, str], Bundle]
) -> None:
    other(900, "model")
    push(model_of(volume), catalog, WORKLOAD)
    shutil.rmtree(volume.run_path)

    with pytest.raises(RecoveryStopped, match="--kind"):
        pull_if_empty(volume, catalog, WORKLOAD, Start.AUTO)
    assert pull_if_empty(model_of(volume), catalog, WORKLOAD, Start.AUTO).decision is Action.PULLED


def test_a_snapshot_of_another_kind_is_not_staged(
    volume: Volume, catalog: Catalog, other: Callable[[int, str], Bundle]
) -> None:
    other(900, "model")
    made = push(model_of(volume), catalog, WORKLOAD)

    with pytest.raises(UsageError, match="no bundle of kind 'checkpoint'"):
        stage(volume, catalog, catalog.read(WORKLOAD, made.snapshot))


def test_a_volume_with_other_kinds_only_has_nothing_to_push_and_says_of_which(
    volume: Volume,
    catalog: Catalog,
    save: Callable[..., Bundle],
    other: Callable[[int, str], Bundle],
) -> None:
    other(100, "model")
    other(200, "dataset")

    message = push(volume, catalog, WORKLOAD).message
    assert "no bundle of kind checkpoint, only of dataset, model" in message

    shutil.rmtree(save(300).path.parent)
    save(300)
    push(volume, catalog, WORKLOAD)
    shutil.rmtree(volume.run_path)
    with pytest.raises(EmptyVolume):
        push(volume, catalog, WORKLOAD)


def test_going_back_to_a_generation_takes_bundles_of_every_kind_along(
    volume: Volume, save: Callable[..., Bundle], other: Callable[[int, str], Bundle]
) -> None:
    save(100), other(5, "dataset")
    volume.generation_path(2).mkdir()

    present = switch_to_generation(volume, 1)

    assert len(Volume(volume.root, volume.run, None).bundles(present)) == 2
