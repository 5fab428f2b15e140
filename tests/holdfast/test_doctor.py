"""The doctor finds what is wrong, says what to do, leaves nothing behind, and always answers."""

from __future__ import annotations

import json
import os
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, ClassVar

import pytest
from typer.testing import CliRunner

from holdfast.bundle import Bundle
from holdfast.cli import app
from holdfast.copies.remembered import remember
from holdfast.errors import StoreDenied
from holdfast.health import doctor_store, examination
from holdfast.health.doctor import store_group, volume_group
from holdfast.health.examination import Check, Level, examine, lazily
from holdfast.store import open_store
from holdfast.store.base import ObjectInfo
from holdfast.store.directory import DirectoryStore
from holdfast.store.documents import BundleRef, Snapshot, Verification, bundle_path
from holdfast.store.snapshot import Catalog
from holdfast.volume import Volume
from testkit.memory_store import MemoryStore, World
from testkit.s3_faults import Fault, FaultProxy, Rule, faults

__all__ = ["faults"]

Write = Callable[..., Bundle]


@pytest.fixture
def store(tmp_path: Path) -> DirectoryStore:
    root = tmp_path / "store"
    root.mkdir()
    return DirectoryStore(root)


def found(checks: list[Check]) -> dict[str, Check]:
    return {check.name: check for check in checks}


def of_store(store: DirectoryStore, owner: str = "team/prod") -> dict[str, Check]:
    return found(examine(store_group(store, Catalog(store, owner), "gpt")))


def test_a_healthy_volume_passes_every_check(volume: Volume, write_bundle: Write):
    write_bundle(volume.generation_path(1))
    checks = examine(volume_group(volume, keep=3))
    assert {check.level for check in checks} == {Level.OK}
    assert list(volume.root.iterdir()) == [volume.run_path]


def test_a_missing_volume_is_one_failure_and_no_further_guesses(volume: Volume):
    assert [(c.name, c.level) for c in examine(volume_group(volume, keep=3))] == [
        ("volume", Level.FAIL)
    ]


def test_space_is_needed_for_kept_pinned_saved_and_staged_bundles(
    volume: Volume, write_bundle: Write, monkeypatch: pytest.MonkeyPatch
):
    bundle = write_bundle(volume.generation_path(1), files={"weights": b"x" * 1000})
    volume.pin(bundle.name)
    for free, level in ((5000, Level.OK), (4999, Level.FAIL)):  # 1000 are in use already
        monkeypatch.setattr(Volume, "free", lambda self, free=free: free)
        check = found(examine(volume_group(volume, keep=3)))["free space"]
        assert check.level is level
    assert "3 kept + 1 pinned + 1 being saved + 1 being restored" in check.found
    assert "HOLDFAST_KEEP" in check.remedy


def test_a_newest_bundle_with_a_missing_file_fails(volume: Volume, write_bundle: Write):
    bundle = write_bundle(volume.generation_path(1))
    (bundle.path / ".metadata").unlink()
    check = found(examine(volume_group(volume, keep=3)))["newest bundle"]
    assert check.level is Level.FAIL
    assert ".metadata: is missing" in check.found


def test_what_was_quarantined_is_a_warning(volume: Volume, write_bundle: Write, flip: Any):
    write_bundle(volume.generation_path(1), step=100)
    bad = write_bundle(volume.generation_path(1), step=200)
    flip(bad.path / ".metadata")
    volume.newest_valid(quarantine=True)
    checks = found(examine(volume_group(volume, keep=3)))
    assert checks["quarantine"].level is Level.WARN
    assert "step-00000200" in checks["quarantine"].found
    assert checks["newest bundle"].level is Level.OK


def test_a_store_that_honours_both_preconditions_passes_and_keeps_no_probe(store: DirectoryStore):
    checks = of_store(store)
    assert checks["create if absent"].level is Level.OK
    assert checks["replace if unchanged"].level is Level.OK
    assert list(store.list()) == []


class Careless(DirectoryStore):
    """A store that accepts conditions and ignores them."""

    def put_small(
        self, key: str, data: bytes, *, if_absent: bool = False, if_match: str | None = None
    ) -> ObjectInfo:
        return super().put_small(key, data)


def test_a_store_that_ignores_preconditions_fails_both_checks(store: DirectoryStore):
    checks = of_store(Careless(store.root))
    assert checks["create if absent"].level is Level.FAIL
    assert checks["replace if unchanged"].level is Level.FAIL


def test_a_read_only_store_fails_with_what_a_push_needs(
    store: DirectoryStore, monkeypatch: pytest.MonkeyPatch
):
    def refuse(*args: object, **more: object) -> ObjectInfo:
        raise StoreDenied("read-only: mount it writable")

    monkeypatch.setattr(DirectoryStore, "put_small", refuse)
    check = of_store(store)["preconditions"]
    assert check.level is Level.FAIL
    assert "permission to write and delete" in check.remedy


def test_refused_credentials_are_told_from_no_answer(monkeypatch: pytest.MonkeyPatch):
    def refuse(prefix: str = "") -> Iterator[ObjectInfo]:
        raise StoreDenied("store s3://b/p: access denied: check the credentials")

    store = MemoryStore(World())
    monkeypatch.setattr(store, "list", refuse)
    checks = examine(store_group(store, Catalog(store), "gpt"))
    assert [(c.name, c.level, c.remedy) for c in checks] == [
        ("store reachable", Level.OK, ""),
        ("store access", Level.FAIL, "check the credentials"),
    ]


def test_anothers_store_fails(store: DirectoryStore):
    Catalog(store, "team/dev").claim()
    check = of_store(store)["owner"]
    assert check.level is Level.FAIL
    assert "belongs to 'team/dev'" in check.found


def test_a_clock_that_is_off_is_said(store: DirectoryStore, monkeypatch: pytest.MonkeyPatch):
    for off, level in ((0, Level.OK), (60, Level.WARN), (600, Level.FAIL)):
        moment = datetime.now(UTC) + timedelta(seconds=off)
        monkeypatch.setattr(DirectoryStore, "now", lambda self, moment=moment: moment)
        assert of_store(store)["clock"].level is level


def snapshot_of(store: DirectoryStore, bundle: Bundle, age: timedelta) -> Snapshot:
    """A snapshot document without its data: the doctor reads no data."""
    path = bundle_path("gpt", "run-a", 1, bundle.manifest)
    created = datetime.now(UTC) - age
    ref = BundleRef.at(path, bundle.manifest)
    snapshot = Snapshot.build("gpt", "run-a", 1, 1, created, [ref])
    store.put_small(snapshot.key, snapshot.to_bytes())
    return snapshot


def test_an_old_snapshot_that_was_never_verified_is_two_warnings(
    store: DirectoryStore, volume: Volume, write_bundle: Write
):
    bundle = write_bundle(volume.generation_path(1))
    snapshot_of(store, bundle, timedelta(days=2))
    checks = of_store(store)
    assert checks["latest snapshot"].level is Level.WARN
    assert "2.0 d old" in checks["latest snapshot"].found
    assert checks["last verification"].level is Level.WARN


@pytest.mark.parametrize(("good", "level"), [(True, Level.OK), (False, Level.FAIL)])
def test_the_last_verification_counts(
    store: DirectoryStore, volume: Volume, write_bundle: Write, good: bool, level: Level
):
    bundle = write_bundle(volume.generation_path(1))
    snapshot = snapshot_of(store, bundle, timedelta(minutes=5))
    record = Verification(
        snapshot=snapshot.id,
        at=datetime.now(UTC),
        kind="full",
        ok=good,
        bytes=snapshot.size,
        bad=() if good else (snapshot.bundles[0].path,),
    )
    Catalog(store, "team/prod").record("gpt", record)
    checks = of_store(store)
    assert checks["latest snapshot"].level is Level.OK
    assert checks["last verification"].level is level
    assert ("bad snapshots" in checks) is not good


def test_a_store_that_never_answers_is_a_failure_in_time(
    store: DirectoryStore, volume: Volume, write_bundle: Write, monkeypatch: pytest.MonkeyPatch
):
    write_bundle(volume.generation_path(1))
    release = threading.Event()
    monkeypatch.setattr(DirectoryStore, "list", lambda self, prefix="": iter([release.wait(30)]))
    start = time.monotonic()
    groups = volume_group(volume, keep=3), store_group(store, Catalog(store), "gpt")
    checks = found(examine(*groups, budget=0.5))
    assert time.monotonic() - start < 5
    release.set()
    assert checks["store reachable"].level is Level.FAIL
    assert "no answer within" in checks["store reachable"].found
    assert checks["newest bundle"].level is Level.OK


def test_the_budget_leaves_time_to_start_within_twenty_seconds():
    assert examination.BUDGET <= 18


def test_the_command_ends_with_one_on_a_failure_and_zero_on_warnings(
    store: DirectoryStore, volume: Volume, write_bundle: Write
):
    write_bundle(volume.generation_path(1))
    args = ["doctor", "--volume", volume.root, "--run", "run-a", "--store", store.url, "-o", "json"]
    result = CliRunner().invoke(app, [str(arg) for arg in args])
    assert result.exit_code == 0
    levels = {check["name"]: check["level"] for check in json.loads(result.stdout)["checks"]}
    assert levels["owner"] == "warn"  # none was given
    shutil.rmtree(volume.root)
    result = CliRunner().invoke(app, [str(arg) for arg in args])
    assert result.exit_code == 1
    assert json.loads(result.stdout)["ok"] is False


def test_a_bucket_without_an_abort_rule_is_a_warning(monkeypatch: pytest.MonkeyPatch):
    boto3 = pytest.importorskip("boto3")

    class Client:
        rules: ClassVar[list[dict[str, Any]]] = [{"Status": "Enabled", "Expiration": {"Days": 9}}]

        def get_bucket_lifecycle_configuration(self, Bucket: str) -> dict[str, Any]:  # noqa: N803
            return {"Rules": self.rules}

    monkeypatch.setattr(boto3, "client", lambda *args, **more: Client())
    assert [check.level for check in doctor_store.abort_rule("s3://bucket/p")] == [Level.WARN]
    Client.rules = [
        {"Status": "Enabled", "AbortIncompleteMultipartUpload": {"DaysAfterInitiation": 7}}
    ]
    assert [check.level for check in doctor_store.abort_rule("s3://bucket/p")] == [Level.OK]


def test_without_boto3_the_abort_rule_is_said_to_be_unchecked(monkeypatch: pytest.MonkeyPatch):
    import sys

    monkeypatch.setitem(sys.modules, "boto3", None)
    (check,) = doctor_store.abort_rule("s3://bucket/p")
    assert check.level is Level.WARN
    assert "not checked" in check.found


def test_a_directory_that_is_not_there_is_not_called_reachable(tmp_path: Path):
    checks = of_store(DirectoryStore(tmp_path / "not/mounted/store"))
    assert {check.level for check in checks.values()} == {Level.FAIL}
    assert "does not exist" in checks["store access"].found


def test_a_volume_that_hangs_as_it_is_opened_is_a_failure_in_time():
    release = threading.Event()

    def opened() -> list:
        release.wait(30)
        return []

    (check,) = examine(lazily("volume", opened), budget=0.2)
    release.set()
    assert (check.name, check.level) == ("volume", Level.FAIL)


def test_everything_foreign_is_named_and_nothing_of_ours(
    store: DirectoryStore, volume: Volume, write_bundle: Write
):
    catalog = Catalog(store, "team/prod")
    catalog.claim()
    snapshot = snapshot_of(store, write_bundle(volume.generation_path(1)), timedelta(hours=1))
    catalog.pin("gpt", snapshot.id)
    path = snapshot.bundles[0].path
    ours = [f"data/{path}/weights", f"manifests/{path}.json", f"tombstones/{path}.json"]
    ours += ["locks/gpt.json", "sequences/gpt/0000000001.json", "CLOCK"]
    for key in ours:
        store.put_small(key, b"{}")
    assert of_store(store)["foreign objects"].level is Level.OK

    foreign = ["README.txt", "snapshots/gpt/.nfs00000001", "sequences/gpt/notes"]
    foreign += ["data/gpt/.DS_Store", "pins/gpt/README"]
    for key in foreign:
        store.put_small(key, b"")
    check = of_store(store)["foreign objects"]
    assert check.level is Level.WARN
    assert all(f"'{key}'" in check.found for key in foreign)


def test_what_a_directory_store_passes_over_is_named(store: DirectoryStore):
    Catalog(store, "team/prod").claim()
    os.mkfifo(store.root / "pipe")
    (store.root / "loop").symlink_to(".")
    (store.root / os.fsdecode(b"not-utf-8-\xff")).write_bytes(b"")
    check = of_store(store)["foreign objects"]
    assert check.level is Level.WARN
    assert check.found.count("'") == 6
    assert "'pipe'" in check.found
    assert "'loop'" in check.found


def test_a_store_with_too_many_objects_is_looked_through_where_documents_are(
    store: DirectoryStore, monkeypatch: pytest.MonkeyPatch
):
    store.put_small("snapshots/gpt/README", b"")
    monkeypatch.setattr(doctor_store, "LOOK_SECONDS", -1)
    check = of_store(store)["foreign objects"]
    assert "'snapshots/gpt/README' among the documents" in check.found


@pytest.mark.parametrize("place", ["", "snapshots"])
def test_a_store_that_every_user_may_write_to_is_a_warning(store: DirectoryStore, place: str):
    store.put_small("snapshots/gpt/x", b"")
    store.root.chmod(0o755)
    (store.root / "snapshots").chmod(0o755)
    assert of_store(store)["permissions"].level is Level.OK
    (store.root / place).chmod(0o777)
    check = of_store(store)["permissions"]
    assert check.level is Level.WARN
    assert str(store.root / place) in check.found
    assert "chmod" in check.remedy


@pytest.mark.s3
@pytest.mark.parametrize("fault", [Fault.CUT_LISTING, Fault.ENDED_LISTING])
def test_a_server_that_cuts_listings_off_is_found_in_an_empty_store(
    s3_url: str, faults: FaultProxy, fault: Fault
):
    store = open_store(s3_url, deadline=60)
    assert found(examine(store_group(store, Catalog(store), "gpt")))["listings"].level is Level.OK
    faults.rules = [Rule(fault, "GET", "list-type=2")]
    check = found(examine(store_group(store, Catalog(store), "gpt")))["listings"]
    assert check.level is Level.FAIL
    assert "prune and delete refuse" in check.remedy
    faults.rules = []
    assert [info.key for info in store.list("doctor")] == []


@pytest.mark.s3
def test_a_server_that_forgets_the_token_of_small_pages_is_found(s3_url: str, faults: FaultProxy):
    pytest.importorskip("boto3")
    store = open_store(s3_url, deadline=60)
    faults.rules = [Rule(Fault.CUT_LISTING, "GET", "max-keys=2")]
    check = found(examine(store_group(store, Catalog(store), "gpt")))["listings"]
    assert check.level is Level.FAIL
    assert "gives no token" in check.found


def test_a_store_that_was_set_back_is_named(
    store: DirectoryStore, volume: Volume, write_bundle: Write
):
    catalog = Catalog(store, "team/prod")
    snapshot = snapshot_of(store, write_bundle(volume.generation_path(1)), timedelta(minutes=5))
    remember(volume, catalog, snapshot)

    def history() -> Check:
        group = store_group(store, catalog, "gpt", volume=lambda: volume)
        return found(examine(group))["history"]

    assert history().level is Level.OK
    store.delete([snapshot.key])
    assert history().level is Level.FAIL
    assert snapshot.id in history().found


def test_a_missing_newest_snapshot_is_named(store: DirectoryStore):
    store.put_small("sequences/gpt/0000000004.json", b"{}")
    check = of_store(store)["missing snapshot"]
    assert check.level is Level.WARN
    assert "0000000004" in check.found
