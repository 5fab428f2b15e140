"""Each kind of store keeps the same promises: a directory, S3, and the one in memory for tests."""

import errno
import fcntl
import os
import stat
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdfast.errors import (
    AlreadyExists,
    DeadlineExceeded,
    NotDeleted,
    NotFound,
    PreconditionFailed,
    StoreDenied,
    StoreError,
    UsageError,
)
from holdfast.store import open_store
from holdfast.store.base import Store, check_key
from holdfast.store.directory import DirectoryStore
from holdfast.store.s3_parts import MIB, PART, part_size
from testkit.memory_store import MemoryStore, World
from testkit.stores import keys


@pytest.fixture(params=["directory", "memory", pytest.param("s3", marks=pytest.mark.s3)])
def store(request: pytest.FixtureRequest, store_directory: Path) -> Store:
    """An empty store of each kind."""
    if request.param == "memory":
        return MemoryStore(World(now=datetime.now(UTC)))
    if request.param == "s3":
        return open_store(request.getfixturevalue("s3_url"))
    return open_store(store_directory.as_uri())


def test_what_was_written_is_read_back(store: Store) -> None:
    info = store.put_small("a/b.json", b"{}")

    assert store.get("a/b.json") == b"{}"
    assert (info.key, info.size) == ("a/b.json", 2)
    assert store.head("a/b.json") == info
    assert abs(info.modified - datetime.now(UTC)) < timedelta(minutes=1)


def test_a_missing_object_is_not_found_by_any_way_of_asking(store: Store) -> None:
    store.put_small("a/b", b"1")

    for ask in (store.get, store.head, lambda key: list(store.stream(key))):
        for key in ("a/c", "a", "a/b/c"):
            with pytest.raises(NotFound):
                ask(key)


def test_of_two_creations_one_succeeds(store: Store) -> None:
    store.put_small("claim", b"first", if_absent=True)

    with pytest.raises(AlreadyExists):
        store.put_small("claim", b"second", if_absent=True)
    assert store.get("claim") == b"first"


def test_creating_again_with_our_own_bytes_is_a_success(store: Store) -> None:
    store.put_small("claim", b"mine", if_absent=True)
    store.put_small("claim", b"mine", if_absent=True)


def test_a_replacement_on_condition_needs_the_version_that_was_read(store: Store) -> None:
    read = store.put_small("lock", b"free")
    store.put_small("lock", b"taken", if_match=read.etag)

    for key in ("lock", "no-such-lock"):
        with pytest.raises(PreconditionFailed):
            store.put_small(key, b"taken by me too", if_match=read.etag)
    assert store.get("lock") == b"taken"


@pytest.mark.parametrize("size", [0, 1, PART, PART + 1, 3 * PART])
def test_a_data_file_arrives_whole_whatever_its_size(store: Store, size: int) -> None:
    data = os.urandom(MIB) * (size // MIB + 1)
    pieces = (data[at : min(at + MIB, size)] for at in range(0, size, MIB))

    store.put_file("data/file", pieces, size)

    assert store.head("data/file").size == size
    assert b"".join(store.stream("data/file")) == data[:size]


@pytest.mark.parametrize("size", [10, 2 * PART])
def test_an_error_after_the_last_byte_leaves_no_object(store: Store, size: int) -> None:
    def pieces() -> Iterator[bytes]:
        yield b"x" * size
        raise ValueError("the hash is wrong")

    with pytest.raises(ValueError, match="the hash is wrong"):
        store.put_file("data/file", pieces(), size)
    assert keys(store) == []


@pytest.mark.parametrize("size", [9, 11, 2 * PART])
def test_a_data_file_of_another_size_than_promised_is_refused(store: Store, size: int) -> None:
    with pytest.raises(StoreError, match=f"got 10 bytes instead of {size}"):
        store.put_file("data/file", iter([b"x" * 10]), size)
    assert keys(store) == []


def test_after_the_deadline_no_call_reaches_the_store(store: Store) -> None:
    store.put_small("a", b"1")
    late = store.within(-1)

    for use in (
        lambda: late.get("a"),
        lambda: list(late.stream("a")),
        lambda: late.head("a"),
        lambda: list(late.list()),
        lambda: late.put_small("b", b""),
        lambda: late.put_file("b", iter([b"x"]), 1),
        lambda: late.delete(["a"]),
        late.now,
        lambda: late.sweep(datetime.now(UTC)),
    ):
        with pytest.raises(DeadlineExceeded):
            use()
    assert keys(late.within(None)) == keys(store) == ["a"]


def test_nothing_is_left_to_sweep_after_a_write_that_ended(store: Store) -> None:
    store.put_small("a", b"1")
    store.put_file("b", iter([b"x"]), 1)

    assert store.sweep(datetime.now(UTC) + timedelta(days=1)) == 0
    assert keys(store) == ["a", "b"]


def test_a_listing_is_sorted_by_bytes_and_ends_at_the_slash(store: Store) -> None:
    names = ["s/step-1", "s/step-10/a", "s/step-1-b", "s/step-2/.metadata", "s/é", "s/z", "t/a"]
    for name in names:
        if name != "s/step-1":
            store.put_small(name, b"")
    store.put_small("s/step-1/file", b"")

    assert keys(store) == sorted(keys(store), key=str.encode)
    assert keys(store, "s/step-1") == keys(store, "s/step-1/") == ["s/step-1/file"]
    assert keys(store, "nothing/here") == []


def test_odd_but_legal_names_survive(store: Store) -> None:
    odd = ["a b", "a#b", "a%20b", "a+b", "a?b=c&d", "ü/ö", "[x]{y}", "~", ".metadata", "a:b"]
    for name in odd:
        store.put_file(f"data/{name}", iter([name.encode()]), len(name.encode()))

    assert keys(store, "data") == sorted((f"data/{name}" for name in odd), key=str.encode)
    for name in odd:
        assert store.get(f"data/{name}") == name.encode()


def test_deleting_takes_what_is_named_and_nothing_else(store: Store) -> None:
    for key in ("a/1", "a/10", "b/1"):
        store.put_small(key, b"")

    store.delete(["a/1", "never/there"])
    store.delete([])

    assert keys(store) == ["a/10", "b/1"]


def test_the_clock_is_the_stores_own(store: Store) -> None:
    before = store.put_small("x", b"").modified

    assert before <= store.now() <= before + timedelta(minutes=1)


@pytest.mark.parametrize(
    "key", ["", "/etc/passwd", "../up", "a/../../up", "a//b", "a/.", "nul\0", "a\n", "\udcff"]
)
def test_a_key_never_leads_out_of_the_store(store: Store, key: str) -> None:
    for use in (
        store.get,
        store.head,
        lambda key: store.put_small(key, b""),
        lambda key: store.put_file(key, iter([b""]), 0),
        lambda key: store.delete([key]),
        lambda key: list(store.stream(key)),
        lambda key: list(store.list(key)) if key.strip("/") else check_key(key),
    ):
        with pytest.raises(StoreError):
            use(key)


@given(st.text())
def test_any_key_that_passes_stays_below_the_root(key: str) -> None:
    try:
        check_key(key)
    except StoreError:
        return
    assert os.path.normpath(f"/root/{key}") == f"/root/{key}"


@pytest.mark.parametrize(
    "url",
    [
        "s3://",
        "s3://key:secret@bucket/prefix",
        "s3://bucket/prefix?region=eu",
        "file://relative/path",
        "gs://bucket",
        "/just/a/path",
    ],
)
def test_an_address_that_cannot_be_meant_is_refused_with_the_remedy(url: str) -> None:
    with pytest.raises(UsageError) as refused:
        open_store(url)
    assert "secret" not in str(refused.value)


def test_a_store_volume_that_is_not_mounted_is_not_an_empty_store(tmp_path: Path) -> None:
    store = open_store((tmp_path / "mount/project/stack").as_uri())

    for use in (lambda: list(store.list()), lambda: store.put_small("a", b""), store.now):
        with pytest.raises(StoreDenied, match="mount"):
            use()


def test_a_directory_store_writes_bytes_then_name_then_directory(
    store_directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = open_store(store_directory.as_uri())
    store.put_small("a/first", b"")
    trace: list[str] = []
    real = {name: getattr(os, name) for name in ("fsync", "link", "replace")}

    def fsync(descriptor: int) -> None:
        path = Path(f"/proc/self/fd/{descriptor}").readlink()
        trace.append("fsync directory" if path.is_dir() else "fsync file")
        real["fsync"](descriptor)

    monkeypatch.setattr(os, "fsync", fsync)
    for name in ("link", "replace"):
        monkeypatch.setattr(
            os, name, lambda *args, name=name: (trace.append(name), real[name](*args))
        )

    store.put_small("a/created", b"1", if_absent=True)
    store.put_small("a/created", b"2")
    store.put_file("a/data", iter([b"3"]), 1)

    assert trace == [
        *("fsync file", "link", "fsync directory"),
        *("fsync file", "replace", "fsync directory"),
        *("fsync file", "replace", "fsync directory"),
    ]


def test_leftovers_of_killed_uploads_are_invisible_and_swept_by_age(store_directory: Path) -> None:
    store = open_store(store_directory.as_uri())
    store.put_small("a", b"")
    for name, hours in (("old", 5), ("young", 0)):
        leftover = store_directory / ".tmp" / name
        leftover.write_bytes(b"half")
        moment = (datetime.now(UTC) - timedelta(hours=hours)).timestamp()
        os.utime(leftover, (moment, moment))

    assert keys(store) == ["a"]
    assert store.sweep(datetime.now(UTC) - timedelta(hours=1)) == 1
    assert [path.name for path in (store_directory / ".tmp").iterdir()] == ["young"]


@given(st.integers(0, 5 * 1024**4))
def test_parts_are_at_most_nine_thousand_and_at_least_eight_mebibytes(size: int) -> None:
    part = part_size(size)

    assert part >= PART
    assert part % MIB == 0
    assert -(-size // part) <= 9_000


def test_what_cannot_be_deleted_is_named_and_everything_else_is_deleted(
    store_directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = open_store(store_directory.as_uri())
    for key in ("a/1", "a/kept", "b/2"):
        store.put_small(key, b"")
    unlink = Path.unlink

    def refuse(path: Path, missing_ok: bool = False) -> None:
        if path.name == "kept":
            raise OSError(errno.EBUSY, "Device or resource busy", str(path))
        unlink(path, missing_ok)

    monkeypatch.setattr(Path, "unlink", refuse)

    with pytest.raises(NotDeleted, match="busy") as refused:
        store.delete(["a/1", "a/kept", "b/2"])
    assert refused.value.keys == ["a/kept"]
    assert keys(store) == ["a/kept"]


@pytest.mark.parametrize("kind", ["pipe", "socket", "device", "link", "dangling", "bytes"])
def test_what_is_no_regular_file_is_no_object_and_never_opened(
    store_directory: Path, kind: str
) -> None:
    store = open_store(store_directory.as_uri())
    store.put_small("a/real", b"1")
    odd = store_directory / "a/odd"
    if kind == "pipe":
        os.mkfifo(odd)
    elif kind == "socket":
        os.mknod(odd, stat.S_IFSOCK | 0o600)
    elif kind == "device":
        odd.symlink_to("/dev/zero")
    elif kind == "link":
        odd.symlink_to("real")
    elif kind == "dangling":
        odd.symlink_to("nowhere")
    else:
        os.mkfifo(os.fsencode(store_directory / "a") + b"/\xff\n")
        (store_directory / "a" / os.fsdecode(b"\xfe")).write_bytes(b"not UTF-8")

    assert keys(store) == ["a/real"]
    for use in (store.get, store.head, lambda key: list(store.stream(key))):
        with pytest.raises(NotFound):
            use("a/odd")
    if kind != "bytes":
        with pytest.raises(AlreadyExists):
            store.put_small("a/odd", b"1", if_absent=True)


def test_a_loop_of_links_does_not_make_a_listing_endless(store_directory: Path) -> None:
    store = open_store(store_directory.as_uri())
    store.put_small("a/real", b"1")
    (store_directory / "a/loop").symlink_to(".")

    assert keys(store) == ["a/real"]


def test_a_lock_that_another_process_never_frees_ends_at_the_deadline(
    store_directory: Path,
) -> None:
    store = open_store(store_directory.as_uri(), deadline=0.2)
    read = store.put_small("lock", b"free")

    with (store_directory / ".lock").open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        with pytest.raises(DeadlineExceeded):
            store.put_small("lock", b"mine", if_match=read.etag)


def test_without_hard_links_of_two_creations_one_succeeds(
    store_directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "link", refuse)
    store = open_store(store_directory.as_uri())

    with ThreadPoolExecutor(8) as pool:

        def create(number: int) -> bool:
            try:
                store.put_small("claim", str(number).encode(), if_absent=True)
            except AlreadyExists:
                return False
            return True

        assert sum(pool.map(create, range(8))) == 1
    assert keys(store) == ["claim"]


def test_a_directory_that_hangs_ends_every_call_at_the_deadline(
    store_directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a mount does whose server is gone."""
    store = open_store(store_directory.as_uri())
    store.put_small("a", b"1")
    answer = threading.Event()

    def hang(*_: object) -> None:
        answer.wait(60)
        raise OSError(errno.EIO, "Input/output error")

    for name in ("_path", "_check_mounted"):  # what every call begins with
        monkeypatch.setattr(DirectoryStore, name, hang)
    for use in (
        lambda store: store.get("a"),
        lambda store: list(store.stream("a")),
        lambda store: store.head("a"),
        lambda store: list(store.list()),
        lambda store: store.put_small("a", b"", if_absent=True),
        lambda store: store.put_file("a", iter([b""]), 0),
        lambda store: store.delete(["a"]),
        lambda store: store.now(),
    ):
        with pytest.raises(DeadlineExceeded, match=r"0\.1 s"):
            use(store.within(0.1))
    answer.set()
