"""A folder to add, and a cache of hashes of its own."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

FILES = {"rows.csv": b"1,2\n" * 500, "more/labels.csv": b"yes\nno\n", "empty": b""}


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where hashes are remembered."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache/holdfast/hashes"


@pytest.fixture
def fill(tmp_path: Path) -> Callable[..., Path]:
    """`fill("data", {path: bytes})` writes a folder; every file was written long ago."""

    def write(name: str = "data", files: dict[str, bytes] = FILES) -> Path:
        folder = tmp_path / name
        for path, data in files.items():
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            (folder / path).write_bytes(data)
            os.utime(folder / path, (1_700_000_000, 1_700_000_000))
        return folder

    return write
