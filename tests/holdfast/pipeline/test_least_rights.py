"""The logins that docs/pipeline.md tells people to make are enough, and not more than that."""

from __future__ import annotations

import secrets
from collections.abc import Iterator

import pytest

from holdfast.errors import HoldfastError
from holdfast.pipeline.artifacts import Artifacts
from holdfast.pipeline.database import Database
from holdfast.pipeline.pull import pull
from holdfast.pipeline.push import push
from holdfast.pipeline.verify import check
from holdfast.store.snapshot import Catalog
from testkit.tracking import Tracking

pytestmark = pytest.mark.pipeline
#: As in docs/pipeline.md.
READER = """CREATE ROLE {role} LOGIN PASSWORD 'word';
GRANT CONNECT ON DATABASE "{database}" TO {role};
GRANT pg_read_all_data TO {role}"""
OWNER = """CREATE ROLE {role} LOGIN PASSWORD 'word';
ALTER DATABASE "{database}" OWNER TO {role};
DO $$ DECLARE one text; BEGIN
  FOR one IN SELECT tablename FROM pg_tables WHERE schemaname = 'public' LOOP
    EXECUTE format('ALTER TABLE public.%I OWNER TO {role}', one);
  END LOOP; END $$"""


class Logins:
    """Roles of one database, and the environment of whoever uses them."""

    def __init__(self, tracking: Tracking, monkeypatch: pytest.MonkeyPatch) -> None:
        self._tracking, self._environment = tracking, monkeypatch
        self.made: list[str] = []

    def make(self, statements: str) -> str:
        role = f"role_{secrets.token_hex(6)}"
        self._tracking.sql(statements.format(role=role, database=self._tracking.database))
        self.made.append(role)
        return role

    def as_role(self, role: str) -> Database:
        self._environment.setenv("PGUSER", role)
        self._environment.setenv("PGPASSWORD", "word")
        return Database()


@pytest.fixture
def logins(tracking: Tracking, monkeypatch: pytest.MonkeyPatch) -> Iterator[Logins]:
    logins = Logins(tracking, monkeypatch)
    yield logins
    for role in logins.made:
        tracking.sql(f"REASSIGN OWNED BY {role} TO postgres; DROP OWNED BY {role}")
        tracking.sql(f"DROP ROLE {role}")


def test_a_user_that_only_reads_backs_up_and_checks_before_and_after_a_restore(
    tracking: Tracking, artifacts: Artifacts, catalog: Catalog, logins: Logins
):
    tracking.log({"model.bin": b"weights"}, model="churn", alias="prod")
    owner, reader = logins.make(OWNER), logins.make(READER)

    report = push(logins.as_role(reader), artifacts, catalog, "tracking")
    pull(logins.as_role(owner), artifacts, catalog, report.snapshot, replace=True)
    found = check(logins.as_role(reader), artifacts, catalog, report.snapshot)

    assert found.problems == {} and found.counts["runs"] == 1


def test_a_user_that_only_reads_cannot_restore(
    tracking: Tracking, artifacts: Artifacts, catalog: Catalog, logins: Logins
):
    tracking.log({"model.bin": b"weights"})
    reader = logins.make(READER)
    report = push(logins.as_role(reader), artifacts, catalog, "tracking")
    rows = tracking.rows()

    with pytest.raises(HoldfastError, match="give this user the right, or use the owner"):
        pull(logins.as_role(reader), artifacts, catalog, report.snapshot, replace=True)

    assert tracking.rows() == rows
