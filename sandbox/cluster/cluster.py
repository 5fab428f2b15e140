"""The stack's objects, and the one node that they run on: this machine.

Volumes are directories below the state folder, which also holds each pod's logs and scratch space.
"""

import base64
import json
import shutil
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psutil

from sandbox.cluster import kanister, processes
from sandbox.cluster.api import serve
from sandbox.cluster.deployments import Deployment
from sandbox.cluster.jobs import Clock, CronJob, Job
from sandbox.cluster.pods import WITHOUT_EFFECT, Pod
from sandbox.cluster.services import Services
from sandbox.errors import SandboxError, Unsupported

#: Read here; other kinds, but for those that are run, are listed as not run.
_READ = ("ConfigMap", "PersistentVolume", "PersistentVolumeClaim", "Secret", "Service")
_RUN = ("Job", "CronJob", "Deployment", "StatefulSet", "Blueprint")
#: Marks a folder as a sandbox's, so that `down` never removes anything else.
MARKER = "sandbox.json"
#: The log of a sandbox in the background.
SERVER_LOG = "sandbox.log"


@dataclass(frozen=True)
class Event:
    """Something that happened, by this machine's clock (Unix seconds)."""

    time: float
    what: str
    details: dict[str, Any]


class Cluster:
    """Runs the graph's Jobs and CronJobs, and the actions of its Blueprints for ActionSets.

    Args:
        objects: complete manifests, as `infra.plan.graph` yields them.
        state: the folder for volumes, logs and scratch; made here, removed by `remove`.
        project: the checkout; the containers' working directory and import path.
        speed: how many times faster than real time schedules and back-offs run.
        identity: the tag of every process, by which it is found again.
    """

    def __init__(
        self,
        objects: list[dict[str, Any]],
        state: Path,
        project: Path,
        speed: float = 1.0,
        identity: str = "",
    ) -> None:
        self.state, self.project, self.speed = state, project, speed
        self.identity = identity or uuid.uuid4().hex
        state.mkdir(parents=True, exist_ok=True)
        self.clock = Clock(speed)
        self.schedulable = threading.Event()
        self.schedulable.set()
        self.events: list[Event] = []
        self.objects = {_key(manifest): manifest for manifest in objects}
        self.actionsets: dict[str, kanister.ActionSet] = {}
        self.pod_environment: dict[str, dict[str, str]] = {}
        self._numbers: dict[str, int] = {}
        self._lock = threading.Lock()
        self.refused: list[str] = []
        # Before the pods, which ask for their addresses.
        self.services = Services(self.of_kind("Service"), self._servers())
        self.jobs = {key[1:]: job for key, job in self._build("Job", self._job)}
        self.cronjobs = {key[1:]: cron for key, cron in self._build("CronJob", self._cron)}
        self.deployments = {k[1:]: job for k, job in self._build("Deployment", self._deployment)}
        self.databases = {k[1:]: job for k, job in self._build("StatefulSet", self._deployment)}
        self.blueprints: dict[str, Mapping[str, Any]] = {}
        for manifest in self.of_kind("Blueprint"):
            kanister.check(manifest, project)
            self.blueprints[manifest["metadata"]["name"]] = manifest
        self.kanister_namespace = next(
            (blueprint["metadata"]["namespace"] for blueprint in self.of_kind("Blueprint")), None
        )
        self._server, self.url = serve(self)

    def start(self, cronjobs: bool = True, jobs: bool = True) -> None:
        """Start Deployments and StatefulSets; Jobs and the schedules unless told otherwise."""
        started = [*self.databases.values(), *self.deployments.values()]
        for job in [*started, *self.jobs.values()] if jobs else started:
            job.start()
        for cron in self.cronjobs.values() if cronjobs else ():
            cron.start()

    def stop(self) -> None:
        """Stop schedules and actions, kill pods at once, and leave no process."""
        for cron in self.cronjobs.values():
            cron.stop()
        for actionset in list(self.actionsets.values()):
            actionset.cancel()
        for job in [*self.jobs.values(), *self.deployments.values(), *self.databases.values()]:
            job.delete(grace=0)
        processes.kill_tree(f"{self.identity}/")
        self._server.shutdown()

    # What is here, and what is not

    def shown(self) -> dict[str, Any]:
        """Everything that `status` prints."""
        crons = list(self.cronjobs.values())
        jobs = [*self.jobs.values(), *(job for cron in crons for job in cron.jobs)]
        return {
            "jobs": [
                {"namespace": job.namespace, "name": job.name, "failures": job.failures,
                 "state": job.finished or ("Suspended" if job.suspended else "Running")}
                for job in jobs
            ],
            "pods": [
                {"name": pod.name, "phase": pod.phase, "restarts": pod.restarts,
                 "exit_codes": pod.exit_codes}
                for job in [*self.databases.values(), *self.deployments.values(), *jobs]
                for pod in job.pods
            ],
            "cronjobs": [
                {"namespace": cron.namespace, "name": cron.name, "fired": len(cron.jobs),
                 "schedule": cron.spec["schedule"], "skipped": cron.missed}
                for cron in crons
            ],
            "actionsets": [
                {"name": name, "action": found.manifest["spec"]["actions"][0]["name"],
                 "state": found.status["state"],
                 "error": found.status.get("error", {}).get("message")}
                for name, found in list(self.actionsets.items())
            ],
            "blueprints": list(self.blueprints),
            "not_run": self.not_run(),
            "without_effect": self.without_effect(),
        }  # fmt: skip

    def of_kind(self, kind: str) -> list[dict[str, Any]]:
        return [manifest for key, manifest in self.objects.items() if key[0] == kind]

    def not_run(self) -> list[str]:
        """Objects of the graph that this sandbox does not run, with the reason where known."""
        kinds: dict[str, list[str]] = {}
        for kind, _, name in self.objects:
            if kind not in (*_READ, *_RUN):
                kinds.setdefault(kind, []).append(name)
        found = [f"{kind} {', '.join(sorted(names))}" for kind, names in sorted(kinds.items())]
        return found + self.refused

    def without_effect(self) -> list[str]:
        """Declared fields of pods and containers that have no effect on a process."""
        found: set[str] = set()
        servers = [*self.deployments.values(), *self.databases.values()]
        for job in [*self.jobs.values(), *self.cronjobs.values(), *servers]:
            template = job.spec.get("jobTemplate", {}).get("spec", job.spec)["template"]
            spec = template["spec"]
            for holder in (spec, *spec.get("initContainers", []), *spec["containers"]):
                found |= set(holder) & WITHOUT_EFFECT - {"image", "imagePullPolicy"}
        return sorted(found)

    # The node, as pods see it

    def number(self, job: str) -> int:
        """1 for the first pod of a Job, and so on: no name is used twice."""
        with self._lock:
            self._numbers[job] = self._numbers.get(job, 0) + 1
            return self._numbers[job]

    def volume(self, namespace: str, claim: str) -> Path:
        """The directory behind a claim: that of the PersistentVolume which it names."""
        manifest = self.objects.get(("PersistentVolumeClaim", namespace, claim))
        if manifest is None:
            raise SandboxError(f"PersistentVolumeClaim {namespace}/{claim} is not in the graph")
        name = manifest["spec"].get("volumeName", f"{namespace}-{claim}")
        return self.state / "volumes" / self._first_of(name)

    def _first_of(self, volume: str) -> str:
        """The first PersistentVolume with the same directory of a node: a store has one in each
        namespace, and they are one store."""
        places = {
            manifest["metadata"]["name"]: manifest.get("spec", {}).get("hostPath", {}).get("path")
            for manifest in self.of_kind("PersistentVolume")
        }
        mine = places.get(volume)
        same = [name for name, place in places.items() if mine and place == mine]
        return same[0] if same else volume

    def configmaps(self, namespace: str) -> dict[str, Mapping[str, str]]:
        return {
            manifest["metadata"]["name"]: manifest.get("data", {})
            for manifest in self.of_kind("ConfigMap")
            if manifest["metadata"].get("namespace") == namespace
        }

    def secrets(self, namespace: str) -> dict[str, Mapping[str, str]]:
        """Those of the graph, with the values that its plan made up."""
        found = (m for m in self.of_kind("Secret") if m["metadata"].get("namespace") == namespace)
        return {manifest["metadata"]["name"]: _revealed(manifest) for manifest in found}

    def address(self, namespace: str, labels: Mapping[str, str]) -> str | None:
        """The loopback address of a pod that a Service leads to."""
        return self.services.address(namespace, labels)

    def reachable(self, namespace: str, variable: str, value: str) -> str:
        """`value` with the addresses of Services replaced by local ones."""
        return self.services.reachable(namespace, variable, value)

    def ports(self, environ: Mapping[str, str], own: str | None) -> dict[str, str]:
        """The variables with a port of a Service that is another one here."""
        return self.services.ports(environ, own)

    def moved(self, address: str | None) -> Mapping[int, int]:
        """The ports of an address that are others here."""
        return self.services.moved(address)

    def extra_environment(self, pod: str) -> dict[str, str]:
        """The variables of every container, and those that a fault injection adds to this pod."""
        return {"HOLDFAST_KUBERNETES_API": self.url} | self.pod_environment.get(pod, {})

    def record(self, what: str, **details: Any) -> None:
        event = Event(time.time(), what, details)
        self.events.append(event)
        with (self.state / "events.jsonl").open("a") as log, suppress(ValueError):
            log.write(json.dumps({"time": event.time, "event": what} | details) + "\n")

    @contextmanager
    def cordoned(self) -> Iterator[None]:
        """No new pod starts while this lasts: the node is gone, or the volume is being replaced."""
        self.schedulable.clear()
        try:
            yield
        finally:
            self.schedulable.set()

    # What the API does

    def job(self, namespace: str, name: str) -> Job | None:
        return self.jobs.get((namespace, name))

    def deployment(self, namespace: str, name: str) -> Deployment | None:
        return self.deployments.get((namespace, name))

    def object(self, kind: str, namespace: str, name: str) -> dict[str, Any]:
        """An object of the graph; a missing one is an error."""
        if (found := self.objects.get((kind, namespace, name))) is None:
            raise SandboxError(f"{kind} {namespace}/{name} is not in the graph")
        return found

    def task(
        self, name: str, namespace: str, spec: dict[str, Any], labels: Mapping[str, str]
    ) -> Pod:
        """The pod of one KubeTask, not started yet."""
        return Pod(name, namespace, spec, self, labels)

    def create_job(self, manifest: dict[str, Any]) -> Job:
        """A new Job object; one of the same name must have been deleted before."""
        key = (manifest["metadata"]["namespace"], manifest["metadata"]["name"])
        if key in self.jobs:
            raise SandboxError(f'jobs.batch "{key[1]}" already exists')
        job = self.jobs[key] = Job(manifest, self)
        job.start()
        return job

    def delete_job(self, namespace: str, name: str) -> None:
        self.jobs.pop((namespace, name)).delete()

    def create_actionset(self, manifest: dict[str, Any]) -> dict[str, Any]:
        metadata = manifest["metadata"]
        if metadata["name"] in self.actionsets:
            raise SandboxError(f'actionsets.cr.kanister.io "{metadata["name"]}" already exists')
        now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        metadata |= {"creationTimestamp": now, "uid": str(uuid.uuid4())}
        actionset = kanister.ActionSet(manifest, self.blueprints, self)
        self.actionsets[metadata["name"]] = actionset
        actionset.start()
        return manifest

    def delete_actionset(self, name: str) -> None:
        self.actionsets.pop(name).cancel()

    def _build(self, kind: str, make: Callable[[dict[str, Any]], Any]) -> Iterator[tuple[Any, Any]]:
        for manifest in self.of_kind(kind):
            try:
                yield _key(manifest), make(manifest)
            except Unsupported as error:
                self.refused.append(str(error))

    def _job(self, manifest: dict[str, Any]) -> Job:
        return Job(manifest, self)

    def _deployment(self, manifest: dict[str, Any]) -> Deployment:
        return Deployment(manifest, self)

    def _servers(self) -> list[tuple[str, dict[str, Any]]]:
        """Namespace and pod template of what runs here for good."""
        return [
            (manifest["metadata"].get("namespace", ""), manifest["spec"]["template"])
            for manifest in [*self.of_kind("Deployment"), *self.of_kind("StatefulSet")]
        ]

    def _cron(self, manifest: dict[str, Any]) -> CronJob:
        return CronJob(manifest, self, self.clock)


def _revealed(secret: Mapping[str, Any]) -> dict[str, str]:
    coded = secret.get("data", {}).items()
    return {key: base64.b64decode(text).decode() for key, text in coded} | dict(
        secret.get("stringData", {})
    )


def vacate(state: Path) -> None:
    """Remove what is left of a sandbox whose process is gone.

    A sandbox that runs, and a folder with things that no sandbox made, are errors.
    """
    if (state / MARKER).exists():
        if server(state):
            raise SandboxError(f"a sandbox runs in {state}: end it with `python -m sandbox down`")
        remove(state)
    elif state.exists() and {path.name for path in state.iterdir()} - {SERVER_LOG}:
        raise SandboxError(f"{state} is not empty, and no sandbox made it: give another --state")


def claim(state: Path) -> str:
    """Make `state` this process's sandbox; the identity for its clusters."""
    vacate(state)
    state.mkdir(parents=True, exist_ok=True)
    me, identity = psutil.Process(), uuid.uuid4().hex
    describe(state, identity=identity, pid=me.pid, created=me.create_time())
    return identity


def describe(state: Path, **about: Any) -> None:
    """Write, or add to, what a sandbox says about itself in its folder."""
    told = marker(state) if (state / MARKER).exists() else {}
    (state / f".{MARKER}").write_text(json.dumps(told | about))
    (state / f".{MARKER}").rename(state / MARKER)


def marker(state: Path) -> dict[str, Any]:
    """What the sandbox in this folder says about itself."""
    try:
        return json.loads((state / MARKER).read_text())
    except (OSError, ValueError):
        raise SandboxError(f"{state} holds no sandbox: start one with `up`") from None


def server(state: Path) -> psutil.Process | None:
    """The process that runs the sandbox; None if it is gone (also if its pid was reused)."""
    about = marker(state)
    try:
        process = psutil.Process(about["pid"])
        return process if process.create_time() == about["created"] else None
    except psutil.Error:
        return None


def remove(state: Path) -> None:
    """Kill what is left of a sandbox's processes, and remove its folder and nothing else."""
    processes.kill_tree(f"{marker(state)['identity']}/")
    shutil.rmtree(state)


def _key(manifest: Mapping[str, Any]) -> tuple[str, str, str]:
    metadata = manifest["metadata"]
    return manifest["kind"], metadata.get("namespace", ""), metadata["name"]
