"""The whole local graph as a reviewed file: a change of any input or option shows as a diff."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

import yaml

from infra.plan.graph import Graph, Options
from tests.golden import compare

GOLDEN = Path(__file__).parents[1] / "golden" / "local.yaml"


def test_the_local_graph_is_the_reviewed_one(local: Graph):
    compare(GOLDEN, as_text(local))


def as_text(graph: Graph) -> str:
    """Every resource with its options and inputs."""
    documents = [_document(resource, graph) for resource in graph.resources]
    return yaml.safe_dump(documents, sort_keys=False, width=110, allow_unicode=True)


def _document(resource: Any, graph: Graph) -> dict[str, Any]:
    defaults = asdict(Options())
    options = {
        key: _short(value)
        for key, value in asdict(resource.options).items()
        # Versions change with each release of the SDK, and are pinned in requirements.txt.
        if value != defaults[key] and key != "version"
    }
    return {"type": resource.type, "name": resource.name, "options": options,
            "inputs": resource.inputs}  # fmt: skip


def _short(value: Any) -> Any:
    """URNs without the stack: what is left is the type and the name."""
    if isinstance(value, dict):
        return {key: _short(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_short(item) for item in value]
    if isinstance(value, str) and value.startswith("urn:pulumi:"):
        *_, kind, name = value.split("::")
        return f"{kind.rpartition('$')[2]} {name}"
    return value
