"""An application of a real graph: backed up, restored and refilled by the stack's own Blueprint."""

import json
import os
import shutil
import subprocess
import sys
import threading
import urllib.request
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

SLEEP = ("python", "-c", "import signal; signal.sigwait([signal.SIGTERM])")
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


@pytest.mark.torch
def test_a_promoted_model_is_served_and_answers_the_same_after_its_volume_is_lost(
    tmp_path: Path,
) -> None:
    """`add`, `promote`, then what the stack declares: `get --on-volume` and the model server."""
    pytest.importorskip("torch")
    declared = graph(workloads__predictor=APPLICATION, workloads__gpt=REMOVED)
    cluster = Cluster(deepcopy(declared.kubernetes()), tmp_path / "state", PROJECT)
    try:
        told = cluster.object("ConfigMap", "training", "holdfast-models-pvc")["data"]
        root = cluster.volume("training", "holdfast-store-pvc")
        root.mkdir(parents=True)
        prefix = told["HOLDFAST_STORE"].removeprefix("file:///var/lib/holdfast/store/")
        store = {
            "HOLDFAST_STORE": f"file://{root}/{prefix}",
            "HOLDFAST_OWNER": told["HOLDFAST_OWNER"],
        }
        model = trained(tmp_path / "trained")
        holdfast(store, "add", "model", str(model), "--name", "churn", "--version", "1")
        holdfast(store, "promote", "churn", "1", "--alias", "production")
        cluster.start(cronjobs=False)
        first = answer(cluster)
        shutil.rmtree(cluster.volume("training", "models-pvc"))
        server = cluster.deployments["training", "predictor"]
        server.patch({"spec": {"replicas": 0}})
        until(lambda: server.status() == {"terminatingReplicas": 0}, 60)
        server.patch({"spec": {"replicas": 1}})

        assert answer(cluster) == first
    finally:
        cluster.stop()


def trained(root: Path) -> Path:
    """The checkpoint of a training of a few steps."""
    corpus = root / "corpus"
    corpus.mkdir(parents=True)
    (corpus / "words.txt").write_text("hold fast the rope, hold fast the sail. " * 400)
    settings = {
        "HOLDFAST_VOLUME": str(root / "volume"), "HOLDFAST_RUN": "demo",
        "HOLDFAST_TRAINING_PRESET": "tiny", "HOLDFAST_TRAINING_STEPS": "4",
        "HOLDFAST_TRAINING_SAVE_EVERY": "4", "HOLDFAST_TRAINING_DATA": str(corpus),
    }  # fmt: skip
    subprocess.run(
        [sys.executable, "-m", "training"], env={**os.environ, **settings}, cwd=PROJECT, check=True
    )
    return Volume(root / "volume", "demo").bundles()[0].path


def holdfast(store: dict[str, str], *words: str) -> None:
    command = [sys.executable, "-m", "holdfast", *words]
    subprocess.run(command, env={**os.environ, **store}, cwd=PROJECT, check=True)


def answer(cluster: Cluster) -> dict[str, Any]:
    """What the model server says, once it answers."""
    url = cluster.reachable("training", "URL", "http://predictor.training.svc:8080")
    body = json.dumps({"text": "hold fast", "tokens": 16}).encode()

    def asked() -> dict[str, Any] | None:
        try:
            with urllib.request.urlopen(f"{url}/predict", data=body, timeout=10) as got:
                return json.load(got)
        except OSError:
            return None

    return until(asked, 120)
