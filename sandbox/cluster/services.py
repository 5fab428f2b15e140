"""Where Services are: addresses and ports of this machine's loopback device."""

import re
import secrets
import socket
from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import Any

#: Variables that name a host by its Service's short name end like this, such as PGHOST.
_HOST = re.compile(r"HOST$")
_ANY = re.compile(r"(?<![\d.])(?:0\.0\.0\.0|127\.0\.0\.1)(?![\d.])")


class Services:
    """The Services before what runs here for good, Deployments and StatefulSets, one pod each.

    Each gets an address of its own, 127.x.y.z, where its pod listens on the declared port: so two
    sandboxes, or two servers with one port, do not meet. Where a program of this machine has that
    port on all addresses, the pod gets a free one. A server that listens on all addresses at the
    port of a variable with its own Service's address gets a free port there instead.
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
        self._moved: dict[str, dict[int, int]] = {}  # by address: declared ports, those in use
        self._declared: dict[tuple[str, str], int] = {}
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
                    address = self._addresses[namespace, name] = f"{prefix}.{number}"
                    self._selectors[namespace, name] = selector
                    ports = [entry["port"] for entry in service["spec"]["ports"]]
                    taken = [port for port in ports if not _free(address, port)]
                    self._moved[address] = {port: _free_port(address) for port in taken}
                    self._declared[namespace, name] = ports[0]

    def address(self, namespace: str, labels: Mapping[str, str]) -> str | None:
        """The address of a pod with these labels; None if no Service leads to it."""
        for (where, name), selector in self._selectors.items():
            if where == namespace and selector.items() <= labels.items():
                return self._addresses[where, name]
        return None

    def of(self, namespace: str, service: str) -> str:
        """The address of a Service."""
        return self._addresses[namespace, service]

    def url(self, namespace: str, service: str) -> str:
        """Where the first port of a Service is, for HTTP."""
        address, port = self._addresses[namespace, service], self._declared[namespace, service]
        return f"http://{address}:{self.moved(address).get(port, port)}"

    def moved(self, address: str | None) -> Mapping[int, int]:
        """Ports of an address that are taken, each with the one that is used instead."""
        return self._moved.get(address or "", {})

    def reachable(self, namespace: str, variable: str, value: str) -> str:
        """The value of a variable with the names of Services replaced, as seen in `namespace`."""
        for address, port in self._ports.items():
            value = value.replace(address, f"127.0.0.1:{port}")
        for (where, name), address in self._addresses.items():
            if value == name and where == namespace and _HOST.search(variable):
                return address
            full = re.escape(f"{name}.{where}.svc") + r"(\.cluster\.local)?"
            value = re.sub(rf"(?<![\w.-]){full}(?![\w.-])", address, value)
            for port, instead in self.moved(address).items():
                value = re.sub(rf"\b{re.escape(address)}:{port}\b", f"{address}:{instead}", value)
        return value

    def ports(self, environ: Mapping[str, str], own: str | None) -> dict[str, str]:
        """The variables with a port, such as PGPORT: of the host beside it, else of the pod's own
        address."""
        found: dict[str, str] = {}
        for name, value in environ.items():
            if not name.endswith("PORT") or not value.isdecimal():
                continue
            beside = environ.get(f"{name.removesuffix('PORT')}HOST")
            moved = {**self.moved(own), **self.moved(beside)}
            found[name] = str(moved.get(int(value), value))
        return found


def listening(
    word: str, address: str | None, moved: Mapping[int, int] = MappingProxyType({})
) -> str:
    """A word of a command that runs in a pod: all addresses, and its loopback, are its own here,
    and so are its ports."""
    if word.isdecimal():
        return str(moved.get(int(word), word))
    return _ANY.sub(address, word) if address else word


def _values(template: Mapping[str, Any]) -> Iterator[str]:
    for container in template["spec"]["containers"]:
        yield from (str(entry.get("value", "")) for entry in container.get("env", []))


def _free_port(address: str = "127.0.0.1") -> int:
    with socket.socket() as free:
        free.bind((address, 0))
        return free.getsockname()[1]


def _free(address: str, port: int) -> bool:
    with socket.socket() as tried:
        try:
            tried.bind((address, port))
        except OSError:
            return False
    return True
