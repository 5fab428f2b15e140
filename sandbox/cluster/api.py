"""The part of the Kubernetes API that `holdfast` and the Blueprints need, on loopback, by HTTP."""

import re
from collections.abc import Mapping, MutableMapping
from http.server import ThreadingHTTPServer
from typing import Any, Protocol
from urllib.parse import parse_qs, urlsplit

from sandbox.cluster import http
from sandbox.cluster.http import Request
from sandbox.errors import SandboxError

_ROUTES = {
    "actionsets": re.compile(
        r"/apis/cr\.kanister\.io/v1alpha1/namespaces/([^/]+)/actionsets(?:/([^/]+))?"
    ),
    "deployments": re.compile(r"/apis/apps/v1/namespaces/([^/]+)/deployments(?:/([^/]+))?"),
    "jobs": re.compile(r"/apis/batch/v1/namespaces/([^/]+)/jobs(?:/([^/]+))?"),
    "configmaps": re.compile(r"/api/v1/namespaces/([^/]+)/configmaps(?:/([^/]+))?"),
    "pods": re.compile(r"/api/v1/namespaces/([^/]+)/pods(?:/([^/]+))?"),
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


class _Deployment(Protocol):
    def shown(self) -> dict[str, Any]: ...


class Cluster(Protocol):
    """What the API shows and changes: `sandbox.cluster.cluster.Cluster`, without the circle."""

    @property
    def kanister_namespace(self) -> str | None: ...
    @property
    def actionsets(self) -> Mapping[str, _HasManifest]: ...
    @property
    def jobs(self) -> Mapping[tuple[str, str], _Job]: ...
    @property
    def deployments(self) -> Mapping[tuple[str, str], _Deployment]: ...
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


class _Api:
    """One cluster's objects, by method and path."""

    def __init__(self, cluster: Cluster) -> None:
        self.cluster = cluster

    def answer(self, request: Request) -> tuple[int, Mapping[str, Any]]:
        try:
            return self._route(request)
        except Refused as refused:
            return refused.code, refused.status
        except SandboxError as error:
            return 409, Refused(409, "AlreadyExists", str(error)).status

    def _route(self, request: Request) -> tuple[int, Mapping[str, Any]]:
        url, method = urlsplit(request.path), request.method
        if (method, url.path) == ("GET", "/sandbox"):  # for `python -m sandbox status`
            return 200, self.cluster.shown()
        for resource, route in _ROUTES.items():
            if match := route.fullmatch(url.path):
                namespace, name = match.groups()
                found = self._objects(resource, namespace)
                if resource == "deployments" and method != "GET":
                    raise Refused(405, "MethodNotAllowed", "Deployments are only read here")
                if method == "POST" and name is None:
                    return 201, self._create(resource, namespace, request.body)
                if method == "GET" and name is None:
                    selector = parse_qs(url.query).get("labelSelector", [""])[0]
                    labels = wanted(selector).items()
                    items = [item for item in found.values()
                             if labels <= item["metadata"].get("labels", {}).items()]  # fmt: skip
                    return 200, {"kind": "List", "apiVersion": "v1", "metadata": {}, "items": items}
                if method == "PATCH" and resource != "actionsets" and name not in found:
                    return 201, self._create(resource, namespace, request.body)  # server-side apply
                if name not in found:
                    raise Refused(404, "NotFound", f'{resource} "{name}" not found')
                if method == "GET":
                    return 200, found[name]
                if method == "PATCH" and resource == "configmaps":
                    return 200, self._create(resource, namespace, request.body)
                if method == "DELETE":  # preconditions are not read: one Job, one uid
                    self._delete(resource, namespace, name)
                    return 200, {"kind": "Status", "apiVersion": "v1", "status": "Success"}
        raise Refused(404, "NotFound", f"{method} {url.path}: the sandbox's API knows only "
                                       f"{' and '.join(_ROUTES)}")  # fmt: skip

    def _objects(self, resource: str, namespace: str) -> Mapping[str, Mapping[str, Any]]:
        if resource == "actionsets":
            if namespace != self.cluster.kanister_namespace:
                return {}
            return {name: a.manifest for name, a in list(self.cluster.actionsets.items())}
        if resource == "pods":  # those of Kanister's tasks: none outlives its phase here
            return {}
        if resource == "configmaps":
            maps = self.cluster.of_kind("ConfigMap")
            return {
                m["metadata"]["name"]: m for m in maps if m["metadata"]["namespace"] == namespace
            }
        if resource == "deployments":
            found = list(self.cluster.deployments.items())
            return {name: each.shown() for (where, name), each in found if where == namespace}
        jobs = list(self.cluster.jobs.items())
        return {
            name: {**job.manifest, "spec": {**job.spec, "suspend": job.suspended},
                   "status": job.status()}
            for (where, name), job in jobs if where == namespace
        }  # fmt: skip

    def _create(self, resource: str, namespace: str, body: dict[str, Any]) -> dict[str, Any]:
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
        if resource == "jobs":
            self.cluster.delete_job(namespace, name)
        elif resource == "configmaps":
            del self.cluster.objects["ConfigMap", namespace, name]
        else:
            self.cluster.delete_actionset(name)


def serve(cluster: Cluster) -> tuple[ThreadingHTTPServer, str]:
    """Answer on a free loopback port in a background thread; the server and its URL."""
    return http.serve(_Api(cluster).answer)
