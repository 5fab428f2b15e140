"""Between a check and the use of it, somebody replaces a directory by a link to a foreign one.

Whoever may write to a volume can run code in the trainer (`docs/format.md`, Trust), so this is
about accidents: nothing outside of the run is changed, and nothing from there becomes a bundle.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from holdfast import durable
from holdfast.bundle import QUARANTINE, Bundle, quarantine, verify
from holdfast.copies import copying
from holdfast.copies import pull as pull_module
from holdfast.copies.pull import pull
from holdfast.copies.push import push
from holdfast.copies.verify_store import verify_snapshot
from holdfast.errors import HoldfastError, InvalidBundle, Mismatch
from holdfast.recovery import restore as restore_module
from holdfast.recovery.recover import Start
from holdfast.recovery.refill import pull_if_empty
from holdfast.recovery.restore import stage, switch
from holdfast.store.snapshot import Catalog
from holdfast.volume import Volume
from testkit.stores import WORKLOAD


@pytest.fixture
def precious(tmp_path: Path) -> Path:
    """A directory that is not ours."""
    path = tmp_path / "precious"
    (path / "d").mkdir(parents=True)
    (path / "d" / "f").write_bytes(b"kept")
    return path


def replace(path: Path, target: Path) -> None:
    """Put a link in the place of a directory."""
    path.rename(path.with_name(f".aside-{path.name}"))
    path.symlink_to(target)


def contents(directory: Path) -> dict[str, bytes | None]:
    return {
        str(path.relative_to(directory)): path.read_bytes() if path.is_file() else None
        for path in directory.rglob("*")
    }


def before(
    monkeypatch: pytest.MonkeyPatch, where: Any, call: str, deed: Callable[[], object]
) -> None:
    """Do something once, right before the next call of a function."""
    real, done = getattr(where, call), []

    def work(*args: Any, **options: Any) -> Any:
        if not done:
            done.append(True)
            deed()
        return real(*args, **options)

    monkeypatch.setattr(where, call, work)


@pytest.mark.parametrize("call", ["rename", "lstat"])
def test_keep_k_removes_a_link_and_not_what_it_leads_to(
    volume: Volume,
    write_bundle: Callable[..., Bundle],
    monkeypatch: pytest.MonkeyPatch,
    precious: Path,
    call: str,
) -> None:
    old = write_bundle(volume.generation_path(1), 100)
    write_bundle(volume.generation_path(1), 200)
    saved = contents(precious)
    with monkeypatch.context() as patch:
        if call == "rename":
            before(patch, durable, "remove_tree", lambda: replace(old.path, precious))
        else:  # after it got its hidden name
            hidden = volume.generation_path(1).glob
            before(
                patch,
                durable,
                "discard",
                lambda: replace(next(iter(hidden(".tmp-delete-*"))), precious),
            )
        volume.keep(1)
    assert contents(precious) == saved
    assert not old.path.exists()


def test_a_directory_that_becomes_a_link_while_it_is_deleted_is_not_followed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, precious: Path
) -> None:
    doomed = tmp_path / ".tmp-x"
    (doomed / "d").mkdir(parents=True)
    (doomed / "d" / "f").touch()
    saved = contents(precious)
    before(monkeypatch, os, "rmdir", lambda: None)
    before(monkeypatch, shutil, "rmtree", lambda: replace(doomed, precious))
    assert not durable.discard(doomed)
    assert contents(precious) == saved


def test_a_quarantine_moves_a_link_and_not_what_it_leads_to(
    volume: Volume,
    write_bundle: Callable[..., Bundle],
    monkeypatch: pytest.MonkeyPatch,
    precious: Path,
) -> None:
    bad = write_bundle(volume.generation_path(1), 100)
    saved = contents(precious)
    before(monkeypatch, durable, "rename_durably", lambda: replace(bad.path, precious))
    kept = quarantine(bad.path, "bad")
    assert kept.is_symlink()
    assert contents(precious) == saved
    assert volume.quarantined() == []


def test_nothing_is_quarantined_through_a_link(
    volume: Volume, write_bundle: Callable[..., Bundle], flip: Callable[..., None], precious: Path
) -> None:
    """Shown to fail: without the look at `.quarantine` itself, the bundle leaves the volume."""
    good = write_bundle(volume.generation_path(1), 100)
    bad = write_bundle(volume.generation_path(1), 200)
    flip(bad.path / ".metadata")
    (volume.generation_path(1) / QUARANTINE).symlink_to(precious)
    saved = contents(precious)
    assert volume.newest_valid(quarantine=True) == good
    assert contents(precious) == saved
    assert bad.path.exists()
    assert volume.sweep() == []
    assert volume.pins() == frozenset()


def test_a_pull_into_a_directory_that_became_a_link_names_no_bundle(
    volume: Volume, catalog: Catalog, save: Callable[..., Bundle], tmp_path: Path, precious: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """Nothing is created where the link leads to. Shown to fail: with `Path.open` in `Draft`."""
    save(100)
    snapshot = catalog.read(WORKLOAD, push(volume, catalog, WORKLOAD).snapshot)
    saved, into = contents(precious), tmp_path / "into"

    def swap() -> None:
        (draft,) = into.glob(".pull-*")
        replace(draft / "rank-0", precious)

    before(monkeypatch, pull_module, "each_file", swap)
    with pytest.raises(InvalidBundle, match="rank-0: was replaced while it was written"):
        pull(snapshot, catalog, into)
    assert [path.name for path in into.iterdir()] == [".lock"]
    assert contents(precious) == saved
    monkeypatch.undo()
    (found,) = pull(snapshot, catalog, into)
    assert verify(found.path) == found


def test_a_pull_whose_directory_became_another_one_names_none_that_it_did_not_fill(
    volume: Volume, catalog: Catalog, save: Callable[..., Bundle], tmp_path: Path, precious: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """Shown to fail: without the look at what got the name."""
    save(100)
    snapshot = catalog.read(WORKLOAD, push(volume, catalog, WORKLOAD).snapshot)
    saved, into = contents(precious), tmp_path / "into"

    def swap() -> None:
        (draft,) = into.glob(".pull-*")
        replace(draft, precious)

    before(monkeypatch, pull_module.durable, "rename_durably", swap)
    with pytest.raises(InvalidBundle, match="was replaced by another one while it was pulled"):
        pull(snapshot, catalog, into)
    assert contents(precious) == saved


def test_a_generation_that_is_a_link_is_not_pulled_into(
    volume: Volume, catalog: Catalog, save: Callable[..., Bundle], tmp_path: Path, precious: Path
) -> None:
    save(100)
    push(volume, catalog, WORKLOAD)
    other, saved = Volume(tmp_path / "other", volume.run), contents(precious)
    other.run_path.mkdir(parents=True)
    other.generation_path(1).symlink_to(precious)

    with pytest.raises(HoldfastError, match="is a link or a file: nothing is pulled through it"):
        pull_if_empty(other, catalog, WORKLOAD, Start.AUTO)
    assert contents(precious) == saved


def test_a_bundle_that_is_renamed_while_it_is_pushed_is_passed_over(
    volume: Volume, catalog: Catalog, save: Callable[..., Bundle], monkeypatch: pytest.MonkeyPatch
) -> None:
    save(100)
    newest = save(200)
    aside = newest.path.with_name(".aside")
    before(monkeypatch, copying, "read_local", lambda: newest.path.rename(aside))

    report = push(volume, catalog, WORKLOAD)

    assert [ref.name for ref in report.bundles] == ["step-00000100"]
    assert [skipped.name for skipped in report.skipped] == ["step-00000200"]


def test_a_store_that_changes_between_a_verification_and_a_pull_is_found_by_the_pull(
    volume: Volume, catalog: Catalog, save: Callable[..., Bundle], tmp_path: Path,
    store_directory: Path, flip: Callable[..., None],
) -> None:  # fmt: skip
    save(100)
    report = push(volume, catalog, WORKLOAD)
    snapshot = catalog.read(WORKLOAD, report.snapshot)
    assert verify_snapshot(catalog, snapshot).ok
    flip(store_directory / report.bundles[0].data / "rank-0/model.bin")

    with pytest.raises(Mismatch, match="other bytes"):
        pull(snapshot, catalog, tmp_path / "into")
    assert not list((tmp_path / "into").glob("[!.]*"))


@pytest.mark.parametrize("moment", ["before", "while"])
def test_a_stage_that_became_a_link_is_not_switched_to(
    volume: Volume, catalog: Catalog, save: Callable[..., Bundle], precious: Path,
    monkeypatch: pytest.MonkeyPatch, moment: str,
) -> None:  # fmt: skip
    save(100)
    staged = stage(
        volume, catalog, catalog.read(WORKLOAD, push(volume, catalog, WORKLOAD).snapshot)
    )
    saved = contents(precious)
    if moment == "before":
        replace(staged.path, precious)
    else:
        link = lambda: replace(staged.path, precious)  # noqa: E731
        before(monkeypatch, restore_module.durable, "rename_durably", link)
    with pytest.raises(HoldfastError, match="stage the snapshot again"):
        switch(volume, staged.id)
    assert contents(precious) == saved
    assert volume.present() == 1
