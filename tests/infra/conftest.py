import pytest

from infra.plan.graph import Graph
from testkit.factories import of_stack


@pytest.fixture(scope="session")
def local() -> Graph:
    """What `pulumi up -s local` would declare."""
    return of_stack("local")


@pytest.fixture(scope="session")
def dev() -> Graph:
    """What `pulumi up -s dev` would declare."""
    return of_stack("dev")


@pytest.fixture(scope="session")
def prod() -> Graph:
    """What `pulumi up -s prod` would declare."""
    return of_stack("prod")


@pytest.fixture(params=["dev", "prod", "pipeline-eks"])
def eks(request: pytest.FixtureRequest) -> Graph:
    """Each stack that makes a cluster of its own."""
    return of_stack(request.param)
