"""A fault of the system says nothing about a bundle: nothing is condemned, nothing begins again."""

from __future__ import annotations

import errno
import json
import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from holdfast import durable
from holdfast.bundle import Bundle, quarantine
from holdfast.cli import app
from holdfast.copies.push import push
from holdfast.errors import HoldfastError, InvalidBundle
from holdfast.manifest import MANIFEST
from holdfast.recovery.restore import switch
from holdfast.store.snapshot import Catalog
from holdfast.volume import Volume
from testkit.stores import WORKLOAD

#: faults that concern a whole mount or this process
GENERAL = (errno.EACCES, errno.ESTALE, errno.EMFILE, errno.ENOMEM, errno.ETIMEDOUT)


@pytest.fixture
def faults(monkeypatch: pytest.MonkeyPatch) -> dict[str, int]:
    """What cannot be opened or listed, by the last parts of its path, and with which error."""
    found: dict[str, int] = {}
    open_regular, listdir = durable.open_regular, os.listdir

    def check(path: Any) -> None:
        for end, number in found.items():
            if os.fsdecode(path).endswith(end):
                raise OSError(number, os.strerror(number), path)

    def opening(path: Path) -> Any:
        check(path)
        return open_regular(path)

    def listing(path: Any) -> Any:
        check(path)
        return listdir(path)

    monkeypatch.setattr(durable, "open_regular", opening)
    monkeypatch.setattr("holdfast.copies.transfer.open_regular", opening)
    monkeypatch.setattr(os, "listdir", listing)
    return found


@pytest.fixture
def saved(volume: Volume, write_bundle: Callable[..., Bundle]) -> list[Bundle]:
    return [write_bundle(volume.generation_path(1), step) for step in (100, 200)]


@pytest.mark.parametrize("number", GENERAL, ids=errno.errorcode.get)
@pytest.mark.parametrize(
    "where", ["run-a", "gen-0001", f"step-00000200/{MANIFEST}", "step-00000200/.metadata"]
)
def test_a_fault_of_the_mount_ends_the_search_and_sets_nothing_aside(
    volume: Volume, saved: list[Bundle], faults: dict[str, int], where: str, number: int
) -> None:
    """Shown to fail: with `Path.glob` in `generations`, which finds nothing where it may not look:
    the run would look new, and begin at step 0."""
    faults[where] = number
    with pytest.raises(OSError, match=os.strerror(number)):
        volume.newest_valid(quarantine=True)
    faults.clear()
    assert not volume.has_bad()
    assert [bundle.step for bundle in volume.bundles()] == [200, 100]


@pytest.mark.parametrize("file", [MANIFEST, ".metadata"])
def test_a_bundle_on_a_bad_sector_is_passed_over_and_stays_where_it_is(
    volume: Volume, saved: list[Bundle], faults: dict[str, int], file: str,
    caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    faults[f"step-00000200/{file}"] = errno.EIO
    assert volume.newest_valid(quarantine=True) == saved[0]
    assert "Input/output error" in caplog.text
    assert "is not valid" not in caplog.text
    assert volume.quarantined() == []
    assert volume.keep(1) == []
    faults.clear()
    assert volume.newest_valid(quarantine=True) == saved[1]


@pytest.mark.parametrize("file", [MANIFEST, ".metadata"])
def test_where_no_bundle_can_be_read_the_run_is_not_taken_for_an_empty_one(
    volume: Volume, saved: list[Bundle], faults: dict[str, int], file: str
) -> None:
    faults[file] = errno.EIO
    with pytest.raises(OSError, match="Input/output error"):
        volume.newest_valid(quarantine=True)
    if file == MANIFEST:
        with pytest.raises(OSError, match="Input/output error"):
            volume.bundles()
        assert volume.has_bad()
    faults.clear()
    assert [bundle.step for bundle in volume.bundles()] == [200, 100]


@pytest.mark.parametrize("number", [*GENERAL, errno.EIO], ids=errno.errorcode.get)
def test_a_push_that_cannot_read_a_bundle_fails_and_does_not_call_it_invalid(
    volume: Volume,
    saved: list[Bundle],
    catalog: Catalog,
    faults: dict[str, int],
    number: int,
) -> None:
    """Shown to fail: with a `read_local` that turns every OSError into InvalidBundle."""
    faults["step-00000200/.metadata"] = number
    with pytest.raises(OSError, match=os.strerror(number)) as caught:
        push(volume, catalog, WORKLOAD)
    assert not isinstance(caught.value, InvalidBundle)
    assert catalog.snapshots(WORKLOAD) == []
    faults.clear()
    assert push(volume, catalog, WORKLOAD).bundles[0].name == "step-00000200"


@pytest.mark.parametrize("file", [MANIFEST, ".metadata"])
def test_verify_names_what_it_cannot_read_and_goes_on_with_the_rest(
    volume: Volume, saved: list[Bundle], faults: dict[str, int], file: str
) -> None:
    faults[f"step-00000200/{file}"] = errno.EIO
    words = ["verify", "--side", "volume", "--volume", str(volume.root), "--run", volume.run]
    found = CliRunner().invoke(app, [*words, "--output", "json"])
    assert found.exit_code == 1
    results = {result["id"]: result for result in json.loads(found.stdout)["results"]}
    assert results["step-00000100"]["ok"]
    assert not results["step-00000200"]["ok"]
    assert "cannot be read now (Input/output error)" in found.stderr
    assert "not valid" not in found.stderr


@pytest.mark.parametrize("make", ["fifo", "socket", "link to a device"])
def test_nothing_but_a_regular_file_is_ever_opened(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, make: str
) -> None:
    """Opening a pipe can block, and opening a device can move it: it is looked at first."""
    path = tmp_path / "odd"
    if make == "fifo":
        os.mkfifo(path)
    elif make == "socket":
        os.mknod(path, stat.S_IFSOCK | 0o600)
    else:
        path.symlink_to("/dev/tty")
    monkeypatch.setattr(os, "open", lambda *_, **__: pytest.fail("it was opened"))
    with pytest.raises(OSError, match="not a regular file"):
        durable.hash_file(path)


def test_a_damaged_bundle_with_the_longest_name_can_be_quarantined(volume: Volume) -> None:
    path = volume.generation_path(1) / ("é" * 127)
    path.mkdir(parents=True)
    assert quarantine(path, "bad").is_dir()


@pytest.mark.parametrize("number", [errno.EINVAL, errno.ENOTSUP, errno.ENOSYS])
def test_a_file_system_that_cannot_sync_directories_still_takes_bundles(
    volume: Volume, write_bundle: Callable[..., Bundle], monkeypatch: pytest.MonkeyPatch,
    number: int,
) -> None:  # fmt: skip
    fsync = os.fsync

    def refusing(descriptor: int) -> None:
        if os.path.isdir(f"/proc/self/fd/{descriptor}"):  # noqa: PTH112
            raise OSError(number, os.strerror(number))
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", refusing)
    for step in (100, 200):
        write_bundle(volume.generation_path(1), step)
    assert [path.name for path in volume.keep(1)] == ["step-00000100"]


def test_a_directory_that_the_disk_cannot_sync_fails_the_save(
    volume: Volume, write_bundle: Callable[..., Bundle], monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing(_: int) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(os, "fsync", failing)
    with pytest.raises(OSError, match="Input/output error"):
        write_bundle(volume.generation_path(1), 100)
    assert volume.bundles() == []


def test_a_generation_with_a_number_beyond_all_bounds_is_none(
    volume: Volume, saved: list[Bundle], catalog: Catalog
) -> None:
    for name in (f"gen-{2**53}", f"gen-{'9' * 20}", f"gen-{'9' * 200}"):
        (volume.run_path / name / "step-00000900").mkdir(parents=True)
    assert volume.present() == 1
    assert push(volume, catalog, WORKLOAD).bundles[0].name == "step-00000200"
    assert volume.generations() == [1]


@pytest.mark.parametrize("text", ["[" * 100_000, '{"a":' * 100_000, "[" * 5_000_000])
def test_a_deeply_nested_manifest_is_damaged_and_nothing_else(
    volume: Volume, saved: list[Bundle], text: str
) -> None:
    (saved[1].path / MANIFEST).write_text(text)
    assert volume.newest_valid(quarantine=True) == saved[0]
    assert [path.name[:13] for path in volume.quarantined()] == ["step-00000200"]


def test_a_deeply_nested_stage_is_incomplete_and_nothing_else(
    volume: Volume, saved: list[Bundle]
) -> None:
    staged = volume.run_path / ".stage-0badc0de"
    staged.mkdir()
    (staged / ".stage.json").write_text("[" * 100_000)
    with pytest.raises(HoldfastError, match="is incomplete: stage the snapshot again"):
        switch(volume, "0badc0de")
    assert volume.present() == 1
