"""A resource graph as a tree for people, JSON for programs and Mermaid for pictures."""

import json
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import asdict

from infra.plan.cost import PRICES_OF, REGION, monthly, total, total_at_most
from infra.plan.graph import Graph, Resource
from infra.plan.render_svg import svg
from infra.plan.rights import policy

#: What a layer's component is called in the tree, from its type token.
LAYERS = {
    "keys": "Keys",
    "network": "Network",
    "cluster": "Cluster",
    "nodes": "Nodes",
    "addons": "Add-ons",
    "devices": "Devices",
    "registry": "Registry",
    "store": "Backup store",
    "kanister": "Kanister",
    "storage": "Storage",
    "training": "Training",
    "application": "Applications",
    "protection": "Protection",
    "pipeline": "Pipeline",
}


def tree(graph: Graph) -> str:
    """Resources by layer, components as branches, with what a person asks first about each."""
    layers: dict[str, list[Resource]] = {}
    for resource in graph.resources:
        if resource.options.parent is None or resource.options.parent.endswith(f"{graph.stack}"):
            layers.setdefault(_layer(resource), []).append(resource)
    lines = [f"stack {graph.stack}"]
    for layer in [*LAYERS.values(), *sorted(layers.keys() - set(LAYERS.values()))]:
        if layer in layers:
            lines += ["", layer, *_branches(graph, layers[layer], "")]
    kinds = Counter(_kind(each) for each in graph.resources if each.custom or each.remote)
    counts = ", ".join(f"{count} {kind}" for kind, count in sorted(kinds.items()))
    lines += ["", f"{sum(kinds.values())} resources: {counts}", *_costs(graph)]
    lines += ["", "exports"]
    lines += [
        f"  {name} = {'(secret)' if name in graph.secret_outputs else _text(value)}"
        for name, value in graph.outputs.items()
    ]
    return "\n".join(lines)


def as_json(graph: Graph) -> str:
    """Everything that is known of each resource, and what they cost."""
    costs = monthly(graph)
    document = {
        "stack": graph.stack,
        "resources": [asdict(resource) for resource in graph.resources],
        "outputs": {n: v for n, v in graph.outputs.items() if n not in graph.secret_outputs},
        "monthly_cost": {
            "currency": "USD",
            "region": REGION,
            "prices_of": PRICES_OF,
            "items": [asdict(cost) for cost in costs],
            "total": total(costs),
            "total_at_most": total_at_most(costs),
        },
    }
    return json.dumps(document, indent=2)


def mermaid(graph: Graph) -> str:
    """A picture of components and objects; arrows say what waits for what."""
    identifiers = {r.urn: f"r{number}" for number, r in enumerate(graph.resources)}
    parents = {r.options.parent for r in graph.resources}
    lines = ["flowchart LR"]
    for resource in graph.resources:
        if resource.custom and resource.options.parent not in identifiers:
            lines.append(f'  {identifiers[resource.urn]}["{_label(resource)}"]')
    for component in (r for r in graph.resources if r.urn in parents):
        if not component.custom:
            lines.append(f'  subgraph {identifiers[component.urn]}["{component.name}"]')
            for child in _children(graph, component):
                lines.append(f'    {identifiers[child.urn]}["{_label(child)}"]')
            lines.append("  end")
    for resource in graph.resources:
        for other in _nearest(graph, resource):
            lines.append(f"  {identifiers[other]} --> {identifiers[resource.urn]}")
    return "\n".join(lines)


RENDERERS: dict[str, Callable[[Graph], str]] = {
    "tree": tree,
    "json": as_json,
    "mermaid": mermaid,
    "svg": svg,
    "rights": policy,
}


def _costs(graph: Graph) -> Iterator[str]:
    costs = monthly(graph)
    if not costs:
        return
    width = max(len(cost.what) for cost in costs)
    yield ""
    yield (
        f"US dollars a month, on demand in {REGION}, prices of {PRICES_OF}; "
        "without traffic, requests and logs"
    )
    for cost in costs:
        price = "not priced" if cost.dollars is None else _range(cost.dollars, cost.most)
        yield f"  {cost.what:{width}}  {price:>12}"
    together = _range(total(costs), total_at_most(costs))
    yield f"  {'together':{width}}  {together:>12}"


def _range(least: float, most: float | None) -> str:
    """Dollars, or from how many to how many."""
    return f"{least:,.2f}" if most in (None, least) else f"{least:,.2f} to {most:,.2f}"


def _children(graph: Graph, parent: Resource) -> list[Resource]:
    return [resource for resource in graph.resources if resource.options.parent == parent.urn]


def _branches(graph: Graph, resources: list[Resource], indent: str) -> Iterator[str]:
    for position, resource in enumerate(resources):
        last = position == len(resources) - 1
        yield f"{indent}{'└─' if last else '├─'} {_label(resource)}{_notes(resource)}"
        deeper = indent + ("   " if last else "│  ")
        yield from _branches(graph, _children(graph, resource), deeper)


def _layer(resource: Resource) -> str:
    parts = resource.type.split(":")
    return LAYERS.get(parts[1], parts[1]) if parts[0] == "holdfast" else "Provider"


def _kind(resource: Resource) -> str:
    return "Provider" if resource.type.startswith("pulumi:") else resource.type.rpartition(":")[2]


def _label(resource: Resource) -> str:
    if not resource.custom:
        return f"{resource.type.rpartition(':')[2]} {resource.name}"
    metadata = resource.inputs.get("metadata", {})
    name = resource.object_name or resource.name
    place = metadata.get("namespace") or resource.inputs.get("namespace")
    return f"{_kind(resource)} {name}" + (f" in {place}" if place else "")


def _notes(resource: Resource) -> str:
    options = resource.options
    notes = [
        *(f"{kind.replace('_', ' ')}: {', '.join(names)}" for kind, names in options.hooks.items()),
        *(["protected"] if options.protect else []),
        *(["retained"] if options.retain_on_delete else []),
        *([f"ignores {', '.join(options.ignore_changes)}"] if options.ignore_changes else []),
        *_object_notes(resource),
    ]
    return f"  ({'; '.join(notes)})" if notes else ""


def _object_notes(resource: Resource) -> Iterator[str]:
    """The one or two fields of an object that a person would look for."""
    inputs = resource.inputs
    spec = inputs.get("spec", {})
    match _kind(resource):
        case "PersistentVolume":
            path = spec.get("hostPath", {}).get("path")
            yield f"{spec['capacity']['storage']}, {spec['persistentVolumeReclaimPolicy']}" + (
                f", {path}" if path else ""
            )
        case "PersistentVolumeClaim":
            yield spec["resources"]["requests"]["storage"]
        case "CronJob":
            yield f"{spec['schedule']} UTC"
        case "Job":
            yield " ".join(spec["template"]["spec"]["containers"][0]["command"])
        case "Blueprint":
            yield ", ".join(inputs["actions"])
        case "Release":
            yield f"{inputs['chart']} {inputs['version']}"


def _nearest(graph: Graph, resource: Resource) -> list[str]:
    """Dependencies without those that another dependency, or a parent, has already."""
    found = set(resource.options.depends_on)
    for urn in list(found):
        found -= set(graph[urn].options.depends_on)
        found.discard(graph[urn].options.parent or "")
    return sorted(found)


def _text(value: object) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key}: {item}" for key, item in value.items())
    return str(value)
