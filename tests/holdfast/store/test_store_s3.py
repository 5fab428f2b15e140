"""What only S3 can do to us: lost answers, silence, refusals, and memory."""

import json
import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from holdfast.errors import (
    AlreadyExists,
    DeadlineExceeded,
    NotFound,
    StoreDenied,
    StoreUnreachable,
    UsageError,
)
from holdfast.store import open_store
from holdfast.store.s3_client import connect
from holdfast.store.s3_parts import PART
from testkit.s3 import KEY, SECRET, Proxy, S3Server, free_port, self_signed, serve

pytestmark = pytest.mark.s3


def test_a_lost_answer_to_a_creation_is_a_success(
    s3_url: str, proxy: Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.endpoint)
    store = open_store(s3_url, deadline=60)
    proxy.lose_answer_to = b"PUT"

    store.put_small("claim", b"mine", if_absent=True)

    assert len(proxy.lost) == 1
    assert store.get("claim") == b"mine"
    with pytest.raises(AlreadyExists):
        store.put_small("claim", b"another's", if_absent=True)


def test_a_lost_answer_does_not_hide_that_another_was_first(
    s3_url: str, proxy: Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    open_store(s3_url).put_small("claim", b"another's")
    monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.endpoint)
    store = open_store(s3_url, deadline=60)
    proxy.lose_answer_to = b"PUT"

    with pytest.raises(AlreadyExists):
        store.put_small("claim", b"mine", if_absent=True)


def test_a_store_that_never_answers_ends_at_the_deadline(
    s3_url: str, proxy: Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    proxy.silent = True
    monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.endpoint)

    for use in (
        lambda store: store.get("a"),
        lambda store: list(store.list()),
        lambda store: list(store._stream("a")),
        lambda store: list(store._stream_ahead("a")),
        lambda store: store.put_small("a", b"", if_absent=True),
        lambda store: store.put_file("a", iter([b""]), 0),
        lambda store: store.delete(["a"]),
    ):
        with pytest.raises(DeadlineExceeded, match=r"0\.2 s"):
            use(open_store(s3_url, deadline=0.2))


def test_an_upload_that_was_given_up_on_reads_no_further(
    s3_url: str, proxy: Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    proxy.silent = True
    monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.endpoint)

    def endless() -> Iterator[bytes]:
        while True:
            yield b"x" * (1 << 20)

    with pytest.raises(DeadlineExceeded):
        open_store(s3_url, deadline=0.3).put_file("a", endless(), 1 << 40)
    proxy.silent = False
    monkeypatch.undo()


def test_a_port_where_nothing_listens_is_called_unreachable(
    s3_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{free_port()}")

    with pytest.raises(StoreUnreachable, match="check the network"):
        open_store(s3_url, deadline=20).get("a")


@pytest.mark.parametrize("write", [False, True])
def test_a_missing_bucket_is_not_a_missing_object(s3_url: str, write: bool) -> None:
    store = open_store("s3://no-such-bucket/prefix")

    with pytest.raises(StoreDenied, match="bucket 'no-such-bucket' does not exist"):
        store.put_small("a", b"") if write else store.get("a")
    with pytest.raises(StoreDenied, match="does not exist"):
        list(store.list())
    with pytest.raises(NotFound):
        open_store(s3_url).get("a")


@pytest.mark.parametrize("name", ["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"])
def test_wrong_credentials_are_denied_and_not_repeated_in_the_message(
    s3_url: str, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, "wrong-and-private")

    for use in (lambda s: s.get("a"), lambda s: list(s.list()), lambda s: s.put_small("a", b"")):
        with pytest.raises(StoreDenied) as denied:
            use(open_store(s3_url))
        assert "credentials" in str(denied.value)
        assert "private" not in str(denied.value)


def test_plain_http_is_for_this_machine_only(s3_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://storage.example.com")

    with pytest.raises(UsageError, match="not encrypted"):
        open_store(s3_url)
    monkeypatch.setenv("AWS_ALLOW_HTTP", "true")
    open_store(s3_url)


def test_neither_an_upload_nor_a_download_is_held_in_memory(
    s3_url: str, s3_server: S3Server, run_python: Callable, tmp_path: Path
) -> None:
    size, memory = 192 << 20, 48 << 20
    file = tmp_path / "file"
    with file.open("wb") as out:
        out.truncate(size)
    code = """
import os, sys
from pathlib import Path
from holdfast.store import open_store
def peak():
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))
def pieces(path):
    with open(path, "rb") as file:
        while piece := file.read(1 << 20):
            yield piece
store = open_store(sys.argv[1], memory=int(sys.argv[3]))
store.put_small("warm", b"up")
before = peak()
store.put_file("big", pieces(sys.argv[2]), int(sys.argv[4]))
for stream in (store._stream, store._stream_ahead):
    got = sum(len(piece) for piece in stream("big"))
    assert got == int(sys.argv[4]), got
print(peak() - before, flush=True)
os._exit(0)  # as the command ends: a thread of obstore may still want the interpreter
"""
    done = run_python(code, s3_url, file, memory, size)

    assert done.returncode == 0, done.stderr
    assert int(done.stdout) < 2 * memory, f"grew by {int(done.stdout) >> 20} MiB"


def test_a_pod_without_keys_uses_its_own_identity(
    s3_url: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """As EKS Pod Identity has it: an agent on loopback, and a token in a file."""
    asked: list[str] = []

    class Agent(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.headers["Authorization"])
            until = (datetime.now(UTC) + timedelta(hours=1)).strftime("%Y-%m-%dT%H:%M:%SZ")
            body = {
                "AccessKeyId": KEY,
                "SecretAccessKey": SECRET,
                "Token": "",
                "Expiration": until,
            }
            self.send_response(200)
            self.end_headers()
            self.wfile.write(json.dumps(body).encode())

        def log_message(self, format: str, *args: object) -> None:
            pass

    agent = ThreadingHTTPServer(("127.0.0.1", 0), Agent)
    threading.Thread(target=agent.serve_forever, daemon=True).start()
    (tmp_path / "token").write_text("a-pods-token")
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    port = agent.server_address[1]
    monkeypatch.setenv("AWS_CONTAINER_CREDENTIALS_FULL_URI", f"http://127.0.0.1:{port}/v1")
    monkeypatch.setenv("AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE", str(tmp_path / "token"))

    open_store(s3_url).put_small("a", b"1")

    assert asked == ["a-pods-token"]
    agent.shutdown()


@pytest.mark.parametrize(
    ("endpoint", "unsigned"),
    [
        ("https://storage.example.com", True),
        ("http://127.0.0.1:9000", True),
        ("http://localhost:9000", True),
        ("http://storage.example.com", False),
    ],
)
def test_a_payload_is_signed_only_where_the_network_could_change_it(
    endpoint: str, unsigned: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in {"ENDPOINT_URL": endpoint, "ALLOW_HTTP": "true", "REGION": "x"}.items():
        monkeypatch.setenv(f"AWS_{name}", value)

    config = connect("bucket", "prefix", 1, 0, 0, 1).config

    assert config.get("unsigned_payload", "false") == ("true" if unsigned else "false")
    assert config.get("checksum_algorithm") == ("crc64nvme" if unsigned else None)


def test_over_https_a_checksum_replaces_the_signature_of_the_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = self_signed(tmp_path)
    with serve(tmp_path, files) as server:
        for name, value in server.environment().items():
            monkeypatch.setenv(name, value)
        url = f"s3://{server.bucket()}/prefix"
        with pytest.raises(StoreUnreachable):
            open_store(url, deadline=20).get("a")  # the certificate is unknown
        monkeypatch.setenv("AWS_CA_BUNDLE", str(files[0]))
        store = open_store(url, deadline=60)

        store.put_small("a", b"1", if_absent=True)
        store.put_file("big", iter([b"x" * PART] * 2), 2 * PART)

        assert sum(len(piece) for piece in store.stream("big")) == 2 * PART
        head = server.client().head_object(
            Bucket=url.split("/")[2], Key="prefix/big", ChecksumMode="ENABLED"
        )
        assert head["ChecksumCRC64NVME"]
