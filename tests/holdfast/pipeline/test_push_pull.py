"""A pipeline's state goes to a store and comes back: database, artifacts, references."""

from __future__ import annotations

import os
import shutil
from datetime import timedelta

import pytest

from holdfast.copies.streamed import StreamedBundle
from holdfast.copies.writing import write_snapshot
from holdfast.errors import UsageError
from holdfast.pipeline import push as pushing
from holdfast.pipeline.artifacts import Artifacts, open_artifacts
from holdfast.pipeline.database import Database
from holdfast.pipeline.pull import PullRefused, pull
from holdfast.pipeline.push import push
from holdfast.pipeline.state import State
from holdfast.pipeline.verify import check, verify
from holdfast.store.snapshot import Catalog
from testkit.tracking import Tracking

pytestmark = pytest.mark.pipeline


def settle(tracking: Tracking) -> None:
    """Let the files be older than the time in which a change could go unnoticed."""
    for path in tracking.artifacts.rglob("*"):
        if path.is_file():
            os.utime(path, ns=(10**18, 10**18))


def lose(tracking: Tracking) -> None:
    tracking.sql("DROP SCHEMA public CASCADE; CREATE SCHEMA public")
    shutil.rmtree(tracking.artifacts)
    tracking.artifacts.mkdir()


def test_everything_that_was_lost_comes_back(
    tracking: Tracking, live: Database, artifacts: Artifacts, catalog: Catalog
):
    tracking.log({"model.bin": b"weights", "ünï cödé/ä b.txt": b""}, model="churn", alias="prod")
    rows, files = tracking.rows(), tracking.files()
    report = push(live, artifacts, catalog, "tracking")
    lose(tracking)

    pulled = pull(live, artifacts, catalog, report.snapshot)

    assert (tracking.rows(), tracking.files()) == (rows, files)
    assert pulled.kept_schema == ""
    found = check(live, artifacts, catalog, report.snapshot)
    assert found.problems == {}
    assert found.counts["aliases"] == found.counts["model versions"] == 1


def test_a_database_without_tables_and_no_artifacts_are_a_state_too(
    database: str, live_and_empty: tuple[Database, Artifacts], catalog: Catalog
):
    live, artifacts = live_and_empty
    report = push(live, artifacts, catalog, "tracking")
    pull(live, artifacts, catalog, report.snapshot)
    assert verify(catalog, report.snapshot).ok


@pytest.fixture
def live_and_empty(database: str, tmp_path) -> tuple[Database, Artifacts]:
    (tmp_path / "nothing").mkdir()
    return Database(), open_artifacts(str(tmp_path / "nothing"), memory=2**26)


@pytest.mark.s3
def test_artifacts_in_a_bucket_go_to_a_bucket_and_back(
    tracking: Tracking, live: Database, s3_url: str, s3_server, tmp_path
):
    from holdfast.store import open_store

    bucket = open_artifacts(f"s3://{s3_server.bucket()}/mlflow", memory=2**26)
    catalog = Catalog(open_store(s3_url), "project/stack")
    run = tracking.log()
    tracking.sql(
        "INSERT INTO logged_models VALUES"
        f" ('m-1', '{bucket.url}/0/{run}/artifacts/model', 2, 'active')"
    )
    big = os.urandom(9 * 2**20)
    path = f"0/{run}/artifacts/model/weights"
    bucket.write(path, iter([big]), len(big))

    report = push(live, bucket, catalog, "tracking")
    assert (report.artifacts.missing, report.copied_files) == ({}, 1)
    again = push(live, bucket, catalog, "tracking")
    assert again.copied_files == 0
    bucket.write(path, iter([b"other"]), 5)
    tracking.sql("DROP SCHEMA public CASCADE; CREATE SCHEMA public")
    with pytest.raises(PullRefused, match="would be replaced"):
        pull(live, bucket, catalog, again.snapshot)
    pull(live, bucket, catalog, again.snapshot, replace=True)

    assert b"".join(bytes(chunk) for chunk in bucket.read(path)) == big
    kept = f".holdfast-before-{again.snapshot.id}/{path}"
    assert b"".join(bytes(chunk) for chunk in bucket.read(kept)) == b"other"
    assert list(bucket.list().files) == [path]


def test_only_what_is_new_is_copied(
    tracking: Tracking, live: Database, artifacts: Artifacts, catalog: Catalog, monkeypatch
):
    monkeypatch.setattr("holdfast.pipeline.artifacts._RACY_NS", 0)
    tracking.log({"a": b"1", "b": b"2"})
    first = push(live, artifacts, catalog, "tracking")
    run = tracking.log({"c": b"3"})
    second = push(live, artifacts, catalog, "tracking")

    assert (first.copied_files, second.copied_files) == (2, 1)
    assert len(State.of(second.snapshot).artifacts) == 2
    assert verify(catalog, second.snapshot).ok
    (tracking.artifacts / f"0/{run}/artifacts/c").write_bytes(b"4")  # same size
    third = push(live, artifacts, catalog, "tracking")
    assert third.copied_files == 1
    lose(tracking)
    pull(live, artifacts, catalog, third.snapshot)
    assert tracking.files()[f"0/{run}/artifacts/c"] == b"4"


def test_a_file_that_has_just_changed_is_copied_again_since_it_may_change_unnoticed(
    tracking: Tracking, live: Database, artifacts: Artifacts, catalog: Catalog
):
    tracking.log({"a": b"1"})
    push(live, artifacts, catalog, "tracking")
    assert push(live, artifacts, catalog, "tracking").copied_files == 1


def test_many_small_copies_become_one(
    tracking: Tracking, live: Database, artifacts: Artifacts, catalog: Catalog, monkeypatch
):
    monkeypatch.setattr("holdfast.pipeline.artifacts._RACY_NS", 0)
    monkeypatch.setattr(pushing, "MOST_BUNDLES", 6)
    most = 0
    for number in range(14):
        tracking.log({"a": b"%d" % number})
        report = push(live, artifacts, catalog, "tracking")
        most = max(most, len(State.of(report.snapshot).artifacts))

    assert most <= 6
    assert len(report.artifacts.entries) == 14
    assert verify(catalog, report.snapshot).ok


def test_a_bundle_of_which_most_is_gone_is_given_up(
    tracking: Tracking, live: Database, artifacts: Artifacts, catalog: Catalog, monkeypatch
):
    monkeypatch.setattr("holdfast.pipeline.artifacts._RACY_NS", 0)
    run = tracking.log({"large": b"x" * 1000, "small": b"y"})
    first = push(live, artifacts, catalog, "tracking")
    (tracking.artifacts / f"0/{run}/artifacts/large").unlink()
    second = push(live, artifacts, catalog, "tracking")

    assert not set(State.of(first.snapshot).artifacts) & set(State.of(second.snapshot).artifacts)
    assert sum(ref.size for ref in State.of(second.snapshot).artifacts.values()) == 1


def test_a_database_with_runs_is_replaced_only_when_told_and_is_kept(
    tracking: Tracking, live: Database, artifacts: Artifacts, catalog: Catalog
):
    old = tracking.log({"a": b"1"})
    report = push(live, artifacts, catalog, "tracking")
    new = tracking.log({"b": b"2"})
    (tracking.artifacts / f"0/{old}/artifacts/a").write_bytes(b"changed")
    rows, files = tracking.rows(), tracking.files()

    with pytest.raises(PullRefused, match=r"is not empty: .*give --replace"):
        pull(live, artifacts, catalog, report.snapshot)
    assert (tracking.rows(), tracking.files()) == (rows, files)

    pulled = pull(live, artifacts, catalog, report.snapshot, replace=True)
    assert [row[0] for row in tracking.rows()["runs"]] == [old]
    kept = tracking.sql(f"SELECT run_uuid FROM {pulled.kept_schema}.runs ORDER BY 1")
    assert {row[0] for row in kept} == {old, new}
    assert tracking.files()[f"0/{old}/artifacts/a"] == b"1"
    aside = tracking.artifacts / pulled.kept_files / f"0/{old}/artifacts/a"
    assert aside.read_bytes() == b"changed"
    # what came later stays: nobody is hurt by a file that no row mentions
    assert tracking.files()[f"0/{new}/artifacts/b"] == b"2"
    # the next restore keeps one state before, not all of them
    again = pull(live, artifacts, catalog, report.snapshot, replace=True)
    assert live.state().kept == (again.kept_schema,)


def test_a_database_in_which_nothing_was_logged_counts_as_empty(
    tracking: Tracking, live: Database, artifacts: Artifacts, catalog: Catalog
):
    tracking.log({"a": b"1"}, model="churn")
    rows = tracking.rows()
    report = push(live, artifacts, catalog, "tracking")
    lose(tracking)
    tracking.create()

    pulled = pull(live, artifacts, catalog, report.snapshot)

    assert tracking.rows() == rows
    assert pulled.kept_schema.startswith("holdfast_before_")


def test_a_database_of_a_server_that_was_stopped_in_its_first_start_counts_as_empty(
    tracking: Tracking, live: Database, artifacts: Artifacts, catalog: Catalog
):
    tracking.log({"a": b"1"})
    rows = tracking.rows()
    report = push(live, artifacts, catalog, "tracking")
    lose(tracking)
    tracking.sql("CREATE TABLE alembic_version_auth AS SELECT 'x' AS version_num")
    tracking.sql("CREATE TABLE users AS SELECT 'admin' AS username")

    pull(live, artifacts, catalog, report.snapshot)

    assert tracking.rows() == rows


def test_somebody_elses_tables_do_not_count_as_empty(
    tracking: Tracking, live: Database, artifacts: Artifacts, catalog: Catalog
):
    report = push(live, artifacts, catalog, "tracking")
    tracking.sql('CREATE TABLE "Invoices" AS SELECT 1 AS amount')
    with pytest.raises(PullRefused, match="is not empty"):
        pull(live, artifacts, catalog, report.snapshot)


def test_a_restore_waits_until_nobody_uses_the_database(
    tracking: Tracking, live: Database, artifacts: Artifacts, catalog: Catalog
):
    report = push(live, artifacts, catalog, "tracking")
    with (
        tracking.server.connect(tracking.database),
        pytest.raises(PullRefused, match=r"in use by 1 connection .*stop the tracking server"),
    ):
        pull(live, artifacts, catalog, report.snapshot, patience=0)


def test_what_others_wrote_while_a_restore_waited_for_them_is_not_replaced_unasked(
    tracking: Tracking, live: Database, artifacts: Artifacts, catalog: Catalog, monkeypatch
):
    report = push(live, artifacts, catalog, "tracking")
    lose(tracking)
    tracking.create()
    answers = iter([["mlflow"], []])

    def others(self) -> list[str]:
        found = next(answers)
        if found:
            tracking.log({"late": b"1"})
        return found

    monkeypatch.setattr(Database, "others", others)

    with pytest.raises(PullRefused, match="is not empty"):
        pull(live, artifacts, catalog, report.snapshot)


def test_a_file_that_is_rewritten_while_the_backup_runs_is_named(
    tracking: Tracking, live: Database, artifacts: Artifacts, catalog: Catalog, monkeypatch
):
    run = tracking.log({"a": b"1", "b": b"2"})
    dump = Database.dump

    def rewritten(self, major=0):
        yield from dump(self, major)
        tracking.write({f"0/{run}/artifacts/a": b"newer", f"0/{run}/artifacts/new": b"3"})

    monkeypatch.setattr(Database, "dump", rewritten)
    report = push(live, artifacts, catalog, "tracking")

    assert report.newer == [f"0/{run}/artifacts/a"]
    assert verify(catalog, report.snapshot).newer == report.newer
    assert State.of(report.snapshot).list(catalog).entries[report.newer[0]].size == 5


def test_a_file_that_never_stands_still_is_taken_and_named(
    tracking: Tracking, live: Database, artifacts: Artifacts, catalog: Catalog, monkeypatch
):
    run = tracking.log({"log.txt": b""})
    path = f"0/{run}/artifacts/log.txt"
    read = type(artifacts).read

    def growing(self, name):
        yield from read(self, name)
        with (tracking.artifacts / path).open("ab") as file:
            file.write(b"one more line\n")

    monkeypatch.setattr(type(artifacts), "read", growing)
    report = push(live, artifacts, catalog, "tracking")

    assert report.newer == [path]
    assert verify(catalog, report.snapshot).ok


def test_what_the_database_needs_and_nobody_has_is_named_once_and_known_from_then_on(
    tracking: Tracking, live: Database, artifacts: Artifacts, catalog: Catalog
):
    run = tracking.log({"a": b"1"}, model="churn")
    shutil.rmtree(tracking.artifacts / f"0/{run}")
    report = push(live, artifacts, catalog, "tracking")

    assert list(report.artifacts.missing) == ["model churn version 1"]
    assert report.snapshot.labels["missing"] == 1
    found = verify(catalog, report.snapshot)
    assert found.ok
    assert found.missing == report.artifacts.missing


def test_an_empty_directory_in_the_place_of_the_artifacts_is_refused(
    tracking: Tracking, live: Database, artifacts: Artifacts, catalog: Catalog, tmp_path
):
    tracking.log({"a": b"1"}, model="churn")
    first = push(live, artifacts, catalog, "tracking")
    (tmp_path / "unmounted").mkdir()
    wrong = open_artifacts(str(tmp_path / "unmounted"), memory=2**26)
    with pytest.raises(pushing.NoArtifacts, match="mount the right volume"):
        push(live, wrong, catalog, "tracking")
    assert [one.id for one in catalog.snapshots("pipeline")] == [first.snapshot.id]


def test_a_snapshot_names_datasets_models_and_the_newest_checkpoints(
    tracking: Tracking, live: Database, artifacts: Artifacts, catalog: Catalog
):
    made = {}
    for workload, kind, count in (
        ("datasets", "dataset", 2),
        ("models", "model", 1),
        ("gpt", "checkpoint", 2),
    ):
        for number in range(count):
            catalog.claim()
            began = catalog.store.now()
            name = f"{kind}-{number}"
            bundle = StreamedBundle(catalog, workload, "content", 1, kind, name)
            bundle.put("data", [f"{name}".encode()])
            made[name] = bundle.commit()
            write_snapshot(catalog, workload, "run", 1, [made[name]], began=began)
    tracking.log(dataset=made["dataset-0"].content)
    tracking.log(dataset="f" * 64)

    report = push(live, artifacts, catalog, "tracking")

    names = {ref.name for ref in report.snapshot.foreign}
    assert names == {"dataset-0", "dataset-1", "model-0", "checkpoint-1"}
    assert list(report.artifacts.missing.values()) == ["no dataset has this content"]
    found = verify(catalog, report.snapshot)
    assert found.ok
    assert found.counts["dataset bundles"] == 2


def test_links_and_special_files_are_skipped_by_name(
    tracking: Tracking, live: Database, artifacts: Artifacts, catalog: Catalog
):
    (tracking.artifacts / "link").symlink_to("/etc/passwd")
    os.mkfifo(tracking.artifacts / "pipe")
    report = push(live, artifacts, catalog, "tracking")
    assert report.artifacts.skipped == {"link": "is a link", "pipe": "is not a regular file"}


def test_artifacts_that_lie_in_the_store_are_refused(
    tracking: Tracking, live: Database, catalog: Catalog, store_directory
):
    (store_directory / "artifacts").mkdir(parents=True)
    inside = open_artifacts(str(store_directory / "artifacts"), memory=2**26)
    with pytest.raises(UsageError, match="lie in one another"):
        push(live, inside, catalog, "tracking")


def test_two_tracking_servers_have_snapshots_of_their_own(
    tracking: Tracking, live: Database, artifacts: Artifacts, catalog: Catalog
):
    one = push(live, artifacts, catalog, "tracking")
    other = push(live, artifacts, catalog, "research")
    assert catalog.choose("pipeline", "tracking", "latest").snapshot.id == one.snapshot.id
    assert catalog.choose("pipeline", "research", "latest").snapshot.id == other.snapshot.id


def test_a_push_that_takes_longer_than_half_of_the_grace_period_leaves_no_snapshot(
    tracking: Tracking, live: Database, artifacts: Artifacts, catalog: Catalog
):
    from holdfast.errors import StoreError

    with pytest.raises(StoreError, match="half of the grace period"):
        push(live, artifacts, catalog, "tracking", grace=timedelta(0))
    assert catalog.snapshots("pipeline") == []
