"""What cannot be removed now is left and named, and stops nothing that comes after it."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from holdfast import durable
from holdfast.bundle import Bundle, BundleWriter, commit_directory, quarantine, verify
from holdfast.copies.pull import PULLING, pull
from holdfast.copies.push import push
from holdfast.recovery.restore import stage, switch
from holdfast.store.snapshot import Catalog
from holdfast.volume import Volume
from testkit.stores import WORKLOAD

REFUSALS = (errno.EACCES, errno.EBUSY, errno.EIO, errno.ENOTEMPTY, errno.EPERM, errno.EROFS,
            errno.ESTALE)  # fmt: skip


@pytest.fixture
def busy(monkeypatch: pytest.MonkeyPatch) -> set[str]:
    """Names of files and directories that cannot be removed, as while an NFS client reads them."""
    names: set[str] = set()

    def refusing(call: Callable[..., Any], number: int) -> Callable[..., Any]:
        def work(path: Any, *args: Any, **options: Any) -> Any:
            if Path(os.fsdecode(path)).name in names:
                raise OSError(number, os.strerror(number), path)
            return call(path, *args, **options)

        return work

    monkeypatch.setattr(os, "unlink", refusing(os.unlink, errno.EBUSY))
    monkeypatch.setattr(os, "rmdir", refusing(os.rmdir, errno.EACCES))
    return names


def leftover(directory: Path, name: str = ".tmp-delete-12345678") -> Path:
    """A bundle whose removal was cut short, with one file that is still being read."""
    path = directory / name
    (path / "d").mkdir(parents=True)
    (path / "d" / ".nfs0001").write_bytes(b"read")
    (path / "gone").touch()
    return path


def test_a_leftover_that_is_busy_stops_no_start_and_is_removed_later(
    volume: Volume, write_bundle: Callable[..., Bundle], busy: set[str],
    caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    """Shown to fail: with a `sweep_temporaries` that lets the OSError of `rmtree` out."""
    write_bundle(volume.generation_path(1), 100)
    left = leftover(volume.generation_path(1))
    other = leftover(volume.run_path, ".tmp-other")
    (other / "d" / ".nfs0001").rename(other / "d" / "free")
    busy.add(".nfs0001")

    assert volume.sweep() == [other]
    assert [path.name for path in left.rglob("*")] == ["d", ".nfs0001"]
    assert f"could not delete '{left / 'd' / '.nfs0001'}' (Device or resource busy)" in caplog.text
    assert volume.newest_valid(quarantine=True) is not None

    busy.clear()
    assert volume.sweep() == [left]


@pytest.mark.parametrize("number", REFUSALS, ids=errno.errorcode.get)
def test_no_refusal_of_the_system_stops_a_clean_up(
    volume: Volume,
    write_bundle: Callable[..., Bundle],
    monkeypatch: pytest.MonkeyPatch,
    number: int,
) -> None:
    for step in (100, 200, 300):
        write_bundle(volume.generation_path(1), step)
    left = leftover(volume.generation_path(1))

    def refuse(*_: object, **__: object) -> None:
        raise OSError(number, os.strerror(number))

    with monkeypatch.context() as patch:
        for call in ("unlink", "rmdir", "rename"):
            patch.setattr(os, call, refuse)
        assert durable.discard(left) is False
        assert volume.sweep() == []
        assert volume.keep(1) == []
    assert left.exists()
    assert [bundle.step for bundle in volume.bundles()] == [300, 200, 100]
    assert [path.name for path in volume.keep(1)] == ["step-00000200", "step-00000100"]


def test_keep_k_goes_on_past_a_bundle_that_cannot_be_removed(
    volume: Volume, write_bundle: Callable[..., Bundle], monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    for step in (100, 200, 300, 400):
        write_bundle(volume.generation_path(1), step)
    rename = os.rename

    def refuse(src: Any, dst: Any) -> None:
        if Path(src).name == "step-00000300":
            raise OSError(errno.EBUSY, os.strerror(errno.EBUSY), src)
        rename(src, dst)

    monkeypatch.setattr(os, "rename", refuse)
    assert [path.name for path in volume.keep(1)] == ["step-00000200", "step-00000100"]
    assert [bundle.step for bundle in volume.bundles()] == [400, 300]
    assert "step-00000300' ([Errno 16] Device or resource busy" in caplog.text


def test_keep_k_leaves_what_it_cannot_read(
    volume: Volume, write_bundle: Callable[..., Bundle], monkeypatch: pytest.MonkeyPatch
) -> None:
    for generation, step in ((1, 100), (1, 200), (2, 300), (2, 400), (3, 500)):
        write_bundle(volume.generation_path(generation), step)
    listdir, lstat = os.listdir, os.lstat

    def unlistable(path: Any) -> list[str]:
        if Path(path).name == "gen-0002":
            raise OSError(errno.EACCES, os.strerror(errno.EACCES), path)
        return listdir(path)

    def unreadable(path: Any, **options: Any) -> os.stat_result:
        if "step-00000200" in os.fsdecode(path) or ".pins/" in os.fsdecode(path):
            raise OSError(errno.EACCES, os.strerror(errno.EACCES), path)
        return lstat(path, **options)

    with monkeypatch.context() as patch:
        patch.setattr(os, "listdir", unlistable)
        assert [path.name for path in volume.keep(2)] == ["step-00000100"]
        patch.setattr(os, "listdir", listdir)
        volume.pin("step-00000300")
        patch.setattr(os, "lstat", unreadable)
        assert volume.keep(2) == []
    volume.unpin("step-00000300")
    assert [path.name for path in volume.keep(2)] == ["step-00000300", "step-00000200"]


def test_a_source_that_cannot_be_removed_after_a_move_is_left(
    tmp_path: Path, busy: set[str], caplog: pytest.LogCaptureFixture
) -> None:
    source = tmp_path / "source"
    source.mkdir()
    (source / "f").write_bytes(b"1")
    busy.add("source")
    bundle = commit_directory(source, tmp_path / "out", "x", "files", {}, move=True)
    assert verify(bundle.path) == bundle
    assert list(source.iterdir()) == []
    assert f"could not delete '{source}'" in caplog.text


def test_a_save_that_failed_leaves_what_it_cannot_remove(tmp_path: Path, busy: set[str]) -> None:
    with pytest.raises(KeyError), BundleWriter(tmp_path, "x", "files") as writer:
        (writer.path / ".nfs0001").touch()
        busy.add(".nfs0001")
        raise KeyError  # the error of the save is what the caller sees
    with BundleWriter(tmp_path, "x", "files") as again:
        (again.path / "f").touch()
        again.commit({})
    assert (writer.path / ".nfs0001").exists()


def test_leftovers_of_a_pull_and_of_a_stage_stop_neither(
    volume: Volume, catalog: Catalog, save: Callable[..., Bundle], busy: set[str], tmp_path: Path
) -> None:
    save(100)
    snapshot = catalog.read(WORKLOAD, push(volume, catalog, WORKLOAD).snapshot)
    busy.add(".nfs0001")
    leftover(tmp_path / "elsewhere", f"{PULLING}1")
    left = [leftover(volume.run_path, f"{PULLING}2"), leftover(volume.run_path, ".stage-3")]
    (left[1] / ".stage.json").write_text("{}")

    assert [bundle.step for bundle in pull(snapshot, catalog, tmp_path / "elsewhere")] == [100]
    made = stage(volume, catalog, snapshot)
    assert switch(volume, made.id) == 2
    assert left[0].exists()


def test_a_quarantine_goes_on_when_older_ones_cannot_be_removed(
    volume: Volume, write_bundle: Callable[..., Bundle], busy: set[str]
) -> None:
    for step in range(1, 6):
        bundle = write_bundle(volume.generation_path(1), step)
        busy.add(quarantine(bundle.path, "bad").name)
    assert len(volume.quarantined()) == 5
    busy.clear()
    quarantine(write_bundle(volume.generation_path(1), 6).path, "bad")
    assert len(volume.quarantined()) == 3
