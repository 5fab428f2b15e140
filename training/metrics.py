"""What a training reports: lines for people, JSON lines for programs, Prometheus text.

Only rank 0 prints and writes; the first rank of each node serves the metrics, since a Service may
ask any of them. Metrics never stop a training: a full disk or a port in use is reported once, and
the run goes on.
"""

import json
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from holdfast.printable import printable

_PREFIX = "holdfast_training"
_HELP = {
    "step": ("gauge", "last step completed"),
    "loss": ("gauge", "mean loss of that step over all ranks, nats per byte"),
    "tokens_per_second": ("gauge", "tokens of all ranks per second in that step"),
    "saved_step": (
        "gauge",
        "step of the newest bundle that this process committed or resumed from",
    ),
    "save_seconds": ("gauge", "duration of the last save, from its start to its commit"),
    "save_bytes": ("gauge", "size of the last bundle"),
    "saves_total": ("counter", "bundles committed by this process"),
    "save_failures_total": ("counter", "saves that failed while the run went on"),
    "saves_refused_total": ("counter", "saves that were refused since the state is not finite"),
    "saves_skipped_total": ("counter", "saves that fell due while another one was in flight"),
    "stall_seconds_total": ("counter", "time that training waited for saves"),
    "quarantined_total": ("counter", "bundles that failed verification and were quarantined"),
}


class Metrics:
    """The metrics of this process. Without `reports` they are only served."""

    def __init__(self, reports: bool, file: Path | None = None, port: int | None = None) -> None:
        self._reports = reports
        self._file = file if reports else None
        self._values = {name: 0.0 for name, (kind, _) in _HELP.items() if kind == "counter"}
        self._server = self._serve(port) if port is not None else None

    @property
    def port(self) -> int | None:
        """The port in use (0 asks for any free one)."""
        return self._server.server_port if self._server else None

    def say(self, text: str) -> None:
        """Print one line."""
        if self._reports:
            print(printable(text), flush=True)

    def event(self, event: str, **fields: Any) -> None:
        """Append one JSON line: the event, its time (Unix seconds) and its fields."""
        if self._file is None:
            return
        line = json.dumps({"event": event, "time": round(time.time(), 6)} | fields)
        try:
            with self._file.open("a") as file:
                file.write(f"{line}\n")
        except OSError as error:
            self._file = None
            self.say(f"no more metrics: {error}")

    def set(self, **values: float) -> None:
        self._values.update(values)

    def add(self, name: str, value: float = 1) -> None:
        self._values[name] = self._values.get(name, 0) + value

    def text(self) -> str:
        """All metrics in Prometheus' text format."""
        lines = []
        for name, value in list(self._values.items()):
            kind, meaning = _HELP[name]
            lines += [f"# HELP {_PREFIX}_{name} {meaning}", f"# TYPE {_PREFIX}_{name} {kind}"]
            lines.append(f"{_PREFIX}_{name} {value:.10g}")
        return "\n".join(lines) + "\n"

    def close(self) -> None:
        """Free the port for the next process."""
        if self._server:
            self._server.shutdown()
            self._server.server_close()

    def _serve(self, port: int) -> ThreadingHTTPServer | None:
        metrics = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                body = metrics.text().encode()
                self.send_response(200)
                self.send_header("Content-Type", "text/plain; version=0.0.4; charset=utf-8")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, format: str, *args: object) -> None:
                pass

        try:
            server = ThreadingHTTPServer(("", port), Handler)
        except OSError as error:
            self.say(f"no metrics on port {port}: {error.strerror}")
            return None
        threading.Thread(target=server.serve_forever, name="metrics", daemon=True).start()
        return server
