"""A tracking server's tables and files without the server: what a backup has to do with.

The tables are MLflow's, with the columns that a backup reads and a few more. As MLflow does, `log`
writes files before the rows that need them.
"""

from __future__ import annotations

import itertools
import secrets
from collections.abc import Mapping
from pathlib import Path

from testkit.postgresql import PostgreSQL

SCHEMA = "dc11669786a5"
_TABLES = f"""
CREATE TABLE alembic_version (version_num varchar(32) PRIMARY KEY);
CREATE TABLE experiments (experiment_id integer PRIMARY KEY, name text, artifact_location text);
CREATE TABLE runs (run_uuid varchar(32) PRIMARY KEY, lifecycle_stage text, artifact_uri text,
  experiment_id integer REFERENCES experiments);
CREATE TABLE tags (key text, value text, run_uuid varchar(32) REFERENCES runs,
  PRIMARY KEY (key, run_uuid));
CREATE TABLE metrics (key text, value double precision, timestamp bigint, step bigint,
  run_uuid varchar(32) REFERENCES runs, PRIMARY KEY (key, step, run_uuid));
CREATE TABLE logged_models (model_id text PRIMARY KEY, artifact_location text, status integer,
  lifecycle_stage text);
CREATE TABLE registered_models (name text, workspace text, PRIMARY KEY (workspace, name));
CREATE TABLE model_versions (name text, version integer, source text, status text,
  storage_location text, current_stage text, workspace text,
  PRIMARY KEY (workspace, name, version),
  FOREIGN KEY (workspace, name) REFERENCES registered_models);
CREATE TABLE registered_model_aliases (alias text, version integer, name text, workspace text,
  PRIMARY KEY (workspace, name, alias),
  FOREIGN KEY (workspace, name) REFERENCES registered_models);
CREATE TABLE secrets (secret_id text PRIMARY KEY, encrypted_value bytea);
INSERT INTO alembic_version VALUES ('{SCHEMA}');
INSERT INTO experiments VALUES (0, 'Default', 'mlflow-artifacts:/0');
"""


class Tracking:
    """The tables in a database, and the directory of artifacts."""

    def __init__(self, server: PostgreSQL, database: str, artifacts: Path) -> None:
        self.server, self.database, self.artifacts = server, database, artifacts
        self._numbers = itertools.count(1)

    def create(self) -> Tracking:
        """Make the tables, as a server does when it starts for the first time."""
        self.sql(_TABLES)
        self.artifacts.mkdir(parents=True, exist_ok=True)
        return self

    def sql(self, statement: str) -> list[tuple]:
        return self.server.query(self.database, statement)

    def log(
        self,
        files: Mapping[str, bytes] | None = None,
        *,
        model: str = "",
        alias: str = "",
        dataset: str = "",
    ) -> str:
        """Log a run with files, and register them as the next version of a model; its ID."""
        run = secrets.token_hex(16)
        place = f"0/{run}/artifacts"
        self.write({f"{place}/{name}": data for name, data in (files or {}).items()})
        number = next(self._numbers)
        statements = [
            f"INSERT INTO runs VALUES ('{run}', 'active', 'mlflow-artifacts:/{place}', 0)",
            f"INSERT INTO metrics SELECT 'loss', 1.0 / {number}, 0, n, '{run}' FROM"
            " generate_series(1, 10) n",
        ]
        if dataset:
            statements.append(f"INSERT INTO tags VALUES ('holdfast.dataset', '{dataset}', '{run}')")
        if model:
            statements += self._register(model, alias, f"mlflow-artifacts:/{place}", number)
        self.sql("; ".join(statements))
        return run

    def _register(self, model: str, alias: str, source: str, number: int) -> list[str]:
        registered = f"('{model}', 'default')"
        statements = [
            f"INSERT INTO registered_models VALUES {registered} ON CONFLICT DO NOTHING",
            f"INSERT INTO model_versions VALUES ('{model}', {number}, '{source}', 'READY', NULL,"
            " 'None', 'default')",
        ]
        if alias:
            statements.append(
                f"INSERT INTO registered_model_aliases VALUES ('{alias}', {number}, '{model}',"
                " 'default') ON CONFLICT (workspace, name, alias) DO UPDATE SET version ="
                f" {number}"
            )
        return statements

    def write(self, files: Mapping[str, bytes]) -> None:
        """Put files among the artifacts, as a server does for a client."""
        for name, data in files.items():
            path = self.artifacts / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)

    def rows(self) -> dict[str, list[tuple]]:
        """All rows of all tables: equal when nothing was lost."""
        tables = self.sql(
            "SELECT tablename FROM pg_tables WHERE schemaname = 'public' ORDER BY tablename"
        )
        return {name: sorted(self.sql(f'SELECT * FROM "{name}"'), key=repr) for (name,) in tables}

    def files(self) -> dict[str, bytes]:
        """All files below the artifacts, those of restores left out."""
        found = {str(p.relative_to(self.artifacts)): p for p in self.artifacts.rglob("*")}
        return {
            name: path.read_bytes()
            for name, path in found.items()
            if path.is_file() and not name.startswith(".holdfast-")
        }
