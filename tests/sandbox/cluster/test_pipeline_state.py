"""The pipeline's Blueprint on a real PostgreSQL and a real MLflow, as the stack declares them."""

import json
import time
import urllib.request
from base64 import b64encode
from collections.abc import Iterator
from copy import deepcopy
from typing import Any

import pytest

from sandbox.cluster.cluster import Cluster
from testkit.factories import graph
from tests.infra.kubernetes.test_tracking import TRACKING
from tests.sandbox.tiny import PROJECT, until

pytest.importorskip("mlflow")
pytestmark = pytest.mark.slow

CONFIGURATION = {
    "apiVersion": "v1",
    "kind": "configmap",
    "resource": "configmaps",
    "name": "holdfast-pipeline",
    "namespace": "pipeline",
}
OPTIONS = {"snapshot": "latest", "deployment": "tracking", "replicas": "1"}


class Pipeline:
    """A sandbox of a stack with a tracking server, and its REST interface."""

    def __init__(self, cluster: Cluster) -> None:
        self.cluster = cluster
        self.url = cluster.reachable("pipeline", "URL", "http://tracking.pipeline.svc:5000")
        secret = cluster.object("Secret", "pipeline", "tracking-users")
        password = secret["stringData"]["admin"]
        self._login = "Basic " + b64encode(f"admin:{password}".encode()).decode()

    def healthy(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self.url}/health", timeout=5) as answer:
                return answer.status == 200
        except OSError:
            return False

    def post(self, path: str, **body: Any) -> dict[str, Any]:
        request = urllib.request.Request(
            f"{self.url}/api/2.0/mlflow/{path}",
            data=json.dumps(body).encode(),
            headers={"Content-Type": "application/json", "Authorization": self._login},
        )
        with urllib.request.urlopen(request, timeout=30) as answer:
            return json.load(answer)

    def log(self, name: str) -> str:
        """A finished run with one metric; its ID."""
        now = int(time.time() * 1000)
        run = self.post("runs/create", experiment_id="0", start_time=now, run_name=name)
        key = run["run"]["info"]["run_id"]
        self.post("runs/log-metric", run_id=key, key="loss", value=1.5, timestamp=now, step=1)
        self.post("runs/update", run_id=key, status="FINISHED", end_time=now)
        return key

    def runs(self) -> set[str]:
        found = self.post("runs/search", experiment_ids=["0"]).get("runs", [])
        return {run["info"]["run_name"] for run in found}

    def run(self, action: str, **options: str) -> dict[str, Any]:
        name = f"{action}-{len(self.cluster.actionsets)}"
        asked = {
            "name": action,
            "blueprint": "pipeline-state",
            "object": CONFIGURATION,
            "options": options,
        }
        self.cluster.create_actionset({"metadata": {"name": name}, "spec": {"actions": [asked]}})
        assert self.cluster.actionsets[name].join(300)
        return self.cluster.actionsets[name].status


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pipeline]:
    declared = graph(pipeline__tracking=TRACKING)
    state = tmp_path_factory.mktemp("pipeline") / "state"
    cluster = Cluster(deepcopy(declared.kubernetes()), state, PROJECT)
    try:
        for server in (*cluster.databases.values(), *cluster.deployments.values()):
            server.start()  # the training has no part in this
        made = Pipeline(cluster)
        until(made.healthy, 240)
        yield made
    finally:
        cluster.stop()


def test_a_restore_brings_back_what_was_logged_and_takes_away_what_came_after(
    pipeline: Pipeline,
) -> None:
    pipeline.log("first")
    backup = pipeline.run("backup")
    assert backup["state"] == "complete", backup
    pipeline.log("second")
    assert pipeline.runs() == {"first", "second"}

    refused = pipeline.run("restore", **OPTIONS)
    assert refused["state"] == "failed"  # the database is not empty, and nobody said replace
    until(pipeline.healthy, 240)
    assert pipeline.runs() == {"first", "second"}

    restored = pipeline.run("restore", **OPTIONS, replace="true")
    assert restored["state"] == "complete", restored
    phases = {p["name"]: p.get("output", {}) for p in restored["actions"][0]["phases"]}
    assert phases["compare"]["ok"] == "true"
    until(pipeline.healthy, 240)
    assert pipeline.runs() == {"first"}
    assert pipeline.run("verify", snapshot="latest")["state"] == "complete"
