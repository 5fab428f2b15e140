"""`holdfast backup` clears a restore that nobody works on any more, and no other."""

from __future__ import annotations

from typing import Any

import pytest
from typer.testing import CliRunner, Result

from holdfast.cli import app
from testkit.actionset_api import JOBS, ActionSetApi, complete, failed, job, running
from tests.holdfast.control import conftest

JOB = f"{JOBS}/gpt"
LATE = -601
ENVIRONMENT = {**conftest.ENVIRONMENT, "HOLDFAST_TIMEOUT": "600"}


@pytest.fixture
def api(server: ActionSetApi) -> ActionSetApi:
    server.others[JOB] = job("Suspended", restore="s1")
    server.scripts = [[complete()], [complete(snapshot="s7")]]
    return server


def backup(api: ActionSetApi) -> Result:
    return CliRunner().invoke(app, ["backup", "--api", api.url], env=ENVIRONMENT)


def asked(api: ActionSetApi) -> list[dict[str, Any]]:
    """The actions that were asked for, in order."""
    return [api.objects[name]["spec"]["actions"][0] for name in api.created]


def names(api: ActionSetApi) -> list[str]:
    return [action["name"] for action in asked(api)]


@pytest.mark.parametrize(
    "status",
    [
        running("wait"),
        failed("switch failed", defer="pending", phase="resumeAlways"),
    ],
)
def test_a_restore_that_a_restarted_controller_forgot_is_deleted_and_its_job_resumed(
    api: ActionSetApi, status: dict[str, Any]
):
    api.add("gpt-restore-old", status, age=5000, due=LATE, action="restore")
    result = backup(api)
    assert result.exit_code == 0
    assert api.deleted == ["gpt-restore-old"]
    assert names(api) == ["resume", "backup"]
    assert asked(api)[0]["options"] == {"job": "gpt"}
    assert asked(api)[0]["object"]["name"] == "checkpoints-pvc"
    said = [line for line in result.stderr.splitlines() if "resume" in line]
    assert len(said) == 1
    assert "resumed Job gpt, left suspended by gpt-restore-old" in said[0]


def test_the_old_actionset_is_gone_before_the_job_is_resumed(api: ActionSetApi):
    """A controller that is only slow must not switch after the resume."""
    api.add("gpt-restore-old", running("wait"), age=5000, due=LATE, action="restore")
    backup(api)
    methods = [method for method, path in api.requests if "actionsets" in path]
    assert methods.index("DELETE") < methods.index("POST")


@pytest.mark.parametrize(("age", "due"), [(4000, 60), (4000, 0), (4000, -590), (1190, None)])
def test_a_restore_within_its_deadline_and_ten_minutes_is_left_alone(
    api: ActionSetApi, age: float, due: float | None
):
    api.add("gpt-restore-old", running("switch"), age=age, due=due, action="restore")
    api.scripts = [[complete(snapshot="s7")]]
    assert backup(api).exit_code == 0
    assert api.deleted == []
    assert names(api) == ["backup"]


def test_one_without_a_deadline_is_due_after_the_timeout(api: ActionSetApi):
    api.add("gpt-restore-old", running("wait"), age=1210, action="restore")
    backup(api)
    assert api.deleted == ["gpt-restore-old"]
    assert names(api) == ["resume", "backup"]


def test_a_job_that_a_person_suspended_is_never_resumed(api: ActionSetApi):
    api.others[JOB] = job("Suspended")
    api.scripts = [[complete(snapshot="s7")]]
    assert backup(api).exit_code == 0
    assert names(api) == ["backup"]


def test_nor_is_it_for_a_restore_that_was_orphaned_before_it_suspended_anything(api: ActionSetApi):
    api.others[JOB] = job("Suspended")
    api.add("gpt-restore-old", running("stage"), age=5000, due=LATE, action="restore")
    api.scripts = [[complete(snapshot="s7")]]
    result = backup(api)
    assert api.deleted == ["gpt-restore-old"]
    assert names(api) == ["backup"]
    assert "Job gpt was not suspended by it" in result.stderr


def test_a_job_whose_restore_was_deleted_by_someone_else_is_resumed(api: ActionSetApi):
    """Also what is left when `backup` dies between the two: the mark on the Job is enough."""
    result = backup(api)
    assert names(api) == ["resume", "backup"]
    assert "left suspended by a restore that is gone" in result.stderr


def test_one_restore_under_way_keeps_the_job_suspended_whatever_else_is_orphaned(api: ActionSetApi):
    api.add("gpt-restore-old", running("wait"), age=5000, due=LATE, action="restore")
    api.add("gpt-restore-new", running("wait"), age=60, due=500, action="restore")
    api.scripts = [[complete(snapshot="s7")]]
    backup(api)
    assert api.deleted == ["gpt-restore-old"]
    assert names(api) == ["backup"]


@pytest.mark.parametrize(("status", "expected"), [(running("wait"), True), (None, False)])
def test_where_the_job_may_not_be_seen_a_restore_that_began_is_ended_with_a_resume(
    api: ActionSetApi, status: dict[str, Any] | None, expected: bool
):
    api.hidden = (JOBS,)
    api.add("gpt-restore-old", status, age=5000, due=LATE, action="restore")
    backup(api)
    assert api.deleted == ["gpt-restore-old"]
    assert ("resume" in names(api)) is expected


def test_finished_restores_are_not_orphaned(api: ActionSetApi):
    api.others[JOB] = job()
    api.add("done", complete(generation="2"), age=5000, due=LATE, action="restore")
    api.add("bad", failed("x", defer="complete"), age=5000, due=LATE, action="restore")
    no_launch = failed("no claim", defer="pending")
    assert no_launch is not None
    no_launch["actions"][0]["phases"][0]["state"] = "pending"
    api.add("no-launch", no_launch, age=5000, due=LATE, action="restore")
    backup(api)
    assert api.deleted == []


def test_a_resume_that_fails_does_not_keep_the_backup_from_being_made_but_is_an_error(
    api: ActionSetApi,
):
    api.scripts = [[failed("jobs gpt not found")], [complete(snapshot="s7")]]
    result = backup(api)
    assert result.exit_code == 1
    assert names(api) == ["resume", "backup"]
    assert "snapshot s7" in result.stderr
    assert "jobs gpt not found" in result.stderr.splitlines()[-1]
