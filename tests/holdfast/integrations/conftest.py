import socket
from collections.abc import Callable
from pathlib import Path

import pytest


@pytest.fixture(autouse=True)
def nothing_in_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("VOLUME", "RUN", "KEEP", "START", "DECISION"):
        monkeypatch.delenv(f"HOLDFAST_{name}", raising=False)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Where a lab trains: with an empty volume."""
    (tmp_path / "volume").mkdir()
    return tmp_path


@pytest.fixture
def free_port() -> Callable[[], int]:
    """A port of this machine that nobody listens on."""

    def find() -> int:
        with socket.socket() as listener:
            listener.bind(("127.0.0.1", 0))
            return listener.getsockname()[1]

    return find
