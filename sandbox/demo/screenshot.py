"""Pictures of a page by a headless browser, where one is installed."""

import base64
import shutil
import subprocess
import tempfile
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
_FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--hide-scrollbars",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
    "--no-proxy-server", "--window-size=1280,800", "--virtual-time-budget=15000",
)  # fmt: skip


def browser() -> str | None:
    """The browser of this machine, if it has one."""
    return next((found for name in BROWSERS if (found := shutil.which(name))), None)


@contextmanager
def logged_in(server: str, user: str, password: str) -> Iterator[str]:
    """The address of a way to `server` that logs in: scripts of a page whose address holds a
    password may not call their server, so the browser cannot be given one."""
    login = base64.b64encode(f"{user}:{password}".encode()).decode()
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))

    class Way(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            size = int(self.headers.get("Content-Length") or 0)
            kept = {k: v for k in ("Accept", "Content-Type") if (v := self.headers.get(k))}
            request = urllib.request.Request(
                f"{server}{self.path}",
                data=self.rfile.read(size) if size else None,
                headers={**kept, "Authorization": f"Basic {login}"},
                method=self.command,
            )
            try:
                answer = opener.open(request, timeout=30)
            except urllib.error.HTTPError as refused:
                answer = refused
            except OSError:
                self.send_error(502)
                return
            with answer:
                body = answer.read()
                self.send_response(answer.status or 200)
                kind = answer.headers.get("Content-Type", "application/octet-stream")
                self.send_header("Content-Type", kind)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

        do_POST = do_GET  # noqa: N815

        def log_message(self, format: str, *args: object) -> None:
            """Quiet."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Way) as way:
        threading.Thread(target=way.serve_forever, args=[0.05], daemon=True).start()
        try:
            yield f"http://127.0.0.1:{way.server_port}"
        finally:
            way.shutdown()


def take(url: str, target: Path, seconds: float = 60) -> bool:
    """Write a PNG of the page; False where there is no browser, or it makes none in time."""
    program = browser()
    if program is None:
        return False
    target.parent.mkdir(parents=True, exist_ok=True)
    target.unlink(missing_ok=True)
    with tempfile.TemporaryDirectory(
        prefix="holdfast-browser-", ignore_cleanup_errors=True
    ) as profile:
        command = [program, *_FLAGS, f"--user-data-dir={profile}", f"--screenshot={target}", url]
        try:
            subprocess.run(command, capture_output=True, timeout=seconds, check=False)
        except subprocess.TimeoutExpired:
            return False
    return target.is_file()
