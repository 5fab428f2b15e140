"""What these tests share: a real PostgreSQL, and a tracking server's tables and files."""

from pathlib import Path

import pytest

from holdfast.pipeline.artifacts import Artifacts, open_artifacts
from holdfast.pipeline.database import Database
from testkit.postgresql import PostgreSQL, database, postgresql
from testkit.tracking import Tracking

__all__ = ["database", "postgresql"]


@pytest.fixture
def tracking(postgresql: PostgreSQL, database: str, tmp_path: Path) -> Tracking:
    """A tracking server's tables, and an empty directory of artifacts."""
    return Tracking(postgresql, database, tmp_path / "artifacts").create()


@pytest.fixture
def artifacts(tracking: Tracking) -> Artifacts:
    return open_artifacts(str(tracking.artifacts), memory=2**26)


@pytest.fixture
def live(tracking: Tracking) -> Database:
    """The tracking server's database, as the environment names it."""
    return Database()
