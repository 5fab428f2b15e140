"""A tracking database's dump and restore, beside plain `pg_dump` and `pg_restore`."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

from bench.measure import HOLDFAST, MIB, Cost, interleaved, median, ratio, run
from bench.report import Table
from testkit.postgresql import PostgreSQL, serve_postgresql
from testkit.tracking import Tracking

RUNS_OF_TRAINING = 1000
GOAL = 1.2


def question(work: Path, rounds: int, metrics: int) -> list[Table]:
    """The database of a server with so many metrics, out and in."""
    with serve_postgresql() as server:
        source = server.create()
        tracking = Tracking(server, source, work / "artifacts").create()
        fill(tracking, metrics)
        return [_table(work, server, source, rounds, metrics)]


def fill(tracking: Tracking, metrics: int) -> None:
    """Rows as a training logs them: random values, times that go on."""
    tracking.sql(
        "INSERT INTO runs SELECT md5(n::text), 'active', 'mlflow-artifacts:/0/' || md5(n::text), 0"
        f" FROM generate_series(1, {RUNS_OF_TRAINING}) n;"
        "INSERT INTO metrics SELECT 'loss', random(), 1795721258000 + n * 137, n,"
        f" md5((n % {RUNS_OF_TRAINING} + 1)::text) FROM generate_series(1, {metrics}) n;"
        "ANALYZE"
    )


def _table(work: Path, server: PostgreSQL, source: str, rounds: int, metrics: int) -> Table:
    plain_dump, artifacts = work / "plain.dump", work / "artifacts"
    environment = {
        **server.environment(source),
        "PATH": f"{server.programs}:{os.environ['PATH']}",
        "HOLDFAST_ARTIFACTS": str(artifacts),
        "HOLDFAST_STORE": f"file://{work}/store/bench",
        "HOLDFAST_OWNER": "bench/bench",
    }

    def into_empty(command: Sequence[str]) -> Callable[[], Cost]:
        def restore() -> Cost:
            target = server.create()
            try:
                return run([*command], {**environment, "PGDATABASE": target})
            finally:
                server.drop(target)

        return restore

    programs = server.programs
    out: dict[str, Callable[[], Cost]] = {
        "holdfast pipeline push": lambda: run([*HOLDFAST, "pipeline", "push"], environment),
        "pg_dump -Fc": lambda: run(
            [str(programs / "pg_dump"), "-Fc", "-f", str(plain_dump)], environment
        ),
    }
    costs = interleaved(out, rounds)
    restore = [str(programs / "pg_restore"), "--exit-on-error", "--single-transaction"]
    restore += ["--no-owner", "--no-acl", "--schema=public"]
    back: dict[str, Callable[[], Cost]] = {
        "holdfast pipeline pull": into_empty([*HOLDFAST, "pipeline", "pull"]),
        "pg_restore": lambda: _plain_restore(server, restore, plain_dump, environment),
    }
    costs |= interleaved(back, rounds)
    table = Table(
        f"A tracking database with {metrics:,} metrics, into a directory and back",
        ("what", "seconds", "× the plain tool", "client CPU, s", "peak memory, MB"),
    )
    for ours, plain in (("holdfast pipeline push", "pg_dump -Fc"),
                        ("holdfast pipeline pull", "pg_restore")):  # fmt: skip
        for name in (ours, plain):
            cost = median(costs[name])
            times = f"{1 / ratio(costs[ours], costs[plain]):.2f}" if name == ours else "1.00"
            table.rows.append(
                (name, f"{cost.seconds:.2f}", times, f"{cost.cpu:.2f}", f"{cost.memory / MIB:.0f}")
            )
    dump = plain_dump.stat().st_size / MIB
    table.notes.append(
        f"The dump has {dump:.1f} MiB. Goal: at most {GOAL} × the plain tool. A push also writes a"
        " snapshot; a pull first reads and verifies all of it, and every start of Python counts."
    )
    shutil.rmtree(work / "store")
    return table


def _plain_restore(
    server: PostgreSQL, command: Sequence[str], dump: Path, environment: dict[str, str]
) -> Cost:
    """`pg_restore` into a new database."""
    target = server.create()
    try:
        return run([*command, "-d", target, str(dump)], {**environment, "PGDATABASE": target})
    finally:
        server.drop(target)
