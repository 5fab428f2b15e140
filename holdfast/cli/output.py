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
    """A table on stdout: fitted to a terminal, or one plain line per row for a log or `grep`.

    A column whose name begins with `>` is aligned to the right. A cell may be a rich Text.
    """
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    if title:
        print(title)
    if not sys.stdout.isatty():
        _plain_table(columns, [[str(cell) for cell in row] for row in rows])
        return
    grid = Table(box=None, pad_edge=False, header_style="bold", show_edge=False)
    for column in columns:
        right = column.startswith(">")
        grid.add_column(column.removeprefix(">"), justify="right" if right else "left")
    for row in rows:
        grid.add_row(*(cell if isinstance(cell, Text) else Text(str(cell)) for cell in row))
    Console(highlight=False).print(grid)


def _plain_table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    lines = [[column.removeprefix(">") for column in columns], *rows]
    widths = [max(map(len, cells)) for cells in zip(*lines, strict=True)]
    sides = [">" if column.startswith(">") else "<" for column in columns]
    for line in lines:
        cells = [f"{c:{s}{w}}" for c, s, w in zip(line, sides, widths, strict=True)]
        print("  ".join(cells).rstrip())


def pairs(values: Mapping[str, object]) -> None:
    """A short record on stdout, one aligned `name  value` line each."""
    width = max(map(len, values))
    for key, value in values.items():
        print(f"{key:<{width}}  {value}")


def dry_note(dry_run: bool) -> str:
    """What a line about a change adds when nothing is changed."""
    return " (dry run: nothing is changed)" if dry_run else ""
