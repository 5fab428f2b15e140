"""What a verb prints: results on stdout, everything said to a person on stderr.

Every line goes through `printable`, so that nothing on a volume or in a store reaches a terminal or
Kanister as anything but text; `phase_output` alone writes what Kanister reads. Nothing else in the
package prints.
"""

from __future__ import annotations

import io
import json
import os
import shutil
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import Any

from holdfast.errors import HoldfastError
from holdfast.printable import PHASE_OUTPUT, printable, printable_json, without_secrets

#: whether this verb's result is on stdout; a failure then adds no second document
_emitted = False
#: a progress bar that shares the terminal with what is said
_above_bar: Callable[[str], None] | None = None


class OutputError(HoldfastError):
    """The result cannot be written. What the verb did is done."""


def open_streams() -> None:
    """Give the process the three standard streams, whichever of them it was started without.

    Else a file of the store would get the number 2, and a message would be written into it. What is
    written to a stdout that was closed fails; a stderr that was closed takes everything.
    """
    for number, mode in ((0, os.O_RDONLY), (1, os.O_RDONLY), (2, os.O_WRONLY)):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, mode)  # takes the lowest number that is free
    if sys.stdout is None:
        sys.stdout = os.fdopen(1, "w", closefd=False)
    if sys.stderr is None:
        sys.stderr = os.fdopen(2, "w", closefd=False)


def start() -> None:
    """Begin the output of a verb: in the encoding of the terminal, without failing at a letter."""
    global _emitted
    _emitted = False
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    if plain():
        os.environ["_TYPER_FORCE_DISABLE_TERMINAL"] = "1"  # else help is bold and dim all the same


def emitted() -> bool:
    """Whether the result is printed already."""
    return _emitted


def say(line: str) -> None:
    """One line to the person who waits; never part of the result.

    A log that is full or closed does not end what the verb does.
    """
    with suppress(OSError):
        if _above_bar:
            _above_bar(line)
        else:
            print(printable(line), file=sys.stderr, flush=True)


@contextmanager
def said_above_bar(note: Callable[[str], None]) -> Iterator[None]:
    """While a progress bar is shown it prints the lines: whole, and above itself."""
    global _above_bar
    _above_bar = note
    try:
        yield
    finally:
        _above_bar = None


def result(line: str = "") -> None:
    """One line of the result on stdout."""
    _write(printable(line))


def emit(document: Any) -> None:
    """The result as one JSON document on stdout."""
    global _emitted
    utf8 = (sys.stdout.encoding or "").lower().replace("-", "") == "utf8"
    text = json.dumps(_open(document), indent=2, ensure_ascii=not utf8)
    _write(printable_json(text))
    _emitted = True


def phase_output(**values: object) -> None:
    """The lines that Kanister reads from a pod's log; it takes strings only."""
    for key, value in values.items():
        line = json.dumps({"key": key, "value": without_secrets(str(value))})
        _write(f"{PHASE_OUTPUT} {printable_json(line)}")


def table(columns: Sequence[str], rows: Sequence[Sequence[object]], title: str = "") -> None:
    """A table on stdout: fitted to a terminal, or one plain line per row for a log or `grep`.

    A column whose name begins with `>` is aligned to the right; one whose name begins with `~` may
    be wrapped at spaces. All others hold what a person copies, and are never cut or wrapped: a line
    is rather longer than the terminal. A cell may be a rich Text.
    """
    names = [column.lstrip(">~") for column in columns]
    texts = [[printable(str(cell)) for cell in row] for row in rows]
    if title:
        result(title)
    if not sys.stdout.isatty():
        _plain_table(columns, names, texts)
        return
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    grid = Table(box=None, pad_edge=False, header_style="bold", show_edge=False)
    needed = 2 * (len(columns) - 1)
    for position, (column, name) in enumerate(zip(columns, names, strict=True)):
        cells = [name, *(row[position] for row in texts)]
        parts = [word for cell in cells for word in cell.split()] if column[:1] == "~" else cells
        width = max((Text(part).cell_len for part in parts), default=0)
        right = "right" if column[:1] == ">" else "left"
        grid.add_column(name, justify=right, min_width=width, no_wrap=column[:1] != "~")
        needed += width
    for row, cells in zip(texts, rows, strict=True):
        styles = [cell.style if isinstance(cell, Text) else "" for cell in cells]
        grid.add_row(*(Text(text, style) for text, style in zip(row, styles, strict=True)))
    width = max(needed, shutil.get_terminal_size().columns)
    Console(
        highlight=False, width=width, color_system=None if plain() else "auto", soft_wrap=True
    ).print(grid, crop=False)


def plain() -> bool:
    """Whether nothing but text is wanted: https://no-color.org."""
    return bool(os.environ.get("NO_COLOR"))


def pairs(values: Mapping[str, object]) -> None:
    """A short record on stdout, one aligned `name  value` line each."""
    width = max(map(len, values))
    for key, value in values.items():
        result(f"{key:<{width}}  {value}")


def dry_note(dry_run: bool) -> str:
    """What a line about a change adds when nothing is changed."""
    return " (dry run: nothing is changed)" if dry_run else ""


def _plain_table(
    columns: Sequence[str], names: Sequence[str], rows: Sequence[Sequence[str]]
) -> None:
    lines = [names, *rows]
    widths = [max(map(len, cells)) for cells in zip(*lines, strict=True)]
    sides = [">" if column.startswith(">") else "<" for column in columns]
    for line in lines:
        cells = [f"{c:{s}{w}}" for c, s, w in zip(line, sides, widths, strict=True)]
        result("  ".join(cells).rstrip())


def _write(line: str) -> None:
    try:
        print(line, flush=True)
    except BrokenPipeError:
        raise
    except OSError as error:
        raise OutputError(
            f"the result cannot be written to stdout ({error.strerror}): what the verb did is"
            " done; give stdout a place that can be written"
        ) from None


def _open(value: Any) -> Any:
    """A JSON value whose strings, keys too, hold no secret."""
    if isinstance(value, Mapping):
        return {without_secrets(str(key)): _open(held) for key, held in value.items()}
    if isinstance(value, list | tuple):
        return [_open(held) for held in value]
    return without_secrets(value) if isinstance(value, str) else value
