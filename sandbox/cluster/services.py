"""Where Services are: addresses and ports of this machine's loopback device."""

import re
import secrets
import socket
from collections.abc import Iterator, Mapping
from typing import Any

#: Variables that name a host by its Service's short name end like this, such as PGHOST.
_HOST = re.compile(r"HOST$")
_ANY = re.compile(r"(?<![\d.])(?:0\.0\.0\.0|127\.0\.0\.1)(?![\d.])")


class Services:
    """The Services before what runs here for good, Deployments and StatefulSets, one pod each.

    Each gets an address of its own, 127.x.y.z, where its pod listens on the declared port: so two
    sandboxes, or two servers with one port, do not meet. A server that listens on all addresses at
    the port of a variable with its own Service's address gets a free port there instead.
    """

    def __init__(
        self, services: list[dict[str, Any]], servers: list[tuple[str, dict[str, Any]]]
    ) -> None:
        """
        Args:
            services: the Service objects.
            servers: namespace and pod template of each Deployment and StatefulSet.
        """
        self._ports: dict[str, int] = {}
        self._addresses: dict[tuple[str, str], str] = {}  # by namespace and Service
        self._selectors: dict[tuple[str, str], Mapping[str, str]] = {}
        prefix = f"127.{64 + secrets.randbelow(128)}.{secrets.randbelow(256)}"
        for number, service in enumerate(services, start=1):
            name, namespace = service["metadata"]["name"], service["metadata"]["namespace"]
            selector = service["spec"].get("selector", {})
            host = f"{name}.{namespace}.svc"
            for where, template in servers:
                labels = template.get("metadata", {}).get("labels", {})
                if where != namespace or not selector.items() <= labels.items():
                    continue
                named = [p["port"] for p in service["spec"]["ports"]
                         if f"{host}:{p['port']}" in _values(template)]  # fmt: skip
                if named:
                    self._ports |= {f"{host}:{port}": _free_port() for port in named}
                else:
                    self._addresses[namespace, name] = f"{prefix}.{number}"
                    self._selectors[namespace, name] = selector

    def address(self, namespace: str, labels: Mapping[str, str]) -> str | None:
        """The address of a pod with these labels; None if no Service leads to it."""
        for (where, name), selector in self._selectors.items():
            if where == namespace and selector.items() <= labels.items():
                return self._addresses[where, name]
        return None

    def of(self, namespace: str, service: str) -> str:
        """The address of a Service."""
        return self._addresses[namespace, service]

    def reachable(self, namespace: str, variable: str, value: str) -> str:
        """The value of a variable with the names of Services replaced, as seen in `namespace`."""
        for address, port in self._ports.items():
            value = value.replace(address, f"127.0.0.1:{port}")
        for (where, name), address in self._addresses.items():
            if value == name and where == namespace and _HOST.search(variable):
                return address
            full = re.escape(f"{name}.{where}.svc") + r"(\.cluster\.local)?"
            value = re.sub(rf"(?<![\w.-]){full}(?![\w.-])", address, value)
        return value


def listening(word: str, address: str | None) -> str:
    """A word of a command that runs in a pod: all addresses, and its loopback, are its own here."""
    return _ANY.sub(address, word) if address else word


def _values(template: Mapping[str, Any]) -> Iterator[str]:
    for container in template["spec"]["containers"]:
        yield from (str(entry.get("value", "")) for entry in container.get("env", []))


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]
