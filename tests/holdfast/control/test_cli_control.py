"""`holdfast backup` and `restore` against a scripted API (a protocol test double)."""

from __future__ import annotations

import json
from datetime import UTC, datetime

import pytest
from typer.testing import CliRunner, Result

from holdfast.cli import app
from testkit.actionset_api import JOBS, ActionSetApi, complete, failed, job, running
from testkit.json_keys import documented, keys_of
from tests.holdfast.control.conftest import ENVIRONMENT


@pytest.fixture
def api(server: ActionSetApi) -> ActionSetApi:
    server.others[f"{JOBS}/gpt"] = job()
    return server


def holdfast(api: ActionSetApi, *args: str) -> Result:
    return CliRunner().invoke(app, [*args, "--api", api.url], env=ENVIRONMENT)


def test_a_backup_reports_the_snapshot_and_removes_old_actionsets(api: ActionSetApi):
    for n in range(12):
        api.add(f"old-{n:02d}", complete(snapshot="s"), age=100 + n)
    api.scripts = [[running(), complete(snapshot="s-13")]]
    result = holdfast(api, "backup", "-o", "json")
    assert result.exit_code == 0
    report = json.loads(result.stdout)
    assert report["outputs"] == {"snapshot": "s-13"}
    assert keys_of(report) == documented()["backup"]
    assert sorted(report["deleted"]) == sorted(api.deleted) == ["old-09", "old-10", "old-11"]
    assert "backup done in" in result.stderr
    assert "snapshot s-13; deleted 3 old ActionSets" in result.stderr


def test_a_failed_backup_ends_with_1_and_kanisters_reason(api: ActionSetApi):
    api.scripts = [[failed("bucket is missing")]]
    result = holdfast(api, "backup")
    assert result.exit_code == 1
    assert result.stderr.splitlines()[-1].startswith("holdfast: ActionSet gpt-backup-")
    assert "bucket is missing" in result.stderr


@pytest.mark.parametrize(
    ("args", "snapshot"),
    [
        ([], "latest"),
        (["--snapshot", "0000000007-20260501T120000Z-3f2a9c1d"],) * 2,
        (["--before", "2026-05-01T12:00:00Z"], "before=2026-05-01T12:00:00+00:00"),
        (["--before", "2026-05-01;12:00:00"], "before=2026-05-01T12:00:00"),
    ],
)
def test_a_restore_passes_the_snapshot_and_the_job_to_the_blueprint(
    api: ActionSetApi, args: list[str], snapshot: str | list[str]
):
    api.scripts = [[complete(generation="2")]]
    result = holdfast(api, "restore", *args, "-o", "json")
    assert result.exit_code == 0
    assert keys_of(json.loads(result.stdout)) == documented()["restore"]
    (name,) = api.created
    (action,) = api.objects[name]["spec"]["actions"]
    wanted = snapshot if isinstance(snapshot, str) else snapshot[-1]
    until = datetime.fromisoformat(action["options"].pop("until"))  # a later switch refuses
    assert until > datetime.now(UTC)
    assert action["options"] == {"snapshot": wanted, "job": "gpt"}


@pytest.mark.parametrize(
    "args",
    [
        ["--snapshot", "x; rm -rf /"],
        ["--before", "noon"],
        ["--snapshot", "abc", "--before", "2026-05-01T12:00:00Z"],
    ],
)
def test_a_restore_of_something_else_is_misuse_and_asks_nobody(api: ActionSetApi, args: list[str]):
    assert holdfast(api, "restore", *args).exit_code == 2
    assert api.requests == []


def test_what_is_in_a_queue_is_restored_by_the_blueprint_that_finds_its_topmost_owner(
    api: ActionSetApi,
):
    api.scripts = [[complete(generation="2")]]
    result = holdfast(api, "restore", "--pause", "job/gpt")

    assert result.exit_code == 0, result.stderr
    (name,) = api.created
    (action,) = api.objects[name]["spec"]["actions"]
    assert action["blueprint"] == "topmost"
    assert action["options"].keys() == {"snapshot", "until"}  # the task finds the owner
    assert "the topmost owner of the pods of Job gpt is Job gpt" in result.stderr


def test_a_backup_resumes_the_topmost_owner_that_a_restore_left_paused(api: ActionSetApi):
    api.others[f"{JOBS}/gpt"] = job(restore="s-1")
    api.scripts = [[complete()], [complete(snapshot="s-2")]]
    result = holdfast(api, "backup", "--pause", "job/gpt")

    assert result.exit_code == 0, result.stderr
    resume, backup = (api.objects[name]["spec"]["actions"][0] for name in api.created)
    assert (resume["name"], resume["blueprint"], resume["options"]) == ("resume", "topmost", {})
    assert backup["name"] == "backup"


def test_by_a_label_a_restore_names_what_it_found_and_makes_no_job_anew(api: ActionSetApi):
    api.others[JOBS] = {"items": [job()], "metadata": {}}
    api.scripts = [[complete(generation="2")]]
    result = holdfast(api, "restore", "--pause", "job/team/run=gpt")

    assert result.exit_code == 0, result.stderr
    assert "topmost owner of the pods of Job with label team/run=gpt is Job gpt" in result.stderr
    assert len(api.created) == 1
    assert {method for method, path, _ in api.bodies if path.startswith(JOBS)} == {"GET"}


def test_by_a_label_of_two_a_restore_is_refused_before_anything_changes(api: ActionSetApi):
    api.others[JOBS] = {"items": [job(), job()], "metadata": {}}
    result = holdfast(api, "restore", "--pause", "job/team/run=gpt")

    assert result.exit_code == 1
    assert "leave the label on one of them" in result.stderr
    assert api.created == []


def test_by_a_label_a_backup_resumes_what_a_restore_left_paused(api: ActionSetApi):
    api.others[JOBS] = {"items": [job(), job(restore="s-1")], "metadata": {}}
    api.scripts = [[complete()], [complete(snapshot="s-2")]]
    result = holdfast(api, "backup", "--pause", "job/team/run=gpt")

    assert result.exit_code == 0, result.stderr
    actions = [api.objects[name]["spec"]["actions"][0]["name"] for name in api.created]
    assert actions == ["resume", "backup"]


def test_a_restore_of_a_job_that_belongs_to_a_jobset_is_refused_before_anything_changes(
    api: ActionSetApi,
):
    jobset = {"kind": "Holder", "apiVersion": "x/v1", "name": "set", "controller": True}
    api.others[f"{JOBS}/gpt"]["metadata"]["ownerReferences"] = [jobset]
    result = holdfast(api, "restore")

    assert result.exit_code == 1
    assert "Job gpt is owned by Holder set (x/v1)" in result.stderr
    assert api.created == []
