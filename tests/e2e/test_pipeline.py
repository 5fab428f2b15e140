"""A tracking server and an application on a real cluster: backed up, lost, restored, verified.

The server is MLflow on PostgreSQL, the application serves a model of the store. Each is driven by
the commands of docs/pipeline.md and docs/serving.md, through Kanister.
"""

import base64
import json
import os
import re
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed.checkpoint as dcp
from mlflow.tracking import MlflowClient

from cluster.context import kubeconfig
from cluster.places import KUBECONFIG
from tests.e2e import kube, store, trainer
from tests.e2e.conftest import RUN, Stack
from training.config import Config
from training.model import Gpt

pytestmark = [pytest.mark.e2e, pytest.mark.e2e_long, pytest.mark.pipeline, pytest.mark.torch]

PIPELINE = "pipeline"
_OFFICIAL = "postgres:16.14-bookworm"
#: On the node of `make cluster` the wheel's, since no registry has to be there; else the default.
_POSTGRESQL = "localhost/postgresql:dev" if kubeconfig() == str(KUBECONFIG) else _OFFICIAL
_NEVER = "0 3 1 1 *"
_TRACKING = ("--workload=pipeline", "--namespace=pipeline", "--configuration=holdfast-pipeline",
             "--blueprint=pipeline-state", "--deployment=tracking")  # fmt: skip
_POET = ("--workload=poet", f"--namespace={kube.NAMESPACE}", "--claim=poet-model-pvc",
         "--blueprint=applications", "--deployment=poet")  # fmt: skip


def _volume(name: str) -> dict[str, Any]:
    path = f"/var/lib/holdfast-node/e2e-{RUN}-{name}"
    node = "kind-control-plane"
    return {"kind": "host-path", "name": name, "size": "1Gi", "path": path, "node": node}


def _settings() -> dict[str, Any]:
    database = {
        "kind": "postgresql",
        "image": _POSTGRESQL,
        "volume": _volume("tracking-database"),
        "resources": {"cpu": "100m", "memory": "512Mi"},
    }
    tracking = {
        "image": "holdfast-tracking:dev",
        "database": database,
        "artifacts": {"volume": _volume("tracking-artifacts")},
        "resources": {"cpu": "100m", "memory": "2Gi"},
    }
    poet = {
        "kind": "deployment",
        "model": "poet@production",
        "port": 8090,
        "env": {"HOLDFAST_TRAINING_PRESET": "tiny"},
        "resources": {"cpu": "800m", "memory": "1Gi"},  # a limit too: importing PyTorch needs it
        "volume": _volume("poet-model"),
        "schedule": _NEVER,
        "backup_timeout": 600,
        "grace": 3600,
    }
    return {
        "holdfast:pipeline": {"tracking": tracking, "backup": {"schedule": _NEVER}},
        "holdfast:workloads": {"poet": poet},
    }


@pytest.fixture(scope="module")
def pipeline(stack: Stack, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """The stack with both, until they answer; without them at the end. The training pauses."""
    _add(tmp_path_factory.mktemp("models"), "1")
    _promote("1")
    with kube.timed("`up` that adds a tracking server and an application, until both answer"):
        stack.up(more=_settings())
        stack.give_secret(PIPELINE)
        trainer.suspend()  # `up` made its Job anew, and they need its processor
        for namespace, kind, name in (
            (PIPELINE, "statefulset", "tracking-database"),
            (PIPELINE, "deployment", "tracking"),
            (kube.NAMESPACE, "deployment", "poet"),
        ):
            _ready(kind, name, namespace)
    yield stack
    stack.up(more=None)
    trainer.resume()


def test_a_preview_of_the_whole_pipeline_changes_nothing(pipeline: Stack) -> None:
    assert set(pipeline.engine().preview()) == {"same"}


def test_a_lost_tracking_server_comes_back_with_its_runs_models_and_files(
    pipeline: Stack, tmp_path: Path
) -> None:
    with _mlflow() as client:
        run = _log(client, tmp_path, "kept")
    with kube.timed("backup of a tracking server"):
        snapshot = _snapshot(kube.holdfast("backup", *_TRACKING))
    with _mlflow() as client:
        lost = _log(client, tmp_path, "lost")
        _remove_artifacts(run)

    with kube.timed("restore of a tracking server, until it answers and is checked"):
        done = kube.holdfast("restore", f"--snapshot={snapshot}", "--replace", *_TRACKING)
        assert done.returncode == 0, done.stdout + done.stderr
        _ready("deployment", "tracking", PIPELINE)

    with _mlflow() as client:
        names = {each.info.run_id for each in client.search_runs(["0"])}
        assert run in names
        assert lost not in names
        assert client.get_run(run).data.metrics == {"loss": 0.5}
        assert client.get_model_version_by_alias("poet", "production").run_id == run
        copied = client.download_artifacts(run, "model/weights", str(tmp_path))
        assert Path(copied).read_bytes() == b"kept"
    assert kube.get("deployment", "tracking", PIPELINE)["spec"]["replicas"] == 1


def test_an_application_goes_back_to_the_model_of_its_snapshot(
    pipeline: Stack, tmp_path: Path
) -> None:
    first = _served()
    snapshot = _snapshot(kube.holdfast("backup", *_POET))
    _add(tmp_path, "2")
    _promote("2")
    kube.wait("the promoted model answers", lambda: _restarted() != first["content"], 600)
    _promote("1")  # what the next start would take is what the snapshot has

    with kube.timed("restore of an application, until it answers"):
        done = kube.holdfast("restore", f"--snapshot={snapshot}", *_POET)
        assert done.returncode == 0, done.stdout + done.stderr
        _ready("deployment", "poet", kube.NAMESPACE)

    assert _served()["content"] == first["content"]


def test_an_application_of_which_a_pod_was_evicted_is_restored_like_any_other(
    pipeline: Stack,
) -> None:
    """Kubernetes keeps such a pod, and Kanister waits until the Deployment has none."""
    snapshot = _snapshot(kube.holdfast("backup", *_POET))
    evicted = _evicted("poet")

    with kube.timed("restore of an application of which a pod was evicted, until it answers"):
        done = kube.holdfast("restore", f"--snapshot={snapshot}", *_POET, "--timeout=120")
        assert done.returncode == 0, done.stdout + done.stderr
        _ready("deployment", "poet", kube.NAMESPACE)

    assert f"would wait: {evicted}" in done.stderr
    assert kube.get("pod", evicted) is None
    assert _served()["content"]


def test_the_backup_accounts_may_not_restore(pipeline: Stack) -> None:
    for account, blueprint, object_ in (
        ("pipeline:pipeline-backup", "pipeline-state",
         {"apiVersion": "v1", "resource": "configmaps", "kind": "configmap",
          "name": "holdfast-pipeline", "namespace": PIPELINE}),
        ("training:poet-backup", "applications",
         {"kind": "pvc", "name": "poet-model-pvc", "namespace": kube.NAMESPACE}),
    ):  # fmt: skip
        for action, admitted in (("backup", True), ("restore", False), ("delete", False)):
            document = {
                "apiVersion": "cr.kanister.io/v1alpha1",
                "kind": "ActionSet",
                "metadata": {"generateName": "try-", "namespace": kube.KANISTER},
                "spec": {"actions": [
                    {"name": action, "blueprint": blueprint, "object": object_}
                ]},
            }  # fmt: skip
            who = f"--as=system:serviceaccount:{account}"
            done = kube.attempt("create", "--dry-run=server", "--filename=-", who,
                                given=json.dumps(document))  # fmt: skip
            assert (done.returncode == 0) is admitted, f"{account} {action}: {done.stderr}"


def _evicted(deployment: str) -> str:
    """The name of a pod that the kubelet has ended, as where a node lacks memory; another one
    answers in its place."""
    (pod,) = kube.pods(f"holdfast.dev/workload={deployment}")
    name = pod["metadata"]["name"]
    at_once = json.dumps({"spec": {"activeDeadlineSeconds": 1}})
    kube.kubectl("patch", "pod", name, f"--namespace={kube.NAMESPACE}", f"--patch={at_once}")
    ended = lambda: kube.get("pod", name)["status"]["phase"] == "Failed"  # noqa: E731
    kube.wait(f"pod {name} has ended", ended)
    _ready("deployment", deployment, kube.NAMESPACE)
    return str(name)


def _ready(kind: str, name: str, namespace: str) -> None:
    """Until the newest template's pod, and no other, answers."""

    def ready() -> bool:
        found = kube.get(kind, name, namespace)
        status = found["status"]
        return (
            status.get("observedGeneration") == found["metadata"]["generation"]
            and status.get("readyReplicas") == status.get("updatedReplicas") == 1
            and status.get("replicas") == 1
        )

    kube.wait(f"{kind} {name} is ready", ready, 400)


def _snapshot(done: subprocess.CompletedProcess[str]) -> str:
    assert done.returncode == 0, done.stdout + done.stderr
    found = re.search(r"snapshot (\d{10}-\S+)", done.stdout + done.stderr)
    assert found, done.stdout + done.stderr
    return found[1]


def _add(folder: Path, version: str) -> None:
    """A model of its own for each version, in the store."""
    model = folder / f"model-{version}"
    torch.manual_seed(int(version))
    config = Config.model_validate({"volume": folder, "run": "e2e", "preset": "tiny"})
    dcp.save({"model": Gpt(config).state_dict()}, checkpoint_id=model)
    _store("add", "model", str(model), "--name=poet", f"--version={version}")


def _promote(version: str) -> None:
    """The version behind the alias that the application serves."""
    _store("promote", "poet", version, "--alias=production")


def _store(*arguments: str) -> None:
    done = store.holdfast(*arguments)
    assert done.returncode == 0, done.stdout + done.stderr


def _served() -> dict[str, Any]:
    """Which bundle the application answers from, asked through the API server."""
    path = f"/api/v1/namespaces/{kube.NAMESPACE}/services/poet:8090/proxy/health"
    return json.loads(kube.kubectl("get", "--raw", path))["model"]


def _restarted() -> str:
    """The content that answers after another start. A pod keeps the model that it has where the
    store does not answer within five seconds, as on a busy machine."""
    kube.kubectl("rollout", "restart", "deployment/poet", f"--namespace={kube.NAMESPACE}")
    _ready("deployment", "poet", kube.NAMESPACE)
    return str(_served()["content"])


@contextmanager
def _mlflow() -> Iterator[MlflowClient]:
    """MLflow's own client, as its administrator, by a port that kubectl forwards."""
    secret = kube.get("secret", "tracking-users", PIPELINE)["data"]["admin"]
    command = ["kubectl", "port-forward", "service/tracking", ":5000", f"--namespace={PIPELINE}"]
    with subprocess.Popen(
        command, env=kube.environment(), stdout=subprocess.PIPE, text=True
    ) as forward:
        try:
            assert forward.stdout is not None
            line = forward.stdout.readline()
            assert "Forwarding from" in line, f"kubectl cannot reach the server: {line}"
            port = line.split(" -> ")[0].rpartition(":")[2]
            os.environ |= {
                "MLFLOW_TRACKING_USERNAME": "admin",
                "MLFLOW_TRACKING_PASSWORD": base64.b64decode(secret).decode(),
            }
            yield MlflowClient(f"http://127.0.0.1:{port}", f"http://127.0.0.1:{port}")
        finally:
            forward.terminate()


def _log(client: MlflowClient, folder: Path, what: str) -> str:
    """A run with a metric and a file, which is the newest version of a model."""
    weights = folder / what / "weights"
    weights.parent.mkdir()
    weights.write_bytes(what.encode())
    run = client.create_run("0").info.run_id
    client.log_metric(run, "loss", 0.5)
    client.log_artifact(run, str(weights), "model")
    client.set_terminated(run)
    if not client.search_registered_models("name = 'poet'"):
        client.create_registered_model("poet")
    source = f"{client.get_run(run).info.artifact_uri}/model"
    version = client.create_model_version("poet", source, run).version
    client.set_registered_model_alias("poet", "production", version)
    return run


def _remove_artifacts(run: str) -> None:
    """The files of a run, gone from the volume as by a mistake."""
    pod = kube.pods("app.kubernetes.io/component=tracking", PIPELINE)[0]["metadata"]["name"]
    artifacts = "/var/lib/mlflow/artifacts"
    command = f'd=$(find {artifacts} -type d -name {run}) && test -n "$d" && rm -r "$d"'
    kube.kubectl("exec", pod, f"--namespace={PIPELINE}", "--container=mlflow", "--", "sh", "-c",
                 command)  # fmt: skip
