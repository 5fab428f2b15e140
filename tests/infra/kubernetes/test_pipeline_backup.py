"""The pipeline's protection: on where there is a tracking server, and held to its own object."""

import json
from typing import Any

import pytest

from infra.plan.graph import Graph
from policy.check import violations
from testkit.factories import BUCKET, graph, problems, tasks
from testkit.schemas import check
from tests.infra.kubernetes.test_tracking import RDS, TRACKING

T = "pipeline__tracking"
FILES = {"existing": {"url": "s3://files/mlflow", "region": "eu-central-1"}}


@pytest.fixture(scope="module")
def declared() -> Graph:
    return graph(**{T: TRACKING})


def of(declared: Graph, kind: str, name: str) -> dict[str, Any]:
    (resource,) = declared.find(kind, name)
    return resource.inputs


def task_pods(declared: Graph) -> dict[str, dict[str, Any]]:
    blueprint = of(declared, "Blueprint", "pipeline-state")
    return {task["name"]: task["args"] for task in tasks(blueprint)}


def mounts(arguments: dict[str, Any]) -> dict[str, bool]:
    (container,) = arguments["podOverride"]["containers"]
    return {m["name"]: m.get("readOnly", False) for m in container["volumeMounts"]}


def variables(arguments: dict[str, Any]) -> dict[str, Any]:
    (container,) = arguments["podOverride"]["containers"]
    return {each["name"]: each.get("value", each.get("valueFrom")) for each in container["env"]}


def test_where_there_is_a_tracking_server_it_is_backed_up_unless_told_otherwise(declared: Graph):
    off = graph(**{T: TRACKING}, pipeline__backup={"enabled": False})

    assert declared.outputs["backup_schedules"]["pipeline"] == "pipeline-backup"
    assert of(declared, "CronJob", "pipeline-backup")["spec"]["schedule"] == "0 * * * *"
    assert not [r for r in off.resources if "pipeline-backup" in r.name]
    assert not off.find("Blueprint", "pipeline-state")


def test_every_object_is_one_that_kubernetes_takes_and_the_policies_hold(declared: Graph):
    for manifest in declared.kubernetes():
        if "cr.kanister.io" not in manifest["apiVersion"]:
            check(manifest)
    assert not violations(declared)


def test_its_configuration_reaches_database_store_and_kanister_and_holds_no_password(
    declared: Graph,
):
    data = of(declared, "ConfigMap", "holdfast-pipeline")["data"]

    assert data["HOLDFAST_WORKLOAD"] == "pipeline"
    assert data["HOLDFAST_RUN"] == "tracking"
    assert data["HOLDFAST_BLUEPRINT"] == "pipeline-state"
    assert data["HOLDFAST_CONFIGURATION"] == "holdfast-pipeline"
    assert data["HOLDFAST_DEPLOYMENT"] == "tracking"
    assert (data["PGHOST"], data["PGDATABASE"]) == ("tracking-database", "mlflow")
    assert not [key for key in data if "PASSWORD" in key or key == "PGUSER"]
    assert "HOLDFAST_CLAIM" not in data


def test_the_cron_job_asks_for_the_pipelines_backup_and_prunes_its_snapshots(declared: Graph):
    pod = of(declared, "CronJob", "pipeline-backup")["spec"]["jobTemplate"]["spec"]["template"]
    (backup,), (prune,) = pod["spec"]["initContainers"], pod["spec"]["containers"]

    assert backup["command"] == ["holdfast", "backup"]
    assert prune["command"] == ["holdfast", "prune"]
    for container in (backup, prune):
        assert container["envFrom"] == [{"configMapRef": {"name": "holdfast-pipeline"}}]
    assert {m["name"] for m in prune["volumeMounts"]} == {"tmp", "store"}


def test_tasks_mount_the_artifacts_beside_the_server_and_only_a_restore_writes_them(
    declared: Graph,
):
    found = task_pods(declared)
    server = of(declared, "Deployment", "tracking")["spec"]["template"]

    for name in ("push", "compare"):
        assert mounts(found[name])["artifacts"] is True
    assert mounts(found["pull"])["artifacts"] is False
    for name in ("examine", "read", "remove"):
        assert "artifacts" not in mounts(found[name])
    for name in ("push", "pull", "compare"):
        pod, labels = found[name]["podOverride"], found[name]["podLabels"]
        (term,) = pod["affinity"]["podAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]
        wanted = term["labelSelector"]["matchLabels"]
        assert wanted.items() <= labels.items()
        assert wanted.items() <= server["metadata"]["labels"].items()
        path = variables(found[name])["HOLDFAST_ARTIFACTS"]
        (container,) = pod["containers"]
        assert path in [m["mountPath"] for m in container["volumeMounts"]]


def test_only_a_restore_cannot_write_to_the_store(declared: Graph):
    read_only = {name for name, args in task_pods(declared).items() if mounts(args)["store"]}

    assert read_only == {"pull"}


def test_every_task_runs_the_tracking_servers_image(declared: Graph):
    assert {args["image"] for args in task_pods(declared).values()} == {"holdfast-tracking:dev"}


def test_another_database_and_bucket_are_reached_by_their_own_secrets():
    login = {**FILES["existing"], "credentials_secret": "keys"}
    declared = graph(
        backup_store={"existing": {**BUCKET["existing"], "credentials_secret": "keys"}},
        **{T: {"database": RDS, "artifacts": {"existing": login}}},
    )
    found = task_pods(declared)
    data = of(declared, "ConfigMap", "holdfast-pipeline")["data"]

    assert data["HOLDFAST_ARTIFACTS"] == "s3://files/mlflow"
    assert (data["PGHOST"], data["PGSSLMODE"]) == ("db.example", "verify-full")
    for args in found.values():
        assert "affinity" not in args["podOverride"]
        if "PGPASSWORD" in variables(args):
            assert variables(args)["PGPASSWORD"]["secretKeyRef"]["name"] == "rds-login"
        (container,) = args["podOverride"]["containers"]
        assert {"secretRef": {"name": "keys"}} in container["envFrom"]
    assert not violations(declared)


def test_kanister_may_read_this_configuration_and_scale_the_server_and_nothing_else(
    declared: Graph,
):
    (role,) = [
        r.inputs
        for r in declared.find("Role", "holdfast-kanister")
        if r.inputs["metadata"]["namespace"] == "pipeline"
    ]
    named = {
        resource: rule.get("resourceNames")
        for rule in role["rules"]
        for resource in rule["resources"]
        if resource in ("configmaps", "deployments")
    }

    assert named == {"configmaps": ["holdfast-pipeline"], "deployments": ["tracking"]}
    assert not [rule for rule in role["rules"] if "secrets" in rule["resources"]]


def test_its_backup_account_is_held_to_its_own_configuration(declared: Graph):
    policy = of(declared, "ValidatingAdmissionPolicy", "holdfast-actionsets")
    held = {v["name"]: v["expression"] for v in policy["spec"]["variables"]}

    assert json.loads(held["accounts"])["pipeline.pipeline-backup"] == {
        "blueprint": "pipeline-state",
        "kind": "configmap",
        "name": "holdfast-pipeline",
        "task": "holdfast-pipeline",
        "restorer": "holdfast-pipeline-restore",
        "owner": "deployment",
        "paused": "tracking",
    }
    for name in ("holdfast-pipeline", "holdfast-pipeline-restore"):
        account = of(declared, "ServiceAccount", name)
        assert account["metadata"]["namespace"] == "pipeline"
        assert account["automountServiceAccountToken"] is False


def test_buckets_that_need_different_ways_are_refused_in_one_line():
    (problem,) = problems(
        backup_store={"existing": {**BUCKET["existing"], "region": "eu-west-1"}},
        **{T: {"database": RDS, "artifacts": FILES}},
    )

    assert problem == (
        "pipeline.tracking.artifacts.existing.region: eu-central-1 is not that of the backup "
        "store, eu-west-1, and a backup reaches both at once: use one for both, or say "
        "pipeline.backup.enabled: false"
    )
