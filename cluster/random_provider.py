# ruff: noqa: N802 — the names are those of the protocol.
"""Pulumi's provider `random`, as far as our stacks use it: passwords.

Its Go module is in no registry that can be counted on, and a stack with a tracking server makes its
passwords by it. A stand-in, started by the engine as a plugin: it serves the engine's protocol, and
prints its port first. The letters come from the system's generator; nothing else is random here.
"""

import secrets
import string
from collections.abc import Mapping
from concurrent import futures
from typing import Any

import grpc
from google.protobuf import empty_pb2, json_format, struct_pb2
from pulumi.runtime.proto import ResourceProviderServicer, plugin_pb2, provider_pb2
from pulumi.runtime.proto import provider_pb2_grpc as service

TOKEN = "random:index/randomPassword:RandomPassword"
#: How the engine marks a secret in what providers give it.
_SECRET = {"4dabf18193072939515e22adb298388d": "1b47061264138c4ac30d75fd1eb44270"}


class Random(ResourceProviderServicer):
    """RandomPassword; another resource, or a setting that this does not know, is refused."""

    def __init__(self, version: str) -> None:
        self._version = version

    def GetPluginInfo(self, request: Any, context: Any) -> plugin_pb2.PluginInfo:
        return plugin_pb2.PluginInfo(version=self._version)

    def CheckConfig(self, request: Any, context: Any) -> provider_pb2.CheckResponse:
        return provider_pb2.CheckResponse(inputs=request.news)

    def DiffConfig(self, request: Any, context: Any) -> provider_pb2.DiffResponse:
        return provider_pb2.DiffResponse(changes=provider_pb2.DiffResponse.DIFF_NONE)

    def Configure(self, request: Any, context: Any) -> provider_pb2.ConfigureResponse:
        return provider_pb2.ConfigureResponse(
            acceptSecrets=True, supportsPreview=True, acceptResources=True, acceptOutputs=True
        )

    def Check(self, request: Any, context: Any) -> provider_pb2.CheckResponse:
        if TOKEN not in request.urn:
            context.abort(grpc.StatusCode.UNIMPLEMENTED, f"only {TOKEN} is known here")
        given = json_format.MessageToDict(request.news)
        if unknown := given.keys() - {"length", "special", "__defaults"}:
            context.abort(
                grpc.StatusCode.INVALID_ARGUMENT,
                f"{', '.join(sorted(unknown))}: only length and special are known here",
            )
        return provider_pb2.CheckResponse(inputs=request.news)

    def Diff(self, request: Any, context: Any) -> provider_pb2.DiffResponse:
        before, after = (json_format.MessageToDict(each) for each in (request.olds, request.news))
        changed = [name for name in ("length", "special") if before.get(name) != after.get(name)]
        kind = provider_pb2.DiffResponse
        return kind(
            changes=kind.DIFF_SOME if changed else kind.DIFF_NONE, replaces=changed, diffs=changed
        )

    def Create(self, request: Any, context: Any) -> provider_pb2.CreateResponse:
        given = json_format.MessageToDict(request.properties)
        made = "" if request.preview else password(int(given["length"]), given.get("special", True))
        outputs: Mapping[str, Any] = {**given, "result": {**_SECRET, "value": made}}
        return provider_pb2.CreateResponse(id="none", properties=struct(outputs))

    def Read(self, request: Any, context: Any) -> provider_pb2.ReadResponse:
        return provider_pb2.ReadResponse(
            id=request.id, properties=request.properties, inputs=request.inputs
        )

    def Delete(self, request: Any, context: Any) -> empty_pb2.Empty:
        return empty_pb2.Empty()

    def Cancel(self, request: Any, context: Any) -> empty_pb2.Empty:
        return empty_pb2.Empty()


def password(length: int, special: bool) -> str:
    """Letters, digits and, if wanted, other characters."""
    letters = string.ascii_letters + string.digits + ("!@#$%&*()-_=+[]{}<>:?" if special else "")
    return "".join(secrets.choice(letters) for _ in range(length))


def struct(values: Mapping[str, Any]) -> struct_pb2.Struct:
    """As the protocol carries properties."""
    return json_format.ParseDict(dict(values), struct_pb2.Struct())


def started(version: str) -> tuple[grpc.Server, int]:
    """The server, and the port on which it answers."""
    server = grpc.server(futures.ThreadPoolExecutor(max_workers=4))
    service.add_ResourceProviderServicer_to_server(Random(version), server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    return server, port


def serve(version: str) -> None:
    """Until the engine ends the process."""
    server, port = started(version)
    print(port, flush=True)
    server.wait_for_termination()
