"""Run the rules over a graph that no engine made: for tests, and for `make plan`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from policy.model import RULES, UNKNOWN, Config, Resource, Rule, Violation
from policy.rules import load_rules

if TYPE_CHECKING:
    from infra.plan.graph import Graph


def violations(
    graph: Graph,
    *,
    rules: Iterable[Rule] | None = None,
    config: Mapping[str, Config] | None = None,
) -> list[Violation]:
    """Everything in a graph that breaks a rule, mandatory ones first.

    Args:
        graph: from ``infra.plan.graph.collect``.
        rules: default: all.
        config: a rule's name -> values that replace its own.
    """
    load_rules()
    seen = resources(graph)
    found = [
        violation
        for rule in (RULES if rules is None else rules)
        for violation in rule.violations(seen, (config or {}).get(rule.name))
    ]
    return sorted(found, key=lambda v: (v.level.value != "mandatory", v.rule, v.urn or ""))


def resources(graph: Graph) -> list[Resource]:
    """The graph as the rules see it."""
    inputs = {resource.urn: _plain(resource.inputs) for resource in graph.resources}
    return [
        Resource(
            urn=resource.urn,
            type=resource.type,
            name=resource.name,
            inputs=inputs[resource.urn],
            protect=resource.options.protect,
            retain_on_delete=resource.options.retain_on_delete,
            dependencies=frozenset(resource.options.depends_on),
            provider=inputs.get(resource.options.provider or ""),
        )
        for resource in graph.resources
    ]


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    # The SDK's own class for it, known by name so that the rules need no SDK.
    return UNKNOWN if type(value).__name__ == "Unknown" else value
