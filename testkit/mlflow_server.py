"""A real MLflow server on loopback, on a real PostgreSQL, as the stack's tracking image runs it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from testkit.postgresql import PostgreSQL
from testkit.s3 import free_port

if TYPE_CHECKING:
    from mlflow import MlflowClient


@dataclass
class MLflowServer:
    """A running server; artifacts go through it (`mlflow-artifacts:/`)."""

    url: str
    process: subprocess.Popen[bytes]

    def client(self) -> MlflowClient:
        from mlflow import MlflowClient

        return MlflowClient(self.url, self.url)

    def stop(self, how: signal.Signals = signal.SIGKILL) -> None:
        """End it and its workers."""
        if self.process.poll() is None:
            os.killpg(self.process.pid, how)
            self.process.wait()


@contextmanager
def serve_mlflow(
    server: PostgreSQL,
    database: str,
    artifacts: str | Path,
    work: Path,
    *,
    environment: Mapping[str, str] | None = None,
) -> Iterator[MLflowServer]:
    """MLflow on this database, with its artifacts in a directory or at an ``s3://`` URL.

    The log is ``<work>/mlflow.log``. The first start on an empty database makes its tables: about
    ten seconds.
    """
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1"]
    command += ["--port", str(port), "--workers", "1", "--serve-artifacts"]
    command += ["--backend-store-uri", server.url(database)]
    command += ["--artifacts-destination", str(artifacts)]
    command += ["--default-artifact-root", "mlflow-artifacts:/"]
    own = {"MLFLOW_DISABLE_TELEMETRY": "true", "DO_NOT_TRACK": "true"}
    own["MLFLOW_SERVER_ENABLE_JOB_EXECUTION"] = "false"
    with (work / "mlflow.log").open("ab") as log:
        process = subprocess.Popen(
            command,
            stdout=log,
            stderr=log,
            cwd=work,
            env={**os.environ, **own, **(environment or {})},
            start_new_session=True,
        )
    running = MLflowServer(url, process)
    try:
        end = time.monotonic() + 120
        while not _healthy(url):
            if process.poll() is not None or time.monotonic() > end:
                text = (work / "mlflow.log").read_text(errors="replace")
                pytest.fail(f"MLflow did not start: {text[-1500:]}")
            time.sleep(0.1)
        yield running
    finally:
        running.stop()


def _healthy(url: str) -> bool:
    try:
        with urllib.request.urlopen(f"{url}/health", timeout=5) as answer:
            return answer.status == 200
    except (urllib.error.URLError, OSError):
        return False
