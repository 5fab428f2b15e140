"""Talk to a Kubernetes API server with the standard library.

Two ways in, nothing to install: inside a pod, the service account's token and CA certificate
(read again at every request, since the kubelet rotates them); anywhere else, a plain URL such as
the one that ``kubectl proxy`` serves, which is then the one that authenticates.
"""

from __future__ import annotations

import http.client
import json
import os
import ssl
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any

from holdfast.errors import HoldfastError, UsageError

SERVICE_ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")
REQUEST_SECONDS = 15
RESPONSE_BYTES = 64 * 1024 * 1024


class KubernetesError(HoldfastError):
    """The API server refused a request: a retry would be refused too."""

    def __init__(self, message: str, status: int = 0) -> None:
        super().__init__(message)
        self.status = status


class KubernetesUnavailable(KubernetesError):
    """No answer, or an answer that invites a retry (429, 5xx)."""


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """A token must never follow a redirect to another host."""

    def redirect_request(self, req, fp, code, msg, headers, newurl):
        return None


class KubernetesAPI:
    """A few JSON requests to one API server.

    ``url`` None means "the cluster this pod runs in". A given URL gets no token: it is a proxy
    that adds its own credentials.
    """

    def __init__(self, url: str | None = None, service_account: Path = SERVICE_ACCOUNT) -> None:
        self._service_account = None if url else service_account
        self.url = (url or _in_cluster_url(service_account)).rstrip("/")
        _check(self.url)
        #: Time by the server's clock at its last answer; this machine's before the first one.
        self.server_time: datetime = datetime.now(UTC)

    def get(self, path: str, query: Mapping[str, str] | None = None) -> dict[str, Any]:
        return self._request("GET", path, query=query)

    def create(self, path: str, body: Mapping[str, Any]) -> dict[str, Any]:
        return self._request("POST", path, body=body)

    def apply(self, path: str, body: Mapping[str, Any], manager: str) -> dict[str, Any]:
        """Create the object, or make it what ``body`` says, with ``manager`` as the fields' owner.

        Server-side apply: doing it twice changes nothing.
        """
        return self._request("PATCH", path, body=body, query={"fieldManager": manager})

    def merge(self, path: str, body: Mapping[str, Any]) -> dict[str, Any]:
        """Change the object by a JSON merge patch: None removes a member."""
        return self._request("PATCH", path, body=body, kind="application/merge-patch+json")

    def delete(self, path: str, options: Mapping[str, Any] | None = None) -> None:
        """Delete; an object that is gone already is a success. ``options`` are DeleteOptions."""
        try:
            self._request("DELETE", path, body=options)
        except KubernetesError as error:
            if error.status != 404:
                raise

    def _request(
        self,
        method: str,
        path: str,
        *,
        body: Mapping[str, Any] | None = None,
        query: Mapping[str, str] | None = None,
        kind: str | None = None,
    ) -> dict[str, Any]:
        url = self.url + path + ("?" + urllib.parse.urlencode(query) if query else "")
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(url, data=data, method=method)
        request.add_header("Accept", "application/json")
        if data is not None:
            of_method = {"PATCH": "application/apply-patch+yaml"}.get(method, "application/json")
            request.add_header("Content-Type", kind or of_method)
        try:
            with self._opener(request).open(request, timeout=REQUEST_SECONDS) as response:
                self._note_time(response.headers.get("Date"))
                answer = json.loads(response.read(RESPONSE_BYTES) or b"{}")
        except urllib.error.HTTPError as error:
            with error:
                self._note_time(error.headers.get("Date"))
                raise _refusal(method, path, error) from None
        except (OSError, http.client.HTTPException, ValueError) as error:
            reason = getattr(error, "reason", None) or error
            raise KubernetesUnavailable(
                f"Kubernetes API {self.url} does not answer ({reason}): check the address and the"
                " network"
            ) from None
        if not isinstance(answer, dict):
            raise KubernetesError(f"{method} {path} answered no JSON object: is {self.url} an API?")
        return answer

    def _opener(self, request: urllib.request.Request) -> urllib.request.OpenerDirector:
        handlers: list[urllib.request.BaseHandler] = [
            urllib.request.ProxyHandler({}),  # an API server is never behind HTTP_PROXY
            _NoRedirect(),
        ]
        if self._service_account is not None:
            try:
                token = (self._service_account / "token").read_text().strip()
                context = ssl.create_default_context(cafile=str(self._service_account / "ca.crt"))
            except OSError as error:
                raise KubernetesError(
                    f"service account in {self._service_account} is not readable"
                    f" ({error.strerror}): the pod needs automountServiceAccountToken: true"
                ) from None
            request.add_header("Authorization", f"Bearer {token}")
            handlers.append(urllib.request.HTTPSHandler(context=context))
        return urllib.request.build_opener(*handlers)

    def _note_time(self, date: str | None) -> None:
        try:
            self.server_time = parsedate_to_datetime(date or "").astimezone(UTC)
        except ValueError:
            self.server_time = datetime.now(UTC)


def _check(url: str) -> None:
    """Refuse what is not the address of a server, and one that names a user."""
    remedy = "run `kubectl proxy` and give --api http://127.0.0.1:8001"
    try:
        parts = urllib.parse.urlsplit(url)
        valid = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
    except ValueError:
        valid = False
    if "@" in url:
        raise UsageError(f"the URL of the Kubernetes API may hold no user or password: {remedy}")
    if not valid or not url.isascii() or not url.isprintable() or " " in url:
        raise UsageError(f"invalid Kubernetes API '{url}': expected an http(s) URL: {remedy}")


def _in_cluster_url(service_account: Path) -> str:
    host = os.environ.get("KUBERNETES_SERVICE_HOST")
    if not host or not service_account.is_dir():
        raise UsageError(
            "no Kubernetes API: this is not a pod with a service account; run `kubectl proxy` and"
            " give --api http://127.0.0.1:8001 (or HOLDFAST_KUBERNETES_API)"
        )
    port = os.environ.get("KUBERNETES_SERVICE_PORT", "443")
    return f"https://[{host}]:{port}" if ":" in host else f"https://{host}:{port}"


def _refusal(method: str, path: str, error: urllib.error.HTTPError) -> KubernetesError:
    """The server's own reason, which names what an admission policy or RBAC refused."""
    try:
        reason = json.loads(error.read(65536))["message"]
    except (OSError, ValueError, KeyError, TypeError, http.client.HTTPException):
        reason = error.reason
    kanister = "/cr.kanister.io/" in path
    remedy = {
        401: "the token is not accepted; is the service account deleted?",
        403: "give the service account get, list, create, delete on actionsets, or see the"
        " admission policy"
        if kanister
        else "give the account the right that the message names",
        404: "is Kanister installed, and is --kanister-namespace right?"
        if kanister
        else "see the message",
    }.get(error.code, "see the message")
    kind = KubernetesUnavailable if error.code == 429 or error.code >= 500 else KubernetesError
    return kind(f"{method} {path} answered {error.code} ({reason}): {remedy}", error.code)
