from pathlib import Path

import pytest

from tests.infra.kubernetes.fake_kubectl import Cluster


@pytest.fixture
def cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Cluster:
    """A cluster that `kubectl` on the PATH shows; empty at first."""
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    return Cluster(tmp_path)
