"""Disks that are full, read-only, forbidden or full of other people's files; clocks that jump."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import UTC, datetime, timedelta, tzinfo
from pathlib import Path
from typing import Self

import pytest

from holdfast import manifest
from holdfast.bundle import QUARANTINE, Bundle, quarantine, verify
from holdfast.copies.prune import prune
from holdfast.copies.push import push
from holdfast.copies.verify_store import verify_snapshot
from holdfast.defaults import Select
from holdfast.errors import HoldfastError, NoSpace, StoreDenied
from holdfast.recovery.recover import Action, Start
from holdfast.recovery.refill import pull_if_empty
from holdfast.store import lock, open_store, snapshot
from holdfast.store.lock import store_lock
from holdfast.store.snapshot import Catalog
from holdfast.volume import Volume
from testkit.stores import GRACE, OWNER, WORKLOAD, age
from tests.holdfast.test_prune import ONE

NOBODY = 65534
SMALL = 4 << 20  # bytes


class Disk:
    """A file system of its own in memory."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def mount(self, *options: str) -> None:
        command = ["mount", "-t", "tmpfs", *options, "tmpfs", str(self.path)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            pytest.skip(f"no right to mount a tmpfs here: {done.stderr.strip()}")

    def read_only(self) -> None:
        subprocess.run(["mount", "-o", "remount,ro", str(self.path)], check=True)

    def hidden(self) -> list[str]:
        return [str(path) for what in (".tmp-*", ".pull-*") for path in self.path.rglob(what)]


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Disk]:
    """A file system of 4 MiB; skips, with the reason, where mounting is not allowed."""
    (tmp_path / "disk").mkdir()
    made = Disk(tmp_path / "disk")
    made.mount("-o", f"size={SMALL}")
    yield made
    subprocess.run(["umount", "-l", str(made.path)], check=True)


@pytest.fixture
def as_nobody() -> Callable[[Callable[[], object]], None]:
    """`as_nobody(work)` runs it in a process without any rights; skips, with the reason, unless
    this process is root and can become another user."""
    if os.geteuid():
        pytest.skip("only root can become another user: run as root to see this")

    def run(work: Callable[[], object]) -> None:
        child = os.fork()
        if not child:
            try:
                os.setgroups([])
                os.setgid(NOBODY)
                os.setuid(NOBODY)
                work()
                os._exit(0)
            except BaseException as error:
                os.write(2, f"{type(error).__name__}: {error}\n".encode())
                os._exit(1)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0

    return run


# --- a full disk ----------------------------------------------------------------------------------


def test_a_disk_that_fills_up_while_a_bundle_is_written_keeps_the_older_ones_and_no_leftover(
    disk: Disk, write_bundle: Callable[..., Bundle]
) -> None:
    """Shown to fail: without `BundleWriter.abort` in `__exit__` (the half bundle fills the disk for
    ever), and without `no_space_named` in `commit` for the second one."""
    volume = Volume(disk.path, "run-a")
    older = write_bundle(volume.generation_path(1), 100)

    with pytest.raises(OSError, match="No space left"):  # the writer's own write
        write_bundle(volume.generation_path(1), 200, {"weights": bytes(SMALL)})
    assert disk.hidden() == []

    filler = disk.path / "filler"
    with pytest.raises(NoSpace, match="keep fewer bundles or enlarge the volume"):
        write_and_fill(volume, write_bundle, filler)
    filler.unlink()
    assert disk.hidden() == []
    assert volume.newest_valid(quarantine=True) == older
    assert write_bundle(volume.generation_path(1), 200).path.exists()


def write_and_fill(volume: Volume, write_bundle: Callable[..., Bundle], filler: Path) -> None:
    """Commit a bundle whose data fit, and whose manifest does not any more."""

    class Filling(dict[str, bytes]):
        def items(self):  # type: ignore[override]
            yield from {"weights": b"w"}.items()
            with filler.open("wb", buffering=0) as file:
                try:
                    while file.write(bytes(4096)):
                        pass
                except OSError as error:
                    assert error.errno == errno.ENOSPC

    write_bundle(volume.generation_path(1), 200, Filling())


def test_a_full_disk_is_reported_before_a_pull_writes_and_also_if_it_fills_up_meanwhile(
    disk: Disk,
    volume: Volume,
    catalog: Catalog,
    save: Callable[..., Bundle],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Shown to fail: without `no_space_named` in `_pull_bundle`, and without its clean-up."""
    save(100, large=bytes(SMALL))
    push(volume, catalog, WORKLOAD)
    target = Volume(disk.path, "run-a")

    with pytest.raises(NoSpace, match="are needed"):
        pull_if_empty(target, catalog, WORKLOAD, Start.REQUIRE)
    assert target.generations() == []

    # It had room when it looked.
    monkeypatch.setattr("holdfast.copies.pull.check_space", lambda *_: None)
    with pytest.raises(NoSpace, match="enlarge the volume"):
        pull_if_empty(target, catalog, WORKLOAD, Start.REQUIRE)
    assert disk.hidden() == []
    assert target.bundles() == []


def test_a_store_that_is_full_fails_the_push_and_keeps_what_it_has(
    disk: Disk, volume: Volume, save: Callable[..., Bundle]
) -> None:
    """A disk that fills up takes a part of what is written and reports success. Shown to fail: with
    `file.write` for `write_all` in `DirectoryStore`, and without ENOSPC in its `_errors`."""
    (disk.path / "project").mkdir()
    catalog = Catalog(open_store((disk.path / "project/stack").as_uri()), OWNER)
    save(100)
    push(volume, catalog, WORKLOAD)
    save(200, large=bytes(SMALL))

    with pytest.raises(NoSpace, match="prune old snapshots or enlarge the store"):
        push(volume, catalog, WORKLOAD, patience=0)

    (known,) = catalog.snapshots(WORKLOAD)
    assert known.bundles[0].name == "step-00000100"
    assert verify_snapshot(catalog, known, record=False).ok
    assert not list((disk.path / "project/stack/.tmp").iterdir())


def test_a_store_that_fills_up_never_has_half_a_document(disk: Disk) -> None:
    """Shown to fail: with `file.write` for `write_all` in `DirectoryStore.put_small`: half of the
    document got its name."""
    (disk.path / "project").mkdir()
    store = open_store((disk.path / "project/stack").as_uri())
    store.put_small("a", b"1")

    with pytest.raises(NoSpace):
        store.put_small("b", bytes(SMALL))

    assert [info.key for info in store.list()] == ["a"]


# --- read-only, forbidden -------------------------------------------------------------------------


def test_a_volume_that_turned_read_only_is_still_read_and_pushed_but_not_written(
    disk: Disk, catalog: Catalog, write_bundle: Callable[..., Bundle], flip: Callable[..., None]
) -> None:
    """Shown to fail: with a `newest_valid` that lets the OSError of `quarantine` out."""
    volume = Volume(disk.path, "run-a")
    write_bundle(volume.generation_path(1), 100)
    newest = write_bundle(volume.generation_path(1), 200)
    flip(newest.path / "__0_0.distcp")
    disk.read_only()

    found = volume.newest_valid(quarantine=True)
    assert found is not None
    assert found.name == "step-00000100"
    with pytest.raises(OSError, match="Read-only"):
        write_bundle(volume.generation_path(1), 300)
    with pytest.raises(HoldfastError, match="other bytes than its SHA-256"):
        push(volume, catalog, WORKLOAD)  # the newest is bad: said, and nothing of it is complete
    assert catalog.snapshots(WORKLOAD) == []


def test_without_the_right_to_read_no_bundle_is_condemned_and_nothing_begins_again(
    volume: Volume,
    catalog: Catalog,
    save: Callable[..., Bundle],
    as_nobody: Callable,
    tmp_path: Path,
) -> None:
    """Shown to fail: with EACCES among the errors that say that a file is bad: then a valid bundle
    counts as bad and an older state would be pulled over it."""
    bundle = save(100)
    for directory in (path for path in tmp_path.parents if path.is_relative_to("/tmp")):
        directory.chmod(directory.stat().st_mode | 0o011)
    tmp_path.chmod(0o777)
    (bundle.path / ".metadata").chmod(0)

    def read() -> None:
        for look in (
            lambda: verify(bundle.path),
            lambda: volume.newest_valid(quarantine=True),
            lambda: pull_if_empty(volume, None, WORKLOAD, Start.AUTO),
        ):
            with pytest.raises(PermissionError):
                look()

    as_nobody(read)
    (bundle.path / ".metadata").chmod(0o644)
    assert verify(bundle.path) == bundle


def test_without_the_right_to_write_a_store_says_so_with_the_remedy(
    volume: Volume,
    catalog: Catalog,
    save: Callable[..., Bundle],
    as_nobody: Callable,
    tmp_path: Path,
) -> None:
    """Shown to fail: without EACCES in `DirectoryStore._errors`."""
    save(100)
    push(volume, catalog, WORKLOAD)
    for directory in [tmp_path, *tmp_path.parents]:
        if directory.is_relative_to("/tmp") and directory != Path("/tmp"):
            directory.chmod(0o755)
    save(200)

    def write() -> None:
        with pytest.raises(StoreDenied, match="give this user the right to it"):
            push(volume, catalog, WORKLOAD, patience=0)

    as_nobody(write)
    assert len(catalog.snapshots(WORKLOAD)) == 1


# --- other people's files -------------------------------------------------------------------------


def test_other_peoples_files_on_the_volume_and_in_the_store_are_neither_used_nor_touched(
    volume: Volume, catalog: Catalog, save: Callable[..., Bundle], store_directory: Path
) -> None:
    """Shown to fail: with a prune that takes what is not a bundle path for one."""
    foreign = {
        volume.root / "lost+found/x": b"1",
        volume.root / "another-run/gen-0001/step-00000900/weights": b"2",
        volume.run_path / "notes.txt": b"3",
        volume.run_path / ".git/HEAD": b"4",
        volume.run_path / "gen-1/step-00000800/w": b"5",
        volume.run_path / "gen-0001/notes.txt": b"6",
        volume.run_path / "gen-0001/.nfs000001": b"7",
        store_directory / "README": b"8",
        store_directory / "data/gpt/dump.sql": b"9",
        store_directory / "data/other/run-a/gen-0001/x/y/z": b"10",
        store_directory / "snapshots/other/notes.txt": b"11",
    }
    for path, data in foreign.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    for step in (100, 200):
        save(step)
        push(volume, catalog, WORKLOAD)
    age(store_directory, 3 * GRACE)

    volume.sweep()
    assert len(volume.keep(1)) == 1
    for _ in range(3):
        prune(catalog, WORKLOAD, ONE, grace=GRACE)
        age(store_directory, 3 * GRACE)

    found = volume.newest_valid(quarantine=True)
    assert found is not None
    assert found.name == "step-00000200"
    assert {path: path.read_bytes() for path in foreign} == foreign
    assert [ref.name for s in catalog.snapshots(WORKLOAD) for ref in s.bundles] == [found.name]


# --- clocks ---------------------------------------------------------------------------------------


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Callable[[timedelta], None]:
    """`clock(by)` sets this machine's clock, as every module of ours reads it, off by so much."""

    def jump(by: timedelta) -> None:
        class Kind(type):
            def __instancecheck__(cls, value: object) -> bool:
                return isinstance(value, datetime)

        class Wrong(datetime, metaclass=Kind):
            @classmethod
            def now(cls, tz: tzinfo | None = None) -> Self:
                return super().now(tz) + by

        for module in (manifest, snapshot, lock):
            monkeypatch.setattr(module, "datetime", Wrong, raising=False)

    return jump


@pytest.mark.parametrize("days", [-4000, 4000])
def test_a_clock_that_jumps_changes_neither_what_is_newest_nor_what_is_kept(
    volume: Volume,
    catalog: Catalog,
    save: Callable[..., Bundle],
    clock: Callable[[timedelta], None],
    store_directory: Path,
    days: int,
) -> None:
    """Shown to fail: with the bundles of `Volume` ordered by `created`."""
    save(100)
    push(volume, catalog, WORKLOAD)
    clock(timedelta(days=days))
    second = save(200)
    assert abs(second.manifest.created.year - datetime.now(UTC).year) > 9
    push(volume, catalog, WORKLOAD)
    clock(timedelta(0))
    save(300)
    push(volume, catalog, WORKLOAD, select=Select.ALL)

    assert [bundle.step for bundle in volume.bundles()] == [300, 200, 100]
    known = catalog.snapshots(WORKLOAD)
    assert [s.bundles[0].name for s in known] == [
        "step-00000300",
        "step-00000200",
        "step-00000100",
    ]
    age(store_directory, 3 * GRACE)
    assert volume.keep(1)
    prune(catalog, WORKLOAD, ONE, grace=GRACE)
    volume.root.rename(volume.root.with_name("lost"))
    decision = pull_if_empty(volume, catalog, WORKLOAD, Start.REQUIRE)
    assert (decision.decision, decision.bundle) == (Action.PULLED, "step-00000300")


def test_a_lock_is_judged_by_the_stores_clock_and_not_by_ours(
    catalog: Catalog, clock: Callable[[timedelta], None]
) -> None:
    """Shown to fail: with `datetime.now(UTC)` for `store.now()` in `lock._take`."""
    with store_lock(catalog.store, WORKLOAD, patience=0) as first:
        clock(timedelta(days=1))
        with store_lock(catalog.store, WORKLOAD, patience=0) as second:
            assert (first, second) == (True, False)


# --- a quarantine, a locale -----------------------------------------------------------------------


def test_a_quarantine_makes_room_for_the_next_save_and_keeps_the_newest(
    disk: Disk, write_bundle: Callable[..., Bundle]
) -> None:
    """Shown to fail: without the look at the free space the third save finds the disk full."""
    volume, size = Volume(disk.path, "run-a"), SMALL // 4 + 1
    for step in (1, 2, 3, 4, 5):
        bundle = write_bundle(volume.generation_path(1), step, {"weights": bytes(size)})
        quarantine(bundle.path, "bad")
    kept = [path.name.rsplit("-", 1)[0] for path in volume.quarantined()]
    assert kept[-1] == "step-00000005"
    assert len(kept) < 3
    notes = [path.stem for path in (volume.generation_path(1) / QUARANTINE).glob("*.txt")]
    assert sorted(notes) == sorted(path.name for path in volume.quarantined())


def test_a_bundle_is_quarantined_on_a_full_disk_too(
    disk: Disk, write_bundle: Callable[..., Bundle]
) -> None:
    volume = Volume(disk.path, "run-a")
    bundle = write_bundle(volume.generation_path(1), 1)
    (volume.generation_path(1) / QUARANTINE).mkdir()
    with (disk.path / "filler").open("wb") as file, suppress(OSError):
        while file.write(bytes(1 << 16)):
            file.flush()
    assert quarantine(bundle.path, "bad " * 2000).is_dir()
    assert volume.bundles() == []


LOCALES = {
    "ascii": {"LC_ALL": "POSIX", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"},
    "latin-1": {"LC_ALL": "de_DE.ISO-8859-1", "PYTHONUTF8": "0"},
}


@pytest.fixture(params=LOCALES)
def odd_locale(request: pytest.FixtureRequest, tmp_path: Path) -> dict[str, str]:
    """The environment of a process whose locale is not UTF-8."""
    if request.param == "latin-1":
        made = tmp_path / "de_DE.ISO-8859-1"
        command = ["localedef", "-i", "de_DE", "-f", "ISO-8859-1", str(made)]
        if not shutil.which("localedef") or subprocess.run(command, check=False).returncode:
            pytest.skip("this machine cannot make a locale")
    return LOCALES[request.param] | {"LOCPATH": str(tmp_path)}


def test_under_another_locale_no_bundle_is_condemned(
    volume: Volume,
    write_bundle: Callable[..., Bundle],
    run_python: Callable[..., subprocess.CompletedProcess[str]],
    odd_locale: dict[str, str],
) -> None:
    """Shown to fail: without `require_utf8` the bundle has a file too many and one too few."""
    bundle = write_bundle(volume.generation_path(1), 100, {"modèle.pt": b"1"})
    for code in (
        "import sys; from holdfast.volume import Volume\n"
        "Volume(sys.argv[1], 'run-a').newest_valid(quarantine=True)",
        "import sys; from pathlib import Path; from holdfast.bundle import verify\n"
        "verify(Path(sys.argv[1]) / 'run-a/gen-0001/step-00000100')",
    ):
        refused = run_python(code, volume.root, **odd_locale)
        assert "not UTF-8: set PYTHONUTF8=1" in refused.stderr.splitlines()[-1]
    assert volume.newest_valid(quarantine=True) == bundle


def test_the_command_works_under_another_locale_as_under_utf_8(
    volume: Volume,
    write_bundle: Callable[..., Bundle],
    run_python: Callable[..., subprocess.CompletedProcess[str]],
    odd_locale: dict[str, str],
    tmp_path: Path,
) -> None:
    """Shown to fail: without `_use_utf8` the verbs are refused."""
    newest = write_bundle(volume.generation_path(1), 100, {"modèle.pt": b"1"})
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "größe").write_bytes(b"2")
    code = "import sys, holdfast.__main__ as command; command.main()"
    where = ["--volume", volume.root, "--run", volume.run]
    committed = run_python(code, "commit", tmp_path / "out", "--step", 200, *where, **odd_locale)
    assert committed.returncode == 0, committed.stderr
    assert (volume.generation_path(1) / "step-00000200" / "größe").exists()
    shown = run_python(code, "show", newest.name, *where, **odd_locale)
    assert "modèle.pt" in shown.stdout
    checked = run_python(code, "verify", "--side", "volume", *where, **odd_locale)
    assert checked.returncode == 0, checked.stdout
