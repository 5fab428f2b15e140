from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.sandbox.tiny import Factory


@pytest.fixture
def make_cluster(tmp_path: Path) -> Iterator[Factory]:
    factory = Factory(tmp_path)
    yield factory
    for cluster in factory.made:
        cluster.stop()
