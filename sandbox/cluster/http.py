"""HTTP as an API server of Kubernetes speaks it: JSON in, JSON out, on a free loopback port.

What the objects are is for its users to say, the sandbox's API and the double that tests script.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass(frozen=True)
class Request:
    """One request: the path with its query, the JSON body or None."""

    method: str
    path: str
    body: Any
    headers: dict[str, str]


#: the status and the JSON of an answer; None cuts the connection without one
Answer = tuple[int, Any] | None


def serve(answer: Callable[[Request], Answer]) -> tuple[ThreadingHTTPServer, str]:
    """Answer requests in a background thread; the server (for its end) and its URL."""

    class Handler(BaseHTTPRequestHandler):
        def _handle(self) -> None:
            size = int(self.headers.get("Content-Length") or 0)
            body = json.loads(self.rfile.read(size)) if size else None
            result = answer(Request(self.command, self.path, body, dict(self.headers)))
            if result is None:
                self.connection.close()
                return
            code, document = result
            data = json.dumps(document).encode()
            self.send_response(code)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        do_GET = do_POST = do_PATCH = do_DELETE = _handle  # noqa: N815

        def log_message(self, format: str, *args: Any) -> None:
            """Quiet: whoever answers says what happened."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, args=[0.01], name="api", daemon=True).start()
    return server, f"http://127.0.0.1:{server.server_port}"
