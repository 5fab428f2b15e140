"""A pipeline's snapshots and restores under faults: kills, damage, rights, versions, others."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from datetime import timedelta
from pathlib import Path

import psutil
import pytest

from holdfast.copies.prune import prune
from holdfast.errors import HoldfastError, Mismatch
from holdfast.pipeline.artifacts import open_artifacts
from holdfast.pipeline.database import Database, DatabaseError
from holdfast.pipeline.pull import PullRefused, pull
from holdfast.pipeline.push import push
from holdfast.pipeline.state import State
from holdfast.pipeline.verify import verify
from holdfast.retention import Policy
from holdfast.store.snapshot import Catalog
from testkit.postgresql import database, postgresql, serve_postgresql
from testkit.stores import age
from testkit.tracking import Tracking
from tests.holdfast.pipeline.conftest import artifacts, live, tracking

__all__ = ["artifacts", "database", "live", "postgresql", "tracking"]

ROOT = Path(__file__).parents[3]
pytestmark = pytest.mark.pipeline

PUSH_POINTS = (
    *("stream.file-uploaded", "stream.file-uploaded@2", "stream.file-uploaded@3"),
    *("stream.manifest-uploaded", "stream.manifest-uploaded@2", "stream.manifest-uploaded@3"),
    *("pipeline.dumped", "pipeline.artifact-copied", "push.before-snapshot", "push.after-snapshot"),
)
PULL_POINTS = (
    *("pipeline.verified", "pipeline.artifact-restored", "pipeline.artifacts-restored"),
    *("pipeline.before-commit", "pipeline.after-commit"),
)


@pytest.fixture
def holdfast(tracking: Tracking, store_directory: Path):
    """`holdfast(verb, …, failpoint=…)` runs `holdfast pipeline` as a process that may be killed."""

    def start(*words: str, failpoint: str = "", **environment: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-m", "holdfast", "pipeline", *words],
            cwd=ROOT,
            env={
                **os.environ,
                "HOLDFAST_ARTIFACTS": str(tracking.artifacts),
                "HOLDFAST_STORE": store_directory.as_uri(),
                "HOLDFAST_OWNER": "project/stack",
                "HOLDFAST_FAILPOINT": failpoint,
                **environment,
            },
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    return start


def lose(tracking: Tracking) -> None:
    tracking.sql("DROP SCHEMA public CASCADE; CREATE SCHEMA public")
    shutil.rmtree(tracking.artifacts)
    tracking.artifacts.mkdir()


def fill(tracking: Tracking) -> None:
    """So many rows that a dump of them is larger than what a pipe holds."""
    tracking.sql(
        "INSERT INTO secrets SELECT n::text, sha512(n::text::bytea) FROM"
        " generate_series(1, 100000) n"
    )


def file_of(store_directory: Path, ref, name: str) -> Path:
    return store_directory / ref.data / name


# Killed ---------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("point", PUSH_POINTS)
def test_a_push_killed_at_any_phase_leaves_a_whole_snapshot_or_none(
    tracking: Tracking, live, artifacts, catalog: Catalog, holdfast, point: str
):
    tracking.log({"a": b"1"}, model="churn")
    first = push(live, artifacts, catalog, "tracking").snapshot
    tracking.log({"b": b"2", "c": b"3"}, model="churn", alias="prod")
    rows, files = tracking.rows(), tracking.files()

    process = holdfast("push", failpoint=f"{point}=kill")
    process.communicate(timeout=60)
    assert process.returncode == -9

    fresh = Catalog(catalog.store, "project/stack")
    there = fresh.snapshots("pipeline")
    assert [one.id for one in there][-1] == first.id
    assert len(there) == (2 if point == "push.after-snapshot" else 1)
    assert all(verify(fresh, one).ok for one in there)
    report = push(live, artifacts, fresh, "tracking", patience=0)
    lose(tracking)
    pull(live, artifacts, fresh, report.snapshot)
    assert (tracking.rows(), tracking.files()) == (rows, files)


@pytest.mark.slow
@pytest.mark.parametrize("point", PULL_POINTS)
def test_a_pull_killed_at_any_phase_leaves_the_old_database_or_the_new_one(
    tracking: Tracking, live, artifacts, catalog: Catalog, holdfast, point: str
):
    old = tracking.log({"a": b"1"}, model="churn")
    snapshot_rows, snapshot_files = tracking.rows(), tracking.files()
    report = push(live, artifacts, catalog, "tracking")
    tracking.log({"b": b"2"}, model="churn")
    (tracking.artifacts / f"0/{old}/artifacts/a").unlink()
    before = tracking.rows()

    process = holdfast("pull", "--replace", failpoint=f"{point}=kill")
    process.communicate(timeout=60)
    assert process.returncode == -9

    after = point == "pipeline.after-commit"
    assert tracking.rows() == (snapshot_rows if after else before)
    pull(live, artifacts, catalog, report.snapshot, replace=True)
    assert tracking.rows() == snapshot_rows
    assert snapshot_files.items() <= tracking.files().items()
    assert not list(tracking.artifacts.glob(".holdfast-tmp-*"))


def test_a_dump_that_is_killed_makes_no_snapshot(
    tracking: Tracking, live, artifacts, catalog: Catalog, monkeypatch
):
    fill(tracking)
    dump = Database.dump

    def killed(self, major=0):
        for number, chunk in enumerate(dump(self, major)):
            if number == 0:
                for child in psutil.Process().children():
                    if child.name() == "pg_dump":
                        child.kill()
            yield chunk

    monkeypatch.setattr(Database, "dump", killed)
    with pytest.raises((DatabaseError, Mismatch), match=r"pg_dump failed|cannot be read"):
        push(live, artifacts, catalog, "tracking")
    assert catalog.snapshots("pipeline") == []


@pytest.mark.slow
def test_a_database_that_dies_during_the_dump_makes_no_snapshot_and_the_next_push_does(
    tmp_path: Path, catalog: Catalog, monkeypatch
):
    with serve_postgresql() as server:
        tracking = Tracking(server, server.create(), tmp_path / "artifacts").create()
        fill(tracking)
        for name, value in server.environment(tracking.database).items():
            monkeypatch.setenv(name, value)
        live = Database()
        artifacts = open_artifacts(str(tracking.artifacts), memory=2**26)
        dump = Database.dump

        def lost(self, major=0):
            for number, chunk in enumerate(dump(self, major)):
                if number == 2:
                    server.kill()
                yield chunk

        with monkeypatch.context() as patched:
            patched.setattr(Database, "dump", lost)
            with pytest.raises(DatabaseError, match="pg_dump failed"):
                push(live, artifacts, catalog, "tracking")
        assert catalog.snapshots("pipeline") == []
        with pytest.raises(DatabaseError, match=r"psql failed: .*refused"):
            push(live, artifacts, catalog, "tracking")
        server.start()
        assert verify(catalog, push(live, artifacts, catalog, "tracking").snapshot).ok


@pytest.mark.slow
def test_a_database_that_dies_during_a_restore_is_as_it_was(
    tmp_path: Path, catalog: Catalog, monkeypatch
):
    with serve_postgresql() as server:
        tracking = Tracking(server, server.create(), tmp_path / "artifacts").create()
        tracking.log({"a": b"1"})
        for name, value in server.environment(tracking.database).items():
            monkeypatch.setenv(name, value)
        live = Database()
        artifacts = open_artifacts(str(tracking.artifacts), memory=2**26)
        report = push(live, artifacts, catalog, "tracking")
        tracking.log({"b": b"2"})
        rows = tracking.rows()

        def lost(dump):
            yield from dump
            server.kill()

        restoring = Database.restoring

        def lost_at_the_end(self, chunks, **words):
            dump = State.of(report.snapshot).dump(catalog)
            return restoring(self, lost(dump), **words)

        with monkeypatch.context() as patched:
            patched.setattr(Database, "restoring", lost_at_the_end)
            with pytest.raises(DatabaseError, match="psql failed"):
                pull(live, artifacts, catalog, report.snapshot, replace=True)
        server.start()
        assert tracking.rows() == rows
        pull(live, artifacts, catalog, report.snapshot, replace=True)
        assert len(tracking.rows()["runs"]) == 1


def test_a_dump_that_turns_out_wrong_at_its_last_byte_changes_nothing(
    tracking: Tracking, live, artifacts, catalog: Catalog
):
    """Shown to fail: by `psql --single-transaction`, which commits at the end of its input."""
    tracking.log({"a": b"1"})
    report = push(live, artifacts, catalog, "tracking")
    tracking.log()
    rows = tracking.rows()

    def wrong():
        yield from State.of(report.snapshot).dump(catalog)
        raise Mismatch("has other bytes than its SHA-256 says")

    with (
        pytest.raises(Mismatch),
        live.restoring(wrong(), aside="holdfast_before_test") as restoring,
    ):
        restoring.commit()
    assert tracking.rows() == rows
    assert live.state().kept == ()


# Damaged --------------------------------------------------------------------------------------


def test_a_corrupt_dump_is_found_by_verify_and_refused_by_pull(
    tracking: Tracking, live, artifacts, catalog: Catalog, store_directory: Path, flip
):
    tracking.log({"a": b"1"})
    report = push(live, artifacts, catalog, "tracking")
    path = file_of(store_directory, State.of(report.snapshot).database, "database.dump")
    flip(path, bit=8 * (path.stat().st_size // 2))
    rows, files = tracking.rows(), tracking.files()

    found = verify(catalog, report.snapshot)
    assert any("database.dump" in problem for problem in found.problems)
    with pytest.raises(Mismatch, match=r"nothing was changed: .*database\.dump"):
        pull(live, artifacts, catalog, report.snapshot, replace=True)
    assert (tracking.rows(), tracking.files()) == (rows, files)


@pytest.mark.parametrize("damage", ["flip", "missing"])
def test_a_damaged_or_missing_artifact_in_the_store_is_named_and_copied_anew(
    tracking: Tracking,
    live,
    artifacts,
    catalog: Catalog,
    store_directory: Path,
    flip,
    damage: str,
    monkeypatch,
):
    from holdfast.pipeline.verify import record

    monkeypatch.setattr("holdfast.pipeline.artifacts._RACY_NS", 0)
    tracking.log({"a": b"1"}, model="churn")
    report = push(live, artifacts, catalog, "tracking")
    (ref,) = State.of(report.snapshot).artifacts.values()
    path = file_of(store_directory, ref, "00000001")
    path.unlink() if damage == "missing" else flip(path)

    found = verify(catalog, report.snapshot)
    assert any("00000001" in problem for problem in found.problems)
    with pytest.raises(Mismatch, match="nothing was changed"):
        pull(live, artifacts, catalog, report.snapshot, replace=True)
    record(catalog, found)
    again = push(live, artifacts, catalog, "tracking")
    assert again.copied_files == 1
    assert verify(catalog, again.snapshot).ok


def test_an_artifact_that_is_lost_from_the_volume_is_named_by_check(
    tracking: Tracking, live, artifacts, catalog: Catalog
):
    from holdfast.pipeline.verify import check

    run = tracking.log({"a": b"1"}, model="churn")
    report = push(live, artifacts, catalog, "tracking")
    (tracking.artifacts / f"0/{run}/artifacts/a").unlink()
    assert check(live, artifacts, catalog, report.snapshot).problems == {
        f"artifact 0/{run}/artifacts/a": "is missing",
        "model churn version 1": f"has no files at '0/{run}/artifacts'",
    }


# Versions, keys, rights -----------------------------------------------------------------------


@pytest.mark.slow
def test_a_dump_of_a_newer_postgresql_is_refused_before_anything_changes(
    tracking: Tracking, live, artifacts, catalog: Catalog, tmp_path: Path, monkeypatch
):
    tracking.log({"a": b"1"})
    rows = tracking.rows()
    with serve_postgresql(18) as newer, monkeypatch.context() as patched:
        for name, value in newer.environment(newer.create("other")).items():
            patched.setenv(name, value)
        Tracking(newer, "other", tmp_path / "other").create()
        report = push(Database(), artifacts, catalog, "tracking")
    assert report.snapshot.labels["postgresql"] == 18

    with pytest.raises(PullRefused, match="dump is of PostgreSQL 18 and the server is 16"):
        pull(live, artifacts, catalog, report.snapshot, replace=True, accept=["mlflow", "key"])
    assert tracking.rows() == rows


def test_a_rotated_password_is_said_and_leaves_no_snapshot(
    tracking: Tracking, artifacts, catalog: Catalog, monkeypatch
):
    monkeypatch.setenv("PGPASSWORD", "the one of last month")
    with pytest.raises(DatabaseError, match=r"login is refused.*rotated") as refused:
        push(Database(), artifacts, catalog, "tracking")
    assert "last month" not in str(refused.value)
    assert catalog.snapshots("pipeline") == []


def test_another_key_of_the_secrets_is_refused_unless_it_is_accepted(
    tracking: Tracking, live, artifacts, catalog: Catalog, monkeypatch
):
    tracking.sql("INSERT INTO secrets VALUES ('openai', '\\x00ff')")
    monkeypatch.setenv("MLFLOW_CRYPTO_KEK_PASSPHRASE", "correct horse")
    report = push(live, artifacts, catalog, "tracking")
    assert "horse" not in str(report.snapshot.labels)
    lose(tracking)

    monkeypatch.setenv("MLFLOW_CRYPTO_KEK_PASSPHRASE", "battery staple")
    with pytest.raises(PullRefused, match=r"encrypted with another key .*--accept key"):
        pull(live, artifacts, catalog, report.snapshot)
    assert tracking.rows() == {}
    assert "another key" in pull(live, artifacts, catalog, report.snapshot, accept=["key"]).notes[0]
    lose(tracking)
    monkeypatch.setenv("MLFLOW_CRYPTO_KEK_PASSPHRASE", "correct horse")
    assert pull(live, artifacts, catalog, report.snapshot).notes == []


def test_a_newer_mlflow_is_refused_unless_it_is_accepted(
    tracking: Tracking, live, artifacts, catalog: Catalog, monkeypatch
):
    tracking.sql("UPDATE alembic_version SET version_num = 'ffffffffffff'")
    monkeypatch.setenv("HOLDFAST_MLFLOW_VERSION", "9.1.0")
    report = push(live, artifacts, catalog, "tracking")
    monkeypatch.delenv("HOLDFAST_MLFLOW_VERSION")
    lose(tracking)
    with pytest.raises(
        PullRefused, match=r"schema ffffffffffff \(MLflow 9\.1\.0\).*--accept mlflow"
    ):
        pull(live, artifacts, catalog, report.snapshot)
    pull(live, artifacts, catalog, report.snapshot, accept=["mlflow"])


# Others at the same time ----------------------------------------------------------------------


@pytest.mark.slow
def test_two_pushes_at_once_make_two_whole_snapshots(
    tracking: Tracking, live, artifacts, catalog: Catalog, holdfast
):
    for number in range(20):
        tracking.log({"a": b"%d" % number}, model="churn")
    processes = [holdfast("push") for _ in range(2)]
    for process in processes:
        _, said = process.communicate(timeout=120)
        assert process.returncode == 0, said
    there = catalog.snapshots("pipeline")
    assert len(there) == 2
    assert all(verify(catalog, snapshot).ok for snapshot in there)


def test_a_prune_in_the_middle_of_a_push_takes_nothing_that_its_snapshot_names(
    tracking: Tracking, live, artifacts, catalog: Catalog, store_directory: Path, monkeypatch
):
    monkeypatch.setattr("holdfast.pipeline.artifacts._RACY_NS", 0)
    grace, policy = timedelta(hours=1), Policy(1, 0, 0, 0, 0)
    for number in range(3):
        tracking.log({"a": b"%d" % number}, model="churn")
        push(live, artifacts, catalog, "tracking", grace=grace)
    age(store_directory, 3 * grace)
    dump = Database.dump

    def pruned(self, major=0):
        prune(Catalog(catalog.store, "project/stack"), "pipeline", policy, grace=grace, patience=0)
        yield from dump(self, major)

    with monkeypatch.context() as patched:
        patched.setattr(Database, "dump", pruned)
        report = push(live, artifacts, catalog, "tracking", grace=grace)
    for _ in range(3):
        age(store_directory, 3 * grace)
        prune(Catalog(catalog.store, "project/stack"), "pipeline", policy, grace=grace)

    fresh = Catalog(catalog.store, "project/stack")
    assert [one.id for one in fresh.snapshots("pipeline")] == [report.snapshot.id]
    assert verify(fresh, report.snapshot).ok
    lose(tracking)
    pull(live, artifacts, fresh, report.snapshot)


@pytest.mark.parametrize("full", ["artifacts", "store"])
def test_a_full_disk_is_said_and_leaves_no_half_state(
    tracking: Tracking, live, artifacts, catalog: Catalog, full: str, monkeypatch
):
    tracking.log({"a": b"1"})
    report = push(live, artifacts, catalog, "tracking")
    rows = tracking.rows()
    point = "pipeline.artifact-restored" if full == "artifacts" else "stream.file-uploaded"
    monkeypatch.setenv("HOLDFAST_FAILPOINT", f"{point}=enospc")
    with pytest.raises((OSError, HoldfastError)):
        if full == "artifacts":
            shutil.rmtree(tracking.artifacts / "0")
            pull(live, artifacts, catalog, report.snapshot, replace=True)
        else:
            push(live, artifacts, catalog, "tracking")
    assert tracking.rows() == rows
    assert len(catalog.snapshots("pipeline")) == 1
