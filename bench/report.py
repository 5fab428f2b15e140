"""Writes results as tables into ``docs/benchmarks.md``, between the marks of their question.

Text outside the marks is written by people and stays.
"""

from __future__ import annotations

import os
import platform
import re
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

from bench.measure import GIB
from bench.peers import program

PAGE = Path(__file__).parents[1] / "docs/benchmarks.md"


@dataclass
class Table:
    """One table and the notes below it."""

    title: str
    header: Sequence[str]
    rows: list[Sequence[str]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def text(self) -> str:
        lines = [f"**{self.title}**", ""]
        lines += [_line(self.header), _line(["---"] + ["---:"] * (len(self.header) - 1))]
        lines += [_line(row) for row in self.rows]
        return "\n".join([*lines, "", *self.notes])


def publish(question: str, tables: Sequence[Table], load: float) -> None:
    """Put the tables between ``<!-- question -->`` and ``<!-- /question -->`` of the page."""
    when = datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")
    note = f"Measured {when}; load average of the machine when it began: {load:.1f}. {versions()}"
    body = "\n\n".join([*(table.text().rstrip() for table in tables), note])
    block = f"<!-- {question} -->\n{body}\n<!-- /{question} -->"
    pattern = re.compile(rf"<!-- {question} -->.*<!-- /{question} -->", re.S)
    page = PAGE.read_text()
    if not pattern.search(page):
        page = f"{page.rstrip()}\n\n<!-- {question} -->\n<!-- /{question} -->\n"
    PAGE.write_text(pattern.sub(lambda _: block, page))
    print(f"\n{body}\n", flush=True)


def versions() -> str:
    """The machine and the versions of all tools."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / GIB
    parts = [
        f"{os.cpu_count()} cores, {memory:.0f} GiB",
        f"Linux {platform.release().split('-')[0]}",
        f"Python {platform.python_version()}",
        f"obstore {version('obstore')}",
        *(f"{name} {_version(name)}" for name in ("s5cmd", "restic", "rclone")),
    ]
    return ", ".join(parts) + "."


def _version(name: str) -> str:
    path = program(name)
    if path is None:
        return "absent"
    text = subprocess.run([path, "version"], capture_output=True, text=True, check=False).stdout
    found = re.search(r"\d+\.\d+(\.\d+)?", text)
    return found[0] if found else "of unknown version"


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"
