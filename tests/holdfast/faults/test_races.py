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
from holdfast import pull as pull_module
from holdfast import restore as restore_module
from holdfast.bundle import QUARANTINE, Bundle, quarantine, verify
from holdfast.errors import HoldfastError, InvalidBundle
from holdfast.pull import pull
from holdfast.push import push
from holdfast.restore import stage, switch
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
    monkeypatch: pytest.MonkeyPatch, where: Any, call: str, deed: Callable[[], None]
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
    """Shown to fail: without `check_tree`: a bundle with a link in it gets its name."""
    save(100)
    snapshot = catalog.read(WORKLOAD, push(volume, catalog, WORKLOAD).snapshot)
    saved, into = contents(precious), tmp_path / "into"

    def swap() -> None:
        (draft,) = into.glob(".pull-*")
        replace(draft / "rank-0", precious)

    before(monkeypatch, pull_module, "each_file", swap)
    with pytest.raises(InvalidBundle, match="rank-0: is a symbolic link"):
        pull(snapshot, catalog, into)
    assert [path.name for path in into.iterdir()] == [".lock"]
    assert saved.items() <= contents(precious).items()
    monkeypatch.undo()
    (found,) = pull(snapshot, catalog, into)
    assert verify(found.path) == found


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
