"""`python -m training.serve`: the example's model behind HTTP, from the newest bundle of a volume.

`GET /health` says which bundle answers; `POST /predict` with `{"text": "…", "tokens": 32}`
continues the text, always by the likeliest byte: the same model gives the same answer. All bytes of
the bundle are compared with its manifest before any of it is loaded. The server only reads the
volume, and keeps the model that it started with: another one takes effect with the next pod.

It listens on HOLDFAST_ADDRESS, else on all addresses. It ends with 76 when nothing on the volume
can be served, and with 0 when it is told to stop.
"""

import json
import os
import re
import signal
import sys
import threading
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import torch
import torch.distributed.checkpoint as dcp
from torch.distributed.checkpoint.api import CheckpointException

from holdfast.bundle import Bundle
from holdfast.errors import HoldfastError
from holdfast.printable import printable
from holdfast.volume import Volume
from training.config import Config, load
from training.model import Gpt
from training.outcome import Outcome

PORT = 8080
#: of a request, in bytes
LONGEST_REQUEST = 64 * 1024
MOST_TOKENS = 256

_SHAPE = re.compile(r"gpt layers=(\d+) width=(\d+) heads=(\d+) block=(\d+)")


class NothingToServe(HoldfastError):
    """No bundle on the volume is a model that this server can load."""


class BadRequest(HoldfastError):
    """The request is not one that can be answered."""


@dataclass(frozen=True)
class Served:
    """A model in memory, and the bundle that it came from."""

    model: Gpt
    block: int
    bundle: Bundle

    def about(self) -> dict[str, Any]:
        """Which model answers."""
        manifest = self.bundle.manifest
        labels = {k: v for k, v in manifest.labels.items() if k in ("run", "generation", "step")}
        return {
            "name": manifest.name,
            "kind": manifest.kind,
            "content": manifest.content,
            "digest": manifest.digest,
            **labels,
        }

    @torch.no_grad()
    def continuation(self, text: bytes, tokens: int) -> bytes:
        """The ``tokens`` likeliest bytes after ``text``, one after the other."""
        known = list(text)
        for _ in range(tokens):
            window = torch.tensor([known[-self.block :]])
            known.append(int(self.model(window)[0, -1].argmax()))
        return bytes(known[len(text) :])


def open_newest(config: Config, kind: str | None = None) -> Served:
    """The newest bundle of the volume that verifies, loaded.

    Args:
        config: where it is, and its shape where the bundle does not say it.
        kind: of the bundle; None: of any kind.

    Raises:
        NothingToServe: there is none, or it holds another model than the settings say.
    """
    volume = Volume(config.volume, config.run, kind)
    bundle = volume.newest_valid(quarantine=False)
    if bundle is None:
        raise NothingToServe(
            f"no valid bundle of run {config.run} is on volume {config.volume}: name a model in the"
            " workload's settings, or restore one"
        )
    config = _of_bundle(config, bundle)
    model = Gpt(config).eval()
    weights = model.state_dict()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that no process group is there: there is one process
        try:
            dcp.load({"model": weights}, storage_reader=dcp.FileSystemReader(bundle.path))
        except (CheckpointException, ValueError, RuntimeError, OSError) as error:
            reason = " ".join(str(error).split())[:300]
            raise NothingToServe(
                f"bundle {bundle.name} is not a '{config.shape}' ({reason}): set"
                " HOLDFAST_TRAINING_PRESET and its kin to what it was trained with"
            ) from None
    model.load_state_dict(weights)
    return Served(model, config.block, bundle)


def _of_bundle(config: Config, bundle: Bundle) -> Config:
    """The settings with the model's shape as the bundle's label says it, where it does."""
    found = _SHAPE.fullmatch(str(bundle.manifest.labels.get("model", "")))
    if found is None:
        return config
    layers, width, heads, block = map(int, found.groups())
    return config.model_copy(
        update={"layers": layers, "width": width, "heads": heads, "block": block}
    )


class Server:
    """Answers over HTTP until it is told to stop."""

    def __init__(self, served: Served, port: int) -> None:
        self.served = served
        self._one_at_a_time = threading.Lock()
        server = self

        class Handler(BaseHTTPRequestHandler):
            timeout = 60

            def do_GET(self) -> None:
                known = self.path == "/health"
                answer = {"model": server.served.about()} if known else _unknown(self.path)
                _answer(self, 200 if known else 404, answer)

            def do_POST(self) -> None:
                if self.path != "/predict":
                    _answer(self, 404, _unknown(self.path))
                    return
                try:
                    _answer(self, 200, server.predict(_body(self)))
                except BadRequest as error:
                    _answer(self, 400, {"error": str(error)})

            def log_message(self, format: str, *args: Any) -> None:
                """Probes come every few seconds: say nothing of them."""

        self._http = ThreadingHTTPServer((os.environ.get("HOLDFAST_ADDRESS", ""), port), Handler)
        self._http.daemon_threads = False  # answers under way are finished

    @property
    def port(self) -> int:
        """The port in use (0 asks for any free one)."""
        return self._http.server_port

    def predict(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """The answer to one request. Raises BadRequest with what is wrong."""
        text, tokens = request.get("text"), request.get("tokens", 32)
        if not isinstance(text, str) or not text:
            raise BadRequest("text is missing: give some text to continue")
        if not isinstance(tokens, int) or not 1 <= tokens <= MOST_TOKENS:
            raise BadRequest(f"tokens {tokens!r} is no number of bytes: give 1 to {MOST_TOKENS}")
        with self._one_at_a_time:
            found = self.served.continuation(text.encode(), tokens)
        return {"text": found.decode(errors="replace"), "model": self.served.about()}

    def run(self) -> None:
        """Answer until `stop`, then finish the answers under way."""
        self._http.serve_forever()
        self._http.server_close()

    def stop(self) -> None:
        """End `run`, from any thread but its own."""
        self._http.shutdown()


def _unknown(path: str) -> dict[str, str]:
    return {"error": f"{printable(path)} is not known: use GET /health or POST /predict"}


def _body(handler: BaseHTTPRequestHandler) -> Mapping[str, Any]:
    try:
        size = int(handler.headers.get("Content-Length", ""))
    except ValueError:
        raise BadRequest("Content-Length is missing: send a JSON object") from None
    if not 0 <= size <= LONGEST_REQUEST:
        handler.close_connection = True
        raise BadRequest(f"a request of {size} bytes is too large: send {LONGEST_REQUEST} at most")
    try:
        found = json.loads(handler.rfile.read(size))
    except (ValueError, RecursionError):
        raise BadRequest("the request is not JSON: send an object with text") from None
    if not isinstance(found, dict):
        raise BadRequest("the request is no JSON object: send one with text")
    return found


def _answer(handler: BaseHTTPRequestHandler, status: int, body: Mapping[str, Any]) -> None:
    content = json.dumps(body).encode()
    handler.send_response(status)
    handler.send_header("Content-Type", "application/json")
    handler.send_header("Content-Length", str(len(content)))
    handler.end_headers()
    handler.wfile.write(content)


def main() -> int:
    """Serve until SIGTERM."""
    torch.set_num_threads(1)  # the order of a sum, and so the answer, depends on it
    torch.use_deterministic_algorithms(True)
    try:
        config = load(sys.argv[1:], os.environ)
        served = open_newest(config, os.environ.get("HOLDFAST_KIND"))
    except HoldfastError as error:
        print(f"serve: {printable(str(error))}", file=sys.stderr, flush=True)
        return Outcome.REFUSED.exit_code
    server = Server(served, PORT if config.port is None else config.port)
    about = served.about()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: threading.Thread(target=server.stop).start())
    print(f"serving {about['name']} ({about['content']}) on port {server.port}", flush=True)
    server.run()
    return 0


if __name__ == "__main__":
    sys.exit(main())
