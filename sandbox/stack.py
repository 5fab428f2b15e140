"""Where the objects come from: the graph that the Pulumi program declares for a stack."""

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from infra.plan.graph import collect
from infra.settings import PROJECT_DIRECTORY, SettingsError, load
from sandbox.errors import Misuse


@dataclass(frozen=True)
class Stack:
    """What the sandbox takes from a stack's graph."""

    name: str
    objects: list[dict[str, Any]]
    #: resources that are not Kubernetes objects, such as a Helm release
    others: list[str]
    counts: Counter[str]
    project: Path = PROJECT_DIRECTORY


def read(name: str) -> Stack:
    """Run the Pulumi program for this stack, without an engine, and return what it declares."""
    try:
        graph = collect(load(name), name)
    except SettingsError as error:
        raise Misuse(str(error)) from None
    others = [f"{_kind(r.type)} {r.name}" for r in graph.resources
              if r.custom and not r.is_kubernetes_object]  # fmt: skip
    counts = Counter(_kind(r.type) for r in graph.resources if r.custom)
    return Stack(name, graph.kubernetes(), others, counts)


def _kind(token: str) -> str:
    """The last word of a type token; a provider is called Provider."""
    return "Provider" if token.startswith("pulumi:providers:") else token.rpartition(":")[2]
