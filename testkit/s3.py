"""A real S3 server (versitygw) on loopback, and a proxy that loses answers."""

from __future__ import annotations

import os
import secrets
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path

import boto3
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

ROOT = Path(__file__).parents[1]
KEY, SECRET = "holdfast", "holdfast-secret"


def binary() -> str:
    """Where versitygw is; skips the test, with the remedy, where it is not."""
    built = ROOT / ".cache/bin/versitygw"
    found = str(built) if built.exists() else shutil.which("versitygw")
    if not found:
        pytest.skip("no S3 server: `make setup` builds versitygw where a Go toolchain can be had")
    return found


@dataclass
class S3Server:
    """A running server, which keeps its buckets as directories below `root`."""

    endpoint: str
    root: Path
    authority: str | None = None

    def environment(self, endpoint: str | None = None) -> dict[str, str]:
        return {
            "AWS_ACCESS_KEY_ID": KEY,
            "AWS_SECRET_ACCESS_KEY": SECRET,
            "AWS_REGION": "us-east-1",
            "AWS_ENDPOINT_URL": endpoint or self.endpoint,
        }

    def bucket(self) -> str:
        """Create an empty bucket; returns its name."""
        name = f"test-{secrets.token_hex(6)}"
        self.client().create_bucket(Bucket=name)
        return name

    def client(self):
        return boto3.client(
            "s3",
            endpoint_url=self.endpoint,
            aws_access_key_id=KEY,
            aws_secret_access_key=SECRET,
            region_name="us-east-1",
            verify=self.authority,
        )


@contextmanager
def serve(work: Path, certificate: tuple[Path, Path] | None = None) -> Iterator[S3Server]:
    """A new versitygw with its files below ``work``; over https, given certificate and key."""
    program = binary()
    for name in ("root", "sidecar"):
        (work / name).mkdir()
    port = free_port()
    command = [program, "--port", f"127.0.0.1:{port}", "--access", KEY, "--secret", SECRET]
    if certificate:
        command += ["--cert", str(certificate[0]), "--key", str(certificate[1])]
    command += ["--keep-alive", "--quiet"]
    command += ["posix", "--sidecar", str(work / "sidecar"), str(work / "root")]
    with (work / "log").open("wb") as log:
        server = subprocess.Popen(command, stdout=log, stderr=log, env={"PATH": os.environ["PATH"]})
    try:
        end = time.monotonic() + 30
        while not _listens(port):
            if server.poll() is not None or time.monotonic() > end:
                pytest.fail(f"versitygw did not start: {(work / 'log').read_text()[-500:]}")
            time.sleep(0.02)
        kind = "https" if certificate else "http"
        authority = str(certificate[0]) if certificate else None
        yield S3Server(f"{kind}://127.0.0.1:{port}", work / "root", authority)
    finally:
        server.kill()
        server.wait()


@pytest.fixture(scope="session")
def s3_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    """One versitygw for the whole session; tests use buckets of their own."""
    with serve(tmp_path_factory.mktemp("s3")) as server:
        yield server


def self_signed(directory: Path) -> tuple[Path, Path]:
    """A certificate for this machine, and its key, in new files."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "a test")])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + timedelta(hours=1))
        .add_extension(
            x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1"))]), critical=False
        )
        .sign(key, hashes.SHA256())
    )
    files = directory / "cert.pem", directory / "key.pem"
    files[0].write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    files[1].write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    return files


@pytest.fixture
def s3_url(s3_server: S3Server, monkeypatch: pytest.MonkeyPatch) -> str:
    """The URL of an empty prefix in a bucket of its own; the environment points to the server."""
    for name, value in s3_server.environment().items():
        monkeypatch.setenv(name, value)
    return f"s3://{s3_server.bucket()}/project/stack"


@dataclass
class Proxy:
    """Forwards connections to a port of this machine, and loses what a test asks it to lose.

    ``lose_answer_to``: the next request that begins with these bytes reaches the server, but the
    client's connection is cut before the answer. ``silent``: requests are taken and never answered.
    """

    target: int
    lose_answer_to: bytes | None = None
    silent: bool = False
    lost: list[bytes] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.endpoint = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        self._listener.close()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        with suppress(OSError), closing(client), closing(socket.socket()) as server:
            server.connect(("127.0.0.1", self.target))
            doomed = threading.Event()
            answers = threading.Thread(
                target=self._answers, args=(server, client, doomed), daemon=True
            )
            answers.start()
            while data := client.recv(65536):
                if self.silent:
                    continue
                if self.lose_answer_to and data.startswith(self.lose_answer_to):
                    self.lost.append(data.split(b"\r\n", 1)[0])
                    self.lose_answer_to = None
                    doomed.set()
                server.sendall(data)

    def _answers(
        self, server: socket.socket, client: socket.socket, doomed: threading.Event
    ) -> None:
        with suppress(OSError):
            while data := server.recv(65536):
                if doomed.is_set():
                    client.shutdown(socket.SHUT_RDWR)
                    return
                client.sendall(data)


@pytest.fixture
def proxy(s3_server: S3Server) -> Iterator[Proxy]:
    made = Proxy(int(s3_server.endpoint.rsplit(":", 1)[1]))
    yield made
    made.close()


def free_port() -> int:
    with closing(socket.create_server(("127.0.0.1", 0))) as listener:
        return listener.getsockname()[1]


def _listens(port: int) -> bool:
    with closing(socket.socket()) as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0
