import pytest

from infra.graph import Graph, collect
from infra.settings import load


@pytest.fixture(scope="session")
def local() -> Graph:
    """What `pulumi up -s local` would declare."""
    return collect(load("local"), "local")


@pytest.fixture(scope="session")
def dev() -> Graph:
    """What `pulumi up -s dev` would declare."""
    return collect(load("dev"), "dev")


@pytest.fixture(scope="session")
def prod() -> Graph:
    """What `pulumi up -s prod` would declare."""
    return collect(load("prod"), "prod")


@pytest.fixture(params=["dev", "prod"])
def eks(request: pytest.FixtureRequest) -> Graph:
    """Each stack that makes a cluster of its own."""
    return request.getfixturevalue(request.param)
