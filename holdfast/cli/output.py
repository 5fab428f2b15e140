"""What a verb prints: results on stdout, everything said to a person on stderr."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from typing import Any


def say(line: str) -> None:
    """One line to the person who waits; never part of the result."""
    print(line, file=sys.stderr, flush=True)


def emit(document: Any) -> None:
    """The result as one JSON document on stdout."""
    print(json.dumps(document, indent=2, ensure_ascii=False), flush=True)


def phase_output(**values: object) -> None:
    """Kanister reads these lines from a pod's log; it takes strings only."""
    for key, value in values.items():
        line = json.dumps({"key": key, "value": str(value)}, ensure_ascii=False)
        print(f"###Phase-output###: {line}", flush=True)


def table(columns: Sequence[str], rows: Sequence[Sequence[object]], title: str = "") -> None:
    """A table on stdout. Columns named with a leading `>` are aligned to the right."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console(highlight=False)
    if not console.is_terminal:
        console = Console(highlight=False, width=250)  # a pipe has no width to wrap at
    grid = Table(box=None, pad_edge=False, header_style="bold", show_edge=False)
    for column in columns:
        right = column.startswith(">")
        grid.add_column(column.removeprefix(">"), justify="right" if right else "left")
    for row in rows:
        grid.add_row(*(cell if isinstance(cell, Text) else Text(str(cell)) for cell in row))
    if title:
        console.print(Text(title, style="bold"))
    console.print(grid)


def pairs(values: Mapping[str, object]) -> None:
    """A short record on stdout, one aligned `name  value` line each."""
    width = max(map(len, values))
    for key, value in values.items():
        print(f"{key:<{width}}  {value}")
