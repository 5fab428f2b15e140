"""A stack's graph as a picture: a box for each layer, with what a person looks for first.

Boxes have fixed places, so that pictures of two stacks can be laid side by side. An arrow from one
box to the next is drawn only where the graph says that something in the second waits for something
in the first.
"""

import textwrap
from collections.abc import Iterator
from dataclasses import dataclass, replace
from html import escape

from infra.plan.cost import monthly, total, total_at_most
from infra.plan.graph import Graph, Resource
from infra.plan.render_facts import FACTS, Lines, cluster_of, provider_list

WIDTH, MARGIN, PADDING, GAP = 980, 16, 18, 26
LINE, HEAD, FOOT = 18, 44, 12
#: From a box's side to its lines, and to those below another one.
OUTER, INNER = 14, 28
#: A character of the widest usual font, at its size here.
CHARACTER = 7.1
FONT = "system-ui, -apple-system, 'Segoe UI', Helvetica, Arial, sans-serif"


@dataclass(frozen=True)
class Cell:
    """Where a box is: its column and row, and how many rows it fills."""

    column: int
    row: int
    rows: int = 1


AWS = {
    "network": Cell(0, 0),
    "cluster": Cell(1, 0),
    "nodes": Cell(2, 0),
    "volumes": Cell(0, 1),
    "registry": Cell(0, 2),
    "backups": Cell(1, 1),
    "keys": Cell(1, 2),
    "addons": Cell(2, 1),
    "artifacts": Cell(2, 2),
}
IN_CLUSTER = {
    "storage": Cell(0, 0),
    "training": Cell(1, 0),
    "protection": Cell(0, 1),
    "kanister": Cell(1, 1),
    "application": Cell(0, 2),
    "pipeline": Cell(1, 2),
}
#: Boxes that are next to each other: where an arrow can be.
NEIGHBOURS = (
    ("network", "cluster"),
    ("cluster", "nodes"),
    ("network", "volumes"),
    ("nodes", "addons"),
    ("addons", "backups"),
    ("keys", "backups"),
    ("keys", "artifacts"),
    ("storage", "training"),
    ("training", "kanister"),
    ("kanister", "protection"),
    ("protection", "application"),
    ("kanister", "pipeline"),
    ("application", "pipeline"),
)
TITLES = {
    "network": "Network",
    "cluster": "Control plane",
    "nodes": "Nodes",
    "addons": "Add-ons",
    "volumes": "Disks and file systems",
    "registry": "Image registry",
    "keys": "Keys",
    "backups": "Backup store",
    "artifacts": "Files of the tracking",
    "storage": "Volumes and claims",
    "training": "Training",
    "application": "Applications",
    "pipeline": "Experiment tracking",
    "kanister": "Kanister",
    "protection": "Protection",
}
#: The class of a box: its colour says what it holds.
LOOKS = {
    "volumes": "state",
    "storage": "state",
    "backups": "store",
    "artifacts": "store",
    "protection": "guard",
    "kanister": "guard",
    "training": "work",
    "application": "work",
    "pipeline": "work",
    "nodes": "work",
}
STYLE = """
 .zone{fill:#f8fafc;stroke:#cbd5e1} .box{fill:#fff;stroke:#94a3b8;stroke-width:1.2}
 .state{fill:#ecfdf5;stroke:#10b981} .store{fill:#eff6ff;stroke:#3b82f6}
 .guard{fill:#fefce8;stroke:#ca8a04} .work{fill:#fdf4ff;stroke:#c084fc}
 .h{font-size:20px;font-weight:600;fill:#0f172a} .z{font-weight:600;fill:#334155}
 .t{font-size:15px;font-weight:600;fill:#0f172a} .s{fill:#334155} .n{fill:#64748b}
 .a{stroke:#475569;stroke-width:1.6;fill:none;marker-end:url(#a)}
"""


@dataclass(frozen=True)
class Box:
    """One layer at its place."""

    name: str
    x: float
    y: float
    width: float
    height: float
    count: int
    lines: Lines


def svg(graph: Graph) -> str:
    """The picture, self-contained."""
    layers = _layers(graph)
    y, parts, boxes = 80.0, [], list[Box]()
    if any(name in layers for name in AWS):
        made, bottom = _zone(graph, layers, AWS, y)
        parts += _frame(y, bottom, _aws_title(graph))
        boxes += made
        y = bottom + 34
        if any(p.options.depends_on for p in graph.find("pulumi:providers:kubernetes")):
            parts.append(_line(WIDTH / 2, bottom, WIDTH / 2, y))
            parts.append(_text(WIDTH / 2 + 12, bottom + 22, "n", "then all that is in the cluster"))
    made, bottom = _zone(graph, layers, IN_CLUSTER, y)
    parts += _frame(y, bottom, _cluster_title(graph))
    boxes += made
    return _page(graph, bottom + 32, [*parts, *map(_draw, boxes), *_arrows(boxes, layers, graph)])


def _page(graph: Graph, height: float, parts: list[str]) -> str:
    title = f"stack {graph.stack}"
    legend = (
        "Drawn from the plan. An arrow leads to what waits for something in the box before; "
        "numbers count resources."
    )
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height:g}" '
        f'font-family="{FONT}" font-size="13" role="img" aria-label="{title}: {_summary(graph)}">',
        '<defs><marker id="a" viewBox="0 0 10 10" refX="9" refY="5" markerWidth="7" '
        'markerHeight="7" orient="auto"><path d="M0 0 10 5 0 10z" fill="#475569"/></marker>'
        f"<style>{STYLE}</style></defs>",
        f'<rect width="{WIDTH}" height="{height:g}" fill="#fff"/>',
        _text(MARGIN, 36, "h", title),
        _text(MARGIN, 60, "n", _summary(graph)),
        *parts,
        _text(MARGIN, height - 11, "n", legend),
        "</svg>",
    ]
    return "\n".join(lines)


def _layer(resource: Resource, known: dict[str, Resource]) -> str | None:
    """The box that a resource belongs to; None for providers and components."""
    own = resource.custom or resource.remote
    if not own or resource.type.startswith("pulumi:"):
        return None
    owner = resource
    while owner.options.parent in known:
        owner = known[owner.options.parent]
    layer = owner.type.split(":")[1]
    in_cluster = resource.type.startswith("kubernetes:")
    match layer:
        case "storage":
            return "storage" if in_cluster else "volumes"
        case "cluster" if in_cluster:
            return "storage"
        case "devices":
            return "addons"
        case "assets":
            return "protection"
        case "store":
            return "backups"
        case "pipeline" if resource.type.startswith("aws:"):
            return "artifacts"
    return layer


def _layers(graph: Graph) -> dict[str, list[Resource]]:
    found: dict[str, list[Resource]] = {}
    known = {resource.urn: resource for resource in graph.resources}
    for resource in graph.resources:
        if (name := _layer(resource, known)) is not None:
            found.setdefault(name, []).append(resource)
    return found


def _arrows(boxes: list[Box], layers: dict[str, list[Resource]], graph: Graph) -> Iterator[str]:
    """From box to neighbouring box, where something in the second is made only after something in
    the first."""
    placed = {box.name: box for box in boxes}
    known = {resource.urn: resource for resource in graph.resources}
    homes: dict[str, set[str]] = {}
    for name, members in layers.items():
        for resource in members:
            # A component is where its parts are, and its parts wait for what it waits for.
            owner: Resource | None = resource
            while owner is not None:
                homes.setdefault(owner.urn, set()).add(name)
                owner = known.get(owner.options.parent or "")
    waits = {
        (first, then)
        for resource in graph.resources
        for urn in resource.options.depends_on
        for first in homes.get(urn, ())
        for then in homes.get(resource.urn, ())
    }
    for first, then in NEIGHBOURS:
        if (first, then) in waits:
            yield _arrow(placed[first], placed[then])


def _zone(
    graph: Graph, layers: dict[str, list[Resource]], cells: dict[str, Cell], top: float
) -> tuple[list[Box], float]:
    """The boxes of one frame that have something in them, and where the frame ends."""
    cells = {name: cell for name, cell in cells.items() if name in layers}
    if "addons" in cells and "artifacts" not in cells:
        cells["addons"] = replace(cells["addons"], rows=2)
    columns = 1 + max(cell.column for cell in cells.values())
    width = (WIDTH - 2 * MARGIN - 2 * PADDING - (columns - 1) * GAP) / columns
    lines = {
        name: [part for line in FACTS[name](graph) for part in _wrapped(line, width)]
        for name in cells
    }
    heights = [0.0] * (1 + max(cell.row + cell.rows - 1 for cell in cells.values()))
    for name, cell in sorted(cells.items(), key=lambda item: item[1].rows):
        filled = heights[cell.row : cell.row + cell.rows]
        missing = HEAD + FOOT + LINE * len(lines[name]) - sum(filled) - GAP * (cell.rows - 1)
        heights[cell.row + cell.rows - 1] += max(0, missing)
    starts = [top + 42 + sum(heights[:row]) + GAP * row for row in range(len(heights))]
    boxes = [
        Box(
            name,
            MARGIN + PADDING + cell.column * (width + GAP),
            starts[cell.row],
            width,
            sum(heights[cell.row : cell.row + cell.rows]) + GAP * (cell.rows - 1),
            len(layers[name]),
            lines[name],
        )
        for name, cell in cells.items()
    ]
    return boxes, max(box.y + box.height for box in boxes) + PADDING


def _frame(top: float, bottom: float, title: str) -> list[str]:
    return [
        f'<rect class="zone" x="{MARGIN}" y="{top:g}" width="{WIDTH - 2 * MARGIN}" '
        f'height="{bottom - top:g}" rx="12"/>',
        _text(MARGIN + PADDING, top + 27, "z", title),
    ]


def _draw(box: Box) -> str:
    look = f"box {LOOKS.get(box.name, '')}".strip()
    parts = [
        f'<rect class="{look}" x="{box.x:g}" y="{box.y:g}" width="{box.width:g}" '
        f'height="{box.height:g}" rx="8"/>',
        _text(box.x + 14, box.y + 27, "t", TITLES[box.name]),
        _text(box.x + box.width - 14, box.y + 27, "n", str(box.count), end=True),
    ]
    for number, line in enumerate(box.lines):
        text = line.lstrip()
        inset, look = (INNER, "n") if text != line else (OUTER, "s")
        parts.append(_text(box.x + inset, box.y + HEAD + 9 + LINE * number, look, text))
    return "\n".join(parts)


def _wrapped(line: str, width: float) -> Lines:
    """A line as one that fits into a box; what comes below another one is cut, and never more."""
    text = line.lstrip()
    outer, inner = (int((width - inset - 8) / CHARACTER) for inset in (OUTER, INNER))
    if text != line:
        return [line if len(text) <= inner else f"   {text[: inner - 1]}…"]
    first, *more = textwrap.wrap(text, outer)
    rest = " ".join(more) if " " in text else "".join(more)
    return [first, *(f"   {part}" for part in textwrap.wrap(rest, inner))]


def _arrow(first: Box, then: Box) -> str:
    if first.x == then.x:
        middle = first.x + first.width / 2
        down = first.y < then.y
        ends = (first.y + first.height, then.y) if down else (first.y, then.y + then.height)
        return _line(middle, ends[0], middle, ends[1])
    y = max(first.y, then.y) + 22
    right = first.x < then.x
    ends = (first.x + first.width, then.x) if right else (first.x, then.x + then.width)
    return _line(ends[0], y, ends[1], y)


def _line(x1: float, y1: float, x2: float, y2: float) -> str:
    return f'<path class="a" d="M{x1:g} {y1:g} {x2:g} {y2:g}"/>'


def _text(x: float, y: float, look: str, text: str, *, end: bool = False) -> str:
    anchor = ' text-anchor="end"' if end else ""
    return f'<text class="{look}" x="{x:g}" y="{y:g}"{anchor}>{escape(text, quote=False)}</text>'


def _summary(graph: Graph) -> str:
    count = sum(resource.custom or resource.remote for resource in graph.resources)
    parts = [f"{count} resources"]
    if costs := monthly(graph):
        least, most = total(costs), total_at_most(costs)
        price = f"${least:,.0f}" if most == least else f"${least:,.0f} to ${most:,.0f}"
        parts.append(f"about {price} a month before traffic and what is stored")
    kept = sum(resource.options.protect for resource in graph.resources)
    if kept:
        parts.append(f"{kept} protected: destroy leaves them alone")
    return " · ".join(parts)


def _aws_title(graph: Graph) -> str:
    (provider,) = graph.find("pulumi:providers:aws", "aws")
    (account,) = provider_list(provider, "allowedAccountIds")
    return f"AWS account {account}, {provider.inputs['region']}"


def _cluster_title(graph: Graph) -> str:
    cluster = cluster_of(graph)
    return f"Kubernetes in {cluster}" if cluster else "Kubernetes, any cluster that is there"
