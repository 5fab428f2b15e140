"""The stack's tracking server in the sandbox: its client, its state, and how it is lost."""

import json
import os
import shutil
import subprocess
import time
import urllib.request
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from mlflow import MlflowClient

from sandbox.cluster import images, processes
from sandbox.cluster.cluster import Cluster
from sandbox.cluster.jobs import Job
from sandbox.cluster.pods import Pod
from sandbox.demo.contents import Contents, contents
from sandbox.errors import SandboxError

NAMESPACE, NAME, DATABASE = "pipeline", "tracking", "tracking-database"
_OPENER = urllib.request.build_opener(urllib.request.ProxyHandler({}))


class Tracked:
    """MLflow and PostgreSQL as the stack declares them."""

    def __init__(self, cluster: Cluster) -> None:
        self.cluster = cluster
        self.address = cluster.services.of(NAMESPACE, NAME)
        self.url = f"http://{self.address}:5000"
        self.server = cluster.deployments[NAMESPACE, NAME]
        self.database = cluster.databases[NAMESPACE, DATABASE]
        self.password = cluster.secrets(NAMESPACE)["tracking-users"]["admin"]
        os.environ |= {
            "NO_PROXY": "*",
            "MLFLOW_TRACKING_USERNAME": "admin",
            "MLFLOW_TRACKING_PASSWORD": self.password,
            "MLFLOW_TRACKING_URI": self.url,
            "MLFLOW_DISABLE_TELEMETRY": "true",
            "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
        }

    def client(self) -> MlflowClient:
        return MlflowClient(self.url, self.url)

    def contents(self) -> Contents:
        """All that the server holds, as its client tells it."""
        return contents(self.client())

    def wait(self, limit: float = 400) -> float:
        """Wait until the server answers; the seconds that it took."""
        return _wait("MLflow", self._healthy, limit, self._logs)

    def wait_for_database(self, limit: float = 120) -> None:
        """Wait until PostgreSQL takes connections as the stack's user."""
        ready = ["pg_isready", "--quiet"]
        _wait("PostgreSQL", lambda: self._run(ready).returncode == 0, limit, self._logs)

    def places(self) -> tuple[Path, Path]:
        """The directories behind the volumes of the database and of the artifacts."""
        volume = self.cluster.volume
        return volume(NAMESPACE, f"{DATABASE}-pvc"), volume(NAMESPACE, "tracking-artifacts-pvc")

    def trained(self, job: Job) -> Path:
        """The directory behind a training's volume."""
        return Path(self._of(job.namespace, job.spec, "containers")["HOLDFAST_VOLUME"])

    def store(self) -> Path:
        """The directory of the store."""
        return Path(self._environment()["HOLDFAST_STORE"].removeprefix("file://"))

    def lose(self, more: list[Path]) -> int:
        """SIGKILL for both servers, and their volumes removed, with `more`; the bytes lost."""
        self.server.patch({"spec": {"replicas": 0}})
        places = [*self.places(), *more]
        with self.cluster.cordoned():
            for job in (self.server, self.database):
                if pod := job.active:
                    pod.kill()
            size = 0
            for place in places:
                size += sum(f.lstat().st_size for f in place.rglob("*") if f.is_file())
                shutil.rmtree(place, ignore_errors=True)
            _wait("the old pods' end", lambda: self.database.active is None, 30, self._logs)
        return size

    def stop(self) -> None:
        """Scale the server to zero and wait for its end: nobody may write during a restore."""
        self.server.patch({"spec": {"replicas": 0}})
        _wait("MLflow's end", lambda: self.server.active is None, 90, self._logs)

    def go_on(self) -> float:
        """Scale it back to one; the seconds until it answers."""
        self.server.patch({"spec": {"replicas": 1}})
        return self.wait()

    def holdfast(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """`holdfast` in the environment of the stack's server, and of its store."""
        return self._run(["holdfast", *arguments])

    def backup(self) -> dict[str, Any]:
        """Ask the Blueprint for a snapshot, as the stack's CronJob does; what it told."""
        cron = self.cluster.cronjobs[NAMESPACE, "pipeline-backup"]
        spec = cron.spec["jobTemplate"]["spec"]["template"]["spec"]
        (asking,) = (c for c in spec["containers"] + spec.get("initContainers", [])
                     if c["name"] == "backup")  # fmt: skip
        environ = processes.inherited(self.cluster.project)
        environ |= Pod("operator", NAMESPACE, spec, self.cluster).environment(asking)
        environ |= self.cluster.extra_environment("")
        command = [shutil.which("holdfast", path=environ["PATH"]) or "holdfast", "backup"]
        done = subprocess.run([*command, "--output", "json"], env=environ, capture_output=True,
                              text=True, check=False)  # fmt: skip
        if done.returncode:
            raise SandboxError(f"holdfast backup: {done.stderr.strip()}\n{self._logs()}")
        return json.loads(done.stdout)["outputs"]

    def _run(self, command: list[str]) -> subprocess.CompletedProcess[str]:
        environ = self._environment()
        command = [shutil.which(command[0], path=environ["PATH"]) or command[0], *command[1:]]
        return subprocess.run(command, env=environ, capture_output=True, text=True, check=False)

    def _environment(self) -> dict[str, str]:
        """What a task pod beside the server has: its variables, and those that reach the store."""
        found = processes.inherited(self.cluster.project)
        postgres = self.database.spec["template"]["spec"]["containers"][0]["image"]
        programs = images.of(postgres, self.cluster.project).programs
        found["PATH"] = f"{programs}{os.pathsep}{found['PATH']}"
        found |= self._of(NAMESPACE, self.server.spec, "containers")
        found["HOLDFAST_ARTIFACTS"] = found["MLFLOW_ARTIFACTS_DESTINATION"]
        (namespace, _), job = next(iter(self.cluster.jobs.items()))
        store = self._of(namespace, job.spec, "initContainers")
        return found | {key: store[key] for key in ("HOLDFAST_STORE", "HOLDFAST_OWNER")}

    def _of(self, namespace: str, spec: Mapping[str, Any], which: str) -> dict[str, str]:
        template = spec["template"]["spec"]
        return Pod("look", namespace, template, self.cluster).environment(template[which][0])

    def _healthy(self) -> bool:
        with suppress(OSError), _OPENER.open(f"{self.url}/health", timeout=5) as answer:
            return answer.status == 200
        return False

    def _logs(self) -> str:
        found: list[str] = []
        for log in sorted(self.cluster.state.glob("pods/tracking*/*.log")):
            found += [f"{log}:", *(f"  {x}" for x in log.read_text().splitlines()[-8:])]
        return "\n".join(found)


def _wait(what: str, condition: Callable[[], Any], limit: float, logs: Callable[[], str]) -> float:
    began = time.monotonic()
    while not condition():
        if time.monotonic() - began > limit:
            raise SandboxError(f"waiting for {what}: not within {limit:g} s\n{logs()}")
        time.sleep(0.1)
    return time.monotonic() - began
