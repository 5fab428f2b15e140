"""The resource graph of a stack, with no engine, cloud or cluster.

``collect`` runs the program against a monitor that records every registration with its options.
Used by the tests, by ``make plan`` and by the sandbox.
"""

import asyncio
import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, cast

import pulumi
from pulumi.runtime import mocks, rpc
from pulumi.runtime.proto import resource_pb2
from pulumi.runtime.settings import SETTINGS
from pulumi.runtime.stack import run_pulumi_func

from infra.plan.fake_outputs import answer_to, outputs_of
from infra.settings import Settings
from infra.stack import Outputs, declare

PROJECT = "holdfast"
RESOURCE_REFERENCES = resource_pb2.RESOURCE_MONITOR_FEATURE_RESOURCE_REFERENCES
HOOKS = (
    "before_create",
    "after_create",
    "before_update",
    "after_update",
    "before_delete",
    "after_delete",
)


@dataclass(frozen=True)
class Options:
    """The options of one registration, as the engine would get them. References are URNs."""

    parent: str | None = None
    depends_on: tuple[str, ...] = ()
    provider: str | None = None
    protect: bool = False
    retain_on_delete: bool = False
    delete_before_replace: bool = False
    ignore_changes: tuple[str, ...] = ()
    replace_on_changes: tuple[str, ...] = ()
    replace_with: tuple[str, ...] = ()
    deleted_with: str | None = None
    aliases: tuple[str, ...] = ()
    hooks: dict[str, tuple[str, ...]] = field(default_factory=dict)
    version: str | None = None


@dataclass(frozen=True)
class Resource:
    """One resource that the program declares. ``inputs`` are plain values; secrets are unwrapped
    and their top-level names listed in ``secrets``."""

    urn: str
    type: str
    name: str
    inputs: dict[str, Any]
    options: Options
    custom: bool = True
    remote: bool = False
    secrets: tuple[str, ...] = ()

    @property
    def is_kubernetes_object(self) -> bool:
        """Whether it is one object of the cluster (not a provider, a Helm release, a component)."""
        return self.type.startswith("kubernetes:") and {"apiVersion", "kind"} <= self.inputs.keys()

    @property
    def object_name(self) -> str | None:
        """The name in the cluster (or of the Helm release); None for what has none there."""
        metadata = self.inputs.get("metadata")
        return (metadata or self.inputs).get("name")


@dataclass(frozen=True)
class Graph:
    """All resources of one stack, in the order of their names, and the program's outputs."""

    stack: str
    resources: list[Resource]
    outputs: dict[str, Any]
    secret_outputs: tuple[str, ...] = ()

    def kubernetes(self) -> list[dict[str, Any]]:
        """Complete manifests of the cluster's objects, in the order of their kind and name."""
        found = [resource.inputs for resource in self.resources if resource.is_kubernetes_object]
        return sorted(
            found,
            key=lambda o: (o["kind"], o["metadata"].get("namespace", ""), o["metadata"]["name"]),
        )

    def find(self, type_or_kind: str, name: str | None = None) -> list[Resource]:
        """Resources by type token or Kubernetes kind, and by their object's or Pulumi name."""
        return [
            resource
            for resource in self.resources
            if type_or_kind in (resource.type, resource.type.rpartition(":")[2])
            and name in (None, resource.name, resource.object_name)
        ]

    def __getitem__(self, urn: str) -> Resource:
        return next(resource for resource in self.resources if resource.urn == urn)


#: What makes a resource: type token, Pulumi name and inputs in; its id and further outputs out.
Creator = Callable[[str, str, dict[str, Any]], tuple[str, dict[str, Any]]]


def _as_asked(kind: str, name: str, inputs: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    return f"{name}-id", outputs_of(kind, name, inputs)


class _Mocks(mocks.Mocks):
    """Every resource has the outputs that it was asked for, and those that its creator adds."""

    def __init__(self, preview: bool, create: Creator = _as_asked) -> None:
        self._preview = preview
        self._create = create

    def new_resource(self, args: mocks.MockResourceArgs) -> tuple[str | None, dict]:
        if self._preview:  # What a cloud says only after creation is unknown.
            return f"{args.name}-id", args.inputs
        identifier, outputs = self._create(args.typ, args.name, _value(args.inputs))
        return identifier, {**args.inputs, **outputs}

    def call(self, args: mocks.MockCallArgs) -> tuple[dict, list[tuple[str, str]] | None]:
        return answer_to(args.token, _value(args.args)), []


class _Monitor(mocks.MockMonitor):
    """Records what the engine would be asked to register."""

    def __init__(self, preview: bool, create: Creator) -> None:
        super().__init__(_Mocks(preview, create))
        self.registered: list[Resource] = []

    def GetDeploymentInfo(self, request: Any) -> Any:  # noqa: N802
        """Resources as inputs come as their ids: reading references back makes resources in the
        recorder's own threads, which the program's event loop never hears of, and waits for."""
        info = super().GetDeploymentInfo(request)
        features = [f for f in info.supportedFeatures if f != RESOURCE_REFERENCES]
        return resource_pb2.DeploymentInfo(supportedFeatures=features)

    def RegisterResource(self, request: Any) -> Any:  # noqa: N802 (the name of the gRPC method)
        response = super().RegisterResource(request)
        if request.type != "pulumi:pulumi:Stack":
            self.registered.append(_resource(response.urn, request))
        return response


def _resource(urn: str, request: Any) -> Resource:
    values = rpc.deserialize_properties(request.object, keep_unknowns=True)
    secrets = tuple(sorted(key for key, value in values.items() if rpc.is_rpc_secret(value)))
    hooks = {kind: tuple(getattr(request.hooks, kind)) for kind in HOOKS}
    return Resource(
        urn=urn,
        type=request.type,
        name=request.name,
        inputs=_value({key: rpc.unwrap_rpc_secret(value) for key, value in values.items()}),
        options=Options(
            parent=request.parent or None,
            depends_on=tuple(sorted(request.dependencies)),
            provider=_provider(request),
            protect=request.protect,
            retain_on_delete=request.retainOnDelete,
            delete_before_replace=request.deleteBeforeReplace,
            ignore_changes=tuple(request.ignoreChanges),
            replace_on_changes=tuple(request.replaceOnChanges),
            replace_with=tuple(sorted(request.replace_with)),
            deleted_with=request.deletedWith or None,
            aliases=tuple(sorted(alias.urn for alias in request.aliases if alias.urn)),
            hooks={kind: names for kind, names in hooks.items() if names},
            version=request.version or None,
        ),
        custom=request.custom,
        remote=request.remote,
        secrets=secrets,
    )


def _provider(request: Any) -> str | None:
    """The provider's URN; a remote component gets one for each package and here has one."""
    given = [request.provider, *(request.providers.values() if request.remote else ())]
    return next((each.rpartition("::")[0] for each in given if each), None)


def _value(value: Any) -> Any:
    """The wire has only one kind of number and no order of keys: whole ones are int again here,
    and the keys of an object are as a person writes them."""
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, dict):
        first = [key for key in ("apiVersion", "kind", "name", "metadata") if key in value]
        return {key: _value(value[key]) for key in dict.fromkeys([*first, *sorted(value)])}
    return [_value(item) for item in value] if isinstance(value, list) else value


def collect(
    settings: Settings,
    stack: str,
    *,
    preview: bool = False,
    program: Callable[[Settings], Outputs] = declare,
    create: Creator = _as_asked,
) -> Graph:
    """Run the program and return what it declares. Safe to call again and again.

    Args:
        settings: of the stack.
        stack: its name, which is part of URNs and of the store's prefix.
        preview: as `pulumi preview` runs it: what is only known after creation stays unknown.
        program: what to run.
        create: what makes the resources. Default: nothing does, and outputs are made up.
    """
    result: list[Graph] = []
    problem: list[BaseException] = []

    def run() -> None:
        try:
            result.append(asyncio.run(_collect(settings, stack, preview, program, create)))
        except BaseException as error:
            problem.append(error)

    # The SDK keeps its state in context variables: a new thread starts with none.
    thread = threading.Thread(target=run, name=f"graph-{stack}")
    thread.start()
    thread.join()
    if problem:
        raise problem[0]
    return result[0]


async def _collect(
    settings: Settings,
    stack: str,
    preview: bool,
    program: Callable[[Settings], Outputs],
    create: Creator,
) -> Graph:
    monitor = _Monitor(preview, create)
    quiet = logging.getLogger("infra.plan.graph.engine")
    mocks.set_mocks(
        _Mocks(preview),
        project=PROJECT,
        stack=stack,
        preview=preview,
        monitor=monitor,
        logger=quiet,
    )
    # A program that failed in this process left work behind, of an event loop that is closed.
    cast(Any, SETTINGS.rpc_manager).clear()
    cast(Any, SETTINGS.outputs).clear()
    exports: dict[str, Any] = {}
    secret: list[str] = []

    async def run() -> None:
        declared = program(settings).exports()
        for name, value in declared.items():
            output = pulumi.Output.from_input(value)
            exports[name] = await output.future()
            if await output.is_secret():
                secret.append(name)

    await run_pulumi_func(run)
    return Graph(stack, sorted(monitor.registered, key=lambda r: r.urn), exports, tuple(secret))
