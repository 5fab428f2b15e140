"""The S3 server of a benchmark, and the environment in which its clients find it."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from testkit.s3 import S3Server, self_signed, serve


@dataclass(frozen=True)
class Server:
    """A versitygw for this benchmark alone. ``environment`` is what every client gets."""

    s3: S3Server
    environment: dict[str, str]

    @property
    def endpoint(self) -> str:
        return self.s3.endpoint

    @contextmanager
    def bucket(self) -> Iterator[str]:
        """An empty bucket, whose objects are gone afterwards."""
        name = self.s3.bucket()
        try:
            yield name
        finally:
            shutil.rmtree(self.s3.root / name, ignore_errors=True)
            shutil.rmtree(self.s3.root.parent / "sidecar" / name, ignore_errors=True)


@contextmanager
def server(work: Path, *, tls: bool = False) -> Iterator[Server]:
    """A server below ``work``; over TLS with a certificate of its own, which all clients trust."""
    directory = Path(tempfile.mkdtemp(prefix="server-", dir=work))
    certificate = self_signed(directory) if tls else None
    try:
        with serve(directory, certificate) as s3:
            environment = s3.environment()
            if s3.authority:
                environment |= {"AWS_CA_BUNDLE": s3.authority, "SSL_CERT_FILE": s3.authority}
            yield Server(s3, environment)
    finally:
        shutil.rmtree(directory, ignore_errors=True)
