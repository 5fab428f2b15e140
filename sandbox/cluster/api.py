"""The part of the Kubernetes API that `holdfast` and the Blueprints need, on loopback, by HTTP."""

import json
import re
import threading
from collections.abc import Mapping, MutableMapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Protocol
from urllib.parse import parse_qs, urlsplit

from sandbox.errors import SandboxError

_ROUTES = {
    "actionsets": re.compile(
        r"/apis/cr\.kanister\.io/v1alpha1/namespaces/([^/]+)/actionsets(?:/([^/]+))?"
    ),
    "jobs": re.compile(r"/apis/batch/v1/namespaces/([^/]+)/jobs(?:/([^/]+))?"),
    "configmaps": re.compile(r"/api/v1/namespaces/([^/]+)/configmaps(?:/([^/]+))?"),
}


class _HasManifest(Protocol):
    @property
    def manifest(self) -> Mapping[str, Any]: ...


class _Job(_HasManifest, Protocol):
    @property
    def spec(self) -> Mapping[str, Any]: ...
    @property
    def suspended(self) -> bool: ...
    def status(self) -> dict[str, Any]: ...


class Cluster(Protocol):
    """What the API shows and changes: `sandbox.cluster.cluster.Cluster`, without the circle."""

    @property
    def kanister_namespace(self) -> str | None: ...
    @property
    def actionsets(self) -> Mapping[str, _HasManifest]: ...
    @property
    def jobs(self) -> Mapping[tuple[str, str], _Job]: ...
    @property
    def objects(self) -> MutableMapping[tuple[str, str, str], dict[str, Any]]: ...
    def of_kind(self, kind: str) -> list[dict[str, Any]]: ...
    def shown(self) -> dict[str, Any]: ...
    def create_job(self, manifest: dict[str, Any]) -> _HasManifest: ...
    def delete_job(self, namespace: str, name: str) -> None: ...
    def create_actionset(self, manifest: dict[str, Any]) -> dict[str, Any]: ...
    def delete_actionset(self, name: str) -> None: ...


class Refused(SandboxError):
    """An answer other than 2xx, as a Kubernetes `Status`."""

    def __init__(self, code: int, reason: str, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.status = {"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": code,
                       "reason": reason, "message": message}  # fmt: skip


def wanted(selector: str) -> dict[str, str]:
    """The labels that `key=value,key2=value2` asks for; other forms are refused."""
    labels: dict[str, str] = {}
    for term in filter(None, selector.split(",")):
        if not (match := re.fullmatch(r"([\w./-]+)==?([\w.-]*)", term)):
            raise Refused(400, "BadRequest", f"label selector {term!r}: only key=value is run here")
        labels[match[1]] = match[2]
    return labels


class _Handler(BaseHTTPRequestHandler):
    cluster: Cluster

    def log_message(self, format: str, *args: Any) -> None:
        """Quiet: events say what happened."""

    def do_GET(self) -> None:
        self._answer()

    def do_POST(self) -> None:
        self._answer()

    def do_PATCH(self) -> None:
        self._answer()

    def do_DELETE(self) -> None:
        self._answer()

    def _answer(self) -> None:
        try:
            code, body = self._handle()
        except Refused as refused:
            code, body = refused.code, refused.status
        except SandboxError as error:
            code, body = 409, Refused(409, "AlreadyExists", str(error)).status
        data = json.dumps(body).encode()
        self.send_response(code)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def _handle(self) -> tuple[int, Mapping[str, Any]]:
        url = urlsplit(self.path)
        if (self.command, url.path) == ("GET", "/sandbox"):  # for `python -m sandbox status`
            return 200, self.cluster.shown()
        for resource, route in _ROUTES.items():
            if match := route.fullmatch(url.path):
                namespace, name = match.groups()
                found = self._objects(resource, namespace)
                if self.command == "POST" and name is None:
                    return 201, self._create(resource, namespace)
                if self.command == "GET" and name is None:
                    selector = parse_qs(url.query).get("labelSelector", [""])[0]
                    labels = wanted(selector).items()
                    items = [item for item in found.values()
                             if labels <= item["metadata"].get("labels", {}).items()]  # fmt: skip
                    return 200, {"kind": "List", "apiVersion": "v1", "metadata": {}, "items": items}
                if self.command == "PATCH" and resource != "actionsets" and name not in found:
                    return 201, self._create(resource, namespace)  # server-side apply
                if name not in found:
                    raise Refused(404, "NotFound", f'{resource} "{name}" not found')
                if self.command == "GET":
                    return 200, found[name]
                if self.command == "PATCH" and resource == "configmaps":
                    return 200, self._create(resource, namespace)
                if self.command == "DELETE":
                    self._delete(resource, namespace, name)
                    return 200, {"kind": "Status", "apiVersion": "v1", "status": "Success"}
        raise Refused(404, "NotFound", f"{self.command} {url.path}: the sandbox's API knows only "
                                       f"{' and '.join(_ROUTES)}")  # fmt: skip

    def _objects(self, resource: str, namespace: str) -> Mapping[str, Mapping[str, Any]]:
        if resource == "actionsets":
            if namespace != self.cluster.kanister_namespace:
                return {}
            return {name: a.manifest for name, a in list(self.cluster.actionsets.items())}
        if resource == "configmaps":
            maps = self.cluster.of_kind("ConfigMap")
            return {
                m["metadata"]["name"]: m for m in maps if m["metadata"]["namespace"] == namespace
            }
        jobs = list(self.cluster.jobs.items())
        return {
            name: {**job.manifest, "spec": {**job.spec, "suspend": job.suspended},
                   "status": job.status()}
            for (where, name), job in jobs if where == namespace
        }  # fmt: skip

    def _create(self, resource: str, namespace: str) -> dict[str, Any]:
        body = json.loads(self.rfile.read(int(self.headers.get("Content-Length", 0))))
        body["metadata"]["namespace"] = namespace
        if resource == "configmaps":
            self.cluster.objects["ConfigMap", namespace, body["metadata"]["name"]] = body
            return body
        if resource == "jobs":
            return dict(self.cluster.create_job(body).manifest)
        if namespace != self.cluster.kanister_namespace:
            where = self.cluster.kanister_namespace
            raise Refused(
                404, "NotFound", f"Kanister watches namespace {where!r}, not {namespace!r}"
            )
        return self.cluster.create_actionset(body)

    def _delete(self, resource: str, namespace: str, name: str) -> None:
        self.rfile.read(int(self.headers.get("Content-Length", 0)))  # one Job, one uid: no doubt
        if resource == "jobs":
            self.cluster.delete_job(namespace, name)
        elif resource == "configmaps":
            del self.cluster.objects["ConfigMap", namespace, name]
        else:
            self.cluster.delete_actionset(name)


def serve(cluster: Cluster) -> tuple[ThreadingHTTPServer, str]:
    """Answer on a free loopback port in a background thread; the server and its URL."""
    handler = type("Handler", (_Handler,), {"cluster": cluster})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, args=[0.05], name="api", daemon=True).start()
    return server, f"http://127.0.0.1:{server.server_port}"
