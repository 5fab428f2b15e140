"""An application of a real graph: backed up, restored and refilled by the stack's own Blueprint."""

import sys
import threading
from collections.abc import Iterator
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest

from holdfast.bundle import BundleWriter
from holdfast.volume import Volume
from sandbox.cluster.cluster import Cluster
from testkit.factories import APPLICATION, REMOVED, graph
from tests.sandbox.tiny import PROJECT, until

pytestmark = pytest.mark.slow

SLEEP = (sys.executable, "-c", "import signal; signal.sigwait([signal.SIGTERM])")
SUBJECT = {"kind": "pvc", "name": "models-pvc", "namespace": "training"}


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    application = {**APPLICATION, "model": None, "command": list(SLEEP)}
    declared = graph(workloads__predictor=application, workloads__gpt=REMOVED)
    made = Cluster(deepcopy(declared.kubernetes()), tmp_path / "state", PROJECT)
    made.volume("training", "models-pvc").mkdir(parents=True)
    yield made
    made.stop()


def put(cluster: Cluster, name: str) -> None:
    """A model on the volume."""
    volume = Volume(cluster.volume("training", "models-pvc"), "serving", "model")
    generation = volume.present() or 1
    parent = volume.generation_path(generation)
    parent.mkdir(parents=True, exist_ok=True)
    with BundleWriter(parent, name, "model") as writer:
        (writer.path / "weights").write_text(name)
        writer.commit({"run": "serving", "generation": generation})


def newest(cluster: Cluster) -> str:
    volume = Volume(cluster.volume("training", "models-pvc"), "serving", "model")
    return volume.bundles()[0].name


def run(cluster: Cluster, action: str, **options: str) -> dict[str, Any]:
    name = f"{action}-{len(cluster.actionsets)}"
    asked = {"name": action, "blueprint": "applications", "object": SUBJECT, "options": options}
    cluster.create_actionset({"metadata": {"name": name}, "spec": {"actions": [asked]}})
    assert cluster.actionsets[name].join(60)
    return cluster.actionsets[name].status


def test_a_restore_scales_to_zero_switches_and_scales_back(cluster: Cluster) -> None:
    put(cluster, "model-1")
    cluster.start(cronjobs=False)
    server = cluster.deployments["training", "predictor"]
    until(lambda: server.status().get("replicas"))
    backup = run(cluster, "backup")
    assert backup["state"] == "complete", backup
    put(cluster, "model-2")
    assert newest(cluster) == "model-2"

    restored = run(cluster, "restore", snapshot="latest", deployment="predictor", replicas="1")

    assert restored["state"] == "complete", restored
    assert newest(cluster) == "model-1"
    until(lambda: server.status() == {"replicas": 1, "terminatingReplicas": 0})
    assert len(server.pods) == 2
    assert server.manifest["metadata"]["annotations"].keys() == {"pulumi.com/skipAwait"}


def test_a_restore_that_fails_after_the_pause_scales_back_all_the_same(cluster: Cluster) -> None:
    put(cluster, "model-1")
    cluster.start(cronjobs=False)
    server = cluster.deployments["training", "predictor"]
    until(lambda: server.status().get("replicas"))
    assert run(cluster, "backup")["state"] == "complete"
    switch = {
        p["name"]: p for p in cluster.blueprints["applications"]["actions"]["restore"]["phases"]
    }
    switch["switch"]["args"]["command"] = ["/bin/sh", "-c", "echo no space; exit 1"]

    status = run(cluster, "restore", snapshot="latest", deployment="predictor", replicas="1")

    assert status["state"] == "failed"
    assert "no space" in status["error"]["message"]
    until(lambda: server.status() == {"replicas": 1, "terminatingReplicas": 0})
    assert "holdfast.dev/restore" not in server.manifest["metadata"]["annotations"]


def test_the_switch_waits_for_a_pod_that_ends_slowly(cluster: Cluster) -> None:
    """Two writers must never meet: what `count` sees are pods, also those that are ending."""
    ended = threading.Event()
    put(cluster, "model-1")
    cluster.start(cronjobs=False)
    server = cluster.deployments["training", "predictor"]
    until(lambda: server.status().get("replicas"))
    assert run(cluster, "backup")["state"] == "complete"
    (pod,) = server.pods
    real = pod.stop

    def slowly(grace: float | None = None) -> None:
        ended.wait(20)
        real(grace)

    pod.stop = slowly  # type: ignore[method-assign]
    asked = {
        "name": "restore", "blueprint": "applications", "object": SUBJECT,
        "options": {"snapshot": "latest", "deployment": "predictor", "replicas": "1"},
    }  # fmt: skip
    cluster.create_actionset({"metadata": {"name": "slow"}, "spec": {"actions": [asked]}})
    status = cluster.actionsets["slow"].status
    until(lambda: status["progress"].get("runningPhase") == "wait")
    assert not cluster.actionsets["slow"].join(1)
    ended.set()
    assert cluster.actionsets["slow"].join(60)
    assert status["state"] == "complete", status
