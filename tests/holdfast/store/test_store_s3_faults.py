"""Push and pull through a network and a store that misbehave: right in the end, or refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from holdfast.bundle import Bundle, verify
from holdfast.copies.pull import pull
from holdfast.copies.push import push
from holdfast.copies.verify_store import verify_snapshot
from holdfast.errors import (
    DeadlineExceeded,
    HoldfastError,
    Mismatch,
    NotDeleted,
    NotFound,
    StoreDenied,
    StoreUnreachable,
)
from holdfast.store import open_store
from holdfast.store.snapshot import Catalog, Snapshot
from holdfast.volume import Volume
from testkit.s3 import S3Server
from testkit.s3_faults import Fault, FaultProxy, Rule, faults
from testkit.stores import OWNER, WORKLOAD, keys

__all__ = ["faults"]
pytestmark = pytest.mark.s3

LARGE = b"0123456789abcdef" * (9 << 16)  # 9 MiB: two parts


@pytest.fixture
def bundle(save: Callable[..., Bundle]) -> Bundle:
    return save(100, large=LARGE)


@pytest.fixture
def remote(s3_url: str, faults: FaultProxy) -> Catalog:
    return Catalog(open_store(s3_url, deadline=60), OWNER)


@pytest.fixture(params=[False, True], ids=["over http", "as over TLS"])
def both_ways(remote: Catalog, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest):
    """Downloads by blocking calls, then by asynchronous ones."""
    monkeypatch.setattr(remote.store, "_asynchronous", request.param)


@pytest.fixture
def pushed(volume: Volume, bundle: Bundle, remote: Catalog) -> Snapshot:
    push(volume, remote, WORKLOAD)
    return remote.snapshots(WORKLOAD)[0]


def assert_one_whole_copy(remote: Catalog, bundle: Bundle) -> None:
    (snapshot,) = remote.snapshots(WORKLOAD)
    assert verify_snapshot(remote, snapshot, record=False).ok
    assert len(keys(remote.store, "data")) == len(bundle.manifest.files)
    assert len(keys(remote.store, "manifests")) == 1


@pytest.mark.parametrize(
    "rule",
    [
        Rule(Fault.BUSY, times=3),
        Rule(Fault.BUSY, "PUT", "partNumber=2", times=2),
        Rule(Fault.CUT_REQUEST, "PUT", "partNumber=2", times=1),
        Rule(Fault.CUT_REQUEST, "PUT", "model.bin", times=1),
        Rule(Fault.LOST, "PUT", "partNumber=1", times=1),
        Rule(Fault.LOST, "POST", "uploadId=", times=1),
        Rule(Fault.LOST, "PUT", "/snapshots/", times=1),
        Rule(Fault.LOST, "PUT", "/sequences/", times=1),
        Rule(Fault.SLOW, "GET"),
    ],
    ids=lambda rule: f"{rule.fault.name} {rule.method} {rule.part}".lower().replace("/", ""),
)
def test_a_passing_fault_is_retried_and_leaves_one_complete_copy(
    volume: Volume, bundle: Bundle, remote: Catalog, faults: FaultProxy, rule: Rule
) -> None:
    """Shown to fail: with max_retries=0 in `S3._client`, and, for a lost answer to a creation,
    without the reading back in `S3._create`."""
    faults.rules = [Rule(rule.fault, rule.method, rule.part, rule.times)]

    push(volume, remote, WORKLOAD, patience=0)

    assert faults.done
    faults.rules = []
    assert_one_whole_copy(remote, bundle)


@pytest.mark.parametrize(
    ("fault", "part", "error"),
    [
        (Fault.BUSY, "", (StoreUnreachable, DeadlineExceeded)),
        (Fault.BUSY, "partNumber", (StoreUnreachable, DeadlineExceeded)),
        (Fault.CUT_REQUEST, "partNumber", (StoreUnreachable, DeadlineExceeded)),
        (Fault.EXPIRED, "", StoreDenied),
        (Fault.EXPIRED, "uploadId", StoreDenied),
    ],
    ids=lambda value: getattr(value, "name", None),
)
def test_a_fault_that_stays_ends_the_push_in_time_and_nothing_is_marked_complete(
    volume: Volume,
    bundle: Bundle,
    s3_url: str,
    faults: FaultProxy,
    fault: Fault,
    part: str,
    error: type[HoldfastError] | tuple[type[HoldfastError], ...],
) -> None:
    """Shown to fail: with a manifest that is put before the data files in `_Push._copy`."""
    seconds = 60 if fault is Fault.EXPIRED else 1.5  # a refusal is not waited for
    hurried = Catalog(open_store(s3_url, deadline=seconds), OWNER)
    faults.rules = [Rule(fault, "", part)]

    with pytest.raises(error) as caught:
        push(volume, hurried, WORKLOAD, patience=0)

    assert "\n" not in str(caught.value)
    if fault is Fault.EXPIRED:
        assert "ExpiredToken: check the credentials" in str(caught.value)
    faults.rules = []
    later = Catalog(open_store(s3_url), OWNER)
    assert keys(later.store, "manifests") == keys(later.store, "snapshots") == []
    push(volume, later, WORKLOAD, patience=0)
    assert_one_whole_copy(later, bundle)


@pytest.mark.usefixtures("both_ways")
@pytest.mark.parametrize("part", ["large", "model.bin", "/manifests/", "/snapshots/"])
@pytest.mark.parametrize("fault", [Fault.FLIPPED, Fault.SHORT])
def test_wrong_bytes_on_the_way_down_never_become_a_bundle(
    pushed: Snapshot, remote: Catalog, faults: FaultProxy, tmp_path: Path, fault: Fault, part: str
) -> None:
    """Shown to fail: without the comparison at the end of `read_remote`, and without the one of the
    digest in `Catalog.manifest`."""
    faults.rules = [Rule(fault, "GET", part)]
    fresh = Catalog(open_store(remote.store.url), OWNER)

    if part == "/snapshots/":
        assert list(fresh.listing(WORKLOAD).damaged) == [pushed.id]
        return
    with pytest.raises(Mismatch) as caught:
        pull(pushed, fresh, tmp_path / "new")

    assert pushed.bundles[0].name in str(caught.value)
    if not part.startswith("/"):
        assert part in str(caught.value)
    assert not list((tmp_path / "new").glob("step-*"))
    faults.rules = []
    assert verify(pull(pushed, fresh, tmp_path / "new")[0].path)
    assert not list((tmp_path / "new").glob(".pull-*"))


@pytest.mark.usefixtures("both_ways")
def test_a_download_that_breaks_in_the_middle_goes_on_or_is_refused_and_the_next_succeeds(
    pushed: Snapshot, remote: Catalog, faults: FaultProxy, tmp_path: Path
) -> None:
    """Shown to fail: with a pull that leaves its draft where it is when it fails."""
    faults.rules = [Rule(Fault.CUT_ANSWER, "GET", "large")]
    hurried = Catalog(open_store(remote.store.url, deadline=1.5), OWNER)

    with pytest.raises((StoreUnreachable, DeadlineExceeded, Mismatch)):
        pull(pushed, hurried, tmp_path / "new")

    assert [path.name for path in (tmp_path / "new").iterdir()] == [".lock"]
    faults.rules = [Rule(Fault.CUT_ANSWER, "GET", "large", times=1)]
    assert verify(pull(pushed, remote, tmp_path / "new")[0].path)


@pytest.mark.usefixtures("both_ways")
@pytest.mark.parametrize("kind", ["data", "manifests", "snapshots"])
def test_an_object_that_was_changed_behind_our_back_is_found_and_never_restored(
    pushed: Snapshot, remote: Catalog, s3_server: S3Server, tmp_path: Path, kind: str
) -> None:
    """Of equal size, so that only reading finds it. Shown to fail: as the wrong bytes above."""
    bucket, _, prefix = remote.store.url.removeprefix("s3://").partition("/")
    key = keys(remote.store, kind)[0]
    was = remote.store.get(key)
    s3_server.client().put_object(Bucket=bucket, Key=f"{prefix}/{key}", Body=was[:-1] + b"\0")
    fresh = Catalog(open_store(remote.store.url), OWNER)

    if kind == "snapshots":
        assert list(fresh.listing(WORKLOAD).damaged) == [pushed.id]
    else:
        assert not verify_snapshot(fresh, pushed, record=False).ok
        with pytest.raises(Mismatch):
            pull(pushed, fresh, tmp_path / "new")
    assert not list(tmp_path.glob("new/step-*"))


def test_an_upload_that_a_killed_push_left_unfinished_is_no_object(
    volume: Volume, bundle: Bundle, remote: Catalog, s3_server: S3Server
) -> None:
    """Shown to fail: with a `put_file` that writes parts as objects of their own."""
    path = f"data/{WORKLOAD}/run-a/gen-0001/{bundle.name}/{bundle.manifest.digest}/large"
    bucket, _, prefix = remote.store.url.removeprefix("s3://").partition("/")
    client = s3_server.client()
    where = {"Bucket": bucket, "Key": f"{prefix}/{path}"}
    begun = client.create_multipart_upload(**where)
    client.upload_part(**where, UploadId=begun["UploadId"], PartNumber=1, Body=LARGE[: 8 << 20])

    assert keys(remote.store) == []
    push(volume, remote, WORKLOAD)

    assert_one_whole_copy(remote, bundle)


READS = [
    lambda store, key: store.get(key),
    lambda store, key: store.head(key),
    lambda store, key: list(store.stream(key)),
]


@pytest.mark.parametrize("read", READS, ids=["get", "head", "stream"])
@pytest.mark.parametrize("key", ["k", "top.json", "data/gpt/b"])
def test_a_forbidden_read_of_what_the_listing_lacks_is_a_missing_key(
    s3_url: str, faults: FaultProxy, read: Callable, key: str
) -> None:
    """Shown to fail: without `S3._is_absent`."""
    store = open_store(s3_url, deadline=60)
    for other in ("j", "k2", "data/gpt/a", "data/gpt/b.json", "data/gpt/b/c", "data/gpu"):
        store.put_small(other, b"")
    faults.rules = [Rule(Fault.FORBIDDEN, "GET", f"/{key}"), Rule(Fault.FORBIDDEN, "HEAD")]

    with pytest.raises(NotFound):
        read(store, key)
    assert faults.done


@pytest.mark.parametrize("read", READS, ids=["get", "head", "stream"])
def test_a_forbidden_read_of_what_is_there_names_the_rights_to_give(
    s3_url: str, faults: FaultProxy, read: Callable
) -> None:
    store = open_store(s3_url, deadline=60)
    store.put_small("data/gpt/b", b"private")
    faults.rules = [Rule(Fault.FORBIDDEN, "GET", "/data/gpt/b"), Rule(Fault.FORBIDDEN, "HEAD")]

    with pytest.raises(StoreDenied, match=r"403 Forbidden.*s3:ListBucket for s3:prefix"):
        read(store, "data/gpt/b")


def test_where_listing_is_forbidden_too_nothing_is_called_missing(
    s3_url: str, faults: FaultProxy
) -> None:
    store = open_store(s3_url, deadline=60)
    faults.rules = [Rule(Fault.FORBIDDEN)]

    with pytest.raises(StoreDenied):
        store.get("data/gpt/b")


def test_a_bucket_in_another_region_is_named_as_such(s3_url: str, faults: FaultProxy) -> None:
    store = open_store(s3_url, deadline=60)
    faults.rules = [Rule(Fault.ELSEWHERE)]

    for use in (lambda: store.get("a"), lambda: list(store.list()), lambda: store.delete(["a"])):
        with pytest.raises(StoreDenied, match="is in another region: set AWS_REGION"):
            use()


@pytest.mark.parametrize("bulk", [True, False])
def test_objects_that_s3_refuses_to_delete_are_named_and_all_others_are_deleted(
    s3_url: str, faults: FaultProxy, monkeypatch: pytest.MonkeyPatch, bulk: bool
) -> None:
    if not bulk:
        monkeypatch.setenv("AWS_DISABLE_BULK_DELETE", "true")
    store = open_store(s3_url, deadline=60)
    names = ["a/1", "a/2.kept", "a/3", "b/4.kept", "b/5"]
    for name in names:
        store.put_small(name, b"")
    faults.rules = [Rule(Fault.REFUSED_DELETES, "POST", "delete")]
    faults.rules += [Rule(Fault.FORBIDDEN, "DELETE", "kept")]

    with pytest.raises(NotDeleted, match="AccessDenied") as refused:
        store.delete(names)

    assert refused.value.keys == ["a/2.kept", "b/4.kept"]
    assert [info.key for info in store.list()] == ["a/2.kept", "b/4.kept"]
