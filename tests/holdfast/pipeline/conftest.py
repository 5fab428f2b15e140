"""What the tests of the pipeline's state share: a real PostgreSQL."""

from testkit.postgresql import database, postgresql

__all__ = ["database", "postgresql"]
