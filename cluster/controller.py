"""A stand-in for Kanister's controller, as a pod: the sandbox's Blueprint runner on a cluster.

For clusters where the real operator is not to be had. It watches the ActionSets of its own
namespace, and acts with its pod's ServiceAccount, which the test chart gives the rights of the
real operator's. Like the real one it forgets at a restart what it was doing: an ActionSet that was
running stays `running`, and the pod of its task stays.
"""

import json
import os
import ssl
import sys
import tempfile
import time
import urllib.error
import urllib.request
import uuid
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from sandbox.cluster.kanister import ActionSet
from sandbox.errors import SandboxError

_ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")
_POLL_SECONDS = 0.5
#: The real controller's: a task's pod must have left Pending by then.
_PENDING_SECONDS = 900
_STRATEGIC = "application/strategic-merge-patch+json"
_MERGE = "application/merge-patch+json"


class ApiError(SandboxError):
    """The API server refused a request."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(message)
        self.code = code


class Api:
    """JSON requests to the API server of the cluster that this pod runs in."""

    def __init__(self) -> None:
        host, port = os.environ["KUBERNETES_SERVICE_HOST"], os.environ["KUBERNETES_SERVICE_PORT"]
        self._url = f"https://{host}:{port}"
        self._context = ssl.create_default_context(cafile=str(_ACCOUNT / "ca.crt"))

    def ask(
        self, method: str, path: str, body: Any = None, content: str = "application/json"
    ) -> Any:
        """The answer; text where it is no JSON.

        Raises:
            ApiError: anything but success.
        """
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(f"{self._url}{path}", data, method=method)
        request.add_header("Authorization", f"Bearer {(_ACCOUNT / 'token').read_text()}")
        request.add_header("Content-Type", content)
        try:
            with urllib.request.urlopen(request, timeout=30, context=self._context) as answer:
                text = answer.read().decode(errors="replace")
                is_json = answer.headers.get_content_type() == "application/json"
        except urllib.error.HTTPError as error:
            said = error.read().decode(errors="replace")
            with suppress(ValueError, KeyError):
                said = json.loads(said)["message"]
            raise ApiError(error.code, said) from None
        except OSError as error:
            raise ApiError(0, f"the API server does not answer: {error}") from None
        return json.loads(text) if is_json else text


class TaskPod:
    """The pod of one KubeTask: bare, labelled, deleted when it has ended however it ended."""

    def __init__(
        self, api: Api, namespace: str, spec: dict[str, Any], labels: Mapping[str, str]
    ) -> None:
        self.message, self.exit_codes = "", dict[str, int]()
        self._api, self._spec, self._labels = api, spec, {**labels, "createdBy": "kanister"}
        self._name = f"kanister-job-{uuid.uuid4().hex[:5]}"
        self._pods = f"/api/v1/namespaces/{namespace}/pods"
        self._namespace = namespace
        self._folder = tempfile.TemporaryDirectory()

    def run(self) -> str:
        manifest = {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": self._name, "namespace": self._namespace, "labels": self._labels},
            "spec": self._spec,
        }
        self._api.ask("POST", self._pods, manifest)
        try:
            phase = self._ended()
            text = self._api.ask("GET", f"{self._pods}/{self._name}/log?container=container")
            self.log("container").write_text(text)
            return phase
        finally:
            self.kill()

    def kill(self) -> None:
        try:
            self._api.ask("DELETE", f"{self._pods}/{self._name}", {"gracePeriodSeconds": 0})
        except ApiError as error:
            if error.code != 404:
                raise

    def log(self, container: str) -> Path:
        return Path(self._folder.name) / f"{container}.log"

    def _ended(self) -> str:
        began = time.monotonic()
        while True:
            status = self._api.ask("GET", f"{self._pods}/{self._name}")["status"]
            phase = status.get("phase", "Pending")
            if phase in ("Succeeded", "Failed"):
                for container in status.get("containerStatuses", []):
                    if "terminated" in container["state"]:
                        code = container["state"]["terminated"]["exitCode"]
                        self.exit_codes[container["name"]] = code
                return phase
            if phase == "Pending" and time.monotonic() - began > _PENDING_SECONDS:
                raise SandboxError(f"pod {self._name} was not ready within {_PENDING_SECONDS} s")
            time.sleep(_POLL_SECONDS)


class Owner:
    """A Job or a Deployment as phases see it."""

    def __init__(self, api: Api, path: str) -> None:
        self._api, self._path = api, path

    @property
    def replicas(self) -> int:
        return self._api.ask("GET", self._path)["spec"].get("replicas", 1)

    @property
    def standing(self) -> int:
        """The pods of its present ReplicaSet, whatever became of them: the real one counts so."""
        place, _, name = self._path.rpartition("/deployments/")
        revision = _revision(self._api.ask("GET", self._path))
        sets = self._api.ask("GET", f"{place}/replicasets")["items"]
        present = [each for each in _owned(sets, [name]) if _revision(each) == revision]
        pods = self._api.ask("GET", place.replace("/apis/apps/v1/", "/api/v1/") + "/pods")["items"]
        return len(_owned(pods, [each["metadata"]["name"] for each in present]))

    def patch(self, change: dict[str, Any]) -> None:
        self._api.ask("PATCH", self._path, change, _STRATEGIC)

    def status(self) -> Mapping[str, Any]:
        return self._api.ask("GET", self._path).get("status", {})


def _owned(objects: list[dict[str, Any]], owners: list[str]) -> list[dict[str, Any]]:
    """Those that a controller of one of these names has."""
    return [
        each
        for each in objects
        if any(one["name"] in owners for one in each["metadata"].get("ownerReferences", []))
    ]


def _revision(found: Mapping[str, Any]) -> str:
    return found["metadata"].get("annotations", {}).get("deployment.kubernetes.io/revision", "")


class Controller:
    """Runs the ActionSets of one namespace."""

    def __init__(self, api: Api, namespace: str) -> None:
        self.api = api
        self._kinds = f"/apis/cr.kanister.io/v1alpha1/namespaces/{namespace}"
        self._running: dict[str, ActionSet] = {}
        self._shown: dict[str, str] = {}

    def run(self) -> None:
        """For ever; a server that does not answer is asked again."""
        while True:
            try:
                self.look()
            except ApiError as error:
                print(f"{error.code}: {error}", file=sys.stderr, flush=True)
            time.sleep(_POLL_SECONDS)

    def look(self) -> None:
        """Start what is new, show how far the others are, and give up what was deleted."""
        found = self.api.ask("GET", f"{self._kinds}/actionsets")["items"]
        known = {each["metadata"]["uid"]: each for each in found}
        for uid, actionset in list(self._running.items()):
            if uid not in known:
                actionset.cancel()
                del self._running[uid]
                continue
            ended = actionset.join(0)  # before its status is read: what it wrote last is shown
            self._show(uid, actionset)
            if ended:
                del self._running[uid]
        for uid, manifest in known.items():
            if uid not in self._running and not manifest.get("status", {}).get("state"):
                self._running[uid] = self._start(manifest)

    def _start(self, manifest: dict[str, Any]) -> ActionSet:
        blueprints = self.api.ask("GET", f"{self._kinds}/blueprints")["items"]
        named = {each["metadata"]["name"]: each for each in blueprints}
        actionset = ActionSet(manifest, named, self)
        actionset.start()
        return actionset

    def _show(self, uid: str, actionset: ActionSet) -> None:
        text = json.dumps(actionset.status)
        if self._shown.get(uid) == text:
            return
        path = f"{self._kinds}/actionsets/{actionset.name}"
        self.api.ask("PATCH", path, {"status": json.loads(text)}, _MERGE)
        self._shown[uid] = text

    # What actions ask of a cluster

    def volume(self, namespace: str, claim: str) -> None:
        self.api.ask("GET", f"/api/v1/namespaces/{namespace}/persistentvolumeclaims/{claim}")

    def object(self, kind: str, namespace: str, name: str) -> dict[str, Any]:
        return self.api.ask("GET", f"/api/v1/namespaces/{namespace}/{kind.lower()}s/{name}")

    def job(self, namespace: str, name: str) -> Owner | None:
        return self._owner(f"/apis/batch/v1/namespaces/{namespace}/jobs/{name}")

    def deployment(self, namespace: str, name: str) -> Owner | None:
        return self._owner(f"/apis/apps/v1/namespaces/{namespace}/deployments/{name}")

    def _owner(self, path: str) -> Owner | None:
        try:
            self.api.ask("GET", path)
        except ApiError as error:
            if error.code == 404:
                return None
            raise
        return Owner(self.api, path)

    def task(
        self, name: str, namespace: str, spec: dict[str, Any], labels: Mapping[str, str]
    ) -> TaskPod:
        return TaskPod(self.api, namespace, spec, labels)

    def record(self, what: str, **details: Any) -> None:
        print(json.dumps({"event": what, **details}), flush=True)


if __name__ == "__main__":
    controller = Controller(Api(), os.environ["POD_NAMESPACE"])
    controller.run()
