import pytest

from infra.graph import Graph, collect
from infra.settings import load


@pytest.fixture(scope="session")
def local() -> Graph:
    """What `pulumi up -s local` would declare."""
    return collect(load("local"), "local")
