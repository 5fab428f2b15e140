"""The table of docs/recovery.md: what was done to the stack, what was lost, when it went on."""

import os
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import psutil

from cluster.places import PROJECT

PAGE = PROJECT / "docs" / "recovery.md"
#: Of the table.
HEADER = "| what happened | lost | saved again after | test | measured |"


@dataclass
class Row:
    """One event that a test measured."""

    event: str
    test: str
    """As docs name tests: `e2e/test_x.py::test_y`."""
    lost: str = "nothing"
    seconds: float | None = None
    """None: it never ended."""

    def __str__(self) -> str:
        seconds = "never" if self.seconds is None else f"{self.seconds:.0f} s"
        return f"| {self.event} | {self.lost} | {seconds} | `{self.test}` | {_where()} |"


#: In the order of the tests.
ROWS: list[Row] = []


def begin(event: str, lost: str) -> Row:
    """A row of the test that runs now."""
    current, _, phase = os.environ.get("PYTEST_CURRENT_TEST", "").rpartition(" ")
    row = Row(event, current.removeprefix("tests/").partition("[")[0], lost)
    if phase == "(call)":  # what fixtures take belongs to no test
        ROWS.append(row)
    return row


def write(page: Path, rows: list[Row]) -> None:
    """Put rows in the place of those for the same events; new ones come last."""
    before, rule, after = _parts(page.read_text())
    known = {_event(line): line for line in after if line.startswith("| ")}
    rest = [line for line in after if not line.startswith("| ")]
    known |= {row.event: str(row) for row in rows if row.seconds is not None}
    page.write_text("\n".join([*before, HEADER, rule, *known.values(), *rest]) + "\n")


def _parts(text: str) -> tuple[list[str], str, list[str]]:
    """What is before the table, the line below its header, its rows and what follows."""
    lines = text.splitlines()
    at = lines.index(HEADER)
    return lines[:at], lines[at + 1], lines[at + 2 :]


def _event(line: str) -> str:
    return line.split(" | ")[0].removeprefix("| ")


def _where() -> str:
    memory = psutil.virtual_memory().total / 2**30
    return f"{datetime.now(UTC):%Y-%m-%d}, {os.cpu_count()} cores, {memory:.0f} GiB"
