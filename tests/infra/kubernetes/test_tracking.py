"""Experiment tracking: one MLflow server on PostgreSQL, with no password in plain sight."""

import configparser
import json
from typing import Any

import pytest

from infra.plan.graph import Graph
from policy.check import violations
from testkit.factories import graph, problems
from testkit.schemas import check

DATABASE = {"kind": "host-path", "name": "tracking-database", "path": "/data/db", "node": "node-1"}
FILES = {"kind": "host-path", "name": "tracking-artifacts", "path": "/data/files", "node": "node-1"}
TRACKING: dict[str, Any] = {
    "database": {"kind": "postgresql", "volume": DATABASE},
    "artifacts": {"volume": FILES},
}
RDS = {"kind": "existing", "host": "db.example", "secret": "rds-login"}
T = "pipeline__tracking"


@pytest.fixture(scope="module")
def declared() -> Graph:
    return graph(**{T: TRACKING})


def of(declared: Graph, kind: str, name: str) -> dict[str, Any]:
    (resource,) = declared.find(kind, name)
    return resource.inputs


def pod(declared: Graph, kind: str, name: str) -> dict[str, Any]:
    return of(declared, kind, name)["spec"]["template"]["spec"]


def variables(container: dict[str, Any]) -> dict[str, Any]:
    return {e["name"]: e.get("value", e.get("valueFrom")) for e in container["env"]}


def test_a_stack_without_tracking_declares_nothing_of_it(local: Graph):
    assert not [r for r in local.resources if "tracking" in r.urn or r.type.startswith("random:")]


def test_every_object_is_one_that_kubernetes_takes(declared: Graph):
    for manifest in declared.kubernetes():
        if "cr.kanister.io" not in manifest["apiVersion"]:
            check(manifest)


def test_the_policy_pack_finds_nothing_to_complain_about(declared: Graph):
    assert not violations(declared)


def test_the_server_and_the_database_each_have_a_claim_of_their_own(declared: Graph):
    database = pod(declared, "StatefulSet", "tracking-database")
    server = pod(declared, "Deployment", "tracking")

    claims = [v["persistentVolumeClaim"]["claimName"] for p in (database, server)
              for v in p["volumes"] if "persistentVolumeClaim" in v]  # fmt: skip
    assert claims == ["tracking-database-pvc", "tracking-artifacts-pvc"]
    for claim in claims:
        assert of(declared, "PersistentVolumeClaim", claim)["metadata"]["namespace"] == "pipeline"
    assert of(declared, "Service", "tracking")["spec"]["ports"][0]["port"] == 5000


def test_passwords_are_secrets_of_the_stack_and_stand_in_no_pod(declared: Graph):
    for name in ("tracking", "tracking-users", "tracking-database"):
        (secret,) = declared.find("Secret", name)
        assert secret.secrets == ("stringData",), name
    passwords = {
        value
        for r in declared.find("Secret")
        for key, value in r.inputs["stringData"].items()
        if key not in ("username", "MLFLOW_TRACKING_URI", "MLFLOW_TRACKING_USERNAME")
    }
    assert len(passwords) == 5
    others = json.dumps([m for m in declared.kubernetes() if m["kind"] != "Secret"])
    assert not [password for password in passwords if password in others]


def test_users_and_runs_live_in_one_database_so_that_one_dump_holds_both(declared: Graph):
    server = pod(declared, "Deployment", "tracking")["containers"][0]
    text = of(declared, "ConfigMap", "tracking")["data"]["basic_auth.ini"]
    parser = configparser.ConfigParser()
    parser.read_string(text)

    assert parser["mlflow"]["database_uri"] == variables(server)["MLFLOW_BACKEND_STORE_URI"]
    assert "admin_password" not in parser["mlflow"]


def test_artifacts_go_through_the_server_so_that_no_link_names_their_place(declared: Graph):
    server = pod(declared, "Deployment", "tracking")["containers"][0]

    assert variables(server)["MLFLOW_DEFAULT_ARTIFACT_ROOT"] == "mlflow-artifacts:/"
    assert variables(server)["MLFLOW_ARTIFACTS_DESTINATION"] == "/var/lib/mlflow/artifacts"


def test_the_server_answers_under_its_services_names_and_those_that_were_asked_for():
    declared = graph(**{T: {**TRACKING, "allowed_hosts": ["mlflow.example"]}})
    server = pod(declared, "Deployment", "tracking")["containers"][0]
    hosts = variables(server)["MLFLOW_SERVER_ALLOWED_HOSTS"].split(",")

    assert {"tracking.pipeline.svc:*", "tracking.pipeline", "mlflow.example"} <= set(hosts)
    assert "*" not in hosts


def test_the_namespace_is_closed_but_for_trainers_and_tasks(declared: Graph):
    policies = {p.object_name: p.inputs["spec"] for p in declared.find("NetworkPolicy")}

    assert policies["deny-all"] == {"podSelector": {}, "policyTypes": ["Ingress"]}
    (rule,) = policies["tracking"]["ingress"]
    (peer,) = rule["from"]
    assert peer["namespaceSelector"]["matchExpressions"][0]["values"] == ["training"]
    (rule,) = policies["tracking-database"]["ingress"]
    (peer,) = rule["from"]
    assert peer["podSelector"]["matchExpressions"][0]["values"] == ["tracking", "task"]


def test_a_trainer_logs_in_with_a_secret_in_its_own_namespace(declared: Graph):
    (secret,) = declared.find("Secret", "tracking-client")

    assert secret.inputs["metadata"]["namespace"] == "training"
    assert secret.inputs["stringData"]["MLFLOW_TRACKING_URI"] == (
        "http://tracking.pipeline.svc:5000"
    )
    assert declared.outputs["tracking_url"] == "http://tracking.pipeline.svc:5000"
    job = pod(declared, "Job", "gpt")
    login = {"secretRef": {"name": "tracking-client"}}
    assert login in job["containers"][0]["envFrom"]
    assert login not in job["initContainers"][0]["envFrom"]


def test_an_existing_database_is_reached_with_its_own_login_over_tls():
    declared = graph(**{T: {**TRACKING, "database": RDS}})
    server = pod(declared, "Deployment", "tracking")

    assert not declared.find("StatefulSet") and not declared.find("Secret", "tracking-database")
    for container in (server["initContainers"][0], server["containers"][0]):
        found = variables(container)
        assert found["PGHOST"] == "db.example" and found["PGSSLMODE"] == "verify-full"
        assert found["PGPASSWORD"] == {"secretKeyRef": {"name": "rds-login", "key": "password"}}


def test_artifacts_may_be_in_a_bucket_with_credentials_from_a_secret():
    bucket = {"url": "s3://files/mlflow", "endpoint": "https://minio.example:9000",
              "credentials_secret": "minio-login"}  # fmt: skip
    declared = graph(**{T: {**TRACKING, "artifacts": {"existing": bucket}}})
    server = pod(declared, "Deployment", "tracking")["containers"][0]

    assert variables(server)["MLFLOW_ARTIFACTS_DESTINATION"] == "s3://files/mlflow"
    assert variables(server)["MLFLOW_S3_ENDPOINT_URL"] == "https://minio.example:9000"
    assert server["envFrom"] == [{"secretRef": {"name": "minio-login"}}]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"namespace": "training"}, "pipeline.tracking.namespace training is used already"),
        ({"namespace": "kanister"}, "pipeline.tracking.namespace kanister is used already"),
        ({"artifacts": {}}, "nothing is given: give exactly one of create, volume and existing"),
        ({"allowed_hosts": ["http://mlflow"]}, "'http://mlflow' is not a host name"),
        ({"artifacts": {"volume": DATABASE}}, "pipeline.tracking.artifacts.volume.name"),
    ],
)
def test_a_wrong_setting_says_what_to_do(changes: dict[str, Any], said: str):
    (problem,) = problems(**{T: {**TRACKING, **changes}})

    assert said in problem
