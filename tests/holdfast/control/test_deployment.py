"""A restore of an application scales its Deployment to zero, and never forgets what it was."""

from __future__ import annotations

from typing import Any

import pytest
from typer.testing import CliRunner, Result

from holdfast.cli import app
from testkit.actionset_api import (
    DEPLOYMENTS,
    PODS,
    SETS,
    ActionSetApi,
    complete,
    deployment,
    running,
)
from tests.holdfast.control import conftest

DEPLOYMENT = f"{DEPLOYMENTS}/predictor"
ENVIRONMENT = {
    **conftest.ENVIRONMENT,
    "HOLDFAST_CLAIM": "models-pvc",
    "HOLDFAST_BLUEPRINT": "applications",
    "HOLDFAST_DEPLOYMENT": "predictor",
    "HOLDFAST_TIMEOUT": "600",
}
LATE = -601


@pytest.fixture
def api(server: ActionSetApi) -> ActionSetApi:
    server.others[DEPLOYMENT] = deployment(3)
    server.scripts = [[complete()], [complete(snapshot="s7")]]
    return server


def holdfast(api: ActionSetApi, *words: str) -> Result:
    return CliRunner().invoke(app, [*words, "--api", api.url], env=ENVIRONMENT)


def asked(api: ActionSetApi) -> list[dict[str, Any]]:
    """The actions that were asked for, in order."""
    return [api.objects[name]["spec"]["actions"][0] for name in api.created]


def test_a_restore_tells_the_blueprint_how_many_pods_there_were(api: ActionSetApi):
    result = holdfast(api, "restore", "--output", "json")

    assert result.exit_code == 0, result.stderr
    (restore,) = asked(api)
    assert restore["blueprint"] == "applications"
    assert restore["object"] == {"kind": "pvc", "name": "models-pvc", "namespace": "training"}
    (created,) = (api.objects[name] for name in api.created)
    assert (
        restore["options"].pop("until")
        == (created["metadata"]["annotations"]["holdfast.dev/deadline"])
    )
    assert restore["options"] == {
        "snapshot": "latest",
        "deployment": "predictor",
        "replicas": "3",
    }


def test_a_restore_after_one_that_was_cut_off_takes_the_number_that_was_remembered(
    api: ActionSetApi,
):
    api.others[DEPLOYMENT] = deployment(0, restore="s1", replicas="3")

    assert holdfast(api, "restore").exit_code == 0
    assert asked(api)[0]["options"]["replicas"] == "3"


def test_an_application_that_a_person_scaled_to_zero_stays_there(api: ActionSetApi):
    api.others[DEPLOYMENT] = deployment(0, replicas="3")

    assert holdfast(api, "restore").exit_code == 0
    assert asked(api)[0]["options"]["replicas"] == "0"


def test_a_restore_without_its_deployment_is_refused_before_anything_changes(api: ActionSetApi):
    del api.others[DEPLOYMENT]

    result = holdfast(api, "restore")

    assert result.exit_code == 1
    assert "Deployment training/predictor does not exist, and nothing was changed" in result.stderr
    assert api.created == []


def owned(name: str, kind: str, owner: str, phase: str = "") -> dict[str, Any]:
    owners = [{"kind": kind, "name": owner}]
    metadata = {"name": name, "labels": {}, "ownerReferences": owners}
    return {"metadata": metadata, "status": {"phase": phase}}


@pytest.fixture
def with_pods(api: ActionSetApi) -> ActionSetApi:
    """Pods of the Deployment, one of which was evicted, and an evicted one of another."""
    for name, owner in (("predictor-1", "predictor"), ("other-1", "other")):
        api.others[f"{SETS}/{name}"] = owned(name, "Deployment", owner)
    for name, owner, phase in (
        ("evicted", "predictor-1", "Failed"),
        ("ended", "predictor-1", "Succeeded"),
        ("serving", "predictor-1", "Running"),
        ("starting", "predictor-1", "Pending"),
        ("unrelated", "other-1", "Failed"),
    ):
        api.others[f"{PODS}/{name}"] = owned(name, "ReplicaSet", owner, phase)
    return api


def test_a_restore_first_deletes_ended_pods_which_kanister_would_wait_for(with_pods: ActionSetApi):
    result = holdfast(with_pods, "restore")

    assert result.exit_code == 0, result.stderr
    left = {path.removeprefix(f"{PODS}/") for path in with_pods.others if path.startswith(PODS)}
    assert left == {"serving", "starting", "unrelated"}
    line = "deleted pods of Deployment predictor that had ended, for which Kanister would wait: "
    assert f"{line}evicted, ended\n" in result.stderr
    methods = [(method, path.partition("?")[0]) for method, path in with_pods.requests]
    assert methods.index(("DELETE", f"{PODS}/ended")) < methods.index(
        next(each for each in methods if each[0] == "POST")
    )


@pytest.mark.parametrize("hidden", [PODS, SETS])
def test_where_pods_may_not_be_seen_the_restore_goes_on_and_says_so(
    with_pods: ActionSetApi, hidden: str
):
    with_pods.hidden = (hidden,)

    result = holdfast(with_pods, "restore")

    assert result.exit_code == 0, result.stderr
    assert "were not looked for or not deleted" in result.stderr
    assert f"{PODS}/evicted" in with_pods.others


def test_a_backup_resumes_a_deployment_that_a_lost_restore_left_at_zero(api: ActionSetApi):
    api.others[DEPLOYMENT] = deployment(0, restore="s1", replicas="2")
    api.add("predictor-restore-old", running("count"), age=5000, due=LATE, action="restore")

    result = holdfast(api, "backup")

    assert result.exit_code == 0, result.stderr
    resume, backup = asked(api)
    assert (resume["name"], backup["name"]) == ("resume", "backup")
    assert resume["options"] == {"deployment": "predictor", "replicas": "2"}
    assert api.deleted == ["predictor-restore-old"]
    assert "resumed Deployment predictor, left scaled to zero by predictor-restore-old" in (
        result.stderr
    )


def test_a_deployment_that_may_not_be_seen_is_resumed_with_what_the_lost_restore_knew(
    api: ActionSetApi,
):
    api.hidden = (DEPLOYMENTS,)
    api.add(
        "predictor-restore-old", running("count"), age=5000, due=LATE, action="restore",
        snapshot="s1", deployment="predictor", replicas="4",
    )  # fmt: skip

    assert holdfast(api, "backup").exit_code == 0
    assert asked(api)[0]["options"] == {"deployment": "predictor", "replicas": "4"}


def test_a_deployment_at_zero_that_no_restore_marked_is_left_alone(api: ActionSetApi):
    api.others[DEPLOYMENT] = deployment(0)

    assert holdfast(api, "backup").exit_code == 0
    assert [action["name"] for action in asked(api)] == ["backup"]


def test_a_pipelines_object_is_its_configmap(api: ActionSetApi):
    result = holdfast(api, "backup", "--configuration", "holdfast-pipeline")

    assert result.exit_code == 0, result.stderr
    assert asked(api)[0]["object"] == {
        "apiVersion": "v1",
        "kind": "configmap",
        "resource": "configmaps",
        "name": "holdfast-pipeline",
        "namespace": "training",
    }


@pytest.mark.parametrize(
    ("account", "ours"),
    [
        ("holdfast-pipeline", True),
        ("holdfast-pipeline-restore", True),
        ("holdfast-checkpoints-pvc", False),
        ("tracking", False),
    ],
)
def test_leftover_pods_of_a_pipeline_are_those_of_its_two_accounts(
    api: ActionSetApi, account: str, ours: bool
):
    api.add_pod("kanister-job-1", age=4990)
    (path,) = [path for path in api.others if path.endswith("kanister-job-1")]
    api.others[path]["spec"]["serviceAccountName"] = account

    holdfast(api, "backup", "--configuration", "holdfast-pipeline")

    assert (path not in api.others) is ours


@pytest.mark.parametrize(("typed", "replace"), [((), "false"), (("--replace",), "true")])
def test_a_pipelines_restore_says_whether_what_is_there_may_be_replaced(
    api: ActionSetApi, typed: tuple[str, ...], replace: str
):
    result = holdfast(api, "restore", "--configuration", "holdfast-pipeline", *typed)

    assert result.exit_code == 0, result.stderr
    assert asked(api)[0]["options"]["replace"] == replace


def test_replace_without_a_configuration_is_refused(api: ActionSetApi):
    result = holdfast(api, "restore", "--replace")

    assert result.exit_code == 2
    assert "--replace does nothing without --configuration" in result.stderr
    assert api.created == []
