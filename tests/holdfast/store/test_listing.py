"""A listing is complete, or it is known not to be, whatever a server says of it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit

import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdfast.copies.prune import prune
from holdfast.errors import IncompleteListing, StoreError
from holdfast.retention import Policy
from holdfast.store import open_store
from holdfast.store.base import ObjectInfo
from holdfast.store.listing import CUT_OFF, UNCHECKED, list_completely
from holdfast.store.snapshot import Catalog
from testkit.s3_faults import Fault, FaultProxy, Rule, faults
from testkit.stores import GRACE, OWNER, WORKLOAD, keys

__all__ = ["faults"]

NOW = datetime(2026, 8, 21, tzinfo=UTC)
KEYS = st.sets(st.text("az-/%é ~", min_size=1, max_size=4), max_size=12)


def info(key: str, size: int = 1) -> ObjectInfo:
    return ObjectInfo(key, size, NOW, "etag")


def server(
    names: set[str], *, at_most: int | None = None, start_after: bool = True
) -> Callable[[str | None], Iterator[ObjectInfo]]:
    """A server with these objects, which lists so many at most and perhaps ignores start-after."""

    def objects_after(key: str | None) -> Iterator[ObjectInfo]:
        listed = sorted(names, key=str.encode)
        if key is not None and start_after:
            listed = [name for name in listed if name.encode() > key.encode()]
        return map(info, listed[:at_most])

    return objects_after


@given(KEYS)
def test_a_listing_of_an_honest_server_is_complete_and_sorted_by_bytes(names: set[str]) -> None:
    found, problem = list_completely(server(names))

    assert [object_.key for object_ in found] == sorted(names, key=str.encode)
    assert problem == ""


@given(KEYS, st.integers(1, 12))
def test_a_listing_that_was_cut_off_anywhere_is_completed_and_known(
    names: set[str], at_most: int
) -> None:
    found, problem = list_completely(server(names, at_most=at_most))

    assert {object_.key for object_ in found} == names
    assert problem == (CUT_OFF if len(names) > at_most else "")


@given(KEYS.filter(len))
def test_a_listing_that_cannot_be_checked_is_not_taken_for_complete(names: set[str]) -> None:
    _, problem = list_completely(server(names, start_after=False))

    assert problem == UNCHECKED


@given(KEYS.filter(len), st.text("az-/", min_size=1, max_size=4))
def test_an_object_that_comes_while_we_list_does_not_cast_doubt(names: set[str], new: str) -> None:
    asked: list[str | None] = []

    def objects_after(key: str | None) -> Iterator[ObjectInfo]:
        asked.append(key)
        yield from list(server(names if len(asked) == 1 else names | {new})(key))

    _, problem = list_completely(objects_after)

    assert problem == ""


def test_a_server_that_lists_the_same_page_for_ever_is_refused() -> None:
    def objects_after(key: str | None) -> Iterator[ObjectInfo]:
        while True:
            yield from map(info, "abc")

    with pytest.raises(StoreError, match="lists 'a' twice"):
        list_completely(objects_after)


def test_folder_markers_cast_no_doubt() -> None:
    def objects_after(key: str | None) -> Iterator[ObjectInfo]:
        names = ["a/", "a/b-c", "a/b/", "a/b/d", "a/z/"]  # obstore takes the last slash away
        return (
            info(name.rstrip("/"), size=0 if name.endswith("/") else 1)
            for name in names
            if key is None or name.encode() > key.encode()
        )

    found, problem = list_completely(objects_after)

    assert [object_.key for object_ in found] == ["a", "a/b", "a/b-c", "a/b/d", "a/z"]
    assert problem == ""


@pytest.mark.s3
@pytest.mark.parametrize("fault", [Fault.CUT_LISTING, Fault.ENDED_LISTING])
def test_s3_lists_everything_also_through_a_server_that_cuts_listings_off(
    s3_url: str, faults: FaultProxy, fault: Fault, caplog: pytest.LogCaptureFixture
) -> None:
    store = open_store(s3_url, deadline=60)
    names = ["a/1", "a/2", "a/3", "a/4", "a/5", "b"]
    for name in names:
        store.put_small(name, b"")
    assert keys(store) == names
    assert store.listing_problem == ""

    faults.rules = [Rule(fault, "GET", "list-type=2")]

    assert keys(store, "a") == names[:-1]
    assert keys(store.within(30)) == names
    assert store.listing_problem == CUT_OFF
    assert len(caplog.records) == 1


@pytest.mark.s3
@pytest.mark.parametrize("fault", [Fault.CUT_LISTING, Fault.ENDED_LISTING])
def test_nothing_is_deleted_where_a_listing_was_cut_off(
    s3_url: str, faults: FaultProxy, fault: Fault
) -> None:
    store = open_store(s3_url, deadline=60)
    catalog = Catalog(store, OWNER)
    catalog.claim()
    for number in range(4):
        store.put_small(f"data/{WORKLOAD}/r/gen-0001/s/{number:064x}/weights", b"")
    before = keys(store)
    faults.rules = [Rule(fault, "GET", "list-type=2")]

    with pytest.raises(IncompleteListing, match="nothing is deleted"):
        prune(catalog, WORKLOAD, Policy(), grace=GRACE, patience=0)

    faults.rules = []
    assert set(before) <= set(keys(open_store(s3_url)))


@pytest.fixture
def keys_of_server(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """The keys that a server lists which holds whatever a test puts there, legal or not."""
    held: list[str] = []

    class Server(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            query = parse_qs(urlsplit(self.path).query)
            prefix, after = query.get("prefix", [""])[0], query.get("start-after", [""])[0]
            listed = [key for key in sorted(held) if key.startswith(prefix) and key > after]
            entries = "".join(
                f"<Contents><Key>{key}</Key><Size>1</Size><ETag>x</ETag>"
                "<LastModified>2026-08-21T00:00:00Z</LastModified></Contents>"
                for key in listed
            )
            body = f"<ListBucketResult>{entries}</ListBucketResult>".encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Server)
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    for name, value in {
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{server.server_address[1]}",
        "AWS_ACCESS_KEY_ID": "key",
        "AWS_SECRET_ACCESS_KEY": "secret",
        "AWS_REGION": "us-east-1",
    }.items():
        monkeypatch.setenv(name, value)
    yield held
    server.shutdown()
    server.server_close()


@pytest.mark.parametrize(
    "odd", ["p/s/w/", "p/s/w//", "p/s/w//x", "p/s/w///x", "p/s/w/./x", "p/s/w/../x", "p/s/w/\t"]
)
def test_a_key_that_s3_allows_and_our_client_does_not_hides_no_other(
    keys_of_server: list[str], odd: str
) -> None:
    keys_of_server += ["p/s/w/1", "p/s/w/2", "p/s/wx/3", odd]

    assert keys(open_store("s3://b/p", deadline=20), "s/w") == ["s/w/1", "s/w/2"]


def test_where_it_may_hide_data_the_listing_fails_and_names_it(keys_of_server: list[str]) -> None:
    keys_of_server += ["p/data/w/r/1", "p/data/w/r//x"]

    with pytest.raises(StoreError, match="'p/data/w/r//x': delete it"):
        keys(open_store("s3://b/p", deadline=20), "data/w")
