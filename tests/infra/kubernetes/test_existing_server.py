"""A tracking server that someone else installed: protected by settings, on any cluster."""

import json
from pathlib import Path
from typing import Any

import pytest

from infra.kubernetes.kubectl import ClusterError, Kubectl
from infra.kubernetes.preflight import check
from infra.plan.graph import Graph
from policy.check import violations
from testkit import factories, schemas
from testkit.factories import BUCKET, graph, problems
from tests.infra.kubernetes.fake_kubectl import Cluster, thing
from tests.infra.kubernetes.test_pipeline_backup import mounts, of, task_pods, variables
from tests.infra.kubernetes.test_tracking import TRACKING

E = "pipeline__existing"
FILES = {"claim": "mlflow-files", "path": "/mlartifacts", "sub_path": "data/artifacts"}
DATABASE = {"host": "db.example", "secret": "mlflow-owner", "reader": "mlflow-reader"}
SERVER: dict[str, Any] = {
    "namespace": "mlflow",
    "deployment": "mlflow-server",
    "mlflow_version": "3.15.0",
    "database": DATABASE,
    "artifacts": FILES,
    "encryption": {"secret": "mlflow-keys", "key": "kek"},
}
TASKS = {"app.kubernetes.io/part-of": "holdfast", "app.kubernetes.io/component": "task"}


@pytest.fixture(scope="module")
def declared() -> Graph:
    return graph(**{E: SERVER})


def secret_of(value: Any) -> tuple[str, str]:
    return value["secretKeyRef"]["name"], value["secretKeyRef"]["key"]


def test_all_that_its_backup_needs_is_declared_and_nothing_of_the_server(declared: Graph):
    here = {
        (m["kind"], m["metadata"]["name"])
        for m in declared.kubernetes()
        if m["metadata"].get("namespace") == "mlflow"
    }

    assert here == {
        ("ConfigMap", "holdfast-pipeline"),
        ("CronJob", "pipeline-backup"),
        ("NetworkPolicy", "holdfast-tasks"),
        ("PersistentVolumeClaim", "holdfast-store-pvc"),
        ("Role", "holdfast-kanister"),
        ("Role", "pipeline-backup"),
        ("RoleBinding", "holdfast-kanister"),
        ("RoleBinding", "pipeline-backup"),
        ("ServiceAccount", "holdfast-pipeline"),
        ("ServiceAccount", "holdfast-pipeline-restore"),
        ("ServiceAccount", "pipeline-backup"),
    }
    assert not declared.find("Namespace", "mlflow")
    assert declared.find("Blueprint", "pipeline-state")


def test_every_object_is_one_that_kubernetes_takes_and_the_policies_hold(declared: Graph):
    for manifest in declared.kubernetes():
        if "cr.kanister.io" not in manifest["apiVersion"]:
            schemas.check(manifest)
    assert not violations(declared)


def test_the_exports_say_when_and_where_it_is_backed_up(declared: Graph):
    assert declared.outputs["backup_schedules"]["pipeline"] == "pipeline-backup"
    assert declared.outputs["pipeline_namespace"] == "mlflow"
    assert "tracking_url" not in declared.outputs


def test_its_configuration_names_server_database_and_version(declared: Graph):
    data = of(declared, "ConfigMap", "holdfast-pipeline")["data"]

    assert data["HOLDFAST_DEPLOYMENT"] == "mlflow-server"
    assert data["HOLDFAST_NAMESPACE"] == "mlflow"
    assert data["HOLDFAST_MLFLOW_VERSION"] == "3.15.0"
    assert (data["PGHOST"], data["PGSSLMODE"]) == ("db.example", "verify-full")
    assert not [key for key in data if "PASSWORD" in key or key == "PGUSER"]


def test_only_a_restore_gets_the_login_of_the_databases_owner(declared: Graph):
    users = {
        name: secret_of(variables(args)["PGUSER"])[0]
        for name, args in task_pods(declared).items()
        if "PGUSER" in variables(args)
    }

    assert users.pop("pull") == "mlflow-owner"
    assert set(users.values()) == {"mlflow-reader"}


def test_without_a_login_that_only_reads_all_tasks_use_the_owners():
    database = {"host": "db.example", "secret": "mlflow-owner"}
    found = task_pods(graph(**{E: {**SERVER, "database": database}}))

    assert {secret_of(variables(a)["PGPASSWORD"])[0] for a in found.values()} == {"mlflow-owner"}


def test_the_servers_key_is_read_from_its_secret_or_left_out_where_it_has_none(declared: Graph):
    key = "MLFLOW_CRYPTO_KEK_PASSPHRASE"
    none = {k: v for k, v in SERVER.items() if k != "encryption"}

    for name in ("push", "pull"):
        assert secret_of(variables(task_pods(declared)[name])[key]) == ("mlflow-keys", "kek")
        assert key not in variables(task_pods(graph(**{E: none}))[name])


def test_the_artifacts_are_mounted_as_the_server_mounts_them_and_only_a_restore_writes(
    declared: Graph,
):
    found = task_pods(declared)

    for name in ("push", "compare", "pull"):
        (container,) = found[name]["podOverride"]["containers"]
        (mount,) = [m for m in container["volumeMounts"] if m["name"] == "artifacts"]
        assert (mount["mountPath"], mount["subPath"]) == ("/mlartifacts", "data/artifacts")
        assert mount["readOnly"] == (name != "pull")
        assert variables(found[name])["HOLDFAST_ARTIFACTS"] == "/mlartifacts"
    for name in ("examine", "read", "remove"):
        assert "artifacts" not in mounts(found[name])


def test_tasks_run_as_the_servers_user_and_near_it_without_its_labels():
    """With its labels they would stand behind its Service."""
    labels = {"app": "mlflow"}
    server = {**SERVER, "run_as": 1001, "pods": labels}
    found = task_pods(graph(backup_store=BUCKET, **{E: server}))

    for args in found.values():
        assert args["podOverride"]["securityContext"]["runAsUser"] == 1001
        assert args["podLabels"] == TASKS
    affinity = found["push"]["podOverride"]["affinity"]["podAffinity"]
    (weighed,) = affinity["preferredDuringSchedulingIgnoredDuringExecution"]
    assert weighed["podAffinityTerm"]["labelSelector"]["matchLabels"] == labels
    assert len(affinity) == 1


def test_nobody_reaches_a_task_and_nothing_of_the_namespace_is_closed(declared: Graph):
    (policy,) = [
        p.inputs["spec"]
        for p in declared.find("NetworkPolicy")
        if p.inputs["metadata"]["namespace"] == "mlflow"
    ]
    selected = policy["podSelector"]
    (expression,) = selected["matchExpressions"]

    assert policy["policyTypes"] == ["Ingress"] and "ingress" not in policy
    assert selected["matchLabels"] == {"app.kubernetes.io/part-of": "holdfast"}
    assert set(expression["values"]) == {"protection", "task"}
    job = of(declared, "CronJob", "pipeline-backup")["spec"]["jobTemplate"]["spec"]["template"]
    assert job["metadata"]["labels"]["app.kubernetes.io/component"] == "protection"


def test_a_database_that_others_policies_close_lets_the_tasks_in_when_asked():
    database = {**DATABASE, "port": 6432, "pods": {"app": "postgresql"}}
    declared = graph(**{E: {**SERVER, "database": database}})
    spec = of(declared, "NetworkPolicy", "holdfast-database")["spec"]

    assert spec["podSelector"] == {"matchLabels": {"app": "postgresql"}}
    (rule,) = spec["ingress"]
    assert rule["ports"] == [{"port": 6432, "protocol": "TCP"}]
    assert rule["from"] == [{"podSelector": {"matchLabels": TASKS}}]


def test_kanister_may_scale_this_server_and_the_account_is_held_to_it(declared: Graph):
    (role,) = [
        r.inputs
        for r in declared.find("Role", "holdfast-kanister")
        if r.inputs["metadata"]["namespace"] == "mlflow"
    ]
    scaled = [r["resourceNames"] for r in role["rules"] if "deployments" in r["resources"]]
    policy = of(declared, "ValidatingAdmissionPolicy", "holdfast-actionsets")
    held = {v["name"]: v["expression"] for v in policy["spec"]["variables"]}
    mine = json.loads(held["accounts"])["mlflow.pipeline-backup"]

    assert scaled == [["mlflow-server"]]
    assert (mine["owner"], mine["paused"]) == ("deployment", "mlflow-server")
    assert mine["name"] == "holdfast-pipeline"


def test_artifacts_in_a_bucket_are_reached_as_the_store_is():
    files = {"bucket": {**BUCKET["existing"], "url": "s3://files/mlflow"}}
    declared = graph(backup_store=BUCKET, **{E: {**SERVER, "artifacts": files}})
    data = of(declared, "ConfigMap", "holdfast-pipeline")["data"]

    assert data["HOLDFAST_ARTIFACTS"] == "s3://files/mlflow"
    assert all("artifacts" not in mounts(args) for args in task_pods(declared).values())
    assert not violations(declared)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"pipeline__tracking": TRACKING},
         "pipeline: tracking and existing are given: a stack protects one server"),
        ({"pipeline__backup": {"enabled": False}},
         "pipeline: backup.enabled: false leaves nothing to do with existing: leave existing out"),
        ({f"{E}__namespace": "training"}, "pipeline.existing.namespace: training is used"),
        ({f"{E}__namespace": "kube-system"}, "pipeline.existing.namespace: kube-system is used"),
        ({f"{E}__artifacts": {}}, "pipeline.existing.artifacts: neither is given"),
        ({f"{E}__artifacts__path": "/tmp/files"},
         "pipeline.existing.artifacts: path /tmp/files overlaps /tmp, which the tasks use"),
        ({f"{E}__run_as": 1001}, "pipeline.existing.run_as: 1001 cannot write to the store's"),
        ({f"{E}__artifacts": {"bucket": {"url": "s3://files", "region": "eu-west-1"}},
          "backup_store": BUCKET},
         "pipeline.existing.artifacts.bucket.region: eu-west-1 is not that of the backup store"),
        ({f"{E}__mlflow_version": "latest"}, "pipeline.existing.mlflow_version: string should"),
    ],
)  # fmt: skip
def test_a_wrong_setting_says_what_to_do(changes: dict[str, Any], said: str):
    (problem,) = problems(**{E: SERVER, **changes})

    assert said in problem


def refusals() -> list[str]:
    settings = factories.settings(**{E: SERVER})
    try:
        check(settings, Kubectl(settings.access))
    except ClusterError as error:
        return str(error).splitlines()
    return []


def test_before_anything_is_made_the_cluster_is_asked_for_what_the_tasks_mount(cluster: Cluster):
    there = [
        thing("Deployment", "mlflow-server", "mlflow"),
        thing("PersistentVolumeClaim", "mlflow-files", "mlflow"),
        thing("Secret", "mlflow-owner", "mlflow"),
        thing("Secret", "mlflow-reader", "mlflow"),
        thing("Secret", "mlflow-keys", "mlflow"),
    ]
    assert refusals() == [
        "pipeline.existing.namespace: there is no namespace mlflow: install the server first"
    ]
    cluster.set(thing("Namespace", "mlflow"), *there)
    assert refusals() == []
    cluster.set(thing("Namespace", "mlflow"), *there[2:4])
    assert refusals() == [
        "pipeline.existing.deployment: there is no Deployment mlflow-server in mlflow: correct "
        "it, or make it",
        "pipeline.existing.artifacts.claim: there is no PersistentVolumeClaim mlflow-files in "
        "mlflow: correct it, or make it",
        "pipeline.existing.encryption.secret: there is no Secret mlflow-keys in mlflow: correct "
        "it, or make it",
    ]


def test_no_secret_is_read_to_see_that_it_is_there(cluster: Cluster, tmp_path: Path):
    cluster.set(thing("Namespace", "mlflow"))
    refusals()

    (call,) = [each for each in cluster.calls if "secrets" in each]
    assert "--output=name" in call
