"""The stack's tracking server in the sandbox: its client, its state, and how it is lost."""

import os
import shutil
import subprocess
import time
import urllib.request
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from mlflow import MlflowClient

from holdfast.control.actionset import Action, ActionSets
from holdfast.control.kubernetes import KubernetesAPI
from holdfast.control.run_action import ActionFailed, run_action
from sandbox.cluster import images, processes
from sandbox.cluster.cluster import Cluster
from sandbox.cluster.jobs import Job
from sandbox.cluster.pods import Pod
from sandbox.demo.command import Operator
from sandbox.demo.contents import Contents, contents
from sandbox.errors import SandboxError

NAMESPACE, NAME, DATABASE = "pipeline", "tracking", "tracking-database"
_OPENER = urllib.request.build_opener(urllib.request.ProxyHandler({}))


class Tracked:
    """MLflow and PostgreSQL as the stack declares them."""

    def __init__(self, cluster: Cluster) -> None:
        self.cluster = cluster
        self.url = cluster.services.url(NAMESPACE, NAME)
        self.server = cluster.deployments[NAMESPACE, NAME]
        self.database = cluster.databases[NAMESPACE, DATABASE]
        self.operator = Operator(cluster, cluster.cronjobs[NAMESPACE, "pipeline-backup"])
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

    def runs(self, name: str) -> list[Any]:
        """The runs that MLflow has of a training."""
        client = self.client()
        experiments = [each.experiment_id for each in client.search_experiments()]
        return list(client.search_runs(experiments, f"tags.`holdfast.run` = '{name}'"))

    def has_logged(self, name: str, step: int, bundle: str) -> bool:
        """Whether all metrics of a training have come up to this step, and its newest bundle."""
        for run in self.runs(name):
            history = self.client().get_metric_history
            last = [max(p.step for p in history(run.info.run_id, key)) for key in run.data.metrics]
            return min(last, default=0) >= step and run.data.tags.get("holdfast.bundle") == bundle
        return False

    def wait(self, limit: float = 400) -> float:
        """Wait until the server answers; the seconds that it took."""
        return _wait("MLflow", self._healthy, limit, self._logs)

    def wait_for_database(self, limit: float = 120) -> None:
        """Wait until PostgreSQL takes connections as the stack's user."""
        ready = ["pg_isready", "--quiet"]
        _wait("PostgreSQL", lambda: self._run(ready).returncode == 0, limit, self._logs)

    def volumes(self) -> list[Path]:
        """The directories behind the volumes of the database and of the artifacts."""
        claims = (f"{DATABASE}-pvc", "tracking-artifacts-pvc")
        return [self.cluster.volume(NAMESPACE, claim) for claim in claims]

    def store(self) -> Path:
        """The directory of the store."""
        return Path(self._environment()["HOLDFAST_STORE"].removeprefix("file://"))

    @contextmanager
    def lost(self, more: Iterable[Job], volumes: Iterable[Path]) -> Iterator[int]:
        """SIGKILL for the pods of both servers and of `more`, and their volumes removed.

        Yields the bytes that are gone. No pod starts before the end of the block, as on a node
        that is away.
        """
        jobs = [self.server, self.database, *more]
        with self.cluster.cordoned():
            for job in jobs:
                if pod := job.active:
                    pod.kill()
            _wait("the old pods' end", lambda: not any(j.active for j in jobs), 120, self._logs)
            size = 0
            for volume in [*self.volumes(), *volumes]:
                size += sum(f.lstat().st_size for f in volume.rglob("*") if f.is_file())
                shutil.rmtree(volume)
            yield size

    def holdfast(self, *arguments: str) -> None:
        """`holdfast` where the store is, as a person would; its failure ends the story."""
        done = self._run(["holdfast", *arguments])
        if done.returncode:
            raise SandboxError(f"holdfast {' '.join(arguments)}: {done.stderr.strip()}")

    def verify(self, snapshot: str) -> str:
        """Ask for the Blueprint's action `verify`; "" or why it failed."""
        told = self.operator.environment()
        action = Action(
            name="verify",
            workload=told["HOLDFAST_WORKLOAD"],
            namespace=told["HOLDFAST_NAMESPACE"],
            configuration=told["HOLDFAST_CONFIGURATION"],
            blueprint=told["HOLDFAST_BLUEPRINT"],
            options={"snapshot": snapshot},
        )
        api = KubernetesAPI(self.cluster.url)
        try:
            run_action(
                ActionSets(api, told["HOLDFAST_KANISTER_NAMESPACE"]), action, say=lambda _: None
            )
        except ActionFailed as error:
            return str(error)
        return ""

    def phases(self, actionset: str) -> list[str]:
        """The phases of an ActionSet that ran to their end."""
        (action,) = self.cluster.actionsets[actionset].status["actions"]
        return [each["name"] for each in action["phases"] if each["state"] == "complete"]

    def _run(self, command: list[str]) -> subprocess.CompletedProcess[str]:
        environ = self._environment()
        command = [shutil.which(command[0], path=environ["PATH"]) or command[0], *command[1:]]
        return subprocess.run(command, env=environ, capture_output=True, text=True, check=False)

    def _environment(self) -> dict[str, str]:
        """The server's own variables, PostgreSQL's programs, and the way to the store."""
        found = processes.inherited(self.cluster.project)
        postgres = self.database.spec["template"]["spec"]["containers"][0]["image"]
        programs = images.of(postgres, self.cluster.project).programs
        found["PATH"] = f"{programs}{os.pathsep}{found['PATH']}"
        found |= self._of(NAMESPACE, self.server.spec, "containers")
        prune = self.operator.cron.spec["jobTemplate"]["spec"]
        store = self._of(NAMESPACE, prune, "containers")
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
