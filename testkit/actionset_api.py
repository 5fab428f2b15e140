"""A test double of the Kubernetes API: real HTTP, with states that a test scripts.

It checks nothing that Kanister checks and runs no phase. Each created ActionSet takes the next
script; each GET of it advances one status and stays at the last one. A deleted Job remains for
`leaving` GETs, like a Job whose pods have not ended yet.
"""

from __future__ import annotations

import urllib.parse
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

from sandbox.cluster import http

Status = dict[str, Any] | None
PATH = "/apis/cr.kanister.io/v1alpha1/namespaces/kanister/actionsets"
DEPLOYMENTS = "/apis/apps/v1/namespaces/training/deployments"
JOBS = "/apis/batch/v1/namespaces/training/jobs"
MAPS = "/api/v1/namespaces/training/configmaps"
PODS = "/api/v1/namespaces/training/pods"
SETS = "/apis/apps/v1/namespaces/training/replicasets"


CLAIM = {"kind": "pvc", "name": "checkpoints-pvc", "namespace": "training"}


def running(phase: str = "upload") -> Status:
    return {
        "state": "running",
        "progress": {"runningPhase": phase},
        "actions": [
            {
                "name": "backup",
                "artifacts": {"checkpoint": {"keyValue": {"snapshot": "{{ .Phases.raw }}"}}},
                "phases": [{"name": phase, "state": "running"}],
            }
        ],
    }


def complete(**outputs: str) -> Status:
    return {
        "state": "complete",
        "progress": {"runningPhase": ""},
        "actions": [
            {
                "name": "backup",
                "artifacts": {"checkpoint": {"keyValue": outputs}},
                "phases": [{"name": "upload", "state": "complete", "output": outputs}],
            }
        ],
    }


def failed(message: str, *, defer: str | None = None, phase: str = "") -> Status:
    action: dict[str, Any] = {"name": "restore", "phases": [{"name": "stage", "state": "failed"}]}
    if defer is not None:
        action["deferPhase"] = {"name": "resume", "state": defer}
    return {
        "state": "failed",
        "error": {"message": message},
        "progress": {"runningPhase": phase},
        "actions": [action],
    }


def job(*conditions: str, **annotations: str) -> dict[str, Any]:
    """The Job gpt as the API server shows it, with the labels that its controller adds."""
    generated = {"batch.kubernetes.io/controller-uid": "uid-1", "controller-uid": "uid-1",
               "batch.kubernetes.io/job-name": "gpt", "job-name": "gpt"}  # fmt: skip
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {
            "name": "gpt",
            "namespace": "training",
            "uid": "uid-1",
            "resourceVersion": "7",
            "generation": 3,
            "creationTimestamp": "2026-05-01T12:00:00Z",
            "ownerReferences": [{"kind": "Holder", "uid": "x"}],
            "labels": {"holdfast.dev/workload": "gpt", **generated},
            "annotations": {"pulumi.com/skipAwait": "true"}
            | {f"holdfast.dev/{key}": value for key, value in annotations.items()},
            "managedFields": [
                {"manager": "kube-controller-manager", "operation": "Update"},
                {"manager": "pulumi-kubernetes-1a2b", "operation": "Apply"},
            ],
        },
        "spec": {
            "suspend": True,
            "backoffLimit": 100,
            "selector": {"matchLabels": {"batch.kubernetes.io/controller-uid": "uid-1"}},
            "template": {
                "metadata": {
                    "creationTimestamp": None,
                    "labels": {"holdfast.dev/claim": "checkpoints-pvc", **generated},
                },
                "spec": {"restartPolicy": "Never"},
            },
        },
        "status": {"conditions": [{"type": kind, "status": "True"} for kind in conditions]},
    }


def deployment(pods: int, **annotations: str) -> dict[str, Any]:
    """The Deployment predictor as the API server shows it."""
    return {
        "metadata": {
            "name": "predictor",
            "namespace": "training",
            "annotations": {f"holdfast.dev/{key}": value for key, value in annotations.items()},
        },
        "spec": {"replicas": pods},
    }


class ActionSetApi:
    """The objects, the scripts of their states, and the requests that came."""

    def __init__(self) -> None:
        self.url = ""
        self.objects: dict[str, dict[str, Any]] = {}
        self.scripts: list[list[Status]] = []
        self.pending: dict[str, list[Status]] = {}
        self.requests: list[tuple[str, str]] = []
        self.headers: list[dict[str, str]] = []
        self.deleted: list[str] = []
        self.created: list[str] = []
        #: Jobs, ConfigMaps and pods by path
        self.others: dict[str, dict[str, Any]] = {}
        self.leaving = 0
        #: answered with 403
        self.hidden: tuple[str, ...] = ()
        self.bodies: list[tuple[str, str, Any]] = []
        #: answers to give instead of the real one: (method, status, message); status 0: carry the
        #: request out, then cut the connection
        self.faults: list[tuple[str, int, str]] = []

    def add(
        self,
        name: str,
        status: Status,
        *,
        age: float = 0,
        due: float | None = None,
        action: str = "backup",
        **options: str,
    ) -> None:
        """An ActionSet that exists before the test starts, its deadline ``due`` seconds ahead."""
        deadline = datetime.now(UTC) + timedelta(seconds=due or 0)
        created = datetime.now(UTC) - timedelta(seconds=age)
        self.objects[name] = {
            "metadata": {
                "name": name,
                "labels": {"holdfast.dev/workload": "gpt", "holdfast.dev/action": action},
                "creationTimestamp": created.strftime("%Y-%m-%dT%H:%M:%SZ"),
                "annotations": {}
                if due is None
                else {"holdfast.dev/deadline": deadline.isoformat(timespec="seconds")},
            },
            "spec": {"actions": [{"name": action, "options": options, "object": CLAIM}]},
            "status": status,
        }

    def add_pod(
        self, name: str, *, age: float, created_by: str = "kanister", **labels: str
    ) -> None:
        """A pod of a task on the claim (or another's), in the state that a dead controller left."""
        created = datetime.now(UTC) - timedelta(seconds=age)
        self.others[f"{PODS}/{name}"] = {
            "metadata": {
                "name": name,
                "labels": {"createdBy": created_by, **labels},
                "creationTimestamp": created.strftime("%Y-%m-%dT%H:%M:%SZ"),
            },
            "spec": {"serviceAccountName": "holdfast-checkpoints-pvc"},
            "status": {"phase": "Succeeded"},
        }

    def answer(self, method: str, path: str, body: dict[str, Any] | None) -> tuple[int, Any]:
        url = urllib.parse.urlsplit(path)
        if url.path in (PODS, SETS):
            query = urllib.parse.parse_qs(url.query)
            found = [each for at, each in self.others.items() if at.startswith(url.path)]
            for key, value in (each.split("=") for each in query.get("labelSelector", ())):
                found = [each for each in found if each["metadata"]["labels"].get(key) == value]
            for selector in query.get("fieldSelector", ()):
                others = [each.removeprefix("status.phase!=") for each in selector.split(",")]
                found = [each for each in found if each["status"]["phase"] not in others]
            hidden = url.path in self.hidden
            return (403, {"message": "no"}) if hidden else (200, {"items": found})
        if url.path.startswith((DEPLOYMENTS, JOBS, MAPS, PODS)):
            return self.answer_other(method, url.path, body)
        if not url.path.startswith(PATH):
            return 404, {"message": "the server could not find the requested resource"}
        name = url.path.removeprefix(PATH).strip("/")
        if method == "POST" and body is not None:
            name = body["metadata"]["name"]
            if name in self.objects:
                return 409, {"message": f'actionsets "{name}" already exists'}
            stamp = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
            body["metadata"]["creationTimestamp"] = stamp
            self.objects[name] = body
            self.pending[name] = self.scripts.pop(0) if self.scripts else []
            self.created.append(name)
            return 201, body
        if not name:
            found = list(self.objects.values())
            if selector := urllib.parse.parse_qs(url.query).get("labelSelector"):
                key, value = selector[0].split("=")
                found = [one for one in found if one["metadata"]["labels"].get(key) == value]
            return 200, {"items": found, "metadata": {}}
        if name not in self.objects:
            return 404, {"message": f'actionsets "{name}" not found'}
        if method == "DELETE":
            self.deleted.append(name)
            return 200, self.objects.pop(name)
        if self.pending.get(name):
            self.objects[name]["status"] = self.pending[name].pop(0)
        return 200, self.objects[name]

    def answer_other(self, method: str, path: str, body: dict[str, Any] | None) -> tuple[int, Any]:
        if path.startswith(self.hidden or "-"):
            return 403, {"message": f"cannot {method.lower()} {path}"}
        self.bodies.append((method, path, body))
        if method == "PATCH" and body is not None:  # server-side apply
            self.others[path] = body
            return 201, body
        found = self.others.get(path)
        if found is None:
            return 404, {"message": f"{path} not found"}
        if method == "DELETE" and path.startswith(JOBS):
            wanted = (body or {}).get("preconditions", {}).get("uid")
            if wanted not in (None, found["metadata"]["uid"]):
                return 409, {"message": "the UID in the precondition does not match"}
            found["metadata"]["deletionTimestamp"] = "2026-05-01T13:00:00Z"
            if not self.leaving:
                del self.others[path]
        elif method == "DELETE":
            del self.others[path]
        elif found["metadata"].get("deletionTimestamp"):
            self.leaving -= 1
            if self.leaving <= 0:
                del self.others[path]
        return 200, found


@contextmanager
def serve() -> Iterator[ActionSetApi]:
    api = ActionSetApi()

    def answer(request: http.Request) -> http.Answer:
        api.requests.append((request.method, request.path))
        api.headers.append(request.headers)
        fault = api.faults.pop(0) if api.faults and api.faults[0][0] == request.method else None
        if fault and fault[1]:
            return fault[1], {"message": fault[2]}
        answered = api.answer(request.method, request.path, request.body)
        return None if fault else answered

    server, api.url = http.serve(answer)
    try:
        yield api
    finally:
        server.shutdown()
        server.server_close()
