import errno
import hashlib
import os
import stat
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdfast import durable
from holdfast.errors import NoSpace


class Disk:
    """Records what is synced and renamed, in order; files are known by inode, so names may move."""

    def __init__(self, monkeypatch, root):
        self.root = root
        self.events = []
        for name in ("fsync", "rename", "replace", "link"):
            monkeypatch.setattr(os, name, self._recorded(name, getattr(os, name)))

    def _recorded(self, name, real):
        def call(*args):
            if name == "fsync":
                found = os.fstat(args[0])
                self.events.append(("fsync", found.st_ino))
            else:
                self.events.append((name, Path(args[0]).stat().st_ino))
            return real(*args)

        return call

    def named(self):
        paths = [self.root, *self.root.rglob("*")]
        names = {path.lstat().st_ino: path.name for path in paths}
        return [(what, names.get(inode, "?")) for what, inode in self.events]


def test_a_durable_write_syncs_the_bytes_then_the_name_then_the_directory(tmp_path, monkeypatch):
    (tmp_path / "d").mkdir()
    disk = Disk(monkeypatch, tmp_path)
    durable.write_durably(tmp_path / "d" / "f", b"new")
    assert disk.named() == [("fsync", "f"), ("replace", "f"), ("fsync", "d")]


def test_a_durable_rename_syncs_both_parents(tmp_path, monkeypatch):
    (tmp_path / "a" / "x").mkdir(parents=True)
    (tmp_path / "b").mkdir()
    disk = Disk(monkeypatch, tmp_path)
    durable.rename_durably(tmp_path / "a" / "x", tmp_path / "b" / "x")
    assert disk.named() == [("rename", "x"), ("fsync", "b"), ("fsync", "a")]


def test_new_directories_are_synced_into_their_parents(tmp_path, monkeypatch):
    disk = Disk(monkeypatch, tmp_path)
    durable.make_directories(tmp_path / "a" / "b")
    assert disk.named() == [("fsync", tmp_path.name), ("fsync", "a")]
    assert (tmp_path / "a" / "b").is_dir()


def test_a_write_that_fails_leaves_neither_a_file_nor_a_temporary(tmp_path, monkeypatch):
    def full(descriptor):
        raise OSError(errno.ENOSPC, "full")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="full"):
        durable.write_durably(tmp_path / "f", b"data")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("racing", [False, True])
@pytest.mark.parametrize("taken", ["directory", "file", "link"])
def test_a_rename_never_replaces(tmp_path, monkeypatch, taken, racing):
    target = tmp_path / "new"
    if taken == "directory":
        target.mkdir()
        (target / "precious").write_text("kept")
    elif taken == "file":
        target.write_text("kept")
    else:
        target.symlink_to("nowhere")
    before = target.lstat()
    (tmp_path / "old").mkdir()
    (tmp_path / "old" / "f").write_text("new")
    if racing:  # the other one takes the name right after we looked
        monkeypatch.setattr(os.path, "lexists", lambda path: False)
    with pytest.raises(FileExistsError):
        durable.rename_durably(tmp_path / "old", target)
    assert target.lstat().st_ino == before.st_ino
    assert (tmp_path / "old" / "f").read_text() == "new"


def test_a_tree_is_hidden_before_it_is_removed(tmp_path, monkeypatch):
    (tmp_path / "tree" / "sub").mkdir(parents=True)
    seen = []
    monkeypatch.setattr(durable.shutil, "rmtree", lambda path, **_: seen.append(path.name))
    durable.remove_tree(tmp_path / "tree")
    assert not (tmp_path / "tree").exists()
    assert seen == [path.name for path in tmp_path.iterdir()]
    assert seen[0].startswith(".tmp-")


def test_sweeping_removes_temporaries_only_and_follows_no_link(tmp_path):
    precious = tmp_path / "precious"
    precious.mkdir()
    (precious / "f").write_text("kept")
    swept = tmp_path / "swept"
    (swept / ".tmp-step-1-abc" / "sub").mkdir(parents=True)
    (swept / ".tmp-file").write_text("half")
    (swept / ".tmp-link").symlink_to(precious)
    (swept / ".stage-1").mkdir()
    (swept / "step-1").mkdir()
    removed = durable.sweep_temporaries(swept)
    assert [path.name for path in removed] == [".tmp-file", ".tmp-link", ".tmp-step-1-abc"]
    assert sorted(path.name for path in swept.iterdir()) == [".stage-1", "step-1"]
    assert (precious / "f").read_text() == "kept"
    assert durable.sweep_temporaries(tmp_path / "missing") == []


@given(st.binary(max_size=64), st.integers(0, 3))
def test_hashing_and_copying_agree_with_hashlib(tmp_path_factory, data, blocks):
    path = tmp_path_factory.mktemp("hash") / "f"
    path.write_bytes(data + b"x" * (blocks * durable.BLOCK // 2))
    expected = (hashlib.sha256(path.read_bytes()).hexdigest(), path.stat().st_size)
    copy = path.with_name("copy")
    assert durable.hash_file(path) == expected
    assert durable.copy_file(path, copy) == expected
    assert copy.read_bytes() == path.read_bytes()


def test_a_copy_is_synced(tmp_path, monkeypatch):
    (tmp_path / "f").write_bytes(b"data")
    disk = Disk(monkeypatch, tmp_path)
    durable.copy_file(tmp_path / "f", tmp_path / "copy")
    assert disk.named() == [("fsync", "copy")]


def test_a_copy_never_replaces(tmp_path):
    for name in ("f", "copy"):
        (tmp_path / name).write_text(name)
    with pytest.raises(FileExistsError):
        durable.copy_file(tmp_path / "f", tmp_path / "copy")
    assert (tmp_path / "copy").read_text() == "copy"


@pytest.mark.parametrize("count", [0, 1, 20])
def test_work_on_threads_comes_back_in_order(count):
    items = list(range(count))
    assert durable.in_threads(str, items, threads=3) == [str(item) for item in items]


@pytest.mark.parametrize("make", ["link", "fifo", "directory", "socket"])
def test_only_regular_files_are_hashed_and_a_pipe_does_not_block(tmp_path, make):
    path = tmp_path / "odd"
    if make == "link":
        (tmp_path / "f").write_text("x")
        path.symlink_to("f")
    elif make == "fifo":
        os.mkfifo(path)
    elif make == "directory":
        path.mkdir()
    else:
        os.mknod(path, stat.S_IFSOCK | 0o600)
    with pytest.raises(OSError):
        durable.hash_file(path)


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_is_named_with_its_remedy(tmp_path, number):
    with pytest.raises(NoSpace, match="keep fewer bundles"), durable.no_space_named(tmp_path):
        raise OSError(number, os.strerror(number))


def test_another_error_is_not_called_a_full_disk(tmp_path):
    with pytest.raises(PermissionError), durable.no_space_named(tmp_path):
        raise PermissionError(errno.EACCES, "no")
