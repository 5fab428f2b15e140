"""A proxy in front of the S3 server, as a pod of the cluster, that makes it slow, failing or stuck.

    python3 s3_proxy.py HOST:PORT slow BYTES_PER_SECOND
    python3 s3_proxy.py HOST:PORT failing   each request fails twice: refused, then cut off
    python3 s3_proxy.py HOST:PORT refusing  every request is refused
    python3 s3_proxy.py HOST:PORT stuck BYTES   lets so many bytes of uploads pass, then holds on

It needs the standard library alone: the test puts it into a ConfigMap (tests/e2e/store.py). Each
fault is one line of its log.
"""

import socket
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

PORT = 7070
PIECE = 16 * 1024


class Plan:
    """What happens to the requests; all connections share it."""

    def __init__(self, server: str, mode: str, number: int) -> None:
        self.server, self.mode, self.number = server, mode, number
        self._lock = threading.Lock()
        self._tries = Counter[str]()
        self._passed = 0
        self._free_at = time.monotonic()

    def fault(self, request: str) -> str:
        """`refused`, `cut`, or nothing for a request that is answered."""
        with self._lock:
            self._tries[request] += 1
            tries = self._tries[request]
        if self.mode == "refusing":
            return "refused"
        return {1: "refused", 2: "cut"}.get(tries % 3, "") if self.mode == "failing" else ""

    def hold(self, size: int, *, upload: bool) -> None:
        """Wait as long as these bytes take; for ever once enough of an upload has passed."""
        with self._lock:
            self._passed += size if upload else 0
            stuck = self.mode == "stuck" and upload and self._passed > self.number
            self._free_at = max(self._free_at, time.monotonic())
            self._free_at += size / self.number if self.mode == "slow" else 0
            pause = self._free_at - time.monotonic()
        if stuck:
            say(f"stuck after {self._passed} bytes")
            threading.Event().wait()
        if pause > 0:
            time.sleep(pause)


class Handler(BaseHTTPRequestHandler):
    """One request, then the connection is closed."""

    plan: Plan
    protocol_version = "HTTP/1.1"

    def forward(self) -> None:
        self.close_connection = True
        size = int(self.headers.get("Content-Length") or 0)
        fault = self.plan.fault(f"{self.command} {self.path}")
        if fault:
            say(f"{fault}: {self.command} {self.path.partition('?')[0]}")
        if fault == "refused":
            for _ in self.pieces(size):
                pass
            body = b"<Error><Code>SlowDown</Code><Message>a test</Message></Error>"
            self.answer(503, [("Content-Type", "application/xml")], body)
            return
        server = HTTPConnection(self.plan.server, timeout=600)
        with suppress(OSError):
            server.putrequest(self.command, self.path, skip_host=True, skip_accept_encoding=True)
            for name, value in self.headers.items():
                server.putheader(name, value)
            server.endheaders()
            for piece in self.pieces(size // 2 if fault == "cut" else size):
                self.plan.hold(len(piece), upload=True)
                server.send(piece)
            if fault == "cut" and size:
                self.connection.shutdown(socket.SHUT_RDWR)
            else:
                found = server.getresponse()
                body = b"" if self.command == "HEAD" else found.read()
                self.answer(found.status, found.getheaders(), body, cut=fault == "cut")
        server.close()

    do_GET = do_PUT = do_POST = do_HEAD = do_DELETE = forward  # noqa: N815

    def answer(
        self, status: int, headers: list[tuple[str, str]], body: bytes, *, cut: bool = False
    ) -> None:
        self.send_response_only(status)
        length = str(len(body))
        for name, value in headers:
            if name.lower() == "content-length" and self.command == "HEAD":
                length = value
            if name.lower() not in ("content-length", "connection", "transfer-encoding"):
                self.send_header(name, value)
        self.send_header("Content-Length", length)
        self.send_header("Connection", "close")
        self.end_headers()
        for at in range(0, len(body) // 2 if cut else len(body), PIECE):
            piece = body[at : at + PIECE]
            self.plan.hold(len(piece), upload=False)
            self.wfile.write(piece)
        self.wfile.flush()
        if cut:
            self.connection.shutdown(socket.SHUT_RDWR)

    def pieces(self, size: int) -> Iterator[bytes]:
        while size and (piece := self.rfile.read(min(PIECE, size))):
            size -= len(piece)
            yield piece

    def log_message(self, format: str, *args: object) -> None:
        pass


def say(line: str) -> None:
    print(line, flush=True)


if __name__ == "__main__":
    server, mode = sys.argv[1:3]
    Handler.plan = Plan(server, mode, int(sys.argv[3]) if sys.argv[3:] else 0)
    ThreadingHTTPServer.daemon_threads = True
    ThreadingHTTPServer(("", PORT), Handler).serve_forever()
