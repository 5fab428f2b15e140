"""A proxy in front of the S3 server that understands requests, and breaks those a test chooses."""

from __future__ import annotations

import re
import socket
import threading
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from enum import StrEnum
from http.client import HTTPConnection, HTTPResponse
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from testkit.s3 import S3Server

PIECE = 64 * 1024


class Fault(StrEnum):
    BUSY = "503 instead of an answer"
    EXPIRED = "the credentials are said to have expired"
    FORBIDDEN = "403, which S3 also returns for a missing key where listing is not allowed"
    ELSEWHERE = "301: the bucket is in another region"
    LOST = "the request is carried out, and its answer is lost"
    CUT_REQUEST = "the connection breaks in the middle of the request's body"
    CUT_ANSWER = "the connection breaks in the middle of the answer's body"
    FLIPPED = "one bit of the answer's body is wrong"
    SHORT = "the answer's body lacks its last byte, and its length says so"
    CUT_LISTING = "a listing ends after two names, and there is no token for the rest"
    ENDED_LISTING = "a listing ends after two names, and says that it is complete"
    REFUSED_DELETES = "objects whose key ends in 'kept' are not deleted, the others are"
    SKEWED = "the clocks differ"
    NO_CHECKSUMS = "a header with a checksum is not understood"
    SLOW = "the answer's body comes in small pieces, with pauses"


#: Answers that the proxy gives itself: the request never reaches the server.
REFUSALS = {
    Fault.BUSY: (503, "SlowDown"),
    Fault.EXPIRED: (400, "ExpiredToken"),
    Fault.FORBIDDEN: (403, "AccessDenied"),
    Fault.ELSEWHERE: (301, "PermanentRedirect"),
    Fault.SKEWED: (403, "RequestTimeTooSkewed"),
    Fault.NO_CHECKSUMS: (501, "NotImplemented"),
}


@dataclass
class Rule:
    """Break ``times`` requests that begin with ``method`` and have ``part`` in their target."""

    fault: Fault
    method: str = ""
    part: str = ""
    times: int = 1_000_000


@dataclass
class FaultProxy:
    """``rules`` may change at any time; ``done`` lists each injected fault and its request."""

    server: S3Server
    rules: list[Rule] = field(default_factory=list)
    done: list[tuple[Fault, str]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._lock = threading.Lock()
        handler = type("Handler", (_Handler,), {"proxy": self})
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self._server.daemon_threads = True
        self.endpoint = f"http://127.0.0.1:{self._server.server_address[1]}"
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()

    def fault(self, method: str, target: str) -> Fault | None:
        with self._lock:
            for rule in self.rules:
                if rule.times and method.startswith(rule.method) and rule.part in target:
                    rule.times -= 1
                    self.done.append((rule.fault, f"{method} {target}"))
                    return rule.fault
        return None


class _Handler(BaseHTTPRequestHandler):
    proxy: FaultProxy
    protocol_version = "HTTP/1.1"

    def _forward(self) -> None:
        self.close_connection = True
        fault = self.proxy.fault(self.command, self.path)
        size = int(self.headers.get("Content-Length") or 0)
        if fault in REFUSALS:
            self._discard(size)
            self._refuse(*REFUSALS[fault])
            return
        if fault is Fault.REFUSED_DELETES:
            self._delete_some(self.rfile.read(size))
            return
        server = HTTPConnection(self.proxy.server.endpoint.removeprefix("http://"), timeout=60)
        with suppress(OSError):
            server.putrequest(self.command, self.path, skip_host=True, skip_accept_encoding=True)
            for name, value in self.headers.items():
                server.putheader(name, value)
            server.endheaders()
            for piece in self._body(size // 2 if fault is Fault.CUT_REQUEST else size):
                server.send(piece)
            if fault is Fault.CUT_REQUEST:
                self._hang_up()
            else:
                self._answer(server.getresponse(), fault)
        server.close()

    do_GET = do_PUT = do_POST = do_HEAD = do_DELETE = _forward  # noqa: N815

    def _answer(self, answer: HTTPResponse, fault: Fault | None) -> None:
        body = b"" if self.command == "HEAD" else answer.read()
        if fault is Fault.LOST:
            self._hang_up()
            return
        if fault is Fault.FLIPPED:
            body = body[:-1] + bytes([body[-1] ^ 1])
        if fault is Fault.SHORT:
            body = body[:-1]
        if fault in (Fault.CUT_LISTING, Fault.ENDED_LISTING):
            body = _cut(body, said=fault is Fault.CUT_LISTING)
        self.send_response_only(answer.status, answer.reason)
        for name, value in answer.getheaders():
            if name.lower() not in ("content-length", "connection", "transfer-encoding"):
                self.send_header(name, value)
        length = answer.getheader("Content-Length", "0") if self.command == "HEAD" else len(body)
        self.send_header("Content-Length", str(length))
        self.send_header("Connection", "close")
        self.end_headers()
        if fault is Fault.CUT_ANSWER:
            self.wfile.write(body[: len(body) // 2])
            self._hang_up()
        elif fault is Fault.SLOW:
            pause = threading.Event()
            for at in range(0, len(body), max(1, len(body) // 20)):
                self.wfile.write(body[at : at + max(1, len(body) // 20)])
                self.wfile.flush()
                pause.wait(0.01)
        else:
            self.wfile.write(body)

    def _delete_some(self, body: bytes) -> None:
        """Answer to a request that deletes many: some of its keys are refused."""
        said = b""
        for key in re.findall(rb"<Key>(.*?)</Key>", body):
            if key.endswith(b"kept"):
                error = b"<Code>AccessDenied</Code><Message>Access Denied</Message>"
                said += b"<Error><Key>" + key + b"</Key>" + error + b"</Error>"
            else:
                bucket = self.path.strip("/").split("?")[0].split("/")[0]
                self.proxy.server.client().delete_object(Bucket=bucket, Key=key.decode())
                said += b"<Deleted><Key>" + key + b"</Key></Deleted>"
        self.send_response_only(200)
        answer = b"<DeleteResult>" + said + b"</DeleteResult>"
        self.send_header("Content-Length", str(len(answer)))
        self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(answer)

    def _refuse(self, status: int, code: str) -> None:
        body = f"<Error><Code>{code}</Code><Message>no</Message></Error>".encode()
        self.send_response_only(status)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Content-Type", "application/xml")
        self.send_header("Connection", "close")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def _body(self, size: int) -> Iterator[bytes]:
        while size and (piece := self.rfile.read(min(PIECE, size))):
            size -= len(piece)
            yield piece

    def _discard(self, size: int) -> None:
        for _ in self._body(size):
            pass

    def _hang_up(self) -> None:
        self.wfile.flush()
        self.connection.shutdown(socket.SHUT_RDWR)

    def log_message(self, format: str, *args: object) -> None:
        pass


def _cut(listing: bytes, *, said: bool) -> bytes:
    """The first two objects of a page, which says or does not say that there are more."""
    for more in re.findall(rb"<Contents>.*?</Contents>", listing, re.DOTALL)[2:]:
        listing = listing.replace(more, b"", 1)
    listing = re.sub(rb"<NextContinuationToken>.*?</NextContinuationToken>", b"", listing)
    truncated = b"<IsTruncated>true<" if said else b"<IsTruncated>false<"
    return re.sub(rb"<IsTruncated>\w+<", truncated, listing)


@pytest.fixture
def faults(
    s3_server: S3Server, s3_url: str, monkeypatch: pytest.MonkeyPatch
) -> Iterator[FaultProxy]:
    """A proxy that the environment points to from now on; without rules it breaks nothing."""
    made = FaultProxy(s3_server)
    monkeypatch.setenv("AWS_ENDPOINT_URL", made.endpoint)
    yield made
    made.close()
