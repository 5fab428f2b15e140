"""What a restore does with the training Job: missing, finished, and created again."""

from __future__ import annotations

import json

import pytest
from typer.testing import CliRunner, Result

from holdfast.cli import app
from holdfast.control import job as training
from holdfast.control.job import Jobs
from holdfast.control.kubernetes import KubernetesAPI, KubernetesError
from holdfast.control.run_action import Timeouts
from testkit.actionset_api import JOBS, MAPS, ActionSetApi, complete, failed, job
from tests.holdfast.control.conftest import ENVIRONMENT

JOB = f"{JOBS}/gpt"
SAVED = f"{MAPS}/holdfast.job.gpt"


class Killed(BaseException):
    """The client dies here."""


@pytest.fixture
def api(server: ActionSetApi) -> ActionSetApi:
    server.scripts = [[complete(generation="2")]]
    return server


def restore(api: ActionSetApi, *args: str) -> Result:
    return CliRunner().invoke(app, ["restore", *args, "--api", api.url], env=ENVIRONMENT)


def changes(api: ActionSetApi) -> list[str]:
    """What was done to Jobs and ConfigMaps, in order."""
    short = {JOB: "job", SAVED: "saved"}
    return [f"{method} {short[path]}" for method, path, _ in api.bodies if method != "GET"]


def test_a_restore_without_its_job_is_one_line_and_changes_nothing(api: ActionSetApi):
    result = restore(api)
    assert result.exit_code == 1
    assert "Job training/gpt does not exist, and nothing was changed" in result.stderr
    assert result.stderr.splitlines()[-1].startswith("holdfast: ")
    assert {method for method, _ in api.requests} == {"GET"}


def test_a_job_that_is_going_away_is_no_job_to_restore(api: ActionSetApi):
    api.leaving = 3
    api.others[JOB] = job()
    api.others[JOB]["metadata"]["deletionTimestamp"] = "2026-05-01T13:00:00Z"
    result = restore(api)
    assert result.exit_code == 1
    assert "is being deleted, and nothing was changed" in result.stderr
    assert api.created == []


def test_where_the_job_may_not_be_seen_the_restore_says_so_and_goes_on(api: ActionSetApi):
    api.others[JOB] = job("Complete")
    api.hidden = (JOBS,)
    result = restore(api)
    assert result.exit_code == 0
    assert "Job training/gpt may not be seen from here: not checked" in result.stderr
    assert len(api.created) == 1
    assert changes(api) == []


def test_a_job_that_runs_is_left_to_the_blueprint(api: ActionSetApi):
    api.others[JOB] = job()
    result = restore(api, "-o", "json")
    assert json.loads(result.stdout)["job"] == "resumed"
    assert changes(api) == []


def test_a_restore_that_failed_touches_no_finished_job(api: ActionSetApi):
    api.others[JOB] = job("Complete")
    api.scripts = [[failed("no space")]]
    assert restore(api).exit_code == 1
    assert changes(api) == []


@pytest.mark.parametrize("end", ["Complete", "Failed"])
def test_a_finished_job_is_created_anew_when_the_old_one_is_gone(api: ActionSetApi, end: str):
    api.others[JOB] = job("Suspended", end)
    api.leaving = 5
    result = restore(api, "-o", "json")
    assert result.exit_code == 0
    assert json.loads(result.stdout)["job"] == "created anew"
    assert changes(api) == ["PATCH saved", "DELETE job", "PATCH job", "DELETE saved"]
    assert api.leaving == 0
    assert f"Job gpt is finished ({end}): creating it anew" in result.stderr
    (options,) = [body for method, path, body in api.bodies if (method, path) == ("DELETE", JOB)]
    assert options == {"propagationPolicy": "Foreground", "preconditions": {"uid": "uid-1"}}


def test_the_new_job_is_the_old_one_without_what_the_cluster_made_up(api: ActionSetApi):
    api.others[JOB] = job("Complete", restore="s1")
    restore(api)
    assert api.others[JOB] == {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {
            "name": "gpt",
            "namespace": "training",
            "labels": {"holdfast.dev/workload": "gpt"},
            "annotations": {"pulumi.com/skipAwait": "true"},
        },
        "spec": {
            "suspend": False,
            "backoffLimit": 100,
            "template": {
                "metadata": {"labels": {"holdfast.dev/claim": "checkpoints-pvc"}},
                "spec": {"restartPolicy": "Never"},
            },
        },
    }
    # The fields stay the ones of who declared them: a later `up` may change them.
    (applied,) = [path for method, path in api.requests if method == "PATCH" and JOBS in path]
    assert applied == f"{JOB}?fieldManager=pulumi-kubernetes-1a2b"


def test_a_selector_of_the_users_own_is_kept():
    manifest = job("Complete")
    manifest["spec"]["manualSelector"] = True
    assert (
        training.Job(manifest).fresh_manifest()["spec"]["selector"] == manifest["spec"]["selector"]
    )


def test_a_client_that_dies_between_deletion_and_creation_is_made_good_by_the_next_restore(
    api: ActionSetApi, monkeypatch: pytest.MonkeyPatch
):
    api.others[JOB] = job("Failed")
    api.leaving = 2

    def die(self: Jobs, *args: object) -> None:
        raise Killed

    with monkeypatch.context() as patched:
        patched.setattr(Jobs, "create", die)
        assert restore(api).exit_code == 1
    assert JOB not in api.others
    api.scripts = [[complete(generation="3")]]
    result = restore(api)
    assert result.exit_code == 0
    assert "an earlier restore was cut off before it created Job gpt anew" in result.stderr
    assert api.others[JOB]["spec"]["backoffLimit"] == 100
    assert SAVED not in api.others


def test_a_job_that_something_else_created_meanwhile_is_left_as_it_is(api: ActionSetApi):
    api.others[JOB] = job("Complete")
    jobs = Jobs(KubernetesAPI(api.url), "training")
    found = jobs.get("gpt")
    assert found is not None
    jobs.save(found)
    theirs = api.others[JOB] = job()
    saved = jobs.saved("gpt")
    assert saved is not None
    training._create_when_gone(jobs, "gpt", *saved, Timeouts(timeout=5))
    assert api.others[JOB] is theirs
    assert SAVED not in api.others


def test_a_job_replaced_before_its_deletion_is_not_deleted(api: ActionSetApi):
    jobs = Jobs(KubernetesAPI(api.url), "training")
    api.others[JOB] = job("Complete")
    before = jobs.delete

    def replaced_first(name: str, uid: str) -> None:
        api.others[JOB]["metadata"]["uid"] = "uid-2"
        before(name, uid)

    jobs.delete = replaced_first  # type: ignore[method-assign]
    with pytest.raises(KubernetesError, match="precondition"):
        training.recreate_if_finished(jobs, "gpt", Timeouts(timeout=5), lambda line: None)
    assert api.others[JOB]["metadata"]["uid"] == "uid-2"
    assert SAVED not in api.others


def test_pods_that_never_end_are_an_error_that_says_how_to_go_on(api: ActionSetApi):
    api.others[JOB] = job("Complete")
    api.leaving = 10**9
    with pytest.raises(training.DeadlineExceeded, match="the same restore again, or `pulumi up"):
        training.recreate_if_finished(
            Jobs(KubernetesAPI(api.url), "training"), "gpt", Timeouts(timeout=0.2), print
        )
    assert SAVED in api.others
    assert api.others[JOB]["metadata"]["uid"] == "uid-1"
