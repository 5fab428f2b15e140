"""A pod as a process tree: init containers in order, containers together, restart rules."""

import os
import subprocess
import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from sandbox.cluster import images, processes
from sandbox.cluster.services import listening
from sandbox.errors import SandboxError, Unsupported

#: The kubelet's back-off between restarts of a container: none, then 10 s doubling to 5 minutes.
RESTART_BACKOFF, RESTART_BACKOFF_LIMIT = 10.0, 300.0

#: Actions of restart rules.
RESTART, RESTART_ALL = "Restart", "RestartAllContainers"

#: Fields of a pod and of a container without effect on a process; `up` lists those in use.
WITHOUT_EFFECT = frozenset({
    "affinity", "automountServiceAccountToken", "dnsPolicy", "enableServiceLinks", "hostname",
    "image", "imagePullPolicy", "imagePullSecrets", "livenessProbe", "nodeName", "nodeSelector",
    "ports", "priorityClassName", "readinessProbe", "resources", "securityContext",
    "serviceAccountName", "setHostnameAsFQDN", "shareProcessNamespace", "startupProbe",
    "subdomain", "terminationMessagePath", "terminationMessagePolicy", "tolerations",
    "topologySpreadConstraints",
})  # fmt: skip
_POD = {"containers", "initContainers", "volumes", "restartPolicy", "terminationGracePeriodSeconds",
        "activeDeadlineSeconds"}  # fmt: skip
_CONTAINER = {"name", "command", "args", "env", "envFrom", "volumeMounts", "workingDir",
              "restartPolicy", "restartPolicyRules", "lifecycle"}  # fmt: skip


_VOLUMES = {"persistentVolumeClaim", "emptyDir", "configMap", "secret"}


class Node(Protocol):
    """What a pod needs from the machine that it runs on."""

    project: Path
    state: Path
    identity: str
    speed: float
    schedulable: threading.Event

    def number(self, job: str) -> int: ...
    def volume(self, namespace: str, claim: str) -> Path: ...
    def configmaps(self, namespace: str) -> processes.Texts: ...
    def secrets(self, namespace: str) -> processes.Texts: ...
    def address(self, namespace: str, labels: Mapping[str, str]) -> str | None: ...
    def reachable(self, namespace: str, variable: str, value: str) -> str: ...
    def ports(self, environ: Mapping[str, str], own: str | None) -> dict[str, str]: ...
    def moved(self, address: str | None) -> Mapping[int, int]: ...
    def extra_environment(self, pod: str) -> dict[str, str]: ...
    def record(self, what: str, **details: Any) -> None: ...


def problems(spec: Mapping[str, Any], project: Path) -> list[str]:
    """What this pod needs that processes cannot provide; empty if it can run."""
    found = [f"pod field {name!r}" for name in sorted(set(spec) - _POD - WITHOUT_EFFECT)]
    for container in [*spec.get("initContainers", []), *spec["containers"]]:
        where = f"container {container['name']!r}"
        unknown = sorted(set(container) - _CONTAINER - WITHOUT_EFFECT)
        found += [f"{where}: field {name!r}" for name in unknown]
        if not container.get("command") and not _image(container, project).entrypoint:
            found.append(f"{where}: no command (the image's entry point is unknown here)")
        if set(container.get("lifecycle", {})) - {"postStart"}:
            found.append(f"{where}: lifecycle with anything but postStart")
        if (
            container in spec.get("initContainers", [])
            and container.get("restartPolicy") == "Always"
        ):
            found.append(f"{where}: a restartable init container (sidecar)")
        paths = [mount["mountPath"] for mount in container.get("volumeMounts", [])]
        words = [*container.get("command", []), *container.get("args", [])]
        found += [
            f"{where}: {word!r} contains a path: give it by an environment variable"
            for word in words
            if processes.repoint(word, dict.fromkeys(paths, Path("/elsewhere"))) != word
        ]
    for volume in spec.get("volumes", []):
        if not _VOLUMES & set(volume):
            kinds = ", ".join(sorted(set(volume) - {"name"}))
            found.append(f"volume {volume['name']!r} of kind {kinds}")
    return found


def _image(container: Mapping[str, Any], project: Path) -> images.Image:
    return images.of(container.get("image", ""), project)


def restarted(container: Mapping[str, Any], pod_policy: str, code: int) -> str | None:
    """What the kubelet restarts in place after exit code `code`: this container (``Restart``), all
    of the pod (``RestartAllContainers``) or nothing.

    Its own `restartPolicyRules` come first, then its own `restartPolicy`, then the pod's.
    """
    for rule in container.get("restartPolicyRules", []):
        codes = rule.get("exitCodes", {})
        if (code in codes.get("values", [])) == (codes.get("operator", "In") == "In"):
            action: str = rule["action"]
            if action not in (RESTART, RESTART_ALL):
                raise Unsupported(f"restart rule action {action!r} does not run here")
            return action
    policy = container.get("restartPolicy", pod_policy)
    return RESTART if policy == "Always" or (policy == "OnFailure" and code != 0) else None


@dataclass
class Pod:
    """One run of a pod template. `run` blocks; `stop` and `kill` are for other threads."""

    name: str
    namespace: str
    spec: Mapping[str, Any]
    node: Node
    labels: Mapping[str, str] = field(default_factory=dict)
    index: int | None = None

    phase: str = "Pending"
    exit_codes: dict[str, int] = field(default_factory=dict)
    restarts: dict[str, int] = field(default_factory=dict)
    conditions: set[str] = field(default_factory=set)
    terminating: bool = False
    message: str = ""

    def __post_init__(self) -> None:
        if found := problems(self.spec, self.node.project):
            raise Unsupported(f"pod {self.name}: the sandbox cannot run: {'; '.join(found)}")
        self.directory = self.node.state / "pods" / self.name
        self.tag = f"{self.node.identity}/{self.name}/"
        self._gone = threading.Event()  # no container may start or restart any more
        self._again = threading.Event()  # none may until all have ended: then all start again
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        self._lock = threading.Lock()
        self.policy = self.spec.get("restartPolicy", "Always")
        self.address = self.node.address(self.namespace, self.labels)

    def run(self) -> str:
        """Run to the end; returns the phase, Succeeded or Failed, and leaves nothing running."""
        self.directory.mkdir(parents=True)
        self.phase = "Running"
        self.node.record("pod-started", pod=self.name)
        deadline = None
        if seconds := self.spec.get("activeDeadlineSeconds"):
            deadline = threading.Timer(seconds, self.kill)
            deadline.daemon = True
            deadline.start()
        try:
            succeeded = self._containers()
            while self._again.is_set() and not self._gone.is_set():
                self._again.clear()  # at once: the kubelet has no back-off for this
                succeeded = self._containers()
            self.phase = "Succeeded" if succeeded else "Failed"
        except SandboxError as error:
            self.phase, self.message = "Failed", str(error)
        finally:
            if deadline:
                deadline.cancel()
            processes.kill_tree(self.tag)
        self.node.record("pod-ended", pod=self.name, phase=self.phase, codes=self.exit_codes)
        return self.phase

    def stop(self, grace: float | None = None) -> None:
        """What deleting a pod does: SIGTERM to each main process, the grace period, SIGKILL."""
        self.terminating = True
        if grace is None:
            grace = float(self.spec.get("terminationGracePeriodSeconds", 30))
        with self._lock:
            self._gone.set()
            running = dict(self._processes)
        for container in [*self.spec.get("initContainers", []), *self.spec["containers"]]:
            if process := running.get(container["name"]):
                process.send_signal(_image(container, self.node.project).stop_signal)
        killer = threading.Timer(grace, processes.kill_tree, args=[self.tag])
        killer.daemon = True
        killer.start()
        try:
            for process in running.values():
                process.wait()
        finally:
            killer.cancel()

    def kill(self, *conditions: str) -> int:
        """The pod is lost at once: SIGKILL to every process of it; returns how many there were.

        `conditions` are what its status then says, such as DisruptionTarget for a lost node.
        """
        with self._lock:
            self._gone.set()
        self.conditions.update(conditions)
        return processes.kill_tree(self.tag)

    def log(self, container: str) -> Path:
        """The file with the container's stdout and stderr."""
        return self.directory / f"{container}.log"

    def mount(self, container: Mapping[str, Any]) -> dict[str, Path]:
        """The directory behind each mount path of a container; created if it is missing."""
        directories: dict[str, Path] = {}
        for volume in self.spec.get("volumes", []):
            directories[volume["name"]] = self._directory(volume)
        found: dict[str, Path] = {}
        for mount in container.get("volumeMounts", []):
            if mount["name"] not in directories:
                raise SandboxError(f"pod {self.name}: no volume {mount['name']!r} to mount")
            directory = directories[mount["name"]] / mount.get("subPath", "")
            directory.mkdir(parents=True, exist_ok=True)
            found[mount["mountPath"].rstrip("/")] = directory
        return found

    def _directory(self, volume: Mapping[str, Any]) -> Path:
        """What is behind a volume; the files of a ConfigMap or a Secret are written anew."""
        if claim := volume.get("persistentVolumeClaim"):
            return self.node.volume(self.namespace, claim["claimName"])
        directory = self.directory / volume["name"]
        for kind, key, there in (
            ("ConfigMap", "name", self.node.configmaps(self.namespace)),
            ("Secret", "secretName", self.node.secrets(self.namespace)),
        ):
            source = volume.get("configMap" if kind == "ConfigMap" else "secret")
            if source is None:
                continue
            data = there.get(source[key])
            if data is None and not source.get("optional"):
                raise Unsupported(f"pod {self.name}: {kind} {source[key]!r} is not in the graph")
            paths = {item["key"]: item["path"] for item in source.get("items", [])}
            directory.mkdir(parents=True, exist_ok=True, mode=0o700)
            for name, text in (data or {}).items():
                if not paths or name in paths:
                    (directory / paths.get(name, name)).write_text(text, encoding="utf-8")
        return directory

    def _containers(self) -> bool:
        """Run init containers and containers to their end; whether all succeeded."""
        first = self.spec.get("initContainers", [])
        # The kubelet starts one that succeeded never again, whatever the pod's policy.
        before = "OnFailure" if self.policy == "Always" else self.policy
        if not all(self._container(each, before) == 0 for each in first):
            return False
        containers = self.spec["containers"]
        with ThreadPoolExecutor(len(containers)) as pool:
            return not any(pool.map(self._container, containers))

    def _container(self, container: Mapping[str, Any], policy: str | None = None) -> int:
        """Run one container with its restarts; the exit code it ends with (137 when killed)."""
        name, delay = container["name"], 0.0
        while True:
            code = self._once(container)
            self.exit_codes[name] = code
            action = restarted(container, policy or self.policy, code)
            if self._gone.is_set() or self._again.is_set() or action is None:
                return code
            if action == RESTART_ALL:
                self._restart_all(name, code)
                return code
            self.restarts[name] = self.restarts.get(name, 0) + 1
            self.node.record("container-restart", pod=self.name, container=name, code=code)
            if self._gone.wait(delay / self.node.speed):
                return code
            delay = min(max(RESTART_BACKOFF, 2 * delay), RESTART_BACKOFF_LIMIT)

    def _restart_all(self, name: str, code: int) -> None:
        """End all containers, without a grace period, as the kubelet does; `run` starts them."""
        with self._lock:
            self._again.set()
        for each in (*self.spec.get("initContainers", []), *self.spec["containers"]):
            self.restarts[each["name"]] = self.restarts.get(each["name"], 0) + 1
        self.node.record("pod-restart", pod=self.name, container=name, code=code)
        processes.kill_tree(self.tag)

    def environment(self, container: Mapping[str, Any]) -> dict[str, str]:
        """The image's and the container's own variables, with mount paths replaced."""
        configmaps = self.node.configmaps(self.namespace)
        secrets = self.node.secrets(self.namespace)
        mounts = self.mount(container)
        own = processes.environment(container, configmaps, mounts, secrets)
        image = _image(container, self.node.project).environment
        found = {k: processes.repoint(text, mounts) for k, text in image.items()} | own
        if "PGHOST" in image:
            found["PGHOST"] = images.socket_directory(found["PGHOST"])
        if self.address:
            found["HOLDFAST_ADDRESS"] = self.address
        there = self.node.reachable
        found = {name: there(self.namespace, name, value) for name, value in found.items()}
        return found | self.node.ports(found, self.address)

    def _words(
        self, words: Sequence[str], environ: Mapping[str, str], image: images.Image
    ) -> list[str]:
        """A command as it runs here: variables, the image's files, the pod's own address."""
        expanded = (processes.expand(word, environ) for word in words)
        moved = self.node.moved(self.address)
        placed = (processes.repoint(word, image.files) for word in expanded)
        return [listening(word, self.address, moved) for word in placed]

    def _once(self, container: Mapping[str, Any]) -> int:
        name, base = container["name"], processes.inherited(self.node.project)
        tmp = str(self.mount(container).get("/tmp", "/" * 80))
        if len(tmp) < 70:  # Unix sockets in there end at 107 bytes
            base["TMPDIR"] = tmp
        if self.index is not None:
            base["JOB_COMPLETION_INDEX"] = str(self.index)
        environ = base | {"HOSTNAME": self.name} | self.environment(container)
        environ |= self.node.extra_environment(self.name) | {processes.TAG: f"{self.tag}{name}/"}
        image = _image(container, self.node.project)
        if image.programs:
            environ["PATH"] = f"{image.programs}{os.pathsep}{environ['PATH']}"
        words = [*container.get("command", image.entrypoint), *container.get("args", [])]
        command = self._words(words, environ, image)
        with self._lock:
            if self._gone.is_set() or self._again.is_set():
                return 137
            process = processes.start(command, environ, self.node.project, self.log(name))
            self._processes[name] = process
        self.node.record("container-started", pod=self.name, container=name)
        if hook := container.get("lifecycle", {}).get("postStart"):
            hooked = self._words(hook["exec"]["command"], environ, image)
            processes.start(hooked, environ, self.node.project, self.log(name))
        code = process.wait()
        processes.kill_tree(f"{self.tag}{name}/")  # a container ends with its first process
        code = code if code >= 0 else 128 - code
        self.node.record("container-ended", pod=self.name, container=name, code=code)
        return code
