"""A small stand-in for Kanister: runs the actions of our Blueprints for ActionSets.

The order of states is the real controller's (0.119.0): a failing phase first makes the ActionSet
`failed`, then the deferPhase runs, and its own error overwrites the message. Artifacts are rendered
only when everything succeeded; until then they show the raw template text.
"""

import json
import re
import threading
import time
from collections import deque
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol

import yaml

from sandbox.cluster.pods import problems
from sandbox.cluster.templates import (
    BLUEPRINT_FUNCTIONS,
    WAIT_FUNCTIONS,
    Template,
    TemplateError,
    render,
    strings,
)
from sandbox.errors import SandboxError, Unsupported

_OUTPUT = re.compile(r"###Phase-output###:\s*(.*)")
_ARGUMENTS = {
    "KubeTask": {"namespace", "image", "command", "podOverride", "podLabels", "podAnnotations"},
    "KubeOps": {"operation", "objectReference", "spec", "namespace"},
    "WaitV2": {"timeout", "conditions"},
    "ScaleWorkload": {"namespace", "kind", "name", "replicas", "waitForReady"},
}
_WAIT_POLL = 0.1


class Task(Protocol):
    """The pod of one KubeTask."""

    @property
    def message(self) -> str: ...
    @property
    def exit_codes(self) -> Mapping[str, int]: ...
    def run(self) -> str: ...
    def kill(self) -> object: ...
    def log(self, container: str) -> Path: ...


class Referenced(Protocol):
    """An object that a phase patches or waits for."""

    def patch(self, change: dict[str, Any]) -> object: ...
    def status(self) -> Mapping[str, Any]: ...


class Scaled(Referenced, Protocol):
    """A Deployment that a phase scales."""

    @property
    def replicas(self) -> int: ...
    @property
    def standing(self) -> int:
        """How many pods its list has, also those that are ending or have ended."""


class Machine(Protocol):
    """Where actions run: this machine's processes, or a cluster (`cluster/controller.py`)."""

    def volume(self, namespace: str, claim: str) -> object: ...
    def job(self, namespace: str, name: str) -> Referenced | None: ...
    def deployment(self, namespace: str, name: str) -> Scaled | None: ...
    def object(self, kind: str, namespace: str, name: str) -> dict[str, Any]: ...
    def task(
        self, name: str, namespace: str, spec: dict[str, Any], labels: Mapping[str, str]
    ) -> Task: ...
    def record(self, what: str, **details: Any) -> None: ...


def merge(base: Any, over: Any) -> Any:
    """Kubernetes' strategic merge: maps by key, lists of things by `name` or `mountPath`."""
    if isinstance(base, Mapping) and isinstance(over, Mapping):
        return {**base, **{k: merge(base[k], v) if k in base else v for k, v in over.items()}}
    if isinstance(base, list) and isinstance(over, list) and over:
        for key in ("name", "mountPath"):
            if all(isinstance(item, Mapping) and key in item for item in [*base, *over]):
                known = {item[key]: item for item in base}
                changed = {i[key]: merge(known.get(i[key], {}), i) for i in over}
                return list((known | changed).values())
    return over


def seconds(duration: str) -> float:
    """A Go duration such as `90s`, `10m` or `1h30m`, in seconds."""
    units = {"h": 3600.0, "m": 60.0, "s": 1.0, "ms": 0.001}
    parts = re.findall(r"(\d+(?:\.\d+)?)(ms|[hms])", duration)
    if not parts or "".join(a + b for a, b in parts) != duration:
        raise SandboxError(f"invalid duration {duration!r}: expected one such as 90s, 10m or 1h30m")
    return sum(float(number) * units[unit] for number, unit in parts)


def check(blueprint: Mapping[str, Any], project: Path) -> None:
    """Refuse a Blueprint that uses what the sandbox lacks, before any of it runs."""
    where = f"Blueprint {blueprint['metadata']['name']}"
    for name, action in blueprint["actions"].items():
        phases = [*action["phases"], *([action["deferPhase"]] if "deferPhase" in action else [])]
        for phase in phases:
            place = f"{where}, action {name}, phase {phase['name']}"
            if phase["func"] not in _ARGUMENTS:
                known = ", ".join(_ARGUMENTS)
                raise Unsupported(f"{place}: function {phase['func']} is not one of {known}")
            if "objects" in phase:
                raise Unsupported(f"{place}: `objects` is not run here")
            if unknown := set(phase["args"]) - _ARGUMENTS[phase["func"]]:
                raise Unsupported(f"{place}: argument {', '.join(sorted(unknown))} is not run here")
            waits = phase["args"].get("conditions", {})
            for text in strings({k: v for k, v in phase["args"].items() if k != "conditions"}):
                Template(text, BLUEPRINT_FUNCTIONS)
            for entry in [*waits.get("anyOf", []), *waits.get("allOf", [])]:
                Template(entry["condition"], WAIT_FUNCTIONS)
            found = []
            if phase["func"] == "KubeTask":
                found = problems(_task_pod(phase["args"]), project)
            if found:
                raise Unsupported(f"{place}: the sandbox cannot run: {'; '.join(found)}")
        for artifact in action.get("outputArtifacts", {}).values():
            if set(artifact) != {"keyValue"}:
                raise Unsupported(f"{where}, action {name}: only keyValue artifacts are run here")
            for text in strings(artifact):
                Template(text, BLUEPRINT_FUNCTIONS)


def _task_pod(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """The pod that KubeTask makes, with its override merged in."""
    container = {name: arguments[name] for name in ("image", "command") if name in arguments}
    container["name"] = "container"
    pod = {"restartPolicy": "Never", "containers": [container]}
    return merge(pod, arguments.get("podOverride", {}))


class ActionSet:
    """One ActionSet while it runs; `manifest` with its `status` is what the API shows."""

    def __init__(
        self, manifest: dict[str, Any], blueprints: Mapping[str, Any], node: Machine
    ) -> None:
        self.manifest, self.node = manifest, node
        self.name: str = manifest["metadata"]["name"]
        self.status: dict[str, Any] = {"state": "pending", "progress": {}, "actions": []}
        manifest["status"] = self.status
        self._cancelled = threading.Event()
        self._pod: Task | None = None
        self._thread = threading.Thread(
            target=self._run, args=[dict(blueprints)], name=f"actionset {self.name}", daemon=True
        )

    def start(self) -> None:
        self._thread.start()

    def join(self, timeout: float | None = None) -> bool:
        self._thread.join(timeout)
        return not self._thread.is_alive()

    def cancel(self) -> None:
        """Like deleting the object: the running phase ends, the deferPhase does not run."""
        self._cancelled.set()
        if self._pod:
            self._pod.kill()

    def _run(self, blueprints: Mapping[str, Any]) -> None:
        actions = self.manifest["spec"].get("actions", [])
        try:
            if len(actions) != 1:
                raise Unsupported(f"{len(actions)} actions in one ActionSet: give exactly one")
            asked = actions[0]
            if refused := {"podOverride", "profile", "secrets", "configMaps"} & set(asked):
                raise Unsupported(f"action field {', '.join(sorted(refused))} is not run here")
            if asked["blueprint"] not in blueprints:
                raise SandboxError(f"Failed to query blueprint: {asked['blueprint']!r} not found")
            blueprint = blueprints[asked["blueprint"]]
            if asked["name"] not in blueprint["actions"]:
                raise SandboxError(f"Action {asked['name']} not found in {asked['blueprint']}")
            parameters = self._parameters(asked)
        except SandboxError as error:
            self.status |= {"state": "failed", "error": {"message": str(error)}}
            return
        action = blueprint["actions"][asked["name"]]
        progress: dict[str, Any] = {
            "name": asked["name"],
            "blueprint": asked["blueprint"],
            "object": asked["object"],
            "phases": [{"name": p["name"], "state": "pending"} for p in action["phases"]],
            "artifacts": action.get("outputArtifacts", {}),
        }
        if "deferPhase" in action:
            progress["deferPhase"] = {"name": action["deferPhase"]["name"], "state": "pending"}
        self.status |= {"state": "running", "actions": [progress]}
        self.node.record("actionset-started", actionset=self.name, action=asked["name"])
        self._phases(action, progress, parameters)
        outputs = {k: v for p in progress["phases"] for k, v in p.get("output", {}).items()}
        error = self.status.get("error", {}).get("message")
        self.node.record("actionset-ended", actionset=self.name, action=asked["name"],
                         state=self.status["state"], outputs=outputs, error=error)  # fmt: skip

    def _phases(
        self, action: Mapping[str, Any], progress: dict[str, Any], parameters: dict[str, Any]
    ) -> None:
        healthy = True
        for phase, shown in zip(action["phases"], progress["phases"], strict=True):
            shown["state"] = "running"
            healthy = self._phase(phase, shown, parameters)
            if not healthy or self._cancelled.is_set():
                break
        if "deferPhase" in action and not self._cancelled.is_set():
            last = progress["deferPhase"]  # stays pending while it runs, as in Kanister
            healthy = self._phase(action["deferPhase"], last, parameters) and healthy
        if not healthy or self._cancelled.is_set():
            return
        try:
            progress["artifacts"] = render(progress["artifacts"], parameters)
            self.status["state"] = "complete"
        except SandboxError as error:
            self._fail(error)
        self.status["progress"]["runningPhase"] = ""

    def _phase(
        self, phase: Mapping[str, Any], shown: dict[str, Any], parameters: dict[str, Any]
    ) -> bool:
        """Run one phase; if it fails, mark the ActionSet failed and return False."""
        self.status["progress"]["runningPhase"] = phase["name"]
        try:
            run = {
                "KubeTask": self._kube_task,
                "KubeOps": self._kube_ops,
                "WaitV2": self._wait,
                "ScaleWorkload": self._scale,
            }
            shown["output"] = run[phase["func"]](phase["name"], phase["args"], parameters)
        except SandboxError as error:
            shown["state"] = "failed"
            parameters["Phases"][phase["name"]] = {"Output": {}}
            self._fail(error)
            return False
        shown["state"] = "complete"
        parameters["Phases"][phase["name"]] = {"Output": shown["output"]}
        return True

    def _fail(self, error: Exception) -> None:
        self.status |= {"state": "failed", "error": {"message": str(error)}}
        self.status["progress"]["runningPhase"] = ""

    def _parameters(self, asked: Mapping[str, Any]) -> dict[str, Any]:
        """The data of the templates: the fields of Kanister that our Blueprints read."""
        subject = asked["object"]
        common = {"Options": asked.get("options", {}), "Phases": {}}
        where, name = subject.get("namespace", ""), subject.get("name", "")
        if subject["kind"].lower() == "pvc":
            self.node.volume(where, name)  # it must exist
            return {"PVC": {"Name": name, "Namespace": where}, **common}
        if (subject.get("apiVersion"), subject.get("resource")) == ("v1", "configmaps"):
            return {"Object": self.node.object("ConfigMap", where, name), **common}
        raise Unsupported(f"object kind {subject['kind']!r}: only pvc and configmaps are run here")

    def _kube_task(
        self, name: str, raw: Mapping[str, Any], parameters: Mapping[str, Any]
    ) -> dict[str, str]:
        """A pod that runs once; its `###Phase-output###` lines are the phase's output."""
        arguments = render(raw, parameters)
        pod_name = f"{self.name}-{name}"
        pod = self.node.task(
            pod_name, arguments["namespace"], _task_pod(arguments), arguments.get("podLabels", {})
        )
        self._pod = pod
        phase = pod.run()
        self._pod = None
        log = pod.log("container")
        if phase != "Succeeded":
            if pod.message:
                raise SandboxError(f"pod {pod_name} failed: {pod.message}")
            last = "\r\n".join(deque(_lines(log), 10))
            raise SandboxError(_failure(pod_name, last, pod.exit_codes.get("container", 137)))
        output: dict[str, str] = {}
        for line in _lines(log):
            if match := _OUTPUT.search(line):
                output |= _output(match[1])
        return output

    def _kube_ops(
        self, _name: str, raw: Mapping[str, Any], parameters: Mapping[str, Any]
    ) -> dict[str, str]:
        arguments = render(raw, parameters)
        if arguments["operation"] != "patch":
            raise Unsupported(f"KubeOps {arguments['operation']}: only patch is run here")
        reference = arguments["objectReference"]
        if (owner := self._referenced(reference)) is None:
            group = f"{reference['resource']}.{reference['group']}"
            raise SandboxError(f"{group} {reference['name']!r} not found")
        owner.patch(yaml.safe_load(arguments["spec"]))
        return {}

    def _scale(
        self, _name: str, raw: Mapping[str, Any], parameters: Mapping[str, Any]
    ) -> dict[str, str]:
        """Scale a Deployment, and wait until it has the pods that it should have. Kanister has no
        limit of its own for that: its creator's deadline, and its deletion, end it."""
        arguments = render(raw, parameters)
        if arguments["kind"].lower() != "deployment":
            raise Unsupported(
                f"ScaleWorkload of a {arguments['kind']}: only deployment is run here"
            )
        found = self.node.deployment(arguments["namespace"], arguments["name"])
        if found is None:
            raise SandboxError(f"deployments.apps {arguments['name']!r} not found")
        before, wanted = found.replicas, int(arguments["replicas"])
        found.patch({"spec": {"replicas": wanted}})
        while arguments.get("waitForReady", True):
            if (standing := found.standing) == wanted:
                break
            if self._cancelled.wait(_WAIT_POLL):
                raise SandboxError(f"cancelled while {arguments['name']} had {standing} pods")
        return {"originalReplicaCount": str(before)}

    def _wait(
        self, _name: str, raw: Mapping[str, Any], parameters: Mapping[str, Any]
    ) -> dict[str, str]:
        """Wait until the conditions print `true`; one that cannot be rendered does not."""
        conditions, timeout = raw["conditions"], seconds(render(raw["timeout"], parameters))
        deadline = time.monotonic() + timeout
        entries = [*conditions.get("anyOf", []), *conditions.get("allOf", [])]
        enough = any if "anyOf" in conditions else all
        while time.monotonic() < deadline and not self._cancelled.wait(_WAIT_POLL):
            if enough([self._holds(entry, parameters) for entry in entries]):
                return {}
        raise SandboxError(f"timed out after {timeout:g} s waiting for {entries[0]['condition']}")

    def _holds(self, entry: Mapping[str, Any], parameters: Mapping[str, Any]) -> bool:
        owner = self._referenced(render(entry["objectReference"], parameters))
        if owner is None:
            return False
        try:
            text = Template(entry["condition"], WAIT_FUNCTIONS).render({"status": owner.status()})
        except TemplateError:
            return False
        return text.strip() == "true"

    def _referenced(self, reference: Mapping[str, str]) -> Referenced | None:
        """The Job or Deployment that a phase names."""
        where, name = reference["namespace"], reference["name"]
        match reference.get("resource", "").lower():
            case "jobs":
                return self.node.job(where, name)
            case "deployments":
                return self.node.deployment(where, name)
        resource = reference.get("resource")
        raise Unsupported(f"object {resource!r}: only jobs and deployments are reached here")


def _failure(pod: str, log: str, code: int) -> str:
    """What Kanister writes of a task that failed: sentences of its own, and the error as JSON; of
    the pod's status, as Go prints it, only how the container ended."""
    ended = f"ContainerStateTerminated{{ExitCode:{code},Signal:0,Reason:Error,Message:,}}"
    cause = {"message": "Pod failed", "details": {"podName": pod, "status": ended}}
    error = {
        "message": "Pod failed or did not transition into complete state",
        "function": "github.com/kanisterio/kanister/pkg/kube.getErrorFromLogs",
        "cause": {"message": log, "cause": cause},
    }
    return (
        f"{json.dumps({'pod': pod})}: Failed while waiting for Pod to complete: "
        f"Pod failed to complete in time: {json.dumps(error, ensure_ascii=False)}"
    )


def _lines(log: Path) -> Iterator[str]:
    if log.exists():
        yield from log.read_text(errors="replace").splitlines()


def _output(text: str) -> dict[str, str]:
    """The JSON of one output line. Kanister requires key and value to be strings."""
    try:
        entry = json.loads(text)
        key, value = entry["key"], entry["value"]
    except (ValueError, KeyError, TypeError) as error:
        raise SandboxError(f'phase output {text!r} is not {{"key": …, "value": …}}') from error
    if not (isinstance(key, str) and isinstance(value, str) and re.fullmatch(r"\w+", key)):
        raise SandboxError(f"phase output {text!r}: key and value must be strings")
    return {key: value}
