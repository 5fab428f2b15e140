"""Whole graphs as reviewed files: a change of any input or option shows as a diff. Those of stacks
on EKS are compared in tests/infra/aws/test_eks_graph.py."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import yaml

from infra.plan.graph import Graph, Options
from policy.check import violations
from policy.model import RULES
from testkit.factories import of_stack
from tests.golden import compare

GOLDEN = Path(__file__).parents[1] / "golden"


@pytest.mark.parametrize("stack", ["local", "pipeline"])
def test_the_graph_is_the_reviewed_one(stack: str):
    compare(GOLDEN / f"{stack}.yaml", as_text(of_stack(stack)))


@pytest.mark.parametrize("stack", ["pipeline", "pipeline-eks"])
@pytest.mark.parametrize("preview", [False, True], ids=["up", "preview"])
def test_a_whole_pipeline_on_either_target_is_reviewed_and_holds_every_policy(
    stack: str, preview: bool
):
    graph = of_stack(stack, preview)
    kinds = {
        f"{m['kind']} {m['metadata']['name']}"
        for m in graph.kubernetes()
        if m["metadata"].get("name")
    }
    wanted = {"Blueprint pipeline-state", "Blueprint applications", "Blueprint checkpoints",
              "CronJob pipeline-backup", "Deployment tracking", "StatefulSet tracking-database",
              "ConfigMap holdfast-pipeline"}  # fmt: skip

    assert wanted <= kinds
    assert (GOLDEN / f"{stack}.yaml").is_file()
    found = violations(graph)
    assert not found, "\n".join(map(str, found))
    assert len(RULES) > 50, "the whole pack has run"


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
