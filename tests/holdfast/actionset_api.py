"""A test double of the ActionSet API: HTTP as Kubernetes speaks it, states as a test scripts them.

It checks nothing that Kanister checks and runs no phase. Each created ActionSet takes the next
script; each GET of it moves one status further and stays at the last one.
"""

from __future__ import annotations

import json
import threading
import urllib.parse
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Status = dict[str, Any] | None
PATH = "/apis/cr.kanister.io/v1alpha1/namespaces/kanister/actionsets"


def running(phase: str = "upload") -> Status:
    return {
        "state": "running",
        "progress": {"runningPhase": phase},
        "actions": [
            {
                "name": "backup",
                "artifacts": {"checkpoint": {"keyValue": {"snapshot": "{{ .Phases.raw }}"}}},
                "phases": [{"name": phase, "state": "running"}],
            }
        ],
    }


def complete(**outputs: str) -> Status:
    return {
        "state": "complete",
        "progress": {"runningPhase": ""},
        "actions": [
            {
                "name": "backup",
                "artifacts": {"checkpoint": {"keyValue": outputs}},
                "phases": [{"name": "upload", "state": "complete", "output": outputs}],
            }
        ],
    }


def failed(message: str, *, defer: str | None = None, phase: str = "") -> Status:
    action: dict[str, Any] = {"name": "restore", "phases": [{"name": "stage", "state": "failed"}]}
    if defer is not None:
        action["deferPhase"] = {"name": "resume", "state": defer}
    return {
        "state": "failed",
        "error": {"message": message},
        "progress": {"runningPhase": phase},
        "actions": [action],
    }


class ActionSetApi:
    """The objects, the scripts and what was asked."""

    def __init__(self) -> None:
        self.url = ""
        self.objects: dict[str, dict[str, Any]] = {}
        self.scripts: list[list[Status]] = []
        self.pending: dict[str, list[Status]] = {}
        self.requests: list[tuple[str, str]] = []
        self.headers: list[dict[str, str]] = []
        self.deleted: list[str] = []
        self.created: list[str] = []
        #: answers to give instead of the real one: (method, status, message); 0 = cut the line
        #: after the request was carried out
        self.faults: list[tuple[str, int, str]] = []

    def add(
        self, name: str, status: Status, *, age: float = 0, action: str = "backup", **options: str
    ) -> None:
        """An ActionSet that exists before the test starts."""
        created = datetime.now(UTC) - timedelta(seconds=age)
        self.objects[name] = {
            "metadata": {
                "name": name,
                "labels": {"holdfast.dev/workload": "gpt", "holdfast.dev/action": action},
                "creationTimestamp": created.strftime("%Y-%m-%dT%H:%M:%SZ"),
            },
            "spec": {"actions": [{"name": action, "options": options}]},
            "status": status,
        }

    def answer(self, method: str, path: str, body: dict[str, Any] | None) -> tuple[int, Any]:
        url = urllib.parse.urlsplit(path)
        if not url.path.startswith(PATH):
            return 404, {"message": "the server could not find the requested resource"}
        name = url.path.removeprefix(PATH).strip("/")
        if method == "POST" and body is not None:
            name = body["metadata"]["name"]
            if name in self.objects:
                return 409, {"message": f'actionsets "{name}" already exists'}
            stamp = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
            body["metadata"]["creationTimestamp"] = stamp
            self.objects[name] = body
            self.pending[name] = self.scripts.pop(0) if self.scripts else []
            self.created.append(name)
            return 201, body
        if not name:
            label = urllib.parse.parse_qs(url.query)["labelSelector"][0].split("=")
            found = [
                o for o in self.objects.values() if o["metadata"]["labels"][label[0]] == label[1]
            ]
            return 200, {"items": found, "metadata": {}}
        if name not in self.objects:
            return 404, {"message": f'actionsets "{name}" not found'}
        if method == "DELETE":
            self.deleted.append(name)
            return 200, self.objects.pop(name)
        if self.pending.get(name):
            self.objects[name]["status"] = self.pending[name].pop(0)
        return 200, self.objects[name]


@contextmanager
def serve() -> Iterator[ActionSetApi]:
    api = ActionSetApi()

    class Handler(BaseHTTPRequestHandler):
        def _handle(self) -> None:
            size = int(self.headers.get("Content-Length") or 0)
            body = json.loads(self.rfile.read(size)) if size else None
            api.requests.append((self.command, self.path))
            api.headers.append(dict(self.headers))
            fault = api.faults.pop(0) if api.faults and api.faults[0][0] == self.command else None
            if fault and fault[1]:
                code, answer = fault[1], {"message": fault[2]}
            else:
                code, answer = api.answer(self.command, self.path, body)
            if fault and not fault[1]:
                self.connection.close()
                return
            data = json.dumps(answer).encode()
            self.send_response(code)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        do_GET = do_POST = do_DELETE = _handle  # noqa: N815

        def log_message(self, format: str, *args: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    threading.Thread(
        target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True
    ).start()
    api.url = f"http://127.0.0.1:{server.server_address[1]}"
    try:
        yield api
    finally:
        server.shutdown()
        server.server_close()
