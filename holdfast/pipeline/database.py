"""The tracking database: one dump of it, streamed; and a restore that happens as a whole or not.

Everything is done by PostgreSQL's own programs, which read the login from libpq's variables
(``PGHOST``, ``PGUSER``, ``PGPASSWORD``, …): no password is ever on a command line.
"""

from __future__ import annotations

import os
import re
import subprocess
import tempfile
import time
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from holdfast.errors import DeadlineExceeded, HoldfastError
from holdfast.failpoint import failpoint
from holdfast.pipeline.programs import find

#: bytes that are read from a dump at a time
CHUNK = 1024 * 1024
#: schemas with what a restore replaced begin like this
BEFORE = "holdfast_before_"
#: seconds to wait for a connection, where PGCONNECT_TIMEOUT says nothing
CONNECT_SECONDS = "15"
#: a dump waits this long for a table that a migration holds
LOCK_WAIT = "60s"

#: A restore's connection may stand still while artifacts are copied: what lies between must not
#: forget it (such as a NAT gateway, after 350 s).
_KEEP_ALIVE = "keepalives_idle=60 keepalives_interval=15"
_SEPARATOR = "\x1f"
#: tables into which a server writes rows when it starts for the first time, and who may log in;
#: users and their rights are made again at each start, experiment 0 is everybody's
_OF_FIRST_START = (
    *("alembic_version", "alembic_version_auth", "workspaces", "users"),
    *("roles", "role_permissions", "user_role_assignments"),
    *("experiment_permissions", "registered_model_permissions", "scorer_permissions"),
    *("job_locks", "scheduler_leases"),
)
_LOGIN_REFUSED = re.compile(r"password authentication failed|no password supplied")
_NOISE = re.compile(r"^(psql|pg_dump|pg_restore)(:[^:]*:\d+)?: (error: |fatal: )?", re.IGNORECASE)


class DatabaseError(HoldfastError):
    """The database, or one of PostgreSQL's programs, refused."""


@dataclass(frozen=True)
class State:
    """What a database is before a restore.

    ``tables`` are those of the schema public; ``fresh``: with nothing in them but what a server
    makes when it starts for the first time. ``kept`` are the schemas that earlier restores left.
    """

    major: int
    tables: tuple[str, ...]
    fresh: bool
    kept: tuple[str, ...] = ()

    @property
    def empty(self) -> bool:
        return not self.tables


class Database:
    """The database that libpq's variables name.

    Args:
        deadline: seconds from now after which every call raises `DeadlineExceeded`.
    """

    def __init__(self, deadline: float | None = None) -> None:
        self._end = None if deadline is None else time.monotonic() + deadline
        self._environment = {"PGCONNECT_TIMEOUT": CONNECT_SECONDS, **os.environ}
        self._environment["PGCLIENTENCODING"] = "UTF8"
        self._environment["LC_MESSAGES"] = "C"

    @property
    def name(self) -> str:
        """``user@host:port/database``, for messages."""
        told = self._environment.get
        user, host = told("PGUSER", "?"), told("PGHOST", "localhost")
        return f"{user}@{host}:{told('PGPORT', '5432')}/{told('PGDATABASE', user)}"

    def query(self, statement: str) -> list[list[str]]:
        """The rows of a statement, each value as text."""
        command = [find("psql"), "-XAtq", "-v", "ON_ERROR_STOP=1", "-F", _SEPARATOR]
        with tempfile.TemporaryFile() as errors, tempfile.TemporaryFile() as rows:
            process = self._start([*command, "-c", statement], errors, stdout=rows)
            self._finish(process, errors, "psql")
            rows.seek(0)
            text = rows.read().decode(errors="replace")
        return [line.split(_SEPARATOR) for line in text.splitlines()]

    def major(self) -> int:
        """The server's major version."""
        return int(self.query("SHOW server_version_num")[0][0]) // 10000

    def state(self) -> State:
        """What is in it, at the cost of one small query, or two."""
        rows = self.query(
            "SELECT 'version', current_setting('server_version_num') UNION ALL"
            " SELECT 'table', tablename FROM pg_catalog.pg_tables WHERE schemaname = 'public'"
            " UNION ALL SELECT 'kept', nspname FROM pg_catalog.pg_namespace"
            f" WHERE starts_with(nspname, '{BEFORE}') ORDER BY 2"
        )
        found: dict[str, list[str]] = {"version": [], "table": [], "kept": []}
        for what, name in rows:
            found[what].append(name)
        tables = tuple(found["table"])
        major = int(found["version"][0]) // 10000
        return State(major, tables, self._fresh(tables), tuple(found["kept"]))

    def _fresh(self, tables: Sequence[str]) -> bool:
        if not tables:
            return True
        # Users' tables come first: a server that was stopped in its first start has only those.
        mlflows = {"alembic_version", "experiments"} <= {*tables}
        if not mlflows and "alembic_version_auth" not in tables:
            return False
        found = ["false"]
        if "experiments" in tables:
            found.append("EXISTS (SELECT FROM public.experiments WHERE experiment_id <> 0)")
        for name in tables:
            if name not in (*_OF_FIRST_START, "experiments"):
                quoted = name.replace('"', '""')
                found.append(f'EXISTS (SELECT FROM public."{quoted}")')
        return self.query(f"SELECT {' OR '.join(found)}")[0][0] == "f"

    def others(self) -> list[str]:
        """Who else is connected to it: one line each."""
        rows = self.query(
            "SELECT usename, coalesce(host(client_addr), 'local'), application_name"
            " FROM pg_catalog.pg_stat_activity WHERE datname = current_database()"
            " AND pid <> pg_backend_pid() AND backend_type = 'client backend'"
        )
        return [" ".join(filter(None, row)) for row in rows]

    def dump(self, major: int = 0) -> Iterator[bytes]:
        """The bytes of a dump (`pg_dump -Fc`) of the schema public, consistent within itself.

        Blocks no reader and no writer. Raises DatabaseError after the last piece if the dump is not
        whole.

        Args:
            major: the server's major version: an older client refuses it.
        """
        command = [find("pg_dump", major), "-Fc", "--schema=public"]
        command.append(f"--lock-wait-timeout={LOCK_WAIT}")
        yield from self._pg_dump(command)

    def data_only(self, tables: Iterable[str], major: int = 0) -> Iterator[bytes]:
        """The rows of these tables as the text of COPY, as `pg_restore` writes it of a dump; of a
        table that is not there, nothing."""
        there = set(self.state().tables)
        chosen = [f"--table=public.{name}" for name in tables if name in there]
        if not chosen:  # pg_dump refuses a choice of nothing
            return
        command = [find("pg_dump", major), "--data-only", *chosen]
        yield from self._pg_dump(command)

    def _pg_dump(self, command: Sequence[str | Path]) -> Iterator[bytes]:
        with tempfile.TemporaryFile() as errors:
            process = self._start(command, errors, stdout=subprocess.PIPE)
            with self._watched(process):
                assert process.stdout is not None
                while chunk := process.stdout.read(CHUNK):
                    self._check()
                    yield chunk
                self._finish(process, errors, "pg_dump")

    @contextmanager
    def restoring(
        self,
        chunks: Iterable[bytes | memoryview],
        *,
        major: int = 0,
        aside: str = "",
        drop: Sequence[str] = (),
    ) -> Iterator[Restoring]:
        """Begin to restore a dump, in a transaction that only `Restoring.commit` ends well.

        A thread feeds the dump while the caller does something else. COMMIT is written only after
        the iterator has ended without an error and `pg_restore` has taken all of it. Whatever else
        ends this block, or this process, ends the connection, and with it the transaction.

        Args:
            chunks: the dump. An exception from it, also after the last piece, changes nothing.
            major: of the client that made the dump: an older one cannot read it.
            aside: the name that the schema public gets; "" where there is nothing in it.
            drop: schemas of earlier restores to remove.
        """
        command = [find("psql", major), "-Xq", "-v", "ON_ERROR_STOP=1", "-o", os.devnull]
        command += ["-d", _KEEP_ALIVE, "-f", "-"]
        reading, writing = os.pipe()
        with ExitStack() as ending:
            script = ending.enter_context(os.fdopen(writing, "wb", buffering=0))
            errors = ending.enter_context(tempfile.TemporaryFile())
            try:
                psql = self._start(command, errors, stdin=reading)
            finally:
                os.close(reading)
            ending.enter_context(self._watched(psql))
            thread = ending.enter_context(ThreadPoolExecutor(1))
            restoring = ending.enter_context(Restoring(self, psql, errors, script))
            restoring.feed(thread, chunks, _begin(aside, drop), major)
            yield restoring

    def _start(
        self,
        command: Sequence[str | Path],
        errors: IO[bytes],
        stdin: int | IO[bytes] = subprocess.DEVNULL,
        stdout: int | IO[bytes] = subprocess.DEVNULL,
    ) -> subprocess.Popen[bytes]:
        self._check()
        return subprocess.Popen(
            command, stdin=stdin, stdout=stdout, stderr=errors, env=self._environment
        )

    @contextmanager
    def _watched(self, process: subprocess.Popen[bytes]) -> Iterator[None]:
        """Whatever happens, the program does not outlive this; nor the deadline."""
        import threading

        timer = None
        if self._end is not None:
            timer = threading.Timer(max(0.0, self._end - time.monotonic()), process.kill)
            timer.daemon = True
            timer.start()
        try:
            yield
        finally:
            if timer is not None:
                timer.cancel()
            if process.poll() is None:
                process.kill()
                process.wait()
            for pipe in (process.stdin, process.stdout):
                if pipe is not None:
                    with suppress(OSError):
                        pipe.close()

    def _finish(self, process: subprocess.Popen[bytes], errors: IO[bytes], program: str) -> None:
        """Wait for a program; raise what it said unless it succeeded."""
        left = None if self._end is None else max(0.0, self._end - time.monotonic())
        try:
            code = process.wait(left)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            code = -9
        self._check()
        if code:
            raise DatabaseError(self._explain(program, code, _said(errors)))

    def _explain(self, program: str, code: int, said: str) -> str:
        where = f"database {self.name}"
        if _LOGIN_REFUSED.search(said):
            return (
                f"{where}: the login is refused: set PGUSER and PGPASSWORD to what is valid now;"
                " was the password rotated?"
            )
        if "permission denied" in said or "must be owner" in said:
            return f"{where}: {said}: give this user the right, or use the owner of the database"
        return f"{where}: {program} failed: {said or f'exit code {code}'}"

    def _check(self) -> None:
        if self._end is not None and time.monotonic() > self._end:
            raise DeadlineExceeded(f"database {self.name}: not done within the deadline")


class Restoring:
    """A dump on its way into a database; `Database.restoring` makes it.

    It reads the dump no faster than the server takes it. ``bytes`` have been read so far.
    """

    def __init__(
        self,
        database: Database,
        psql: subprocess.Popen[bytes],
        errors: IO[bytes],
        script: IO[bytes],
    ) -> None:
        self.bytes = 0
        self._ended = False
        self._database, self._psql, self._errors, self._script = database, psql, errors, script
        self._fed: Future[None] | None = None

    def __enter__(self) -> Restoring:
        return self

    def __exit__(self, *error: object) -> None:
        """Roll back what was not committed, so that the thread ends too."""
        self._ended = True
        if self._psql.poll() is None:
            self._psql.kill()

    def feed(
        self,
        pool: ThreadPoolExecutor,
        chunks: Iterable[bytes | memoryview],
        begin: str,
        major: int,
    ) -> None:
        """Begin the transaction, and let a thread put the dump into it."""
        self._write(begin)
        self._fed = pool.submit(self._feed, chunks, major)

    def wait(self, seconds: float | None = None) -> bool:
        """Whether all of the dump is in the transaction, after so many seconds at most.

        Raises DatabaseError, or what the dump's iterator raised, if it failed.
        """
        assert self._fed is not None
        with suppress(TimeoutError):
            self._fed.result(seconds)
        return self._fed.done()

    def commit(self) -> None:
        """End the transaction once all of the dump is in it."""
        self.wait()
        failpoint("pipeline.before-commit")
        self._write("COMMIT;\n")
        self._script.close()
        self._database._finish(self._psql, self._errors, "psql")
        failpoint("pipeline.after-commit")

    def _feed(self, chunks: Iterable[bytes | memoryview], major: int) -> None:
        """Let `pg_restore` write the dump into psql's script; this end of the pipe stays open."""
        command = [find("pg_restore", major), "-f", "-", "--no-owner", "--no-acl"]
        command.append("--schema=public")
        database, psql = self._database, self._psql
        with tempfile.TemporaryFile() as errors:
            process = database._start(command, errors, stdin=subprocess.PIPE, stdout=self._script)
            with database._watched(process):
                assert process.stdin is not None
                try:
                    for chunk in chunks:
                        database._check()
                        if self._ended:
                            return
                        process.stdin.write(chunk)
                        self.bytes += len(chunk)
                    process.stdin.close()
                except BrokenPipeError:
                    if psql.poll() is not None:
                        database._finish(psql, self._errors, "psql")
                    database._finish(process, errors, "pg_restore")
                    raise DatabaseError("pg_restore stopped before the end of the dump") from None
                process.wait()  # ends early if psql does: nobody reads what it writes then
                database._check()
                if process.returncode:  # psql may be why: it is about to end then
                    with suppress(subprocess.TimeoutExpired):
                        psql.wait(2)
                        database._finish(psql, self._errors, "psql")
                database._finish(process, errors, "pg_restore")

    def _write(self, text: str) -> None:
        try:
            self._script.write(text.encode())
        except BrokenPipeError:
            self._database._finish(self._psql, self._errors, "psql")
            raise


def _begin(aside: str, drop: Sequence[str]) -> str:
    lines = ["BEGIN;", "SET LOCAL client_min_messages = warning;"]
    lines.append("SET LOCAL idle_in_transaction_session_timeout = 0;")  # artifacts may take hours
    lines += [f'DROP SCHEMA "{name}" CASCADE;' for name in drop]
    if aside:
        lines.append(f'ALTER SCHEMA public RENAME TO "{aside}";')
        lines += ["CREATE SCHEMA public;", "GRANT USAGE ON SCHEMA public TO PUBLIC;"]
    return "\n".join([*lines, ""])


def _said(errors: IO[bytes]) -> str:
    """The last lines that a program wrote on stderr, as one."""
    errors.seek(0)
    lines = errors.read()[-4000:].decode(errors="replace").splitlines()
    kept = [_NOISE.sub("", line.strip()) for line in lines if line.strip()]
    return "; ".join(kept[:4])
