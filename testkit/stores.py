"""What tests of the store share: a store of each kind, moving its clock, and listing its keys."""

from __future__ import annotations

import os
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pytest

from holdfast.bundle import Bundle
from holdfast.store import open_store
from holdfast.store.base import Store
from holdfast.store.snapshot import Catalog
from holdfast.volume import Volume

OWNER = "project/stack"
WORKLOAD = "gpt"
GRACE = timedelta(hours=1)


@pytest.fixture
def store_directory(tmp_path: Path) -> Path:
    """The directory that the directory store keeps its objects in."""
    (tmp_path / "store").mkdir()
    return tmp_path / "store/project/stack"


@pytest.fixture(params=["directory", pytest.param("s3", marks=pytest.mark.s3)])
def store_url(request: pytest.FixtureRequest, store_directory: Path) -> str:
    """The URL of an empty store of each kind."""
    if request.param == "s3":
        return request.getfixturevalue("s3_url")
    return store_directory.as_uri()


@pytest.fixture
def store(store_url: str) -> Store:
    return open_store(store_url)


@pytest.fixture
def catalog(store_directory: Path) -> Catalog:
    """A catalog over an empty directory store."""
    return Catalog(open_store(store_directory.as_uri()), OWNER)


@pytest.fixture
def save(volume: Volume, write_bundle: Callable[..., Bundle]) -> Callable[..., Bundle]:
    """`save(step)` commits a checkpoint into the volume's present generation, as a trainer does."""

    def write(step: int, **files: bytes) -> Bundle:
        generation = volume.present() or 1
        data = {".metadata": b"plan", "rank-0/model.bin": f"weights {step}".encode() * 100}
        return write_bundle(
            volume.generation_path(generation),
            step,
            data | files,
            {"run": volume.run, "generation": generation},
        )

    return write


def age(directory: Path, by: timedelta) -> None:
    """Let time pass for a directory store: everything in it was written that much earlier."""
    for path in directory.rglob("*"):
        if path.is_file():
            stat = path.stat()
            earlier = stat.st_mtime_ns - int(by.total_seconds() * 1e9)
            os.utime(path, ns=(earlier, earlier))


def keys(store: Store, prefix: str = "") -> list[str]:
    return [info.key for info in store.list(prefix)]
