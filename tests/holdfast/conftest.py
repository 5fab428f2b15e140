"""Factories that the tests of bundles and of the store share."""

import os
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from holdfast.bundle import Bundle, BundleWriter
from holdfast.volume import Volume
from testkit.s3 import proxy, s3_server, s3_url
from testkit.stores import catalog, save, store, store_directory, store_url

__all__ = [
    "catalog",
    "proxy",
    "s3_server",
    "s3_url",
    "save",
    "store",
    "store_directory",
    "store_url",
]

ROOT = Path(__file__).parents[2]
FILES = {".metadata": b"plan", "__0_0.distcp": b"weights of rank 0" * 7, "rng/0.bin": b"\x00\x01"}


@pytest.fixture(autouse=True)
def fresh_failpoints(monkeypatch: pytest.MonkeyPatch) -> None:
    """No failpoint is armed, and the passes of other tests do not count."""
    monkeypatch.delenv("HOLDFAST_FAILPOINT", raising=False)
    monkeypatch.setattr("holdfast.failpoint._passed", Counter())


@pytest.fixture
def volume(tmp_path: Path) -> Volume:
    return Volume(tmp_path / "volume", "run-a")


@pytest.fixture
def write_bundle() -> Callable[..., Bundle]:
    """`write_bundle(parent, step)` commits a small checkpoint; `files` and `labels` by choice."""

    def write(
        parent: Path,
        step: int = 100,
        files: Mapping[str, bytes] = FILES,
        labels: Mapping[str, str | int] | None = None,
        kind: str = "checkpoint",
    ) -> Bundle:
        with BundleWriter(parent, f"step-{step:08d}", kind) as writer:
            for name, data in files.items():
                target = writer.path / name
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_bytes(data)
            return writer.commit({"run": "run-a", "generation": 1, "step": step, **(labels or {})})

    return write


@pytest.fixture
def flip() -> Callable[..., None]:
    """`flip(path, bit)` inverts one bit of a file (default: the first), in place."""

    def invert(path: Path, bit: int = 0) -> None:
        data = bytearray(path.read_bytes())
        data[bit // 8] ^= 1 << (bit % 8)
        path.write_bytes(data)

    return invert


@pytest.fixture
def run_python() -> Callable[..., subprocess.CompletedProcess[str]]:
    """`run_python(code, *args, failpoint=…)` runs Python code in a process that may be killed."""

    def run(code: str, *args: object, failpoint: str = "", **environment: str):
        return subprocess.run(
            [sys.executable, "-c", code, *map(str, args)],
            cwd=ROOT,
            env={**os.environ, "HOLDFAST_FAILPOINT": failpoint, **environment},
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )

    return run
