import errno
import hashlib
import json
import os
import shutil
import stat
import subprocess
from pathlib import Path
from threading import Barrier, Thread

import pytest

from holdfast import durable
from holdfast.bundle import (
    BundleWriter,
    Tree,
    check_files,
    commit_directory,
    quarantine,
    read_bundle,
    verify,
)
from holdfast.errors import CommitRefused, InvalidBundle, NoSpace, UsageError
from holdfast.manifest import MANIFEST, MAX_MANIFEST_BYTES, FileEntry, Manifest

ROOT = Path(__file__).parents[2]


def contents(directory: Path) -> dict[str, bytes]:
    files = [path for path in directory.rglob("*") if path.is_file()]
    return {str(path.relative_to(directory)): path.read_bytes() for path in files}


def hidden(directory: Path) -> list[str]:
    return [path.name for path in directory.iterdir() if path.name.startswith(".")]


# --- writing ---------------------------------------------------------------------------------


def test_a_committed_bundle_verifies_and_holds_what_was_written(tmp_path, write_bundle):
    bundle = write_bundle(tmp_path / "gen-0001", 100, {"a": b"1", "d/e/f": b"", "é": b"22"})
    assert bundle.path == tmp_path / "gen-0001" / "step-00000100"
    assert (bundle.name, bundle.step, bundle.manifest.size) == ("step-00000100", 100, 3)
    assert verify(bundle.path) == verify(bundle.path, quick=True) == read_bundle(bundle.path)
    assert verify(bundle.path) == bundle
    data = contents(bundle.path)
    assert Manifest.parse(data.pop(MANIFEST)) == bundle.manifest
    assert data == {"a": b"1", "d/e/f": b"", "é": b"22"}
    assert hidden(bundle.path.parent) == []


def test_everything_is_synced_before_the_name_that_reveals_it(tmp_path, monkeypatch, write_bundle):
    events: list[tuple[str, int]] = []
    fsync, rename = os.fsync, os.rename

    def record_fsync(descriptor):
        events.append(("fsync", os.fstat(descriptor).st_ino))
        fsync(descriptor)

    def record_rename(src, dst):
        events.append(("rename", Path(src).stat().st_ino))
        rename(src, dst)

    monkeypatch.setattr(os, "fsync", record_fsync)
    monkeypatch.setattr(os, "rename", record_rename)
    bundle = write_bundle(tmp_path, 100, {"a": b"1", "d/e/f": b"2", "d/g": b"3"})

    inodes = {path.lstat().st_ino: path for path in [tmp_path, *tmp_path.rglob("*")]}
    trace = [(what, str(inodes[inode].relative_to(tmp_path))) for what, inode in events]
    name = bundle.name
    assert sorted(trace[:3]) == [("fsync", f"{name}/{path}") for path in ("a", "d/e/f", "d/g")]
    assert trace[3:] == [
        ("fsync", f"{name}/d/e"),
        ("fsync", f"{name}/d"),
        ("fsync", f"{name}/{MANIFEST}"),
        ("fsync", name),
        ("rename", name),
        ("fsync", "."),
    ]


def test_files_hashed_elsewhere_are_synced_too(tmp_path, monkeypatch):
    synced = set()
    fsync = os.fsync
    with BundleWriter(tmp_path, "x", "files") as writer:
        (writer.path / "a").write_bytes(b"1")
        entry = writer.entry("a")
        inode = (writer.path / "a").stat().st_ino

        def record(descriptor):
            synced.add(os.fstat(descriptor).st_ino)
            fsync(descriptor)

        monkeypatch.setattr(os, "fsync", record)
        writer.commit({}, files=[entry])
    assert inode in synced


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (lambda path: (path / "a").unlink(), "a: is missing"),
        (lambda path: (path / "more").touch(), "more: is not in the manifest"),
        (lambda path: (path / "a").write_bytes(b"22"), "a: has 2 bytes instead of 1"),
    ],
)
def test_entries_of_other_writers_must_match_what_is_there(tmp_path, change, problem):
    with BundleWriter(tmp_path, "x", "files") as writer:
        for name in "ab":
            (writer.path / name).write_bytes(b"1")
        entries = [writer.entry("a"), writer.entry("b")]
        change(writer.path)
        with pytest.raises(CommitRefused, match=problem):
            writer.commit({}, files=entries)
    assert list(tmp_path.iterdir()) == []


def test_a_bundle_is_never_replaced(tmp_path, write_bundle):
    first = write_bundle(tmp_path, 100, {"a": b"first"})
    with pytest.raises(CommitRefused, match="never replaced"):
        write_bundle(tmp_path, 100, {"a": b"second"})
    assert (first.path / "a").read_bytes() == b"first"
    assert hidden(tmp_path) == []


def test_of_two_writers_of_one_name_exactly_one_succeeds(tmp_path):
    start, outcomes = Barrier(2), []

    def write(text: bytes) -> None:
        with BundleWriter(tmp_path, "x", "files") as writer:
            (writer.path / "a").write_bytes(text)
            start.wait()
            try:
                writer.commit({})
                outcomes.append(text)
            except CommitRefused:
                outcomes.append(None)

    threads = [Thread(target=write, args=(text,)) for text in (b"one", b"two")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    winners = [text for text in outcomes if text]
    assert [(verify(tmp_path / "x").path / "a").read_bytes()] == winners
    assert hidden(tmp_path) == []


def test_an_exception_while_writing_leaves_nothing(tmp_path):
    with pytest.raises(RuntimeError), BundleWriter(tmp_path, "x", "files") as writer:
        (writer.path / "a").write_bytes(b"1")
        raise RuntimeError
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("moment", ["files-written", "manifest-written", "before-rename"])
def test_a_full_disk_fails_the_commit_cleanly(tmp_path, monkeypatch, write_bundle, moment):
    older = write_bundle(tmp_path, 100)
    monkeypatch.setenv("HOLDFAST_FAILPOINT", f"commit.{moment}=enospc")
    with pytest.raises(NoSpace, match="enlarge the volume"):
        write_bundle(tmp_path, 200)
    assert [path.name for path in tmp_path.iterdir()] == [older.name]
    assert verify(older.path) == older


@pytest.mark.parametrize("name", ["", "..", "a/b", ".hidden", "Step", "x" * 129, "a b", "x\n"])
def test_a_name_that_no_bundle_can_have_is_refused(tmp_path, name):
    with pytest.raises(UsageError, match="bundle name"):
        BundleWriter(tmp_path / "gen-0001", name, "files")
    assert list(tmp_path.iterdir()) == []


def test_a_commit_is_refused_with_every_problem_at_once(tmp_path):
    source = tmp_path / "source"
    (source / "empty").mkdir(parents=True)
    (source / "fine").write_text("x")
    (source / "link").symlink_to("fine")
    os.mkfifo(source / "pipe")
    os.mknod(source / "socket", stat.S_IFSOCK | 0o600)
    (source / "back\\slash").touch()
    (source / "new\nline").touch()
    (source / "e\u0301").touch()
    (source / "CASE").touch()
    (source / "case").touch()
    (source / MANIFEST).touch()
    Path(os.fsdecode(os.fsencode(source) + b"/latin-\xe9")).touch()
    for move in (False, True):
        with pytest.raises(CommitRefused) as caught:
            commit_directory(source, tmp_path / "out", "x", "files", {}, move=move)
        problems = "\n".join(sorted(caught.value.problems))
        for part in ("empty:", "link:", "pipe:", "socket:", "backslash", "control", "NFC", "case",
                     "reserved for the manifest", "UTF-8"):  # fmt: skip
            assert part in problems
        assert len(caught.value.problems) == 10
        assert "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists()
    assert len(list(source.iterdir())) == 12


def test_a_bad_label_or_kind_refuses_the_commit(tmp_path):
    for kind, labels in (("files", {"No": 1}), ("Files", {})):
        with BundleWriter(tmp_path, "x", kind) as writer:
            (writer.path / "a").touch()
            with pytest.raises(CommitRefused):
                writer.commit(labels)


def test_a_bundle_without_files_is_refused(tmp_path):
    writer = BundleWriter(tmp_path, "x", "files")
    with writer, pytest.raises(CommitRefused, match="holds no file"):
        writer.commit({})


# --- committing a finished directory ------------------------------------------------------------


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "source"
    (path / "d").mkdir(parents=True)
    (path / "a").write_bytes(b"1" * 3_000_000)
    (path / "d" / "b").write_bytes(b"")
    os.link(path / "a", path / "hard-link")
    return path


def test_committing_a_directory_copies_it_and_leaves_it(tmp_path, source):
    before = contents(source)
    bundle = commit_directory(source, tmp_path / "out", "corpus-1", "dataset", {"rows": 5})
    assert contents(source) == before
    assert {path: contents(bundle.path)[path] for path in before} == before
    assert verify(bundle.path).manifest.labels == {"rows": 5}
    assert (bundle.path / "a").stat().st_ino != (source / "a").stat().st_ino


@pytest.mark.parametrize("links", [True, False])
def test_moving_a_directory_removes_the_source_and_copies_only_where_it_cannot_link(
    tmp_path, source, monkeypatch, links
):
    before, inode = contents(source), (source / "d/b").stat().st_ino
    if not links:

        def across_devices(*_, **__):
            raise OSError(errno.EXDEV, "another device")

        monkeypatch.setattr(os, "link", across_devices)
    bundle = commit_directory(source, tmp_path / "out", "x", "files", {}, move=True)
    after = contents(verify(bundle.path).path)
    after.pop(MANIFEST)
    assert after == before
    assert not source.exists()
    assert ((bundle.path / "d/b").stat().st_ino == inode) == links
    assert {path.stat().st_nlink for path in bundle.path.rglob("*") if path.is_file()} == {1}


def test_a_moved_file_with_a_link_elsewhere_is_copied_so_that_nobody_can_change_it(
    tmp_path, source
):
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    os.link(source / "d/b", elsewhere / "b")
    bundle = commit_directory(source, tmp_path / "out", "x", "files", {}, move=True)
    (elsewhere / "b").write_bytes(b"changed later")
    assert verify(bundle.path) == bundle


def test_a_file_that_gets_another_link_while_it_is_moved_is_copied(tmp_path, source, monkeypatch):
    link = os.link

    def raced(src, dst, **options):
        if not (tmp_path / "elsewhere").exists():
            link(src, tmp_path / "elsewhere")
        link(src, dst, **options)

    monkeypatch.setattr(os, "link", raced)
    bundle = commit_directory(source, tmp_path / "out", "x", "files", {}, move=True)
    (tmp_path / "elsewhere").write_bytes(b"changed later")
    assert verify(bundle.path) == bundle


def test_a_sparse_file_without_room_for_its_whole_size_is_refused_before_anything_is_written(
    tmp_path, source
):
    with (source / "sparse").open("wb") as file:
        file.truncate(shutil.disk_usage(tmp_path).free + (1 << 30))
    with pytest.raises(NoSpace, match="bytes free"):
        commit_directory(source, tmp_path / "out", "x", "files", {})
    assert list((tmp_path / "out").iterdir()) == []
    assert (source / "sparse").exists()


def test_a_move_that_fails_keeps_the_source(tmp_path, source, monkeypatch):
    before = contents(source)
    monkeypatch.setenv("HOLDFAST_FAILPOINT", "commit.before-rename=raise")
    with pytest.raises(OSError, match="before-rename"):
        commit_directory(source, tmp_path / "out", "x", "files", {}, move=True)
    assert contents(source) == before
    assert list((tmp_path / "out").iterdir()) == []


def test_a_directory_cannot_be_committed_into_itself_or_from_nowhere(tmp_path, source):
    with pytest.raises(UsageError, match="lies inside"):
        commit_directory(source, source / "gen-0001", "x", "files", {})
    with pytest.raises(UsageError, match="is not a directory"):
        commit_directory(tmp_path / "missing", tmp_path, "x", "files", {})


def test_sha256sum_checks_a_bundle_by_hand(tmp_path, write_bundle, flip):
    line = next(
        line.strip()
        for line in (ROOT / "docs" / "format.md").read_text().splitlines()
        if "| sha256sum -c" in line and "python3" in line
    )
    bundle = write_bundle(tmp_path, 100, {"a": b"1", "d/b c": b"2"})
    for damaged in (False, True):
        if damaged:
            flip(bundle.path / "a")
        done = subprocess.run(
            ["bash", "-c", line], cwd=bundle.path, capture_output=True, text=True, check=False
        )
        assert (done.returncode == 0) != damaged
        assert ("a: FAILED" if damaged else "d/b c: OK") in done.stdout


# --- verification -------------------------------------------------------------------------------


def problems(path: Path, quick: bool = False) -> list[str]:
    with pytest.raises(InvalidBundle) as caught:
        verify(path, quick=quick)
    assert caught.value.path == path
    assert "\n" not in str(caught.value)
    return caught.value.problems


def test_every_flipped_bit_of_every_file_is_found_and_the_file_named(tmp_path, write_bundle, flip):
    bundle = write_bundle(tmp_path, 100, {"a": b"abc", "d/b": b"\x00"})
    for name, stride in (("a", 1), ("d/b", 1), (MANIFEST, 7)):  # test_manifest.py flips all of it
        for bit in range(0, (bundle.path / name).stat().st_size * 8, stride):
            flip(bundle.path / name, bit)
            (problem,) = problems(bundle.path)
            assert problem.startswith(f"{name}: ")
            flip(bundle.path / name, bit)
    assert verify(bundle.path) == bundle


def test_a_flip_in_a_large_file_is_found_wherever_it_is(tmp_path, write_bundle, flip):
    size = 2 * durable.BLOCK + 1
    bundle = write_bundle(tmp_path, 100, {"big": bytes(size)})
    for byte in (0, durable.BLOCK - 1, durable.BLOCK, size - 1):
        flip(bundle.path / "big", byte * 8)
        assert problems(bundle.path) == ["big: has other bytes than its SHA-256 says"]
        assert verify(bundle.path, quick=True) == bundle
        flip(bundle.path / "big", byte * 8)


def test_files_of_equal_size_that_were_swapped_are_found(tmp_path, write_bundle):
    bundle = write_bundle(tmp_path, 100, {"a": b"12", "b": b"34"})
    (bundle.path / "a").rename(bundle.path / "c")
    (bundle.path / "b").rename(bundle.path / "a")
    (bundle.path / "c").rename(bundle.path / "b")
    assert [problem[0] for problem in problems(bundle.path)] == ["a", "b"]


def test_a_file_of_another_step_is_found(tmp_path, write_bundle):
    old = write_bundle(tmp_path, 100, {"a": b"12"})
    new = write_bundle(tmp_path, 200, {"a": b"34"})
    shutil.copy(old.path / "a", new.path / "a")
    assert problems(new.path) == ["a: has other bytes than its SHA-256 says"]
    shutil.copy(old.path / MANIFEST, new.path / MANIFEST)
    assert problems(new.path) == [f"{MANIFEST}: belongs to a bundle called 'step-00000100'"]


@pytest.mark.parametrize("quick", [True, False])
def test_every_problem_is_listed_even_by_a_quick_check(tmp_path, write_bundle, quick):
    names = ["cut", "gone", "grown", "linked", "piped", "swapped/deep"]
    bundle = write_bundle(tmp_path, 100, {**dict.fromkeys(names, b"12"), "fine": b"ok"})
    at = bundle.path
    (at / "cut").write_bytes(b"1")
    (at / "gone").unlink()
    (at / "grown").write_bytes(b"123")
    (at / "linked").rename(tmp_path / "elsewhere")
    (at / "linked").symlink_to(tmp_path / "elsewhere")
    (at / "piped").unlink()
    os.mkfifo(at / "piped")
    (at / "swapped").rename(tmp_path / "directory")
    (at / "swapped").symlink_to(tmp_path / "directory")
    (at / "extra").write_bytes(b"")
    (at / "empty").mkdir()
    assert sorted(problems(bundle.path, quick)) == [
        "cut: has 1 bytes instead of 2",
        "empty: is an empty directory",
        "extra: is not in the manifest",
        "gone: is missing",
        "grown: has 3 bytes instead of 2",
        "linked: is a symbolic link",
        "linked: is missing",
        "piped: is a pipe, socket or device",
        "piped: is missing",
        "swapped/deep: is missing",
        "swapped: is a symbolic link",
    ]


def test_a_renamed_bundle_is_not_the_one_that_its_name_says(tmp_path, write_bundle):
    bundle = write_bundle(tmp_path, 100)
    bundle.path.rename(tmp_path / "step-00000200")
    assert "called 'step-00000100'" in problems(tmp_path / "step-00000200")[0]


def test_without_a_manifest_it_is_no_bundle(tmp_path, write_bundle):
    bundle = write_bundle(tmp_path, 100)
    (bundle.path / MANIFEST).unlink()
    assert problems(bundle.path) == [f"{MANIFEST}: is missing"]
    assert problems(tmp_path / "nowhere") == [f"{MANIFEST}: is missing"]


@pytest.mark.parametrize("what", ["link", "fifo", "directory"])
def test_a_manifest_that_is_no_file_is_refused_without_blocking(tmp_path, write_bundle, what):
    manifest = write_bundle(tmp_path, 100).path / MANIFEST
    manifest.rename(tmp_path / MANIFEST)
    if what == "link":
        manifest.symlink_to(tmp_path / MANIFEST)
    elif what == "fifo":
        os.mkfifo(manifest)
    else:
        manifest.mkdir()
    assert problems(manifest.parent)[0].startswith(f"{MANIFEST}: cannot be read")


def test_a_link_to_a_bundle_is_not_a_bundle(tmp_path, write_bundle):
    bundle = write_bundle(tmp_path / "real", 100)
    link = tmp_path / bundle.name
    link.symlink_to(bundle.path)
    assert problems(link) == ["is not a directory"]


SYSTEM_FAULTS = (
    errno.EACCES, errno.EIO, errno.EMFILE, errno.ENOMEM, errno.ESTALE, errno.ETIMEDOUT,
    errno.EREMOTEIO, errno.EUCLEAN, errno.ENOTCONN, errno.EINTR,
)  # fmt: skip


@pytest.mark.parametrize("number", SYSTEM_FAULTS, ids=errno.errorcode.get)
def test_a_fault_of_the_system_condemns_no_bundle(tmp_path, monkeypatch, write_bundle, number):
    bundle = write_bundle(tmp_path, 100, {"a": b"1"})

    def faulty(*_):
        raise OSError(number, os.strerror(number))

    places = [(durable, "hash_file"), (Tree, "of"), (durable, "open_regular"), (os, "lstat")]
    for where, name in places:
        with monkeypatch.context() as patch:
            patch.setattr(where, name, faulty)
            with pytest.raises(OSError, match=os.strerror(number)):
                verify(bundle.path)
    assert verify(bundle.path) == bundle


def test_a_bundle_that_is_removed_while_it_is_checked_is_invalid_and_not_a_crash(
    tmp_path, monkeypatch, write_bundle
):
    real = Tree.of

    def too_late(root):
        shutil.rmtree(root)
        return real(root)

    for quick in (True, False):
        path = write_bundle(tmp_path, 100).path
        with monkeypatch.context() as patch:
            patch.setattr(Tree, "of", too_late)
            assert problems(path, quick) == ["directory: is missing"]


def test_processes_can_share_the_reading(tmp_path, write_bundle, flip):
    bundle = write_bundle(tmp_path, 100, {"a": b"1", "b": b"2", "c": b"3"})
    flip(bundle.path / "b")
    files = bundle.manifest.files
    assert check_files(bundle.path, files[0::2]) == []
    assert check_files(bundle.path, files[1::2]) == ["b: has other bytes than its SHA-256 says"]
    assert check_files(bundle.path, []) == []


def test_a_file_that_is_cut_after_the_quick_check_is_found_by_the_reading(tmp_path, write_bundle):
    bundle = write_bundle(tmp_path, 100, {"a": b"12", "b": b""})
    (bundle.path / "a").write_bytes(b"1")
    (bundle.path / "b").unlink()
    assert check_files(bundle.path, bundle.manifest.files) == [
        "a: has other bytes than its SHA-256 says",
        "b: is missing",
    ]


def test_a_hostile_manifest_cannot_point_outside(tmp_path, write_bundle):
    bundle = write_bundle(tmp_path, 100, {"a": b"1"})
    fields = json.loads((bundle.path / MANIFEST).read_bytes())
    fields["files"][0]["path"] = "../a"
    (bundle.path / MANIFEST).write_text(json.dumps(fields, separators=(",", ":"), sort_keys=True))
    assert "has a part '..'" in problems(bundle.path)[0]


def test_many_files_are_committed_and_verified(tmp_path):
    with BundleWriter(tmp_path, "many", "files") as writer:
        for shard in range(5):
            (writer.path / f"{shard}").mkdir()
            for number in range(100):
                (writer.path / f"{shard}" / f"{number}").write_bytes(b"%d" % number)
        bundle = writer.commit({})
    assert len(verify(bundle.path).manifest.files) == 500


def test_a_manifest_of_100_000_files_fits():
    digest = hashlib.sha256(b"").hexdigest()
    files = [
        FileEntry(path=f"train/shard-{n % 100:04d}/image-{n:08d}.jpeg", size=n, sha256=digest)
        for n in range(10_000)
    ]
    data = Manifest.build("dataset", "images-1", files, {}).to_bytes()
    assert len(Manifest.parse(data).files) == 10_000
    assert len(data) * 10 < MAX_MANIFEST_BYTES / 4


def test_a_bundle_whose_manifest_would_be_too_large_to_read_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("holdfast.bundle.MAX_MANIFEST_BYTES", 300)
    with BundleWriter(tmp_path, "x", "files") as writer:
        (writer.path / "a").touch()
        with pytest.raises(CommitRefused, match="manifest would be larger"):
            writer.commit({})
    assert list(tmp_path.iterdir()) == []


def test_a_manifest_that_is_too_large_is_refused_before_it_is_parsed(
    tmp_path, monkeypatch, write_bundle
):
    manifest = write_bundle(tmp_path, 100).path / MANIFEST
    with manifest.open("r+b") as file:
        file.truncate(2 * MAX_MANIFEST_BYTES)
    read = []
    parse = Manifest.parse
    monkeypatch.setattr(Manifest, "parse", lambda data: read.append(len(data)) or parse(data))
    monkeypatch.setattr(Manifest, "model_validate_json", pytest.fail)
    assert problems(manifest.parent) == [f"{MANIFEST}: is larger than 64 MiB"]
    assert read == [MAX_MANIFEST_BYTES + 1]


def test_a_tree_too_deep_for_any_path_is_refused(tmp_path):
    (tmp_path / "source" / ("d/" * 300)).mkdir(parents=True)
    (tmp_path / "source" / ("d/" * 300) / "f").touch()
    with pytest.raises(CommitRefused, match="longer than 512"):
        commit_directory(tmp_path / "source", tmp_path / "out", "x", "files", {})


# --- quarantine ----------------------------------------------------------------------------------


def test_a_quarantined_bundle_is_kept_whole_with_the_reason(tmp_path, write_bundle):
    bundle = write_bundle(tmp_path, 100, {"a": b"1"})
    kept = quarantine(bundle.path, "a: has other bytes\udce9")
    assert not bundle.path.exists()
    assert kept.parent == tmp_path / ".quarantine"
    assert kept.name.startswith("step-00000100-")
    assert contents(kept)["a"] == b"1"
    assert kept.with_name(f"{kept.name}.txt").read_text() == "a: has other bytes\\udce9\n"


def test_quarantining_what_another_process_took_away_leaves_no_note(tmp_path):
    with pytest.raises(FileNotFoundError):
        quarantine(tmp_path / "step-00000100", "bad")
    assert list((tmp_path / ".quarantine").iterdir()) == []


def test_the_same_name_can_be_quarantined_again(tmp_path, write_bundle):
    for _ in range(2):
        quarantine(write_bundle(tmp_path, 100).path, "bad")
    assert len([path for path in (tmp_path / ".quarantine").iterdir() if path.is_dir()]) == 2
