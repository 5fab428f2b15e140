"""Datasets and models of a stack: who publishes them, what sweeps after them, and the example."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from holdfast.assets.versions import resolve
from holdfast.copies.push import push
from holdfast.store.directory import DirectoryStore
from holdfast.store.snapshot import Catalog
from holdfast.volume import Volume
from infra.manifests import load
from infra.plan.graph import Graph
from testkit import schemas
from testkit.factories import APPLICATION, BUCKET, graph, problems
from tests.infra.aws.test_eks_store import bundle
from tests.infra.kubernetes.test_pods import restricted_violations

HOUR, DAY = 3600, 86400


def of(declared: Graph, kind: str, name: str) -> dict[str, Any]:
    (resource,) = declared.find(kind, name)
    return resource.inputs


def prune_pod(declared: Graph) -> dict[str, Any]:
    job = of(declared, "CronJob", "holdfast-prune")["spec"]["jobTemplate"]["spec"]
    return job["template"]["spec"]


def test_one_cron_job_of_a_stack_prunes_datasets_and_models(local: Graph):
    containers = prune_pod(local)["containers"]

    assert {c["name"]: c["env"][0]["value"] for c in containers} == {
        "datasets": "datasets", "models": "models",
    }  # fmt: skip
    for container in containers:
        assert container["command"] == ["holdfast", "prune"]
        assert container["envFrom"] == [{"configMapRef": {"name": "holdfast-publisher"}}]
    assert local.outputs["assets_prune_schedule"] == "holdfast-prune"


def test_every_namespace_of_workloads_has_a_publisher_and_only_the_first_one_sweeps():
    other = {**APPLICATION, "namespace": "serving"}
    declared = graph(workloads__web=other)

    def namespaces(kind: str, name: str) -> set[str]:
        return {r.inputs["metadata"]["namespace"] for r in declared.find(kind, name)}

    assert namespaces("ServiceAccount", "holdfast-publisher") == {"training", "serving"}
    assert namespaces("ConfigMap", "holdfast-publisher") == {"training", "serving"}
    assert namespaces("CronJob", "holdfast-prune") == {"training"}
    assert set(declared.outputs["publishers"]) == {"training", "serving"}


def test_its_accounts_can_do_nothing_in_the_cluster(local: Graph):
    """No Role names them, they get no token, and the admission policy knows them not."""
    accounts = {"holdfast-publisher", "holdfast-prune"}
    bound = {
        subject["name"]
        for binding in local.find("RoleBinding")
        for subject in binding.inputs["subjects"]
    }
    policy = of(local, "ValidatingAdmissionPolicy", "holdfast-actionsets")
    held = {v["name"]: v["expression"] for v in policy["spec"]["variables"]}

    assert not accounts & bound
    for account in accounts:
        assert of(local, "ServiceAccount", account)["automountServiceAccountToken"] is False
        assert f"training.{account}" not in json.loads(held["accounts"])


@pytest.mark.parametrize(
    ("changes", "grace"),
    [
        ({}, DAY),
        ({"workloads__gpt__grace": 2 * HOUR}, DAY),
        ({"workloads__gpt__grace": 3 * DAY}, 3 * DAY),
        ({"pipeline__backup": {"grace": 2 * DAY}}, 2 * DAY),
    ],
)
def test_data_of_all_wait_as_long_as_anyone_may_take_to_name_them(changes: Any, grace: int):
    data = of(graph(**changes), "ConfigMap", "holdfast-publisher")["data"]

    assert data["HOLDFAST_GRACE"] == str(grace)


def test_a_buckets_credentials_reach_the_sweep_and_no_configuration():
    bucket = {"existing": {**BUCKET["existing"], "credentials_secret": "keys"}}
    declared = graph(backup_store=bucket)

    for container in prune_pod(declared)["containers"]:
        assert {"secretRef": {"name": "keys"}} in container["envFrom"]
        assert "store" not in {m["name"] for m in container["volumeMounts"]}
    data = of(declared, "ConfigMap", "holdfast-publisher")["data"]
    assert data["HOLDFAST_STORE"] == "s3://backups/holdfast/test"


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"workloads__holdfast-gpt": {"run": "a", "volume": {"kind": "existing-claim",
          "name": "a", "size": "1Gi"}}},
         "workloads: holdfast-gpt begins with holdfast-, as accounts of the stack do"),
        ({"workloads__gpt__volume": {"kind": "existing-claim", "name": "publisher",
          "size": "1Gi"}, "backup_store": BUCKET},
         "workloads: gpt has a claim called publisher, and holdfast-publisher is an account"),
    ],
)  # fmt: skip
def test_no_setting_makes_an_account_of_the_same_name(changes: dict[str, Any], said: str):
    (problem,) = problems(**changes)

    assert said in problem


# The example that people change and apply ---------------------------------------------------------

EXAMPLE = load("publish-job")
POD = EXAMPLE["spec"]["template"]["spec"]


def test_the_example_is_an_object_that_a_closed_namespace_takes(local: Graph):
    schemas.check(EXAMPLE)

    assert restricted_violations(POD) == []
    assert POD["serviceAccountName"] == local.outputs["publishers"]["training"]
    assert of(local, "ConfigMap", "holdfast-publisher")
    (claim,) = [v["persistentVolumeClaim"] for v in POD["volumes"] if v["name"] == "store"]
    assert of(local, "PersistentVolumeClaim", claim["claimName"])
    for container in [*POD["initContainers"], *POD["containers"]]:
        assert container["envFrom"] == [{"configMapRef": {"name": "holdfast-publisher"}}]


@pytest.fixture
def filled(tmp_path: Path) -> Iterator[Catalog]:
    """A store with a checkpoint of the training that the example names."""
    root = tmp_path / "store/holdfast/local"
    root.mkdir(parents=True)
    catalog = Catalog(DirectoryStore(root), "holdfast/local")
    volume = Volume(tmp_path / "volume", "run")
    bundle(volume, 7)
    push(volume, catalog, "gpt")
    yield catalog


def run(container: dict[str, Any], declared: Graph, tmp_path: Path) -> str:
    """Run a container's own command, with its own environment, over directories of the test."""
    data = of(declared, "ConfigMap", "holdfast-publisher")["data"]
    told = {each["name"]: each["value"] for each in container["env"]}
    places = {"/var/lib/holdfast/store": tmp_path / "store", "/scratch": tmp_path / "scratch"}
    environment = {**data, **told, "HOLDFAST_RUN": "run"}
    for place, directory in places.items():
        directory.mkdir(exist_ok=True)
        environment = {k: v.replace(place, str(directory)) for k, v in environment.items()}
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    done = subprocess.run(
        container["command"], env={**environment, "PATH": path}, capture_output=True, text=True,
        check=False, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout + done.stderr


def test_the_example_makes_a_model_of_the_newest_checkpoint_and_promotes_it(
    local: Graph, filled: Catalog, tmp_path: Path
):
    said = [run(each, local, tmp_path) for each in [*POD["initContainers"], *POD["containers"]]]

    found = resolve(filled, "churn@staging", "model")
    assert found.version == "1"
    assert found.snapshot.labels["step"] == 7
    assert "churn@staging is version 1 now" in said[-1]
