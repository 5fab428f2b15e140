"""A real PostgreSQL on loopback, from the wheel that holds one; also where tests run as root.

PostgreSQL refuses to run as root. There it runs as the user `nobody`, which owns its data.
"""

from __future__ import annotations

import os
import pwd
import secrets
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from holdfast.pipeline import programs
from testkit.s3 import free_port

if TYPE_CHECKING:
    import psycopg

_USER = "postgres"


@dataclass
class PostgreSQL:
    """A running server. `restart` brings back one that was killed, with its data."""

    port: int
    password: str
    data: Path
    programs: Path
    process: subprocess.Popen[bytes] | None = None

    def environment(self, database: str) -> dict[str, str]:
        """What libpq reads, so what `pg_dump` and `holdfast pipeline` do."""
        return {
            "PGHOST": "127.0.0.1",
            "PGPORT": str(self.port),
            "PGUSER": _USER,
            "PGPASSWORD": self.password,
            "PGDATABASE": database,
        }

    def url(self, database: str) -> str:
        """The database as SQLAlchemy, and so MLflow, takes it."""
        return f"postgresql://{_USER}:{self.password}@127.0.0.1:{self.port}/{database}"

    def connect(self, database: str = _USER) -> psycopg.Connection[tuple[Any, ...]]:
        import psycopg

        return psycopg.connect(self.url(database), autocommit=True)

    def create(self, name: str | None = None) -> str:
        """A new, empty database; returns its name."""
        name = name or f"test_{secrets.token_hex(6)}"
        self.query(_USER, f'CREATE DATABASE "{name}"')
        return name

    def drop(self, name: str) -> None:
        """Remove a database, whoever is connected to it."""
        self.query(_USER, f'DROP DATABASE IF EXISTS "{name}" WITH (FORCE)')

    def query(self, database: str, statement: str) -> list[tuple[Any, ...]]:
        """The rows of a statement that is written in a test; [] for one without rows."""
        with self.connect(database) as connection:
            cursor = connection.execute(statement.encode())
            return cursor.fetchall() if cursor.description else []

    def start(self) -> None:
        """Start the server, and wait until it answers; it recovers from a kill by itself."""
        import psycopg

        command = [str(self.programs / "postgres"), "-D", str(self.data)]
        command += ["-p", str(self.port), "-h", "127.0.0.1", "-k", str(self.data)]
        command += ["-c", "max_connections=60"]
        with (self.data.parent / "log").open("ab") as log:
            self.process = subprocess.Popen(
                command, stdout=log, stderr=log, cwd=self.data, env=_environment(), **_as_user()
            )
        end = time.monotonic() + 60
        while True:
            try:
                self.connect().close()
                return
            except psycopg.OperationalError:
                if self.process.poll() is not None or time.monotonic() > end:
                    pytest.fail(f"PostgreSQL did not start: {self.log()[-800:]}")
                time.sleep(0.05)

    def kill(self) -> None:
        """SIGKILL for the server and all that it started, as from a lost node."""
        assert self.process is not None
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()

    def stop(self) -> None:
        """End it at once but properly: connections are cut, nothing is left to recover."""
        if self.process is not None and self.process.poll() is None:
            self.process.send_signal(signal.SIGINT)
            try:
                self.process.wait(30)
            except subprocess.TimeoutExpired:
                self.kill()

    def log(self) -> str:
        return (self.data.parent / "log").read_text(errors="replace")


@contextmanager
def serve_postgresql(major: int = 16) -> Iterator[PostgreSQL]:
    """A new server of this major version (16 or 18), with one password for its only user."""
    found = [
        path for path in programs.installations() if programs.major(path / "postgres") == major
    ]
    if not found:
        pytest.skip(f"no PostgreSQL {major}: `make setup` installs {programs.WHEEL}")
    with tempfile.TemporaryDirectory(prefix="holdfast-pg-", ignore_cleanup_errors=True) as work:
        place, binaries = Path(work), found[0]
        place.chmod(0o755)
        if not _reachable(binaries):
            binaries = copy_installation(binaries.parent, place) / "bin"
        password, data = secrets.token_urlsafe(16), place / "data"
        data.mkdir()
        login = place / "password"
        login.write_text(password)
        for path in (data, login):
            _give(path)
        command = [str(binaries / "initdb"), "-D", str(data), "-U", _USER, "--no-sync"]
        command += ["-A", "scram-sha-256", "--pwfile", str(login), "-E", "UTF8", "--locale", "C"]
        made = subprocess.run(
            command,
            capture_output=True,
            text=True,
            cwd=data,
            env=_environment(),
            check=False,
            **_as_user(),
        )
        if made.returncode:
            pytest.fail(f"initdb failed: {made.stderr[-800:]}")
        server = PostgreSQL(free_port(), password, data, binaries)
        try:
            server.start()
            yield server
        finally:
            server.stop()


@pytest.fixture(scope="session")
def postgresql() -> Iterator[PostgreSQL]:
    """One PostgreSQL 16 for the whole session; tests use databases of their own."""
    with serve_postgresql() as server:
        yield server


@pytest.fixture
def database(postgresql: PostgreSQL, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A new, empty database; the environment points to it."""
    name = postgresql.create()
    for variable, value in postgresql.environment(name).items():
        monkeypatch.setenv(variable, value)
    yield name
    postgresql.drop(name)


def _as_user() -> dict[str, Any]:
    """How subprocess runs it: in a group of its own, and not as root."""
    options: dict[str, Any] = {"start_new_session": True}
    if os.geteuid() == 0:
        nobody = pwd.getpwnam("nobody")
        options |= {"user": nobody.pw_uid, "group": nobody.pw_gid, "extra_groups": ()}
    return options


def _give(path: Path) -> None:
    if os.geteuid() == 0:
        nobody = pwd.getpwnam("nobody")
        os.chown(path, nobody.pw_uid, nobody.pw_gid)
    path.chmod(0o700 if path.is_dir() else 0o600)


def _reachable(directory: Path) -> bool:
    """Whether another user may start programs there: a home directory may be closed to others."""
    return os.geteuid() != 0 or all(
        path.stat().st_mode & 0o001 for path in (directory, *directory.parents)
    )


def copy_installation(installation: Path, place: Path) -> Path:
    """The wheel's installation with the libraries beside its package, where programs seek them."""
    package = installation.parent
    libraries = package.with_name(f"{package.name}.libs")
    for source in (installation, libraries):
        if source.is_dir():
            target = place / source.relative_to(package.parent)
            shutil.copytree(source, target, symlinks=True)
    return place / installation.relative_to(package.parent)


def _environment() -> dict[str, str]:
    return {"PATH": os.environ.get("PATH", os.defpath), "LC_ALL": "C", "TZ": "UTC"}
